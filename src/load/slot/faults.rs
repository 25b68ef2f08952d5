//! What went wrong on a connection, as a [`Fault`]: what it says of the server,
//! and the same for people.

use std::fmt::Display;

use nix::errno::Errno;

use super::{Io, Phase, Slot};
use crate::addr::Addr;
use crate::error::{Error, Exit};
use crate::load::fault::{Fault, Outcome};
use crate::load::target::Target;

impl Slot {
    /// What it waits for too long.
    pub fn late(&self, io: &Io) -> Fault {
        let op = match self.phase {
            _ if !self.is_connected() => "connect",
            Phase::Echo if !self.ready.writable => "write",
            _ => "read",
        };
        let fault = fault(op, &io.plan.target, Errno::ETIMEDOUT);
        match io.plan.target.addr() {
            // A longer wait brings back nothing that was dropped.
            Addr::Udp { .. } if op == "read" => Fault {
                error: fault.error.hint(
                    "the datagram or its answer was lost, or is not answered: \
                     if this is echod, see its --udp-rate",
                ),
                ..fault
            },
            _ => fault,
        }
    }

    pub(super) fn broken(&self, op: &str, io: &Io, errno: Errno) -> Fault {
        fault(op, &io.plan.target, errno)
    }

    pub(super) fn corrupt(&self, io: &Io, what: impl Display) -> Fault {
        self.wrong(io, Outcome::Corrupt, Exit::Mismatch, what)
    }

    pub(super) fn wrong(&self, io: &Io, outcome: Outcome, exit: Exit, what: impl Display) -> Fault {
        let subject = format!("read {}", io.plan.target);
        Fault {
            outcome,
            error: Error::usage(subject, what).exit(exit),
        }
    }
}

/// Names a failed call. What this side lacks comes with what to do about it.
pub(super) fn fault(op: &str, target: &Target, errno: Errno) -> Fault {
    let error = Error::os(op, target, errno);
    let error = match errno {
        Errno::ETIMEDOUT => error.hint("--timeout allows more"),
        Errno::EMFILE | Errno::ENFILE => error.hint("raise ulimit -n, or use fewer connections"),
        Errno::EADDRNOTAVAIL => error.hint("no source port is left, or no such address is here"),
        Errno::EMSGSIZE => error.hint("no datagram is that long: a smaller -s"),
        _ => error,
    };
    Fault {
        outcome: Outcome::of(errno),
        error,
    }
}

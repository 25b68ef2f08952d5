//! What accept(2) brings: a connection, or an errno that asks for a decision; and
//! what is done about clients where there may be no place for them.
//!
//! accept(2) reports the listener's troubles, the process's, the machine's and
//! those of the connection it was about to hand out, all through one errno.
//! Sorted wrongly, a client that hung up early stops a server, or a server
//! without descriptors spins.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::addr::Peer;
use crate::config::Overflow;
use crate::sys::process;

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// Its descriptor.
    pub conn: OwnedFd,
    /// Who is at the other end.
    pub peer: Peer,
    /// The listener it came by, as an index.
    pub listener: usize,
}

impl Accepted {
    /// In a child that was just forked: the same, which it inherited.
    pub fn inherited(&self) -> Self {
        Accepted {
            conn: process::inherited(&self.conn),
            ..*self
        }
    }
}

/// What to do after accept(2) has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// Nothing is queued, or a sibling was faster: wait again.
    Again,
    /// One connection was lost before we had it, or a signal came: go on at
    /// once, by way of the wait, where orders are seen.
    Continue,
    /// Descriptors or memory are short: leave the queue alone for a while, as
    /// the listener stays readable and polling it would spin.
    Exhausted,
    /// A firewall or security module said no: warn once, wait a second.
    Denied,
    /// This descriptor will never yield a connection (again): stop using it,
    /// and do not start another process that would.
    Unusable,
}

/// Sorts accept(2)'s errno.
///
/// A Unix listener that was shut down and is empty says EAGAIN to a nonblocking
/// accept(2), and EINVAL to a blocking one: unusable then means drained.
///
/// An errno nobody foresaw counts as [`AcceptError::Exhausted`]. Taking it for
/// `Unusable` would end a server over a passing fault; for `Continue`, burn a
/// processor on a lasting one. A pause survives the first, bounds the second,
/// and is logged.
pub fn classify(errno: Errno) -> AcceptError {
    match errno {
        // On Linux EWOULDBLOCK is the same number.
        Errno::EAGAIN => AcceptError::Again,
        Errno::EINTR | Errno::ECONNABORTED => AcceptError::Continue,
        // Linux hands pending errors of the new connection to accept(2). For
        // EOPNOTSUPP this rests on the descriptor being a stream socket, which
        // is for whoever takes one over from outside to check.
        Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH
        | Errno::ETIMEDOUT
        | Errno::ECONNRESET => AcceptError::Continue,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => AcceptError::Exhausted,
        Errno::EPERM | Errno::EACCES => AcceptError::Denied,
        Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL | Errno::EFAULT => AcceptError::Unusable,
        _ => AcceptError::Exhausted,
    }
}

/// What is to be done about clients that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// They wait, or are somebody else's business.
    Leave,
    /// One is accepted, to be served.
    Take,
    /// One is accepted, to be turned away.
    TurnAway,
}

impl Intake {
    /// `takes`: is there a place for one, with whoever asks? `full`: has nobody
    /// one?
    ///
    /// Asked before each accept(2) and not before the wait that came before it: a
    /// listener that was readable stays so, a place may be gone by then, and whom
    /// nobody has a place for must not be accepted.
    pub fn decide(takes: bool, full: bool, overflow: Overflow) -> Intake {
        match overflow {
            _ if takes => Intake::Take,
            Overflow::Close | Overflow::Reset if full => Intake::TurnAway,
            _ => Intake::Leave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_of_accept_has_its_answer() {
        use AcceptError::*;
        let table = [
            (Again, &[Errno::EAGAIN, Errno::EWOULDBLOCK][..]),
            (Continue, &[Errno::EINTR, Errno::ECONNABORTED]),
            (Continue, &[Errno::ENETDOWN, Errno::EPROTO]),
            (Continue, &[Errno::ENOPROTOOPT, Errno::EHOSTDOWN]),
            (Continue, &[Errno::ENONET, Errno::EHOSTUNREACH]),
            (Continue, &[Errno::EOPNOTSUPP, Errno::ENETUNREACH]),
            (Continue, &[Errno::ETIMEDOUT, Errno::ECONNRESET]),
            (Exhausted, &[Errno::EMFILE, Errno::ENFILE]),
            (Exhausted, &[Errno::ENOBUFS, Errno::ENOMEM]),
            (Denied, &[Errno::EPERM, Errno::EACCES]),
            (Unusable, &[Errno::EBADF, Errno::ENOTSOCK, Errno::EINVAL]),
            // Unforeseen: a pause, neither an end nor a spin.
            (Exhausted, &[Errno::EIO, Errno::ENOSYS, Errno::UnknownErrno]),
        ];
        for (answer, errnos) in table {
            for errno in errnos {
                assert_eq!(classify(*errno), answer, "{errno:?}");
            }
        }
    }

    #[test]
    fn who_has_no_place_is_left_or_turned_away_and_never_taken() {
        use Intake::{Leave, Take, TurnAway};
        use Overflow::{Close, Queue, Reset};
        for (takes, full, overflow, expected) in [
            (true, false, Queue, Take),
            (true, false, Close, Take),
            // A worker is idle, though no further one could be forked.
            (true, true, Reset, Take),
            (false, true, Queue, Leave),
            (false, true, Close, TurnAway),
            (false, true, Reset, TurnAway),
            // A place is being made.
            (false, false, Queue, Leave),
            (false, false, Close, Leave),
            (false, false, Reset, Leave),
        ] {
            let got = Intake::decide(takes, full, overflow);
            assert_eq!(got, expected, "{takes} {full} {overflow:?}");
        }
    }
}

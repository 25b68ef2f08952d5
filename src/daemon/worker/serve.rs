//! Serving a connection: the one way, for a process that has no other, for a worker
//! that comes back for the next, for a thread, and under `--inetd`.
//!
//! How it is locked in is for each to say. From then on, in a process for one
//! connection: no allocation, no log, no lock, no clock, and in strict mode no
//! close(2) either.

use std::convert::Infallible;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::addr::Peer;
use crate::config::{Config, Orphans, SandboxPolicy};
use crate::daemon::shared::connection_log::Entry;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::worker::child::{self, Leave, WorkerContext, leave};
use crate::net::Accepted;
use crate::net::connection::{Connection, Copy, End, Printer};
use crate::service::Service;
use crate::sys::sandbox::Sandbox;
use crate::sys::{process, signal};

/// A connection that is to be served.
pub struct Serving<'a> {
    /// Its descriptor.
    pub conn: BorrowedFd<'a>,
    /// Whether all was set that it does not inherit from its listener.
    pub prepared: Result<(), Errno>,
    /// What it is served with.
    pub service: Service<'a>,
    /// Open on /dev/null.
    pub null: BorrowedFd<'a>,
    /// With `--print`: where what is received is copied to, and in whose name.
    pub print: Option<(Printer<'a>, Peer)>,
    /// What is said of it.
    pub entry: Entry<'a>,
}

impl<'a> Serving<'a> {
    /// One that was accepted, which is prepared.
    pub fn new(context: &'a WorkerContext, accepted: &'a Accepted, entry: Entry<'a>) -> Self {
        let conn = accepted.conn.as_fd();
        let listener = context.listeners[accepted.listener].as_ref();
        Serving {
            conn,
            prepared: listener.map_or(Ok(()), |listener| listener.prepare(conn)),
            service: context.services.at(accepted.listener),
            null: context.null.as_fd(),
            print: context.printer().map(|to| (to, accepted.peer)),
            entry,
        }
    }

    /// Serves it to its end, which is told. `lock_in` comes after the service's helper
    /// was started, gets the way to that, and lets go of everything else.
    ///
    /// # Errors
    /// `lock_in`'s.
    pub fn serve<E>(
        self,
        buffer: &mut [u8],
        lock_in: impl FnOnce(Result<Option<BorrowedFd<'_>>, Errno>) -> Result<(), E>,
    ) -> Result<End, E> {
        let helper = self
            .prepared
            .and_then(|()| self.service.helper(self.null))
            // Never closed: that would be a close(2).
            .map(ManuallyDrop::new);
        let beside = match &helper {
            Ok(helper) => Ok(helper.as_ref().map(AsFd::as_fd)),
            Err(errno) => Err(*errno),
        };
        let copy = self.print.map(|(to, peer)| Copy::lay(to, peer, buffer));
        lock_in(beside)?;
        let end = match beside {
            Ok(beside) => {
                let mut connection = Connection::new(&self.conn, self.entry.meter(), copy);
                self.service.serve(&mut connection, beside, buffer)
            }
            Err(errno) => End::Error(errno),
        };
        self.entry.end(end);
        Ok(end)
    }
}

/// In a process for one connection: closes everything but what that needs (strict
/// mode permits write(2) to any descriptor that is open, the log's and the listener's
/// too), and enters the sandbox. False if it must have one and has none.
pub fn lock_in_for_one<const N: usize>(
    config: &Config,
    sandbox: &Sandbox,
    needed: [Option<BorrowedFd<'_>>; N],
) -> bool {
    if let Some(lifetime) = config.timeouts.lifetime {
        signal::alarm(lifetime);
    }
    let mut keep = needed;
    keep.sort_unstable_by_key(|fd| fd.map(|fd| fd.as_raw_fd()));
    process::keep_only(keep.iter().flatten().copied());
    sandbox.enter_for_one().is_ok() || config.sandbox != SandboxPolicy::Strict
}

/// Serves a client and leaves: the whole rest of a process for one connection. The
/// scoreboard already says whom it serves. `channel` stays open beside the
/// connection, for the double-forked.
pub fn serve_only(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: Option<&OwnedFd>,
) -> ! {
    process::set_name(process::SERVING);
    // The connection outlives this frame on purpose: dropping it would be a
    // close(2), which strict mode answers with SIGKILL.
    let accepted = ManuallyDrop::new(accepted);
    #[cfg(debug_assertions)]
    child::lie(context, slot);
    let lock_in = |beside: Result<Option<BorrowedFd<'_>>, Errno>| {
        if context.config.timeouts.lifetime.is_some() {
            // Not before: the helper would inherit the handler.
            let _ = signal::leave_at_alarm::<{ process::EXPIRED }>();
        }
        let needed = [
            context.printer().map(|print| print.to),
            Some(accepted.conn.as_fd()),
            channel.map(AsFd::as_fd),
            beside.unwrap_or(None),
        ];
        if !lock_in_for_one(&context.config, &context.sandbox, needed) {
            leave(Leave::NoSandbox);
        }
        #[cfg(debug_assertions)]
        child::fault_at("serve");
        Ok::<(), Infallible>(())
    };
    let serving = Serving::new(context, &accepted, context.board.entry(slot));
    let Ok(_) = serving.serve(buffer, lock_in);
    context.board.announce_ended(slot);
    leave(Leave::Served)
}

/// The textbook's child of an accepted connection (UNP row 1): it serves, and is
/// reaped by the supervisor or by the kernel.
pub fn serve_as_child(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
) -> ! {
    child::begin();
    child::follow(context);
    serve_only(context, slot, buffer, accepted, None)
}

/// The child forks again and leaves; the grandchild, which init will reap,
/// serves. It has no parent whose death the kernel would tell it, and no pid the
/// supervisor could trust: `channel` is its only tie, and its end is how the
/// supervisor learns that the slot is free.
pub fn serve_as_grandchild(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: &OwnedFd,
) -> ! {
    child::begin();
    // If the second fork fails, the client is served all the same, by this
    // process: its channel is as good, and it is reaped like any child.
    let mut serve = Some((buffer, accepted));
    let grandchild = process::fork(|| match serve.take() {
        Some((buffer, accepted)) => serve_tied(context, slot, buffer, accepted, channel),
        None => leave(Leave::Served),
    });
    match serve {
        Some((buffer, accepted)) if grandchild.is_err() => {
            serve_tied(context, slot, buffer, accepted, channel)
        }
        _ => leave(Leave::Served),
    }
}

fn serve_tied(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: &OwnedFd,
) -> ! {
    context.board.sign(slot, Pid::this());
    let with_supervisor = context.config.orphans == Orphans::Terminate;
    let _ = process::obey_channel(channel.as_fd(), with_supervisor);
    serve_only(context, slot, buffer, accepted, Some(channel))
}

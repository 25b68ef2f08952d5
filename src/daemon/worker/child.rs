//! Life after fork: what every child does, whichever design it belongs to.
//!
//! Nothing here returns to the supervisor's code. A child that serves one
//! connection lets go of everything else, locks itself in and serves: from
//! then on no allocation, no log, no lock, no clock.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::config::{Orphans, SandboxPolicy};
use crate::daemon::shared::generation::Generation;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::worker::context::WorkerContext;
use crate::net::Accepted;
use crate::net::connection::{Connection, Copy, End};
use crate::sys::{parent_death, process, signal};

/// How a child leaves; the supervisor decides by it what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Leave {
    /// It has served, as much as it was meant to.
    Served = 0,
    /// It waited and was told, by the pipe of death, to go.
    Retired = 10,
    /// Its listener cannot be accepted on: forking another would not help.
    Unusable = 11,
    /// It could not map its buffers, or have the helpers it needs.
    NoMemory = 13,
    /// A helper that it cannot do without is gone.
    NoHelper = 14,
    /// It could not lock itself in, and `--sandbox strict` says it must.
    NoSandbox = 12,
}

/// First thing in every child: signals as a worker hears them, and a panic that
/// ends it.
pub fn begin() {
    signal::become_worker();
    process::become_child();
    #[cfg(debug_assertions)]
    fault_at("begin");
}

/// The same in a child that will start threads.
pub fn begin_with_threads() {
    begin();
    process::panic_means_exit_all();
}

/// With `--orphans terminate`, the child dies when the supervisor does.
pub fn follow(context: &WorkerContext) {
    if context.config.orphans == Orphans::Terminate {
        parent_death::die_with_parent(context.supervisor);
    }
}

/// Leaves.
pub fn leave(how: Leave) -> ! {
    process::exit(how as i32)
}

/// Serves a client and leaves: the whole rest of a single-connection child. The
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
    let Accepted {
        conn,
        peer,
        listener,
    } = accepted;
    let conn = std::mem::ManuallyDrop::new(conn);
    #[cfg(debug_assertions)]
    lie(context, slot);
    let prepared = prepare(context, conn.as_fd(), listener);
    let service = context.services.at(listener);
    let helper = std::mem::ManuallyDrop::new(match prepared {
        Ok(()) => service.helper(context.null.as_fd()),
        Err(errno) => Err(errno),
    });
    // After that: the helper would inherit the handler.
    if let Some(lifetime) = context.config.timeouts.lifetime {
        let _ = signal::leave_at_alarm::<{ process::EXPIRED }>();
        signal::alarm(lifetime);
    }
    let beside = helper
        .as_ref()
        .map(|helper| helper.as_ref().map(AsFd::as_fd));
    let_go([
        context.printer().map(|print| print.to),
        Some(conn.as_fd()),
        channel.map(AsFd::as_fd),
        beside.unwrap_or(None),
    ]);
    let copy = context.printer().map(|to| Copy::lay(to, peer, buffer));
    if context.sandbox.enter_for_one().is_err() && context.config.sandbox == SandboxPolicy::Strict {
        leave(Leave::NoSandbox);
    }
    #[cfg(debug_assertions)]
    fault_at("serve");
    let end = match beside {
        Ok(beside) => {
            let mut connection = Connection::new(&*conn, context.board.meter(slot), copy);
            service.serve(&mut connection, beside, buffer)
        }
        Err(&errno) => End::Error(errno),
    };
    context.board.end(slot, end);
    context.board.announce_ended(slot);
    leave(Leave::Served)
}

/// What an accepted connection does not inherit from its listener.
pub fn prepare(
    context: &WorkerContext,
    conn: BorrowedFd<'_>,
    listener: usize,
) -> Result<(), Errno> {
    context.listeners[listener]
        .as_ref()
        .map_or(Ok(()), |listener| listener.prepare(conn))
}

/// Closes everything but what the connection needs: strict mode permits write(2)
/// to any descriptor that is open, the log's and the listener's too.
fn let_go<const N: usize>(needed: [Option<BorrowedFd<'_>>; N]) {
    let mut keep = needed;
    keep.sort_unstable_by_key(|fd| fd.map(|fd| fd.as_raw_fd()));
    process::keep_only(keep.iter().flatten().copied());
}

/// In a worker that waits to be passed its one connection: closes everything else.
/// Of the supervisor's there are a channel for each sibling and perhaps clients on
/// their way, which it must not keep, and too many to close one by one.
pub fn keep_for_channel(context: &WorkerContext, generation: &Generation, channel: &OwnedFd) {
    let print = context
        .printer()
        .map_or(context.null.as_fd(), |print| print.to);
    let [death, channel] = [generation.pipe_of_death(), channel.as_fd()];
    let [a, b, c, d, e] = [
        death,
        channel,
        context.board.waker(),
        context.null.as_fd(),
        print,
    ]
    .map(|fd| fd.as_raw_fd());
    let mut keep = [0, 1, 2, a, b, c, d, e];
    keep.sort_unstable();
    process::keep_numbers(&keep);
}

/// The test hook of debug builds: `ECHOD_FAULT=PLACE:HOW` makes each child fail
/// there, by `panic`, `segv` or an exit status.
#[cfg(debug_assertions)]
pub(crate) fn fault_at(place: &str) {
    match fault(place).as_deref() {
        None => {}
        Some("panic") => panic!("asked to"),
        Some("segv") => drop(nix::sys::signal::raise(nix::sys::signal::SIGSEGV)),
        Some(status) => process::exit(status.parse().unwrap_or(1)),
    }
}

/// The same for a child that was taken over, with its client just accepted:
/// `tell:junk` writes all over the scoreboard, `tell:unusable` leaves like a
/// worker whose listener is broken.
#[cfg(debug_assertions)]
pub(crate) fn lie(context: &WorkerContext, slot: Slot) {
    match fault("tell").as_deref() {
        Some("junk") => context.board.scribble(slot as u64),
        Some("unusable") => {
            context.board.idle(slot);
            context.board.end(slot, End::Error(Errno::EINVAL));
            leave(Leave::Unusable);
        }
        _ => {}
    }
}

#[cfg(debug_assertions)]
fn fault(place: &str) -> Option<String> {
    let fault = std::env::var("ECHOD_FAULT").ok()?;
    let how = fault.strip_prefix(place)?.strip_prefix(':')?;
    Some(how.to_owned())
}

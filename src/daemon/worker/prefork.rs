//! Workers forked in advance (UNP rows 2 to 5 and, with one of them that never
//! ends, 0): how each comes by a connection is the [`Door`]'s.
//!
//! With `--max-connections-per-child 1` a worker closes the listener once it has
//! a client, serves it in the smallest sandbox and exits. Otherwise, and in
//! `iterative`, it keeps the listener and comes back for the next.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::config::Orphans;
use crate::daemon::shared::connection_log::{self, Ended};
use crate::daemon::shared::generation::Generation;
use crate::daemon::worker::acceptor::{Gate, Next};
use crate::daemon::worker::child::{self, Leave, Terms, leave};
use crate::daemon::worker::inbox::Inbox;
use crate::daemon::worker::sandbox;
use crate::daemon::worker::strategy::Door;
use crate::net::Accepted;
use crate::net::connection::{Connection, End};
use crate::sys::lock::ProcessLock;
use crate::sys::{parent_death, process, signal};

/// The worker's door; with a `channel`, which makes it one without listeners.
pub fn door<'a>(
    terms: &Terms<'a>,
    generation: &'a Generation,
    channel: Option<&'a OwnedFd>,
) -> Door<'a> {
    let pipe_of_death = generation.pipe_of_death();
    if let Some(channel) = channel {
        return Door::Passed(Inbox::new(channel.as_fd(), pipe_of_death, terms.board));
    }
    let gate = Gate::new(
        terms.listeners,
        pipe_of_death,
        terms.board,
        terms.access,
        terms.first,
    );
    match generation.lock() {
        Some(lock) => Door::Locked(gate, lock, terms.board),
        None => Door::Open(gate),
    }
}

/// A worker for one connection.
pub fn serve_one(terms: &Terms<'_>, mut door: Door<'_>, buffer: &mut [u8]) -> ! {
    child::begin();
    child::follow(terms);
    let waits = || {
        process::set_name(process::IDLE);
        terms.board.idle(terms.slot);
    };
    match door.next(waits) {
        Next::Accepted(accepted) => {
            terms
                .board
                .taken(terms.slot, accepted.peer, accepted.listener);
            door.shut();
            child::serve_only(terms, buffer, accepted, None)
        }
        Next::Retire => leave(Leave::Retired),
        Next::Unusable(listener, errno) => unusable(terms, listener, errno),
    }
}

/// A worker for `limit` connections, or any number.
pub fn serve_many(
    terms: &Terms<'_>,
    generation: &Generation,
    channel: Option<&OwnedFd>,
    buffer: &mut [u8],
    limit: Option<u64>,
) -> ! {
    child::begin();
    child::follow(terms);
    let mut door = door(terms, generation, channel);
    if lock_in(terms, &mut door, generation, channel).is_none() {
        leave(Leave::NoSandbox);
    }
    let mut served = 0;
    terms.board.idle(terms.slot);
    loop {
        match door.next(|| process::set_name(process::IDLE)) {
            Next::Accepted(accepted) => {
                let Accepted { peer, listener, .. } = accepted;
                if door.is_passed() {
                    terms.board.taken(terms.slot, peer, listener);
                } else {
                    terms.board.taken_by_many(terms.slot, peer, listener);
                }
                serve(terms, buffer, accepted);
            }
            Next::Retire => leave(Leave::Retired),
            Next::Unusable(listener, errno) => unusable(terms, listener, errno),
        }
        served += 1;
        if Some(served) == limit {
            leave(Leave::Served);
        }
        door.wait_again(terms.board, terms.slot);
    }
}

/// What a long-lived worker needs is opened before the filter shuts.
fn lock_in(
    terms: &Terms<'_>,
    door: &mut Door<'_>,
    generation: &Generation,
    channel: Option<&OwnedFd>,
) -> Option<()> {
    let mut listeners: Vec<_> = terms.listeners.iter().flatten().map(AsFd::as_fd).collect();
    if door.is_passed() {
        listeners.clear();
    }
    let lock = generation.lock().and_then(ProcessLock::file);
    let tie = [
        Some(generation.pipe_of_death()),
        channel.map(AsFd::as_fd),
        lock,
    ];
    let (limits, descriptors) =
        sandbox::let_go(terms, listeners.iter().copied(), tie.into_iter().flatten());
    if terms.orphans == Orphans::Finish && !door.is_passed() {
        parent_death::release_on_parent_death(&listeners, terms.null, terms.supervisor).ok()?;
    }
    if terms.timeouts.lifetime.is_some() {
        signal::leave_at_alarm::<{ process::EXPIRED }>().ok()?;
    }
    door.open().ok()?;
    let entered = terms.sandbox.enter_for_many(limits, descriptors).is_ok();
    (entered || terms.policy != crate::config::SandboxPolicy::Strict).then_some(())
}

fn serve(terms: &Terms<'_>, buffer: &mut [u8], accepted: Accepted) {
    let Accepted { conn, listener, .. } = accepted;
    process::set_name(process::SERVING);
    let started = connection_log::start_of_conn();
    #[cfg(debug_assertions)]
    child::lie(terms);
    let end = match child::prepare(terms, conn.as_fd(), listener) {
        Err(errno) => End::Error(errno),
        Ok(()) => {
            if let Some(lifetime) = terms.timeouts.lifetime {
                signal::alarm(lifetime);
            }
            let meter = terms.board.meter(terms.slot);
            let copy = child::lay_copy(terms, buffer);
            let mut connection = Connection::new(&conn, meter, copy);
            let service = terms.services.at(listener);
            let end = service.serve(&mut connection, None, buffer);
            if terms.timeouts.lifetime.is_some() {
                signal::alarm(std::time::Duration::ZERO);
            }
            end
        }
    };
    terms.board.end(terms.slot, end);
    drop(conn);
    if let Some(started) = started {
        connection_log::log_conn(&Ended {
            pid: Some(nix::unistd::Pid::this()),
            report: terms.board.report(terms.slot),
            listener: terms.listeners[listener].as_ref().map_or("?", |l| l.name()),
            lasted: started.elapsed(),
            end,
        });
    }
}

fn unusable(terms: &Terms<'_>, listener: usize, errno: Errno) -> ! {
    terms
        .board
        .serving(terms.slot, crate::addr::Peer::Unix, listener);
    terms.board.end(terms.slot, End::Error(errno));
    terms.board.idle(terms.slot);
    leave(Leave::Unusable)
}

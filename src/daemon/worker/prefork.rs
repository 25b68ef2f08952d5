//! Workers forked in advance (UNP rows 2 to 5 and, with one of them that never
//! ends, 0): how each comes by a connection is the [`AcceptStrategy`]'s.
//!
//! With `--max-connections-per-child 1` a worker closes the listener once it has
//! a client, serves it in the smallest sandbox and exits. Otherwise, and in
//! `iterative`, it keeps the listener and comes back for the next.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;

use crate::config::{Orphans, SandboxPolicy};
use crate::daemon::shared::connection_log;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::worker::acceptor::Next;
use crate::daemon::worker::child::{self, Leave, leave};
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::sandbox;
use crate::daemon::worker::serve::{Serving, serve_only};
use crate::daemon::worker::strategy::AcceptStrategy;
use crate::net::Accepted;
use crate::net::connection::End;
use crate::sys::{process, signal};

/// A worker for one connection.
pub fn serve_one(
    context: &WorkerContext,
    slot: Slot,
    mut strategy: AcceptStrategy<'_>,
    buffer: &mut [u8],
) -> ! {
    child::begin();
    child::follow(context);
    let waits = || {
        process::set_name(process::IDLE);
        context.board.idle(slot);
    };
    match strategy.next(waits) {
        Next::Accepted(accepted) => {
            context.board.taken(slot, accepted.peer, accepted.listener);
            strategy.shut();
            serve_only(context, slot, buffer, accepted, None)
        }
        Next::Retire => leave(Leave::Retired),
        Next::Unusable(listener, errno) => unusable(context, slot, listener, errno),
    }
}

/// A worker for `limit` connections, or any number.
pub fn serve_many(
    context: &WorkerContext,
    slot: Slot,
    mut strategy: AcceptStrategy<'_>,
    buffer: &mut [u8],
    limit: Option<u64>,
) -> ! {
    child::begin();
    child::follow(context);
    if lock_in(context, &mut strategy).is_none() {
        leave(Leave::NoSandbox);
    }
    let mut served = 0;
    context.board.idle(slot);
    loop {
        match strategy.next(|| process::set_name(process::IDLE)) {
            Next::Accepted(accepted) => {
                let Accepted { peer, listener, .. } = accepted;
                if strategy.is_passed() {
                    context.board.taken(slot, peer, listener);
                } else {
                    context.board.taken_by_many(slot, peer, listener);
                }
                serve(context, slot, buffer, accepted);
            }
            Next::Retire => leave(Leave::Retired),
            Next::Unusable(listener, errno) => unusable(context, slot, listener, errno),
        }
        served += 1;
        if Some(served) == limit {
            leave(Leave::Served);
        }
        strategy.wait_again(&context.board, slot);
    }
}

/// What a long-lived worker needs is opened before the filter shuts.
fn lock_in(context: &WorkerContext, strategy: &mut AcceptStrategy<'_>) -> Option<()> {
    let mut listeners: Vec<_> = context
        .listeners
        .iter()
        .flatten()
        .map(AsFd::as_fd)
        .collect();
    if strategy.is_passed() {
        listeners.clear();
    }
    let (limits, descriptors) =
        sandbox::let_go(context, listeners.iter().copied(), strategy.ties());
    if context.config.orphans == Orphans::Finish && !strategy.is_passed() {
        let null = context.null.as_fd();
        process::release_on_parent_death(&listeners, null, context.supervisor).ok()?;
    }
    if context.config.timeouts.lifetime.is_some() {
        signal::leave_at_alarm::<{ process::EXPIRED }>().ok()?;
    }
    strategy.open().ok()?;
    let entered = context.sandbox.enter_for_many(limits, descriptors).is_ok();
    (entered || context.config.sandbox != SandboxPolicy::Strict).then_some(())
}

/// Serves a client, and comes back.
fn serve(context: &WorkerContext, slot: Slot, buffer: &mut [u8], accepted: Accepted) {
    process::set_name(process::SERVING);
    let started = connection_log::start_of_conn();
    #[cfg(debug_assertions)]
    child::lie(context, slot);
    let lifetime = context.config.timeouts.lifetime;
    let entry = context.board.entry(slot);
    let serving = Serving::new(context, &accepted, entry);
    // It is locked in already.
    let Ok(end) = serving.serve(buffer, |_| {
        lifetime.into_iter().for_each(signal::alarm);
        Ok::<(), Infallible>(())
    });
    if lifetime.is_some() {
        signal::alarm(Duration::ZERO);
    }
    drop(accepted);
    if let Some(started) = started {
        let report = context.board.report(slot);
        context.log_connection(report, end, started.elapsed());
    }
}

fn unusable(context: &WorkerContext, slot: Slot, listener: usize, errno: Errno) -> ! {
    context
        .board
        .serving(slot, crate::addr::Peer::Unix, listener);
    context.board.entry(slot).end(End::Error(errno));
    context.board.idle(slot);
    leave(Leave::Unusable)
}

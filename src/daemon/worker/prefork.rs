//! Workers forked in advance (UNP rows 2 to 5 and, with one of them that never
//! ends, 0).
//!
//! With `--max-connections-per-child 1`, the default, a worker closes the listener once it has
//! a client, serves it in the smallest sandbox and exits. Otherwise, and in
//! `iterative`, it keeps the listener and comes back for the next.
//!
//! How it comes by a connection is its [`AcceptStrategy`]:
//!
//! - *shared*: it waits at the listeners with all the others, and the kernel wakes
//!   one. So with `reuseport`: there are more of them, and each worker looks at
//!   another of them first than the one forked before it.
//! - *locked*: one at a time waits there, the others wait for the lock. It is held
//!   around the wait and accept(2) and never while serving. Word to go reaches who
//!   has it; that one leaves, and the next finds it there too. A holder that dies
//!   frees the lock, and who comes after it looks at the queue first, so no wake-up
//!   is lost with it.
//! - *passed*: the supervisor accepts, see [`FdReceiver`].

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::config::{Orphans, SandboxPolicy};
use crate::daemon::shared::connection_log;
use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::daemon::worker::acceptor::{Acceptor, Next};
use crate::daemon::worker::child::{self, Leave, WorkerContext, leave};
use crate::daemon::worker::fd_passing::FdReceiver;
use crate::daemon::worker::sandbox;
use crate::daemon::worker::serve::{Serving, serve_only};
use crate::net::Accepted;
use crate::net::connection::End;
use crate::sys::lock::ProcessLock;
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

/// The ways of `--accept`: see the module.
pub enum AcceptStrategy<'a> {
    /// All wait.
    Shared(Acceptor<'a>),
    /// One waits.
    Locked(Acceptor<'a>, &'a ProcessLock, &'a Scoreboard),
    /// None waits at a listener.
    Passed(FdReceiver<'a>),
}

impl<'a> AcceptStrategy<'a> {
    /// How the workers of this generation do; by its `channel`, one that has no
    /// listener. `first` says which listener it looks at first: another one than the
    /// worker before it, so that no flood of one keeps the others waiting.
    pub fn new(
        context: &'a WorkerContext,
        death: &'a PipeOfDeath,
        channel: Option<&'a OwnedFd>,
        first: usize,
    ) -> Self {
        let pipe_of_death = death.watched();
        if let Some(channel) = channel {
            let receiver = FdReceiver::new(channel.as_fd(), pipe_of_death, &context.board);
            return AcceptStrategy::Passed(receiver);
        }
        let acceptor = Acceptor::new(context, pipe_of_death, first);
        match death.lock() {
            Some(lock) => AcceptStrategy::Locked(acceptor, lock, &context.board),
            None => AcceptStrategy::Shared(acceptor),
        }
    }

    /// What it waits by beside its listeners.
    pub fn ties(&self) -> impl Iterator<Item = BorrowedFd<'a>> {
        let ties = match self {
            AcceptStrategy::Shared(acceptor) => [Some(acceptor.pipe_of_death()), None],
            AcceptStrategy::Locked(acceptor, lock, _) => {
                [Some(acceptor.pipe_of_death()), lock.file()]
            }
            AcceptStrategy::Passed(receiver) => receiver.ties().map(Some),
        };
        ties.into_iter().flatten()
    }

    /// Opens what the wait needs, which a sandboxed worker does before it locks
    /// itself in.
    ///
    /// # Errors
    /// [`Acceptor::open`]'s.
    pub fn open(&mut self) -> Result<(), Errno> {
        match self {
            AcceptStrategy::Shared(acceptor) | AcceptStrategy::Locked(acceptor, ..) => {
                acceptor.open()
            }
            AcceptStrategy::Passed(_) => Ok(()),
        }
    }

    /// It has had its last turn: what it waited for that by is out of its reach.
    pub fn shut(&self) {
        if let AcceptStrategy::Locked(_, lock, _) = self {
            lock.shut();
        }
    }

    /// It has served, and waits again.
    pub fn wait_again(&self, board: &Scoreboard, slot: Slot) {
        match self {
            AcceptStrategy::Shared(_) | AcceptStrategy::Locked(..) => board.idle_again(slot),
            AcceptStrategy::Passed(receiver) => {
                board.idle(slot);
                receiver.ask();
            }
        }
    }

    /// Are connections passed to it, so that it has no listener?
    pub fn is_passed(&self) -> bool {
        matches!(self, AcceptStrategy::Passed(_))
    }

    /// The next connection, or word to go; `idle` is called once if it has to
    /// wait.
    pub fn next(&mut self, idle: impl Fn()) -> Next {
        match self {
            AcceptStrategy::Shared(acceptor) => acceptor.next(idle),
            AcceptStrategy::Passed(receiver) => receiver.next(idle),
            AcceptStrategy::Locked(acceptor, lock, board) => {
                let has_waited = loop {
                    match acquire(lock, &idle) {
                        Ok(has_waited) => break has_waited,
                        Err(errno) => board.trouble(errno),
                    }
                    if acceptor.rest() {
                        return Next::Retire;
                    }
                };
                let next = acceptor.next(|| {
                    if !has_waited {
                        idle()
                    }
                });
                lock.unlock();
                next
            }
        }
    }
}

/// Takes the lock; says whether it had to wait for it, in which case it has
/// called `idle`.
fn acquire(lock: &ProcessLock, idle: impl Fn()) -> Result<bool, Errno> {
    if lock.try_lock()? {
        return Ok(false);
    }
    idle();
    lock.lock().map(|()| true)
}

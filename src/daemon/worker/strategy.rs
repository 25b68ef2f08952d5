//! How a worker comes by its connections: the ways of `--accept`.
//!
//! - *shared*: it waits at the listeners with all the others, and the kernel wakes one.
//!   So with `reuseport`: there are more of them, and each worker
//!   looks at another of them first than the one forked before it.
//! - *locked*: one at a time waits there, the others wait for the lock. The
//!   lock is held around the wait and accept(2) and never while serving. Word
//!   to go reaches that one, it leaves, and the next one finds it
//!   there too. A holder that dies frees the lock, and who comes after it looks
//!   at the queue first, so no wake-up is lost with it.
//! - *passed*: the supervisor accepts, see [`FdReceiver`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::daemon::worker::acceptor::{Acceptor, Next};
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::fd_passing::FdReceiver;
use crate::sys::lock::ProcessLock;

/// See the module.
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

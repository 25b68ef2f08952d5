//! How a worker comes by its connections: the ways of `--accept`.
//!
//! - *open*: it waits at the gate with all the others, and the kernel wakes one.
//!   So with `reuseport`: there are more sockets at the gate, and each worker
//!   looks at another of them first than the one forked before it.
//! - *locked*: one at a time is at the gate, the others wait for the lock. The
//!   lock is held around the wait and accept(2) and never while serving. Word
//!   to go reaches the one at the gate, it leaves, and the next one finds it
//!   there too. A holder that dies frees the lock, and who comes after it looks
//!   at the queue first, so no wake-up is lost with it.
//! - *passed*: the supervisor accepts, see [`Inbox`].

use nix::errno::Errno;

use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::daemon::worker::acceptor::{Gate, Next};
use crate::daemon::worker::inbox::Inbox;
use crate::sys::lock::ProcessLock;

/// See the module.
pub enum Door<'a> {
    /// All wait.
    Open(Gate<'a>),
    /// One waits.
    Locked(Gate<'a>, &'a ProcessLock, &'a Scoreboard),
    /// None waits at a listener.
    Passed(Inbox<'a>),
}

impl Door<'_> {
    /// Opens what the wait needs, which a sandboxed worker does before it locks
    /// itself in.
    ///
    /// # Errors
    /// [`Gate::open`]'s.
    pub fn open(&mut self) -> Result<(), Errno> {
        match self {
            Door::Open(gate) | Door::Locked(gate, ..) => gate.open(),
            Door::Passed(_) => Ok(()),
        }
    }

    /// It has had its last turn: what it waited for that by is out of its reach.
    pub fn shut(&self) {
        if let Door::Locked(_, lock, _) = self {
            lock.shut();
        }
    }

    /// It has served, and waits again.
    pub fn wait_again(&self, board: &Scoreboard, slot: Slot) {
        match self {
            Door::Open(_) | Door::Locked(..) => board.idle_again(slot),
            Door::Passed(inbox) => {
                board.idle(slot);
                inbox.ask();
            }
        }
    }

    /// Are connections passed to it, so that it has no listener?
    pub fn is_passed(&self) -> bool {
        matches!(self, Door::Passed(_))
    }

    /// The next connection, or word to go; `idle` is called once if it has to
    /// wait.
    pub fn next(&mut self, idle: impl Fn()) -> Next {
        match self {
            Door::Open(gate) => gate.next(idle),
            Door::Passed(inbox) => inbox.next(idle),
            Door::Locked(gate, lock, board) => {
                let has_waited = loop {
                    match acquire(lock, &idle) {
                        Ok(has_waited) => break has_waited,
                        Err(errno) => board.trouble(errno),
                    }
                    if gate.rest() {
                        return Next::Retire;
                    }
                };
                let next = gate.next(|| {
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

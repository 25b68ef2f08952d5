//! Where an idle worker waits: for a connection, or for word to go.
//!
//! It waits in an epoll of the listeners, each EPOLLEXCLUSIVE so that the kernel
//! wakes one worker and not all, and of the pipe of death: a byte there retires one
//! worker, end-of-file all of them. A woken worker accepts before it obeys, for
//! the wake-up it was given has been given to nobody else (`epoll_ctl(2)`).
//!
//! With several listeners that is not enough. Who was woken for one may find a
//! client at another, and take it; whoever was woken for that client finds nothing,
//! goes back to sleep inside the kernel, and the first client waits for ever
//! beside idle workers. So who takes a client looks whether there is one at another
//! listener, and if so wakes one of those that sleep.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::shared::scoreboard::Scoreboard;
use crate::daemon::worker::context::WorkerContext;
use crate::net::{AcceptError, Accepted, Listener, classify};
use crate::sys::epoll::Epoll;

// Who woke it.
const LISTENER: u64 = 0;
const DEATH: u64 = 1;
const REBALANCE: u64 = 2;

/// Listeners looked at in one call.
const AT_ONCE: usize = 16;

/// What the wait brought.
pub enum Next {
    /// A connection.
    Accepted(Accepted),
    /// Word to go.
    Retire,
    /// The listener with this index cannot be accepted on.
    Unusable(usize, Errno),
}

/// Milliseconds to keep away from a listener that cannot be served, at first
/// and at most.
pub(crate) const PAUSE: u16 = 100;
const LONGEST_PAUSE: u16 = 1000;

/// The worker's place at its listeners.
pub struct Acceptor<'a> {
    listeners: &'a [Option<Listener>],
    pipe_of_death: BorrowedFd<'a>,
    board: &'a Scoreboard,
    access: &'a AccessControl,
    epoll: Option<Epoll>,
    first: usize,
    pause: u16,
    rate: Rate,
}

/// What keeps a client waiting whom the rate does not let in yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rate {
    /// Nothing does.
    Open,
    /// Nobody has come since.
    Unnoticed,
    /// Somebody has, and the supervisor knows.
    Noticed,
}

/// What looking at the queues brought.
pub(crate) enum Tried {
    /// A connection, or a listener that is no use.
    Got(Next),
    /// Somebody was there, and was not let in.
    Refused,
    /// The queues are empty.
    Nothing,
    /// Descriptors or memory are short, which the board knows: not now.
    Short,
    /// `--connection-rate` lets nobody in for so many milliseconds.
    NotYet(u16),
    /// A firewall or security module said no, which the board knows: not soon.
    Denied,
}

impl<'a> Acceptor<'a> {
    /// `first` says which listener is looked at first, so that over all workers
    /// none is preferred.
    pub fn new(context: &'a WorkerContext, pipe_of_death: BorrowedFd<'a>, first: usize) -> Self {
        Acceptor {
            listeners: &context.listeners,
            pipe_of_death,
            board: &context.board,
            access: &context.access,
            epoll: None,
            first,
            pause: 0,
            rate: Rate::Open,
        }
    }

    /// Where word to go comes from.
    pub fn pipe_of_death(&self) -> BorrowedFd<'a> {
        self.pipe_of_death
    }

    /// A place for another thread of this process, at the same epoll once that is
    /// made: it wakes one of the threads in it for a connection, and for
    /// end-of-file, which stays, one after the other.
    pub fn beside(&self, first: usize) -> Self {
        Acceptor { first, ..*self }
    }

    /// Makes the epoll, made anyway at the first wait: a sandboxed worker does it
    /// before it locks itself in. It must be made after the fork, or all workers
    /// would share one.
    ///
    /// # Errors
    /// epoll_create1(2)'s or epoll_ctl(2)'s.
    pub fn open(&mut self) -> Result<(), Errno> {
        if self.epoll.is_some() {
            return Ok(());
        }
        let epoll = Epoll::new()?;
        for listener in self.listeners.iter().flatten() {
            epoll.add(listener, LISTENER, true)?;
        }
        epoll.add(self.pipe_of_death, DEATH, false)?;
        if self.has_several() {
            epoll.add(self.board.rebalance(), REBALANCE, true)?;
        }
        self.epoll = Some(epoll);
        Ok(())
    }

    /// The next connection, or word to go. Looks at the queues before it waits,
    /// at the rate before that: `idle` is called once if it has to.
    pub fn next(&mut self, idle: impl Fn()) -> Next {
        let mut told = false;
        let mut said = false;
        loop {
            match self.try_in_time() {
                Tried::Got(next) => {
                    self.rate = Rate::Open;
                    self.hand_on(&next);
                    return next;
                }
                Tried::Short => self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE),
                // It was not what we were woken for: the wake-up is spent when the
                // queue is empty, not before.
                Tried::Refused => continue,
                Tried::Denied => self.pause = LONGEST_PAUSE,
                Tried::Nothing => self.pause = 0,
                Tried::NotYet(pause) => {
                    self.pause = pause;
                    if self.rate == Rate::Open {
                        self.rate = Rate::Unnoticed;
                    }
                }
            }
            if told && is_retired(self.pipe_of_death) {
                return Next::Retire;
            }
            if !std::mem::replace(&mut said, true) {
                idle();
            }
            told = self.wait();
        }
    }

    fn has_several(&self) -> bool {
        self.listeners.len() > 1
    }

    /// Sees to it that somebody looks at the other listeners, if one of them has a
    /// client: see the module.
    fn hand_on(&self, next: &Next) {
        if let Next::Accepted(accepted) = next
            && self.has_several()
            && self.others_have(accepted.listener)
        {
            self.board.ask_rebalance();
        }
    }

    /// Does a client wait at another listener than this?
    fn others_have(&self, taken: usize) -> bool {
        let nothing = |_| PollFd::new(self.pipe_of_death, PollFlags::empty());
        let others =
            |(k, listener): (usize, &'a Option<Listener>)| listener.as_ref().filter(|_| k != taken);
        let mut others = self.listeners.iter().enumerate().filter_map(others);
        loop {
            let mut fds: [PollFd<'_>; AT_ONCE] = std::array::from_fn(nothing);
            let mut n = 0;
            for listener in others.by_ref().take(AT_ONCE) {
                fds[n] = PollFd::new(listener.as_fd(), PollFlags::POLLIN);
                n += 1;
            }
            if n == 0 {
                return false;
            }
            let ready = poll(&mut fds[..n], PollTimeout::ZERO).unwrap_or(0);
            if ready > 0 {
                return true;
            }
        }
    }

    /// [`Acceptor::try_accept`], where the rate allows: it is one worker alone that
    /// keeps to it here.
    fn try_in_time(&mut self) -> Tried {
        if let Some(wait) = self.access.wait() {
            let ms = u16::try_from(wait.as_millis() + 1).unwrap_or(LONGEST_PAUSE);
            return Tried::NotYet(ms.min(LONGEST_PAUSE));
        }
        let tried = self.try_accept();
        if let Tried::Got(Next::Accepted(accepted)) = &tried {
            self.access.spend(accepted.peer);
        }
        tried
    }

    /// Looks at each queue once, without waiting.
    pub(crate) fn try_accept(&mut self) -> Tried {
        let mut tried = Tried::Nothing;
        for k in 0..self.listeners.len() {
            let i = (self.first + k) % self.listeners.len();
            let Some(listener) = &self.listeners[i] else {
                continue;
            };
            loop {
                let errno = match listener.accept() {
                    Ok((conn, peer)) => {
                        self.first = i + 1;
                        let conn = self.access.screen(conn, peer, i, self.board);
                        return conn.map_or(Tried::Refused, |conn| {
                            Tried::Got(Next::Accepted(Accepted {
                                conn,
                                peer,
                                listener: i,
                            }))
                        });
                    }
                    Err(errno) => errno,
                };
                tried = match classify(errno) {
                    AcceptError::Again => break,
                    // A connection that was gone before we came: the next one.
                    AcceptError::Continue => continue,
                    AcceptError::Exhausted => Tried::Short,
                    AcceptError::Denied => Tried::Denied,
                    AcceptError::Unusable => return Tried::Got(Next::Unusable(i, errno)),
                };
                self.board.trouble(errno);
                break;
            }
        }
        tried
    }

    /// True if the pipe of death has something to say.
    fn wait(&mut self) -> bool {
        let unnoticed = self.rate == Rate::Unnoticed;
        if self.pause > 0 && !unnoticed {
            // A listener in the wait would wake us at once.
            return watch(self.pipe_of_death, self.pause);
        }
        if self.open().is_err() {
            return watch(self.pipe_of_death, PAUSE);
        }
        let limit = (self.pause > 0).then_some(self.pause);
        let woken = self.epoll.map_or(0, |epoll| epoll.wait(limit));
        if unnoticed && woken & 1 << LISTENER != 0 {
            self.rate = Rate::Noticed;
            self.board.early();
        }
        if woken & 1 << REBALANCE != 0 {
            self.board.take_rebalance();
        }
        woken & 1 << DEATH != 0
    }

    /// Keeps away for a while; true on word to go.
    pub(crate) fn rest(&self) -> bool {
        watch(self.pipe_of_death, PAUSE) && is_retired(self.pipe_of_death)
    }
}

/// For so many milliseconds at most: has the pipe of death something to say?
fn watch(pipe_of_death: BorrowedFd<'_>, pause: u16) -> bool {
    let mut fds = [PollFd::new(pipe_of_death, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(pause)).is_ok_and(|ready| ready > 0)
}

/// Another worker may have got the byte that woke us.
pub(crate) fn is_retired(pipe_of_death: BorrowedFd<'_>) -> bool {
    matches!(nix::unistd::read(pipe_of_death, &mut [0]), Ok(0 | 1))
}

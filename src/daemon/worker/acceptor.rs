//! Accepting: the one accept loop, for the supervisor, workers and threads alike,
//! and where an idle worker waits, for a connection or for word to go.
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

use crate::daemon::worker::child::WorkerContext;
use crate::net::{AcceptError, Accepted, Listener, classify};
use crate::sys::fd::Epoll;

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
pub(super) const PAUSE: u16 = 100;
const LONGEST_PAUSE: u16 = 1000;

/// Waits at the listeners, and accepts.
pub struct Acceptor<'a> {
    context: &'a WorkerContext,
    pipe_of_death: BorrowedFd<'a>,
    epoll: Option<Epoll>,
    turn: Turn,
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

/// What a look at the queues has brought.
pub enum Answer {
    /// A client.
    Accepted(Accepted),
    /// Somebody was there, was not let in, and is gone.
    Refused,
    /// Nobody is queued.
    Nobody,
    /// Descriptors or memory are short: not now.
    Short(Errno),
    /// A firewall or security module said no: not soon.
    Denied(Errno),
    /// The listener with this index will never yield a client (again).
    Unusable(usize, Errno),
}

/// Whose turn it is among the listeners, so that none waits for another's crowd to
/// end.
#[derive(Clone, Copy, Default)]
pub struct Turn(usize);

impl Turn {
    /// The next of so many.
    pub fn next(&mut self, listeners: usize) -> usize {
        let listener = self.0 % listeners;
        self.0 = listener + 1;
        listener
    }

    /// THE accept loop: one client, from whichever listener that `may` yield one has
    /// somebody, looked at once each and without waiting. Where one only has its
    /// troubles, the others are looked at all the same.
    pub fn accept(
        &mut self,
        context: &WorkerContext,
        mut may: impl FnMut(usize) -> bool,
    ) -> Answer {
        let mut answer = Answer::Nobody;
        let listeners = context.listeners.len();
        for listener in (0..listeners).map(|k| (self.0 + k) % listeners) {
            if !may(listener) {
                continue;
            }
            match accept_from(context, listener) {
                Answer::Nobody => {}
                trouble @ (Answer::Short(_) | Answer::Denied(_)) => answer = trouble,
                found => {
                    self.0 = listener + 1;
                    return found;
                }
            }
        }
        answer
    }
}

/// The same, from the listener with this index.
pub fn accept_from(context: &WorkerContext, listener: usize) -> Answer {
    let Some(Some(open)) = context.listeners.get(listener) else {
        return Answer::Nobody;
    };
    loop {
        let errno = match open.accept() {
            Ok((conn, peer)) => {
                let accepted = Accepted {
                    conn,
                    peer,
                    listener,
                };
                let let_in = context.access.screen(accepted, &context.board);
                return let_in.map_or(Answer::Refused, Answer::Accepted);
            }
            Err(errno) => errno,
        };
        return match classify(errno) {
            // A connection that was gone before we came: the next one.
            AcceptError::Continue => continue,
            AcceptError::Again => Answer::Nobody,
            AcceptError::Exhausted => Answer::Short(errno),
            AcceptError::Denied => Answer::Denied(errno),
            AcceptError::Unusable => Answer::Unusable(listener, errno),
        };
    }
}

impl<'a> Acceptor<'a> {
    /// `first` says which listener is looked at first, so that over all workers
    /// none is preferred.
    pub fn new(context: &'a WorkerContext, pipe_of_death: BorrowedFd<'a>, first: usize) -> Self {
        Acceptor {
            context,
            pipe_of_death,
            epoll: None,
            turn: Turn(first),
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
        Acceptor {
            turn: Turn(first),
            ..*self
        }
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
        for listener in self.context.listeners.iter().flatten() {
            epoll.add(listener, LISTENER, true)?;
        }
        epoll.add(self.pipe_of_death, DEATH, false)?;
        if self.has_several() {
            epoll.add(self.context.board.rebalance(), REBALANCE, true)?;
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
            if let Some(pause) = self.too_early() {
                self.pause = pause;
                if self.rate == Rate::Open {
                    self.rate = Rate::Unnoticed;
                }
            } else {
                match self.try_accept() {
                    Answer::Accepted(accepted) => {
                        self.rate = Rate::Open;
                        self.context.access.spend(accepted.peer);
                        self.rebalance(accepted.listener);
                        return Next::Accepted(accepted);
                    }
                    Answer::Unusable(listener, errno) => return Next::Unusable(listener, errno),
                    // It was not what we were woken for: the wake-up is spent when the
                    // queue is empty, not before.
                    Answer::Refused => continue,
                    Answer::Short(_) => self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE),
                    Answer::Denied(_) => self.pause = LONGEST_PAUSE,
                    Answer::Nobody => self.pause = 0,
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
        self.context.listeners.len() > 1
    }

    /// For how many milliseconds `--connection-rate` lets nobody in. It is one worker
    /// alone that keeps to it here.
    fn too_early(&self) -> Option<u16> {
        let wait = self.context.access.wait()?;
        let ms = u16::try_from(wait.as_millis() + 1).unwrap_or(LONGEST_PAUSE);
        Some(ms.min(LONGEST_PAUSE))
    }

    /// Sees to it that somebody looks at the other listeners, if one of them has a
    /// client: see the module.
    fn rebalance(&self, taken: usize) {
        if self.has_several() && self.others_have(taken) {
            self.context.board.ask_rebalance();
        }
    }

    /// Does a client wait at another listener than this?
    fn others_have(&self, taken: usize) -> bool {
        let nothing = |_| PollFd::new(self.pipe_of_death, PollFlags::empty());
        let others =
            |(k, listener): (usize, &'a Option<Listener>)| listener.as_ref().filter(|_| k != taken);
        let mut others = self.context.listeners.iter().enumerate().filter_map(others);
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

    /// A look at the queues, without waiting; the supervisor hears of trouble.
    pub fn try_accept(&mut self) -> Answer {
        let answer = self.turn.accept(self.context, |_| true);
        if let Answer::Short(errno) | Answer::Denied(errno) = answer {
            self.context.board.trouble(errno);
        }
        answer
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
            self.context.board.early();
        }
        if woken & 1 << REBALANCE != 0 {
            self.context.board.take_rebalance();
        }
        woken & 1 << DEATH != 0
    }

    /// Keeps away for a while; true on word to go.
    pub(super) fn rest(&self) -> bool {
        watch(self.pipe_of_death, PAUSE) && is_retired(self.pipe_of_death)
    }
}

/// For so many milliseconds at most: has the pipe of death something to say?
fn watch(pipe_of_death: BorrowedFd<'_>, pause: u16) -> bool {
    let mut fds = [PollFd::new(pipe_of_death, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(pause)).is_ok_and(|ready| ready > 0)
}

/// Another worker may have got the byte that woke us.
pub(super) fn is_retired(pipe_of_death: BorrowedFd<'_>) -> bool {
    matches!(nix::unistd::read(pipe_of_death, &mut [0]), Ok(0 | 1))
}

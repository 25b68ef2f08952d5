//! The supervisor as whoever accepts: at which listener, when to try again, and the one
//! client that may wait for a process.

use std::time::Instant;

use log::error;
use nix::errno::Errno;

use crate::daemon::shared::backoff::{Backoff, Episode, FIRST_WAIT, LONGEST_ACCEPT_WAIT};
use crate::daemon::worker::acceptor::{Answer, Turn, accept_from};
use crate::daemon::worker::child::WorkerContext;
use crate::error::errno_text;
use crate::net::Accepted;

/// See the module.
pub(super) struct Accepting {
    turn: Turn,
    wait: Backoff,
    trouble: Episode,
    /// Accepted, and waits for a process.
    pending: Option<Accepted>,
}

impl Accepting {
    /// Nobody has come.
    pub(super) fn new() -> Self {
        Accepting {
            turn: Turn::default(),
            wait: Backoff::new(FIRST_WAIT, LONGEST_ACCEPT_WAIT),
            trouble: Episode::default(),
            pending: None,
        }
    }

    /// A client, from whichever listener that `may` yield one.
    pub(super) fn accept(
        &mut self,
        context: &WorkerContext,
        may: impl FnMut(usize) -> bool,
        now: Instant,
    ) -> Answer {
        let answer = self.turn.accept(context, may);
        self.heed(answer, now)
    }

    /// The same, from the listener with this index, whoever's turn it is.
    pub(super) fn accept_from(
        &mut self,
        context: &WorkerContext,
        listener: usize,
        now: Instant,
    ) -> Answer {
        self.heed(accept_from(context, listener), now)
    }

    /// Whose turn it is, of so many.
    pub(super) fn next(&mut self, listeners: usize) -> usize {
        self.turn.next(listeners)
    }

    /// What an answer means for the next try.
    fn heed(&mut self, answer: Answer, now: Instant) -> Answer {
        match answer {
            Answer::Accepted(_) | Answer::Refused => self.wait.reset(),
            Answer::Short(errno) => {
                self.wait.fail(now);
                self.say_trouble(errno, now);
            }
            Answer::Denied(errno) => {
                self.wait.fail_for_long(now);
                self.say_trouble(errno, now);
            }
            Answer::Nobody | Answer::Unusable(..) => {}
        }
        answer
    }

    /// accept(2) lacks something, here or in a worker: once an episode.
    pub(super) fn say_trouble(&mut self, errno: Errno, now: Instant) {
        if self.trouble.begin(now) {
            error!(
                "accept: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// So does what passes a client on.
    pub(super) fn fail(&mut self, errno: Errno, now: Instant) {
        self.wait.fail(now);
        self.say_trouble(errno, now);
    }

    /// One was passed on.
    pub(super) fn succeed(&mut self) {
        self.wait.reset();
    }

    /// Has it failed too lately to try again?
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.wait.waits(now)
    }

    /// Once a turn of the loop: is the trouble over?
    pub(super) fn look(&mut self, now: Instant) {
        self.trouble.say_end("accept works again", now);
    }

    /// When that may be, or the next may be tried.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.wait.wakes_at(now), self.trouble.wakes_at()];
        times.into_iter().flatten().min()
    }

    /// No process could be forked for this one yet.
    pub(super) fn keep(&mut self, accepted: Accepted) {
        self.pending = Some(accepted);
    }

    /// The one that waits.
    pub(super) fn pending(&self) -> Option<&Accepted> {
        self.pending.as_ref()
    }

    /// The same; it does not any more.
    pub(super) fn take_pending(&mut self) -> Option<Accepted> {
        self.pending.take()
    }
}

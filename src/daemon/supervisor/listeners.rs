//! Clients that the supervisor accepts itself: all of them in `fork`, the ones
//! beyond the limit where `--overflow` turns them away, and at a stop, in every
//! design, what is left in the queue.

use std::time::Instant;

use log::{error, info, warn};
use nix::errno::Errno;

use crate::config::Overflow;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::sleep::LISTENERS;
use crate::daemon::worker::acceptor::{Answer, accept_from};
use crate::error::errno_text;
use crate::net;
use crate::net::{Accepted, Intake, Listener};

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

impl Supervisor {
    /// What the supervisor would do now about a client.
    pub(crate) fn intake(&self) -> Intake {
        if self.pending.is_some() || self.has_waiting() {
            return Intake::Leave;
        }
        let full = self.children.full();
        let (takes, full) = match (&self.pool, &self.passing) {
            (None, _) => (!full, full),
            (Some(_), Some(passing)) => (passing.has_free(), full),
            (Some(_), None) => (false, full && self.idle() == 0),
        };
        Intake::decide(takes, full, self.context.config.overflow)
    }

    /// Listeners may be readable: one client from each that is, in turn, so that
    /// none waits for another's crowd to end.
    pub(crate) fn accept(&mut self, now: Instant) {
        if self.intake() == Intake::TurnAway {
            // Nobody is turned away for a place whose client is gone.
            self.catch_up(now);
        }
        for _ in 0..BATCH {
            let intake = self.intake();
            if intake == Intake::Leave || self.pause().is_some() {
                // Nobody's turn is used up.
                return;
            }
            let (turn, wait) = (&mut self.turn, &mut self.wait);
            let answer = turn.accept(&self.context, |i| wait.came(LISTENERS + i));
            match self.heed(answer, now) {
                Answer::Accepted(accepted) if intake == Intake::TurnAway => {
                    self.turn_away(accepted, now);
                }
                Answer::Accepted(accepted) => self.take(accepted, now),
                Answer::Refused => {}
                Answer::Nobody | Answer::Short(_) | Answer::Denied(_) => return,
                Answer::Unusable(listener, errno) => return self.give_up_listener(listener, errno),
            }
        }
    }

    fn take(&mut self, accepted: Accepted, now: Instant) {
        match self.passing {
            Some(_) => self.pass(accepted, now),
            None => self.serve(accepted, now),
        }
    }

    /// From the listener with this index, whoever's turn it is.
    pub(crate) fn accept_from(&mut self, listener: usize, now: Instant) -> Answer {
        let answer = accept_from(&self.context, listener);
        self.heed(answer, now)
    }

    /// What an answer means for the next try, and whether a client is let in.
    fn heed(&mut self, answer: Answer, now: Instant) -> Answer {
        match answer {
            Answer::Accepted(accepted) => {
                self.accept_wait.reset();
                let let_in = self.admit(accepted, now);
                return let_in.map_or(Answer::Refused, Answer::Accepted);
            }
            Answer::Refused => self.accept_wait.reset(),
            Answer::Short(errno) => {
                self.accept_wait.fail(now);
                self.accept_trouble(errno, now);
            }
            Answer::Denied(errno) => {
                self.accept_wait.fail_for_long(now);
                self.accept_trouble(errno, now);
            }
            Answer::Nobody | Answer::Unusable(..) => {}
        }
        answer
    }

    /// accept(2) lacks something, here or in a worker: once an episode.
    pub(crate) fn accept_trouble(&mut self, errno: Errno, now: Instant) {
        if self.troubles.accept.begin(now) {
            error!(
                "accept: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    pub(crate) fn turn_away(&mut self, accepted: Accepted, now: Instant) {
        self.count_turned_away(1, now);
        if self.context.config.overflow == Overflow::Reset {
            net::overflow_reset(accepted.conn);
        }
    }

    /// A stop: serves what is queued as far as there is room, and closes each
    /// listener whose queue is empty.
    pub(crate) fn take_queue(&mut self, now: Instant) {
        if self.phase.serves() {
            return;
        }
        let mut nobody = 0;
        while nobody < self.context.listeners.len()
            && self.pending.is_none()
            && self.has_room()
            && !self.accept_wait.waits(now)
        {
            let listener = self.turn.next(self.context.listeners.len());
            nobody += 1;
            if self.context.listeners[listener].is_none() {
                continue;
            }
            match self.accept_from(listener, now) {
                Answer::Accepted(accepted) => self.serve(accepted, now),
                Answer::Refused => {}
                Answer::Nobody | Answer::Unusable(..) => {
                    self.close_listener(listener);
                    continue;
                }
                Answer::Short(_) | Answer::Denied(_) => return,
            }
            nobody = 0;
        }
    }

    /// Sets the listeners' options once more: at a reload, and when a worker that kept
    /// them has died as none should.
    pub(crate) fn set_listeners_again(&self) {
        for listener in self.context.listeners.iter().flatten() {
            if let Err(errno) = listener.set_again(&self.context.config.timeouts) {
                let name = listener.name();
                warn!("setsockopt {name}: {}: left as it is", errno_text(errno));
            }
        }
    }

    /// In a stop: the listener with this index if it is open and ours. One that was
    /// handed over is closed.
    pub(crate) fn keep_ours(&mut self, listener: usize) -> Option<&Listener> {
        let open = self.context.listeners[listener].as_ref()?;
        if open.is_handed() {
            info!(
                "{}: left, with its queue, to whoever opened it",
                open.name()
            );
            self.close_listener(listener);
        }
        self.context.listeners[listener].as_ref()
    }

    /// Closes a listener, and unlinks its path if that is still ours.
    pub(crate) fn close_listener(&mut self, listener: usize) {
        let Some(open) = self.context.listeners[listener].take() else {
            return;
        };
        if let Err(errno) = open.unlink() {
            warn!("unlink {}: {}: left behind", open.name(), errno_text(errno));
        }
    }

    /// The deadline: resets what is queued and closes every listener. Returns how
    /// many were reset.
    pub(crate) fn cut_queue(&mut self, now: Instant) -> usize {
        let mut cut = self.cut_waiting();
        if let Some(accepted) = self.pending.take() {
            net::overflow_reset(accepted.conn);
            cut += 1;
        }
        for listener in 0..self.context.listeners.len() {
            self.keep_ours(listener);
            loop {
                match self.accept_from(listener, now) {
                    Answer::Accepted(accepted) => net::overflow_reset(accepted.conn),
                    Answer::Refused => continue,
                    _ => break,
                }
                cut += 1;
            }
            self.close_listener(listener);
        }
        cut
    }
}

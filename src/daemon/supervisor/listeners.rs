//! Clients that the supervisor accepts itself: all of them in `fork`, the ones
//! beyond the limit where `--overflow` turns them away, and at a stop, in every
//! design, what is left in the queue.

use std::time::Instant;

use log::{error, info, warn};
use nix::errno::Errno;

use crate::config::Overflow;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::sleep::LISTENERS;
use crate::error::errno_text;
use crate::net;
use crate::net::{AcceptError, Accepted, Listener, classify};

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

/// What trying to accept has brought.
pub(crate) enum Tried {
    Got(Accepted),
    /// Somebody was there, and was not let in.
    Refused,
    Empty,
    NotNow,
    Unusable(Errno),
}

/// What is to be done about clients that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// They wait, or are somebody else's business.
    Leave,
    /// One is accepted, to be served.
    Take,
    /// One is accepted, to be turned away.
    TurnAway,
}

impl Intake {
    /// `takes`: is there a place for one, with whoever asks? `full`: has nobody
    /// one?
    ///
    /// Asked before each accept(2) and not before the wait that came before it: a
    /// listener that was readable stays so, a place may be gone by then, and whom
    /// nobody has a place for must not be accepted.
    pub(crate) fn decide(takes: bool, full: bool, overflow: Overflow) -> Intake {
        match overflow {
            _ if takes => Intake::Take,
            Overflow::Close | Overflow::Reset if full => Intake::TurnAway,
            _ => Intake::Leave,
        }
    }
}

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
        let (mut left, mut nobody) = (BATCH, 0);
        while left > 0 && nobody < self.context.listeners.len() {
            let intake = self.intake();
            if intake == Intake::Leave || self.pause().is_some() {
                // Nobody's turn is used up.
                return;
            }
            let listener = self.next_listener();
            if !self.wait.came(LISTENERS + listener) {
                nobody += 1;
                continue;
            }
            match self.try_accept(listener, now) {
                Tried::Got(accepted) if intake == Intake::TurnAway => self.turn_away(accepted, now),
                Tried::Got(accepted) => self.take(accepted, now),
                Tried::Refused => {}
                Tried::Empty => {
                    nobody += 1;
                    continue;
                }
                Tried::NotNow => return,
                Tried::Unusable(errno) => return self.give_up_listener(listener, errno),
            }
            (left, nobody) = (left - 1, 0);
        }
    }

    fn take(&mut self, accepted: Accepted, now: Instant) {
        match self.passing {
            Some(_) => self.pass(accepted, now),
            None => self.serve(accepted, now),
        }
    }

    /// Whose turn it is.
    fn next_listener(&mut self) -> usize {
        let listener = self.turn % self.context.listeners.len();
        self.turn = listener + 1;
        listener
    }

    pub(crate) fn try_accept(&mut self, listener: usize, now: Instant) -> Tried {
        let Some(Some(open)) = self.context.listeners.get(listener) else {
            return Tried::Empty;
        };
        if self.pause().is_some() {
            return Tried::NotNow;
        }
        loop {
            let errno = match open.accept() {
                Ok((conn, peer)) => {
                    self.accept_wait.reset();
                    let accepted = Accepted {
                        conn,
                        peer,
                        listener,
                    };
                    return self
                        .screen(accepted, now)
                        .map_or(Tried::Refused, Tried::Got);
                }
                Err(errno) => errno,
            };
            match classify(errno) {
                AcceptError::Again => return Tried::Empty,
                AcceptError::Continue => continue,
                AcceptError::Exhausted => self.accept_wait.fail(now),
                AcceptError::Denied => self.accept_wait.fail_for_long(now),
                AcceptError::Unusable => return Tried::Unusable(errno),
            }
            self.accept_trouble(errno, now);
            return Tried::NotNow;
        }
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
            let listener = self.next_listener();
            nobody += 1;
            if self.context.listeners[listener].is_none() {
                continue;
            }
            match self.try_accept(listener, now) {
                Tried::Got(accepted) => self.serve(accepted, now),
                Tried::Refused => {}
                Tried::Empty | Tried::Unusable(_) => {
                    self.close_listener(listener);
                    continue;
                }
                Tried::NotNow => return,
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
                match self.try_accept(listener, now) {
                    Tried::Got(accepted) => net::overflow_reset(accepted.conn),
                    Tried::Refused => continue,
                    _ => break,
                }
                cut += 1;
            }
            self.close_listener(listener);
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_place_is_left_or_turned_away_and_never_taken() {
        use Intake::{Leave, Take, TurnAway};
        use Overflow::{Close, Queue, Reset};
        for (takes, full, overflow, expected) in [
            (true, false, Queue, Take),
            (true, false, Close, Take),
            // A worker is idle, though no further one could be forked.
            (true, true, Reset, Take),
            (false, true, Queue, Leave),
            (false, true, Close, TurnAway),
            (false, true, Reset, TurnAway),
            // A place is being made.
            (false, false, Queue, Leave),
            (false, false, Close, Leave),
            (false, false, Reset, Leave),
        ] {
            let got = Intake::decide(takes, full, overflow);
            assert_eq!(got, expected, "{takes} {full} {overflow:?}");
        }
    }
}

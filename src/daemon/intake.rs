//! Clients that the supervisor accepts itself: all of them in `fork`, the ones
//! beyond the limit where `--overflow` turns them away, and at a stop, in every
//! design, what is left in the queue.

use std::time::Instant;

use log::{error, info, warn};
use nix::errno::Errno;

use super::supervisor::{Held, Supervisor};
use crate::config::Overflow;
use crate::error::errno_text;
use crate::net;
use crate::net::{AcceptError, Listener, classify};

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

/// What trying to accept has brought.
pub(super) enum Tried {
    Got(Held),
    /// Somebody was there, and was not let in.
    Refused,
    Empty,
    NotNow,
    Unusable(Errno),
}

impl Supervisor {
    /// The listener is readable.
    pub(super) fn accept(&mut self, listener: usize, now: Instant) {
        if self.passing.is_some() {
            return self.accept_to_pass(listener, now);
        }
        for _ in 0..BATCH {
            if self.held.is_some() {
                return;
            }
            match self.try_accept(listener, now) {
                Tried::Got(held) if self.children.full() => self.turn_away(held, now),
                Tried::Got(held) => self.serve(held, now),
                Tried::Refused => {}
                Tried::Empty | Tried::NotNow => return,
                Tried::Unusable(errno) => return self.give_up_listener(listener, errno),
            }
            if self.children.full() {
                self.at_limit(now);
                if self.estate.config.overflow == Overflow::Queue {
                    return;
                }
            }
        }
    }

    pub(super) fn try_accept(&mut self, listener: usize, now: Instant) -> Tried {
        let Some(Some(open)) = self.estate.listeners.get(listener) else {
            return Tried::Empty;
        };
        if self.pause().is_some() {
            return Tried::NotNow;
        }
        loop {
            let errno = match open.accept() {
                Ok((conn, peer)) => {
                    self.accept_wait.reset();
                    let held = Held {
                        conn,
                        peer,
                        listener,
                    };
                    return self.screen(held, now).map_or(Tried::Refused, Tried::Got);
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
    pub(super) fn accept_trouble(&mut self, errno: Errno, now: Instant) {
        if self.troubles.accept.begin(now) {
            error!(
                "accept: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    pub(super) fn turn_away(&mut self, held: Held, now: Instant) {
        self.at_limit(now);
        if self.estate.config.overflow == Overflow::Reset {
            net::overflow_reset(held.conn);
        }
    }

    /// A stop: serves what is queued as far as there is room, and closes each
    /// listener whose queue is empty.
    pub(super) fn take_queue(&mut self, now: Instant) {
        if self.phase.serves() {
            return;
        }
        for listener in 0..self.estate.listeners.len() {
            while self.estate.listeners[listener].is_some()
                && self.held.is_none()
                && self.has_room()
                && !self.accept_wait.waits(now)
            {
                match self.try_accept(listener, now) {
                    Tried::Got(held) => self.serve(held, now),
                    Tried::Refused => {}
                    Tried::Empty | Tried::Unusable(_) => self.close_listener(listener),
                    Tried::NotNow => return,
                }
            }
        }
    }

    /// In a stop: the listener with this index if it is open and ours. One that was
    /// handed over is closed.
    pub(super) fn keep_ours(&mut self, listener: usize) -> Option<&Listener> {
        let open = self.estate.listeners[listener].as_ref()?;
        if open.is_handed() {
            info!(
                "{}: left, with its queue, to whoever opened it",
                open.name()
            );
            self.close_listener(listener);
        }
        self.estate.listeners[listener].as_ref()
    }

    /// Closes a listener, and unlinks its path if that is still ours.
    pub(super) fn close_listener(&mut self, listener: usize) {
        let Some(open) = self.estate.listeners[listener].take() else {
            return;
        };
        if let Err(errno) = open.unlink() {
            warn!("unlink {}: {}: left behind", open.name(), errno_text(errno));
        }
    }

    /// The deadline: resets what is queued and closes every listener. Returns how
    /// many were reset.
    pub(super) fn cut_queue(&mut self, now: Instant) -> usize {
        let mut cut = self.cut_waiting();
        if let Some(held) = self.held.take() {
            net::overflow_reset(held.conn);
            cut += 1;
        }
        for listener in 0..self.estate.listeners.len() {
            self.keep_ours(listener);
            loop {
                match self.try_accept(listener, now) {
                    Tried::Got(held) => net::overflow_reset(held.conn),
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

//! `--accept pass`: the supervisor accepts while a worker is free, and hands
//! the client over.
//!
//! A worker counts as busy from the moment it is passed a client, so that its
//! replacement is forked at once. Who has what is in `passing`.

use std::time::Instant;

use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::passing::{Passed, Passing};
use crate::net;
use crate::net::Accepted;

impl Supervisor {
    /// Does an accepted client wait to be passed?
    pub(crate) fn has_waiting(&self) -> bool {
        self.passing.as_ref().is_some_and(|p| p.has_waiting())
    }

    /// Clients that could not be passed, or came back from a worker that died:
    /// to whoever is free now or, in a stop, to a process of their own.
    pub(crate) fn pass_waiting(&mut self, now: Instant) {
        while let Some(passing) = &mut self.passing
            && !self.accept_wait.waits(now)
            && self.pending.is_none()
            && (if self.phase.serves() {
                passing.has_free()
            } else {
                !self.children.full()
            })
            && let Some(accepted) = passing.next_waiting()
        {
            if self.phase.serves() {
                self.pass(accepted, now);
            } else {
                self.serve(accepted, now);
            }
        }
    }

    pub(crate) fn pass(&mut self, accepted: Accepted, now: Instant) {
        let Some(passing) = &mut self.passing else {
            return;
        };
        let peer = accepted.peer;
        match passing.pass(accepted, &self.context.board) {
            Passed::To(slot) => {
                self.children.taken(slot, now);
                self.occupy(slot, peer);
                self.accept_wait.reset();
            }
            Passed::NotYet => {}
            Passed::Short(errno) => {
                self.accept_wait.fail(now);
                self.accept_trouble(errno, now);
            }
        }
    }

    /// What workers say: who took its client, and who waits for another.
    pub(crate) fn note_passed(&mut self) {
        if let Some(passing) = &mut self.passing {
            self.context.board.drain_taken(|slot| passing.taken(slot));
        }
        while let Some(slot) = self.passing.as_mut().and_then(Passing::next_asking) {
            self.vacate(slot);
            if self.children.again(slot, self.generation.number)
                && let Some(passing) = &mut self.passing
            {
                passing.free(slot);
            }
        }
    }

    /// A worker died before it took this client. Nobody has spoken with it: it is
    /// passed to another, or, once clients are being cut, reset.
    pub(crate) fn take_back(&mut self, accepted: Accepted) {
        match &mut self.passing {
            Some(passing) if !self.phase.cuts() => passing.wait(accepted),
            _ => {
                net::overflow_reset(accepted.conn);
                self.cut += 1;
            }
        }
    }

    /// The deadline: resets the clients that wait to be passed. Returns how many.
    pub(crate) fn cut_waiting(&mut self) -> usize {
        let mut cut = 0;
        while let Some(accepted) = self.passing.as_mut().and_then(|p| p.next_waiting()) {
            net::overflow_reset(accepted.conn);
            cut += 1;
        }
        cut
    }
}

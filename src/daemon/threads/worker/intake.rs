//! What the main thread does about clients that come: nothing where the pool's
//! threads accept, else it accepts them, or at the limit turns them away.

use std::time::Instant;

use crate::config::{Overflow, ThreadAccept};
use crate::daemon::threads::worker::MainThread;
use crate::daemon::worker::acceptor::Answer;
use crate::daemon::worker::context::WorkerContext;
use crate::net::Accepted;
use crate::net::Intake;

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

impl MainThread<'_, '_> {
    pub(super) fn intake(&mut self, now: Instant) -> Intake {
        if self.pending.is_some() || self.accept_wait.waits(now) {
            return Intake::Leave;
        }
        if self.is_full() {
            return Intake::decide(false, true, self.context.config.overflow);
        }
        let takes = match &self.spares {
            None => true,
            Some(spares) => spares.accept == ThreadAccept::Pass && self.pool.counts().idle > 0,
        };
        Intake::decide(takes, false, self.context.config.overflow)
    }

    /// Are all seats taken, and does nobody wait for a client?
    fn is_full(&mut self) -> bool {
        if self.spares.is_some() {
            let counts = self.pool.counts();
            return counts.idle == 0 && (self.seatless || counts.alive == self.seats.count());
        }
        if self.seat.is_none() {
            self.seat = self.claim();
        }
        self.seat.is_none()
    }

    /// A listener is readable. What is to be done may have changed meanwhile.
    pub(super) fn accept_some(&mut self, now: Instant) {
        for n in 0..BATCH {
            if self.context.access.wait().is_some() {
                if n == 0 {
                    // What woke us is a client that must wait for the rate.
                    self.early = true;
                    self.context.board.early();
                }
                return;
            }
            let intake = self.intake(now);
            if intake == Intake::Leave || !self.accept(intake, now) {
                return;
            }
        }
    }

    /// Accepts once; false if there was nobody.
    fn accept(&mut self, intake: Intake, now: Instant) -> bool {
        let client = match self.acceptor.try_accept() {
            Answer::Accepted(client) => client,
            Answer::Refused => return true,
            Answer::Nobody => return false,
            Answer::Short(_) => {
                self.accept_wait.fail(now);
                return false;
            }
            Answer::Denied(_) => {
                self.accept_wait.fail_for_long(now);
                return false;
            }
            Answer::Unusable(listener, errno) => {
                self.pool.counts().unusable = Some((listener, errno));
                return false;
            }
        };
        self.accept_wait.reset();
        self.early = false;
        let Some(client) = self.let_in(client) else {
            return true;
        };
        match (intake, self.seat.take()) {
            (Intake::TurnAway, seat) => {
                self.seat = seat;
                if self.seats.say_turned_away() {
                    self.context.board.wake();
                }
                if self.context.config.overflow == Overflow::Reset {
                    crate::net::overflow_reset(client.conn);
                }
            }
            (_, Some(seat)) => {
                self.pool.seat(&seat, &client);
                self.start_for(client, seat, now);
            }
            (_, None) => self.handoff.give(self.pool, client),
        }
        true
    }

    /// The limits that depend on other clients. They count for the supervisor
    /// and for other workers too: all have their seats in the same memory.
    fn let_in(&self, client: Accepted) -> Option<Accepted> {
        let WorkerContext { access, board, .. } = self.context;
        let full = access.share(client.peer).filter(|&(source, most)| {
            let is = |peer| access.policy().source(peer) == Some(source);
            self.handoff.count_of(self.seats, is) >= most
        });
        access.admit(client, full.map(|(source, _)| source), board)
    }
}

//! A unit's life: begun when it is its time, sent, back, ended or failed, and
//! what comes next for its connection. That is the load's: see [`Mode`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{SOON, Worker};
use crate::load::fault::{Fault, Outcome};
use crate::load::outcomes::Failure;
use crate::load::pattern::Pattern;
use crate::load::plan::Mode;
use crate::load::slot::{Phase, Pumped};
use crate::load::socket;

/// After a refused connect, so that a dead server is not called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

impl Worker<'_> {
    /// Begins the next unit of a connection that has none, if there is to be
    /// one and it is due.
    pub(super) fn next(&mut self, slot: usize) {
        let now = self.io.now;
        let nth = self.slots[slot].nth;
        let begun = match self.table {
            None => now,
            Some(table) => table.due_of(slot, nth),
        };
        // Overdue ones are sent after the end too, while anybody would wait.
        let given_up = |until| now > until + self.plan.timeout;
        if self.board.until.is_some_and(given_up) {
            return self.retire(slot);
        }
        if begun > now && !self.board.stopped() && self.board.until.is_none_or(|end| begun < end) {
            return; // depart() will
        }
        match self.board.take(nth, begun) {
            true => self.start(slot, begun),
            false => self.retire(slot),
        }
    }

    pub(super) fn start(&mut self, slot: usize, begun: Instant) {
        let id = self.first + slot as u64;
        let state = &mut self.slots[slot];
        let pattern = Pattern::new(id, state.nth);
        let size = match self.plan.mode {
            Mode::Stream => match self.plan.messages(id) {
                Some(messages) => messages * self.plan.size.end(),
                None => u64::MAX,
            },
            _ => pattern.pick(&self.plan.size),
        };
        let pattern = match self.plan.lines {
            true => pattern.line(size),
            false => pattern,
        };
        state.begun = begun;
        match state.start(&mut self.io, pattern, size) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// Lets a connection go as far as it can.
    pub(super) fn turn(&mut self, slot: usize) {
        if matches!(self.slots[slot].phase, Phase::Idle | Phase::Closed) {
            return; // what came is for the next message to find
        }
        let pumped = self.slots[slot].pump(&mut self.io);
        if self.slots[slot].fresh {
            self.connected(slot);
        }
        match pumped {
            Ok(Pumped::Blocked) => self.arm(slot),
            Ok(Pumped::Busy) => {
                self.arm(slot);
                self.busy.push_back(slot);
            }
            Ok(Pumped::Full) => self.later.push(Reverse((self.io.now + SOON, slot))),
            Ok(Pumped::Back) => self.back(slot),
            Ok(Pumped::Ended) => self.ended(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    fn arm(&mut self, slot: usize) {
        if let Err(error) = self.poller.arm(&mut self.slots[slot], slot) {
            let outcome = Outcome::Other;
            self.failed(slot, Fault { outcome, error });
        }
    }

    fn connected(&mut self, slot: usize) {
        let now = Instant::now();
        let state = &mut self.slots[slot];
        state.fresh = false;
        // A datagram socket "connects" to a server that is not there.
        if self.plan.target.is_datagram() {
            return;
        }
        self.board.connected();
        self.done.tally.connected += 1;
        if state.dialled >= self.board.from {
            self.done.tally.connect(now - state.dialled);
        }
        if self.table.is_none() && matches!(self.plan.mode, Mode::Rr | Mode::Hold) {
            state.begun = now;
        }
    }

    /// A message is back.
    fn back(&mut self, slot: usize) {
        self.io.now = Instant::now();
        let datagram = self.plan.target.is_datagram();
        if datagram && self.done.tally.connected == 0 {
            self.board.connected();
            self.done.tally.connected += 1;
        }
        match self.plan.mode {
            Mode::Rr => {
                self.complete(slot);
                self.rest(slot);
            }
            Mode::Crr if datagram => self.ended(slot),
            Mode::Crr | Mode::Stream => self.finish(slot),
            Mode::Hold => {
                let took = self.io.now - self.slots[slot].begun;
                self.done.tally.echoed(took);
                match self.slots[slot].nth {
                    1 => {
                        self.slots[slot].phase = Phase::Idle;
                        self.parked += 1;
                        self.arm(slot);
                        self.open_another();
                    }
                    _ => self.finish(slot),
                }
            }
        }
    }

    /// A connection is free for its next unit.
    fn rest(&mut self, slot: usize) {
        self.slots[slot].phase = Phase::Idle;
        self.next(slot);
        // What comes now is for the next message to find.
        if self.slots[slot].phase == Phase::Idle {
            self.arm(slot);
        }
    }

    fn finish(&mut self, slot: usize) {
        match self.slots[slot].finish(&self.io) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// End of file, where it belongs.
    fn ended(&mut self, slot: usize) {
        self.io.now = Instant::now();
        self.slots[slot].close();
        match self.plan.mode {
            Mode::Rr => self.closed(slot),
            Mode::Crr => {
                self.complete(slot);
                self.rest(slot);
            }
            Mode::Stream | Mode::Hold => {
                self.done.tally.complete();
                self.progress.complete += 1;
                self.noted(true);
                self.closed(slot);
            }
        }
    }

    fn complete(&mut self, slot: usize) {
        let begun = self.slots[slot].begun;
        let took = self.io.now.saturating_duration_since(begun);
        if begun >= self.board.from {
            self.done.tally.complete();
            self.done.tally.echoed(took);
            self.noted(true);
        }
        if self.board.progress.is_some() {
            self.progress.complete(took);
        }
    }

    pub(super) fn failed(&mut self, slot: usize, fault: Fault) {
        let state = &mut self.slots[slot];
        let connecting = !state.is_connected() || self.done.tally.connected == 0;
        if let Some(outcomes) = self.board.outcomes {
            outcomes.write(&Failure {
                outcome: fault.outcome,
                local: state.fd().map_or_else(|| "-".to_owned(), socket::local),
                target: &self.plan.target,
                sent: state.sent,
                back: state.back,
            });
        }
        let finishing = state.phase == Phase::Finish;
        state.close();
        if connecting {
            self.board.refused();
        }
        if fault.outcome == Outcome::Other {
            self.board.stop();
        }
        self.done.tally.fault(fault);
        self.progress.failed += 1;
        self.noted(false);
        match self.plan.mode {
            Mode::Rr if finishing => self.closed(slot),
            Mode::Rr | Mode::Crr if connecting => {
                self.slots[slot].phase = Phase::Idle;
                self.later.push(Reverse((self.io.now + PAUSE, slot)));
            }
            // Later, so that a server that always fails is no recursion.
            Mode::Rr | Mode::Crr => {
                self.slots[slot].phase = Phase::Idle;
                self.later.push(Reverse((self.io.now, slot)));
            }
            Mode::Stream => self.closed(slot),
            Mode::Hold => {
                let opening = self.slots[slot].nth <= 1;
                self.closed(slot);
                if opening {
                    self.open_another();
                }
            }
        }
    }

    fn noted(&mut self, complete: bool) {
        self.done.last = self.io.now;
        if complete {
            self.done.last_complete = self.io.now;
        }
    }

    /// There is no more for this connection to do.
    fn retire(&mut self, slot: usize) {
        let kept = self.slots[slot].is_connected() && !self.plan.target.is_datagram();
        match kept {
            true => self.finish(slot),
            false => self.closed(slot),
        }
    }

    pub(super) fn closed(&mut self, slot: usize) {
        self.slots[slot].close();
        self.slots[slot].phase = Phase::Closed;
        self.live -= 1;
    }
}

//! A unit's life: begun when it is its time, sent, back, ended or failed, and
//! what comes next for its connection. That is the load's: see [`Mode`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::load::fault::{Failure, Fault, Outcome};
use crate::load::pattern::Pattern;
use crate::load::plan::Mode;
use crate::load::slot::{Phase, Pumped};
use crate::load::socket;
use crate::load::worker::{SOON, Worker};

/// After a refused connect, so that a dead server is not called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

impl Worker<'_> {
    /// Begins the next unit of a connection that has none, if there is to be
    /// one and it is due.
    pub(super) fn next(&mut self, slot: usize) {
        let now = self.io.now;
        let nth = self.slots[slot].nth;
        let Some(table) = self.table else {
            // Each connection makes one attempt, however short the time.
            let ended = nth > 0 && self.until.is_some_and(|until| now >= until);
            return match !ended && self.take(now) {
                true => self.start(slot, now),
                false => self.retire(slot),
            };
        };
        let due = table.due_of(slot, nth);
        if self.board.stopped() || self.board.exhausted() {
            return self.retire(slot);
        }
        if let Some(until) = self.until {
            // Overdue ones are sent after the end too, while anybody would wait.
            if due < until && now > until + self.plan.timeout {
                self.drop_overdue(due, until, table.step());
                return self.retire(slot);
            }
            if due >= until && now >= until {
                return self.retire(slot);
            }
            if due >= until {
                return; // it stays open to the end
            }
        }
        if due > now {
            return; // depart() will
        }
        match self.take(due) {
            true => self.start(slot, due),
            false => self.retire(slot),
        }
    }

    /// May a unit begin that begins, or was due, `at` then? Those of the warm-up
    /// are not counted.
    fn take(&self, at: Instant) -> bool {
        !self.board.stopped() && (!self.counts(at) || self.board.take())
    }

    /// What was due from `due` on, each `step`, and will not be sent.
    fn drop_overdue(&mut self, due: Instant, until: Instant, step: Duration) {
        let from = self.from.unwrap_or(due);
        let first = match due >= from {
            true => due,
            false => due + step.mul_f64(((from - due).as_secs_f64() / step.as_secs_f64()).ceil()),
        };
        if first < until {
            let count = ((until - first).as_secs_f64() / step.as_secs_f64()).ceil() as u64;
            let late = self.io.now - first;
            self.done.tally.dropped(count, late, step);
        }
    }

    /// Opens a connection, with nothing to send on it yet.
    pub(super) fn open(&mut self, slot: usize) {
        match self.slots[slot].open(&mut self.io) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    pub(super) fn start(&mut self, slot: usize, begun: Instant) {
        let id = self.first + slot as u64;
        let state = &mut self.slots[slot];
        let pattern = Pattern::new(id, state.nth);
        let size = match self.plan.mode {
            Mode::Stream => match self.plan.messages(id) {
                Some(messages) => messages.saturating_mul(*self.plan.size.end()),
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
        self.clock(Duration::ZERO);
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
            Ok(Pumped::Open) => {
                self.slots[slot].phase = Phase::Idle;
                self.opened_one();
                self.arm(slot);
            }
            Ok(Pumped::Full) => self.later.push(Reverse((self.io.now + SOON, slot))),
            Ok(Pumped::Back) => self.back(slot),
            Ok(Pumped::Ended) => self.ended(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// One is open, or could not be opened: there is room for the next.
    fn opened_one(&mut self) {
        self.parked += 1;
        self.free += 1;
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
        let dialled = state.dialled;
        if self.counts(dialled) {
            self.done
                .tally
                .connect(now.saturating_duration_since(dialled));
        }
        if self.table.is_none() && matches!(self.plan.mode, Mode::Rr | Mode::Hold) {
            self.slots[slot].begun = now;
        }
    }

    /// A message is back.
    fn back(&mut self, slot: usize) {
        self.clock(Duration::ZERO);
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
                let begun = self.slots[slot].begun;
                let took = self.io.now.saturating_duration_since(begun);
                self.done.tally.echoed(took);
                match self.slots[slot].nth {
                    1 => {
                        self.slots[slot].phase = Phase::Idle;
                        self.opened_one();
                        self.board.holds_another();
                        self.arm(slot);
                    }
                    _ => self.finish(slot),
                }
            }
        }
    }

    /// A connection is free for its next unit.
    fn rest(&mut self, slot: usize) {
        self.slots[slot].phase = Phase::Idle;
        match self.plan.think.is_zero() {
            true => self.next(slot),
            false => self
                .later
                .push(Reverse((self.io.now + self.plan.think, slot))),
        }
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
        self.clock(Duration::ZERO);
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
        if self.counts(begun) {
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
        let (finishing, opening) = (state.phase == Phase::Finish, state.phase == Phase::Open);
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
            _ if opening => {
                self.slots[slot].phase = Phase::Idle;
                self.opened_one();
            }
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
                if self.slots[slot].nth <= 1 {
                    self.free += 1;
                }
                self.closed(slot);
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

// Opening all connections, a few at a time, before an open loop begins, or to
// hold them: then each echoes once when it is open, and again when every thread
// has had all of its own open for as long as was asked.

/// Connections on their way at once: more would overflow the queue of a server
/// that forks for each.
const OPENING: u64 = 64;

impl Worker<'_> {
    /// Opens as many as may be on their way at once.
    pub(super) fn open_first(&mut self) {
        self.free = (OPENING / self.plan.workers()).max(1);
        self.open_more();
    }

    /// Opens more, if any are left, in the place of those that are open.
    pub(super) fn open_more(&mut self) {
        while self.free > 0 && self.opened < self.slots.len() {
            let slot = self.opened;
            debug_assert_eq!(self.slots[slot].nth, 0);
            self.opened += 1;
            match self.plan.mode {
                Mode::Hold if self.board.stopped() => self.closed(slot),
                _ if self.board.stopped() => self.parked += 1,
                Mode::Hold => {
                    self.free -= 1;
                    self.start(slot, self.io.now);
                }
                _ => {
                    self.free -= 1;
                    self.open(slot);
                }
            }
        }
    }

    /// When all threads have all connections open, the open loop begins. One
    /// that could not be opened is tried again when its first request is due.
    ///
    /// # Errors
    /// getrusage(2)'s.
    pub(super) fn open_loop(&mut self) -> Result<()> {
        if self.parked == self.slots.len() && !self.told {
            self.told = true;
            self.board.opened();
        }
        match self.board.start() {
            Some(start) if self.told => self.begin_load(start),
            _ => Ok(()),
        }
    }

    /// Whoever is told to end while it holds some echoes on those again, and
    /// gives up the others.
    pub(super) fn let_go(&mut self) {
        if self.holding {
            return;
        }
        for slot in 0..self.slots.len() {
            let begun = matches!(self.slots[slot].phase, Phase::Echo);
            self.done.tally.unfinished += u64::from(begun);
            if begun || slot >= self.opened {
                self.closed(slot);
            }
        }
        self.opened = self.slots.len();
        (self.ending, self.release) = (true, Some(self.io.now));
        self.hold();
    }

    /// When all threads have had all connections open for as long as was asked,
    /// echoes on each again.
    pub(super) fn hold(&mut self) {
        if self.opened == self.slots.len() && self.parked == self.live && !self.ending {
            self.ending = true;
            self.board.opened();
        }
        if self.ending && self.release.is_none() && self.board.all_opened() {
            self.release = Some(self.io.now + self.plan.keep());
        }
        let over = self.release.is_some_and(|at| self.io.now >= at);
        if !self.ending || !(over || self.board.stopped()) {
            return;
        }
        self.holding = true;
        self.done.held = self.parked as u64;
        for slot in 0..self.slots.len() {
            if self.slots[slot].phase == Phase::Idle {
                self.clock(Duration::ZERO);
                self.start(slot, self.io.now);
            }
        }
    }
}

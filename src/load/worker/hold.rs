//! Opening all connections, a few at a time, before an open loop begins, or to
//! hold them: then each echoes once when it is open, and again when every thread
//! has had all of its own open for as long as was asked.

use std::time::Duration;

use super::Worker;
use crate::error::Result;
use crate::load::plan::Mode;
use crate::load::slot::Phase;

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

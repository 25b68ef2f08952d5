//! Holding: all connections are opened, a few at a time, and echo once; when
//! every thread has had all of its own open for as long as was asked, each echoes
//! again.

use std::time::Instant;

use super::Worker;
use crate::load::slot::Phase;

/// Connections on their way at once: more would overflow the queue of a server
/// that forks for each.
const OPENING: u64 = 64;

impl Worker<'_> {
    /// Opens as many as may be on their way at once.
    pub(super) fn open_first(&mut self) {
        for _ in 0..(OPENING / self.plan.workers()).max(1) {
            self.open_another();
        }
    }

    /// Opens one more, if one is left.
    pub(super) fn open_another(&mut self) {
        while let Some(state) = self.slots.get(self.opened) {
            let slot = self.opened;
            debug_assert_eq!(state.nth, 0);
            self.opened += 1;
            if !self.board.stopped() {
                // One that fails opens the next itself.
                return self.start(slot, self.io.now);
            }
            self.closed(slot);
        }
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
                self.io.now = Instant::now();
                self.start(slot, self.io.now);
            }
        }
    }
}

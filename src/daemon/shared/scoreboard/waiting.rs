//! Workers that serve many clients, one after the other: how many of them wait,
//! and when the supervisor is to hear of it.

use std::sync::atomic::Ordering;

use crate::addr::Peer;
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};

// Words of the first block's first line.
const WAITING: usize = 3;
const WAKE_BELOW: usize = 4;
const WAKE_ABOVE: usize = 5;

impl Scoreboard {
    /// Child that serves many: as [`Scoreboard::taken`], but the supervisor
    /// is woken only when fewer wait than the supervisor wants. The count goes down
    /// before the state changes, and up after it: a worker killed between the two
    /// leaves it too low, which costs a wakeup, and never too high.
    pub fn taken_by_many(&self, slot: Slot, peer: Peer, listener: usize) {
        let waiting = self
            .shared(WAITING)
            .fetch_sub(1, Ordering::AcqRel)
            .wrapping_sub(1);
        self.serving(slot, peer, listener);
        if (waiting as i64) < self.shared(WAKE_BELOW).load(Ordering::Relaxed) as i64 {
            self.wake();
        }
    }

    /// Child that serves many: waits again.
    pub fn idle_again(&self, slot: Slot) {
        self.idle(slot);
        let waiting = self
            .shared(WAITING)
            .fetch_add(1, Ordering::AcqRel)
            .wrapping_add(1);
        if waiting as i64 > self.shared(WAKE_ABOVE).load(Ordering::Relaxed) as i64 {
            self.wake();
        }
    }

    /// Supervisor: a worker that serves many was forked (1), or died waiting (-1).
    pub fn count_waiting(&self, change: i64) {
        self.shared(WAITING)
            .fetch_add(change as u64, Ordering::AcqRel);
    }

    /// Supervisor: workers that serve many wake us when fewer than `below` or more
    /// than `above` wait.
    pub fn wake_outside(&self, below: usize, above: usize) {
        self.shared(WAKE_BELOW)
            .store(below as u64, Ordering::Relaxed);
        self.shared(WAKE_ABOVE)
            .store(above as u64, Ordering::Relaxed);
    }
}

//! Whose connections the supervisor's children serve (`--max-per-source`): a
//! source for each slot, and nothing that is added up. A count that is kept can
//! disagree with what it counts; this one is made anew when it is asked for, and
//! holds as exactly as the slots do. It costs a look at each slot: measured, 0.3 us
//! with 512 of them and 10 us with 20,000, where a fork takes ten times that.
//!
//! A slot is vacated when the kernel says that its child is gone. Only a worker
//! that is passed one client after another says itself when it is free again:
//! one that was taken over can keep its client uncounted.
//!
//! A child that crashed keeps the place of its client for a while: `crashes`.

use std::time::Instant;

use nix::errno::Errno;

use crate::access::Source;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::supervisor::crashes::Crashes;
use crate::sys::shm::DontFork;

/// No network: all ones is a multicast address, which nobody connects from.
const NOBODY: Source = Source(u128::MAX);

/// The sources, by slot.
pub struct Sources {
    of: DontFork<Source>,
    high: usize,
    crashes: Crashes,
}

impl Sources {
    /// Nobody is served by any of `slots`.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new(slots: usize) -> Result<Self, Errno> {
        Ok(Sources {
            of: DontFork::new(slots, NOBODY)?,
            high: 0,
            crashes: Crashes::new()?,
        })
    }

    /// The child of `slot` serves a client from there; `None` is one that counts
    /// for nobody.
    pub fn occupy(&mut self, slot: Slot, source: Option<Source>) {
        self.of[slot] = source.unwrap_or(NOBODY);
        self.high = self.high.max(slot + 1);
    }

    /// It does not any more; whose client it served, if that counted.
    pub fn vacate(&mut self, slot: Slot) -> Option<Source> {
        let source = std::mem::replace(&mut self.of[slot], NOBODY);
        (source != NOBODY).then_some(source)
    }

    /// A child crashed that served a client from there: how many such crashes count
    /// now.
    pub fn crashed(&mut self, source: Source, now: Instant) -> usize {
        self.crashes.add(source, now);
        self.crashes.count(source, now)
    }

    /// How many children serve clients from there, or crashed lately while they did.
    pub fn count(&self, source: Source, now: Instant) -> usize {
        let taken = &self.of[..self.high];
        let serving = taken.iter().filter(|&&other| other == source).count();
        serving + self.crashes.count(source, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_for_whom_it_serves_and_for_as_long() {
        let mut sources = Sources::new(4).unwrap();
        let (a, b) = (Source(1), Source(2));
        for (slot, source) in [(0, Some(a)), (1, Some(b)), (2, Some(a)), (3, None)] {
            sources.occupy(slot, source);
        }
        let now = Instant::now();
        let counts = |sources: &Sources| [a, b].map(|source| sources.count(source, now));
        assert_eq!(counts(&sources), [2, 1]);
        assert_eq!(sources.vacate(0), Some(a));
        assert_eq!(sources.vacate(0), None);
        assert_eq!(sources.vacate(3), None);
        assert_eq!(counts(&sources), [1, 1]);
        sources.occupy(2, Some(b));
        assert_eq!(counts(&sources), [0, 2]);
        // A crash keeps its place.
        assert_eq!(sources.vacate(2), Some(b));
        assert_eq!(sources.crashed(b, now), 1);
        assert_eq!(counts(&sources), [0, 2]);
    }
}

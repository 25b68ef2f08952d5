//! The ledger of places: there is one for each process that may serve, and whoever
//! forks one takes it from here, so `--max-clients` is exact on every path. A place is
//! a number, and the process that has it has the slot of that number, in the table of
//! children and on the scoreboard.
//!
//! It also knows whose connections they are (`--max-per-source`): a source for each
//! place, and nothing that is added up. A count that is kept can disagree with what it
//! counts; this one is made anew when it is asked for, and holds as exactly as the
//! places do. It costs a look at each: measured, 0.3 us with 512 of them and 10 us with
//! 20,000, where a fork takes ten times that.
//!
//! A place is vacated when the kernel says that its child is gone. Only a worker that
//! is passed one client after another says itself when it is free again: one that was
//! taken over can keep its client uncounted.
//!
//! A crash keeps its place for a while. Children of one supervisor share its addresses
//! and its canary, so whoever may crash one after the other can guess them
//! ("clone-probing"). It counts as if the client were still there: a source has so many
//! guesses in that time, and then none.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::access::Source;
use crate::daemon::shared::scoreboard::Slot;
use crate::sys::memory::{DontFork, FixedStack};

/// How long a crash counts, as long as the longest penalty of sshd(8); the page
/// names it: echod(8), ACCESS.
pub(super) const COUNTS_FOR: Duration = Duration::from_secs(600);
/// The last so many crashes are known: 32 KiB.
const KNOWN: usize = 1024;

/// No network: all ones is a multicast address, which nobody connects from.
const NOBODY: Source = Source(u128::MAX);

/// See the module.
pub(super) struct Places {
    free: FixedStack<u32>,
    all: usize,
    sources: Option<Sources>,
}

/// By place: whose client is served there; and who crashed.
struct Sources {
    of: DontFork<Source>,
    high: usize,
    /// A ring; `None` is no crash.
    crashes: DontFork<Option<(Source, Instant)>>,
    next: usize,
}

impl Places {
    /// All of them are free. `by_source` says whether it matters whose clients are
    /// served.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub(super) fn new(all: usize, by_source: bool) -> Result<Self, Errno> {
        let mut free = FixedStack::new(all, 0)?;
        for place in (0..all).rev() {
            free.push(place as u32); // the lowest is on top
        }
        let sources = || {
            Ok(Sources {
                of: DontFork::new(all, NOBODY)?,
                high: 0,
                crashes: DontFork::new(KNOWN, None)?,
                next: 0,
            })
        };
        Ok(Places {
            free,
            all,
            sources: by_source.then(sources).transpose()?,
        })
    }

    /// Takes a free one; `None` when the limit is reached.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop().map(|place| place as Slot)
    }

    /// It is free again.
    pub(super) fn give_back(&mut self, place: Slot) {
        self.free.push(place as u32);
    }

    /// How many there are.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.all - self.free.len()
    }

    /// Is there no room for another process?
    pub(super) fn full(&self) -> bool {
        self.free.is_empty()
    }

    /// A client from there is served in this place; `None` is one that counts for
    /// nobody.
    pub(super) fn occupy(&mut self, place: Slot, source: Option<Source>) {
        if let Some(sources) = &mut self.sources {
            sources.of[place] = source.unwrap_or(NOBODY);
            sources.high = sources.high.max(place + 1);
        }
    }

    /// It is not any more; whose client it was, if that counted.
    pub(super) fn vacate(&mut self, place: Slot) -> Option<Source> {
        let sources = self.sources.as_mut()?;
        let source = std::mem::replace(&mut sources.of[place], NOBODY);
        (source != NOBODY).then_some(source)
    }

    /// A child crashed that served a client from there: how many such crashes count
    /// now.
    pub(super) fn crashed(&mut self, source: Source, now: Instant) -> usize {
        let Some(sources) = &mut self.sources else {
            return 0;
        };
        sources.crashes[sources.next] = Some((source, now));
        sources.next = (sources.next + 1) % KNOWN;
        sources.crashes(source, now)
    }

    /// How many children serve clients from there, or crashed lately while they did.
    pub(super) fn count(&self, source: Source, now: Instant) -> usize {
        let Some(sources) = &self.sources else {
            return 0;
        };
        let taken = &sources.of[..sources.high];
        let serving = taken.iter().filter(|&&other| other == source).count();
        serving + sources.crashes(source, now)
    }
}

impl Sources {
    fn crashes(&self, source: Source, now: Instant) -> usize {
        let counts = |&(whose, at): &(Source, Instant)| {
            whose == source && now.saturating_duration_since(at) < COUNTS_FOR
        };
        // From the start on, so the first that is free is the end of them.
        let known = self.crashes.iter().map_while(Option::as_ref);
        known.filter(|crash| counts(crash)).count()
    }
}

/// Is this how a program dies by its own fault? Not by SIGKILL: that is how strict
/// mode ends a child, but also how operators and a lack of memory do.
pub(super) fn is_crash(signal: Signal) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    matches!(
        signal,
        SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_taken_first() {
        let mut places = Places::new(2, false).unwrap();
        assert_eq!((places.take(), places.take()), (Some(0), Some(1)));
        assert!(places.full() && places.take().is_none());
        places.give_back(0);
        assert_eq!((places.taken(), places.all(), places.full()), (1, 2, false));
        assert_eq!(places.take(), Some(0));
        places.occupy(0, Some(Source(1)));
        assert_eq!(places.vacate(0), None, "nobody counts");
    }

    #[test]
    fn a_place_counts_for_whom_it_serves_and_for_as_long() {
        let mut places = Places::new(4, true).unwrap();
        let (a, b) = (Source(1), Source(2));
        for (place, source) in [(0, Some(a)), (1, Some(b)), (2, Some(a)), (3, None)] {
            places.occupy(place, source);
        }
        let now = Instant::now();
        let counts = |places: &Places| [a, b].map(|source| places.count(source, now));
        assert_eq!(counts(&places), [2, 1]);
        assert_eq!(places.vacate(0), Some(a));
        assert_eq!(places.vacate(0), None);
        assert_eq!(places.vacate(3), None);
        assert_eq!(counts(&places), [1, 1]);
        places.occupy(2, Some(b));
        assert_eq!(counts(&places), [0, 2]);
        // A crash keeps its place.
        assert_eq!(places.vacate(2), Some(b));
        assert_eq!(places.crashed(b, now), 1);
        assert_eq!(counts(&places), [0, 2]);
    }

    #[test]
    fn a_crash_counts_for_its_source_and_for_ten_minutes() {
        let mut places = Places::new(0, true).unwrap();
        let (a, b, start) = (Source(1), Source(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (source, seconds, of_it) in [(a, 0, 1), (b, 1, 1), (a, 300, 2)] {
            assert_eq!(places.crashed(source, at(seconds)), of_it);
        }
        for (seconds, of_a, of_b) in [(300, 2, 1), (599, 2, 1), (600, 1, 1), (601, 1, 0)] {
            let counts = [a, b].map(|source| places.count(source, at(seconds)));
            assert_eq!(counts, [of_a, of_b], "after {seconds} s");
        }
        assert_eq!(places.count(a, at(900)), 0);
    }

    #[test]
    fn the_oldest_crash_is_forgotten_first() {
        let mut places = Places::new(0, true).unwrap();
        let now = Instant::now();
        places.crashed(Source(1), now);
        for _ in 1..KNOWN {
            places.crashed(Source(2), now);
        }
        assert_eq!(places.count(Source(1), now), 1);
        places.crashed(Source(3), now);
        let counts = [1, 2, 3].map(|n| places.count(Source(n), now));
        assert_eq!(counts, [0, KNOWN - 1, 1]);
    }

    #[test]
    fn an_order_is_no_crash() {
        for signal in Signal::iterator() {
            let name = signal.as_str();
            let fault = ["ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP"];
            let expected = fault.contains(&&name[3..]);
            assert_eq!(is_crash(signal), expected, "{name}");
        }
    }
}

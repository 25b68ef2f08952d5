//! Whose clients made children crash. Children of one supervisor share its
//! addresses and its canary, so whoever may crash one after the other can guess
//! them ("clone-probing"). A crash therefore keeps its place of
//! `--max-per-source` for a while, as if the client were still there: a source
//! has so many guesses in that time, and then none. Decisions only: the caller
//! says what time it is.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::access::Source;
use crate::sys::shm::DontFork;

/// How long a crash counts, as long as the longest penalty of sshd(8); the page
/// names it: echod(8), ACCESS.
pub const COUNTS_FOR: Duration = Duration::from_secs(600);
/// The last so many crashes are known: 32 KiB.
const KNOWN: usize = 1024;

/// See the module.
pub struct Crashes {
    /// A ring; `None` is no crash.
    last: DontFork<Option<(Source, Instant)>>,
    next: usize,
}

impl Crashes {
    /// None yet.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new() -> Result<Self, Errno> {
        Ok(Crashes {
            last: DontFork::new(KNOWN, None)?,
            next: 0,
        })
    }

    /// A child crashed that served a client from there.
    pub fn add(&mut self, source: Source, now: Instant) {
        self.last[self.next] = Some((source, now));
        self.next = (self.next + 1) % KNOWN;
    }

    /// How many count for this source.
    pub fn count(&self, source: Source, now: Instant) -> usize {
        let counts = |&(whose, at): &(Source, Instant)| {
            whose == source && now.saturating_duration_since(at) < COUNTS_FOR
        };
        // From the start on, so the first that is free is the end of them.
        let known = self.last.iter().map_while(Option::as_ref);
        known.filter(|crash| counts(crash)).count()
    }
}

/// Is this how a program dies by its own fault? Not by SIGKILL: that is how strict
/// mode ends a child, but also how operators and a lack of memory do.
pub fn is_crash(signal: Signal) -> bool {
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
    fn a_crash_counts_for_its_source_and_for_ten_minutes() {
        let mut crashes = Crashes::new().unwrap();
        let (a, b, start) = (Source(1), Source(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (source, seconds) in [(a, 0), (b, 1), (a, 300)] {
            crashes.add(source, at(seconds));
        }
        for (seconds, of_a, of_b) in [(300, 2, 1), (599, 2, 1), (600, 1, 1), (601, 1, 0)] {
            let counts = [a, b].map(|source| crashes.count(source, at(seconds)));
            assert_eq!(counts, [of_a, of_b], "after {seconds} s");
        }
        assert_eq!(crashes.count(a, at(900)), 0);
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut crashes = Crashes::new().unwrap();
        let now = Instant::now();
        crashes.add(Source(1), now);
        for _ in 1..KNOWN {
            crashes.add(Source(2), now);
        }
        assert_eq!(crashes.count(Source(1), now), 1);
        crashes.add(Source(3), now);
        let counts = [1, 2, 3].map(|n| crashes.count(Source(n), now));
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

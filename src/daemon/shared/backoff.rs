//! Trouble that passes: when to try again, and how often to say so.
//!
//! Both are clocks without a clock: the caller says what time it is, and asks
//! when to wake up. Nothing here ever sleeps.

use std::time::{Duration, Instant};

use log::info;

use crate::values;

/// Wait after a first failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Wait for fork(2) at most.
pub const LONGEST_FORK_WAIT: Duration = Duration::from_secs(10);
/// Wait for accept(2) at most.
pub const LONGEST_ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// Waiting longer after each failure, until a success.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// `first` after the first failure, doubling to `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Backoff {
            first,
            limit,
            next: first,
            until: None,
        }
    }

    /// It failed again.
    pub fn fail(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(self.limit);
    }

    /// It failed, and will for a while: waits the longest at once.
    pub fn fail_for_long(&mut self, now: Instant) {
        self.next = self.limit;
        self.fail(now);
    }

    /// It worked, or the world has changed: try at once.
    pub fn reset(&mut self) {
        self.next = self.first;
        self.until = None;
    }

    /// Has it failed, and not worked since?
    pub fn failed(&self) -> bool {
        self.until.is_some()
    }

    /// Is there still a wait?
    pub fn waits(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When the wait ends, if one is on.
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| now < until)
    }
}

/// A stretch of the same trouble, logged when it begins and, with a count, when
/// it has not been seen for a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Episode {
    since: Option<Instant>,
    last: Option<Instant>,
    count: u64,
}

/// How long trouble must be absent before its episode is over.
const QUIET: Duration = Duration::from_secs(5);

impl Episode {
    /// It happened; true the first time.
    pub fn begin(&mut self, now: Instant) -> bool {
        self.add(1, now)
    }

    /// It happened so many times.
    pub fn add(&mut self, n: u64, now: Instant) -> bool {
        self.count = self.count.saturating_add(n);
        self.last = Some(now);
        self.since.replace(self.since.unwrap_or(now)).is_none()
    }

    /// If it has begun: it lasts, whether or not anything happens.
    pub fn lasts(&mut self, now: Instant) {
        if self.is_on() {
            self.last = Some(now);
        }
    }

    /// Has it begun, and not ended?
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Once it is over: how often it happened, and for how long.
    pub fn end(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let (since, last) = (self.since?, self.last?);
        (now >= last + QUIET).then(|| {
            let count = self.count;
            *self = Episode::default();
            (count, last - since)
        })
    }

    /// One line once it is over: `what` holds again.
    pub fn say_end(&mut self, what: &str, now: Instant) {
        if let Some((count, lasted)) = self.end(now) {
            let (times, lasted) = (values::plural(count, "time"), values::show(lasted));
            info!("{what}: {times} in {lasted}");
        }
    }

    /// When [`Episode::end`] may have something to say.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.last.map(|last| last + QUIET)
    }
}

/// A count that others keep, of which the log says when it begins to rise and, once it
/// has not for a while, by how much it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rise {
    episode: Episode,
    seen: u64,
    before: u64,
}

impl Rise {
    /// What it is now; true if it has begun to rise.
    pub fn note(&mut self, count: u64, now: Instant) -> bool {
        // Gossip: it may go down.
        let more = count.saturating_sub(self.seen);
        self.seen += more;
        more > 0 && self.episode.begin(now)
    }

    /// Once that is over: by how much, and for how long. `listen` has who counts tell
    /// of the next one again, and then looks what it is.
    pub fn end(&mut self, now: Instant, listen: impl FnOnce() -> u64) -> Option<(u64, Duration)> {
        let (_, lasted) = self.episode.end(now)?;
        self.seen = self.seen.max(listen());
        let before = std::mem::replace(&mut self.before, self.seen);
        Some((self.seen - before, lasted.max(Duration::from_millis(1))))
    }

    /// Has it begun, and is not over?
    pub fn is_on(&self) -> bool {
        self.episode.is_on()
    }

    /// When [`Rise::end`] may have something to say.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.episode.wakes_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_limit_and_start_again() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(300));
        assert!(!backoff.waits(now));
        for wait in [100, 200, 300, 300] {
            backoff.fail(now);
            assert!(backoff.waits(now + ms(wait - 1)));
            assert!(!backoff.waits(now + ms(wait)));
            assert_eq!(backoff.wakes_at(now), Some(now + ms(wait)));
        }
        backoff.reset();
        assert!(!backoff.waits(now));
        backoff.fail(now);
        assert_eq!(backoff.wakes_at(now), Some(now + ms(100)));
        backoff.fail_for_long(now);
        assert_eq!(backoff.wakes_at(now), Some(now + ms(300)));
        backoff.reset();
        backoff.fail(now);
        assert_eq!(backoff.wakes_at(now), Some(now + ms(100)));
    }

    #[test]
    fn an_episode_is_said_twice_however_often_it_happens() {
        let start = Instant::now();
        let mut episode = Episode::default();
        assert!(episode.begin(start));
        for s in 1..4 {
            let now = start + Duration::from_secs(s);
            assert!(!episode.begin(now));
            assert_eq!(episode.end(now), None);
        }
        let quiet = start + Duration::from_secs(8);
        assert_eq!(episode.end(quiet), Some((4, Duration::from_secs(3))));
        assert_eq!(episode.end(quiet), None);
        assert!(episode.begin(quiet));
        let (still, over) = (quiet + QUIET, quiet + 2 * QUIET);
        episode.lasts(still);
        assert_eq!(episode.end(still), None);
        assert_eq!(episode.end(over), Some((1, QUIET)));
        episode.lasts(over);
        assert!(!episode.is_on());
    }

    #[test]
    fn a_rise_is_counted_from_where_the_last_one_ended() {
        let start = Instant::now();
        let mut rise = Rise::default();
        assert!(!rise.note(0, start) && !rise.is_on());
        assert!(rise.note(3, start) && !rise.note(4, start));
        assert!(!rise.note(1, start), "gossip");
        assert_eq!(rise.wakes_at(), Some(start + QUIET));
        let end = rise.end(start + QUIET, || 6);
        assert_eq!(end, Some((6, Duration::from_millis(1))));
        assert!(!rise.note(6, start + QUIET));
        assert!(rise.note(7, start + QUIET));
        assert_eq!(rise.end(start + QUIET, || 9), None, "it lasts");
        let end = rise.end(start + 2 * QUIET, || 7).map(|(count, _)| count);
        assert_eq!(end, Some(1));
    }
}

//! When to try again. Pure.
//!
//! Failures are counted from the last success on: a server that accepts and
//! closes at once, again and again, is not a success.

use std::time::Duration;

/// The longest pause of `forever`, unless the first is longer.
const CAP: Duration = Duration::from_secs(60);

/// The shortest: a server that is not there is not called in a hot loop.
const FLOOR: Duration = Duration::from_millis(1);

/// How often and how soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often after the first attempt; `None` is for ever.
    pub limit: Option<u32>,
    /// The pause before the next attempt; doubled each time when for ever.
    pub interval: Duration,
}

/// The failures since the last success.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    retry: Retry,
    failed: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// The pause before it.
    pub pause: Duration,
    /// Which retry it is, from 1.
    pub nth: u32,
    /// Of how many.
    pub of: Option<u32>,
}

impl Attempts {
    /// None so far.
    pub fn new(retry: Retry) -> Self {
        Attempts { retry, failed: 0 }
    }

    /// An attempt failed: is there another?
    pub fn failed(&mut self) -> Option<Again> {
        if self.retry.limit.is_some_and(|limit| self.failed >= limit) {
            return None;
        }
        let doublings = match self.retry.limit {
            None => self.failed,
            Some(_) => 0,
        };
        self.failed = self.failed.saturating_add(1);
        Some(Again {
            pause: self.pause(doublings),
            nth: self.failed,
            of: self.retry.limit,
        })
    }

    /// Something came back: the count begins anew.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Whether a connection that is lost is made again.
    pub fn any(&self) -> bool {
        self.retry.limit != Some(0)
    }

    fn pause(&self, doublings: u32) -> Duration {
        let interval = self.retry.interval.max(FLOOR);
        let doubled = interval.saturating_mul(2u32.saturating_pow(doublings));
        doubled.min(interval.max(CAP))
    }
}

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "retry {}", self.nth)?;
        if let Some(of) = self.of {
            write!(f, " of {of}")?;
        }
        write!(f, " in {:?}", self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(retry: Retry, count: usize) -> Vec<u64> {
        let mut attempts = Attempts::new(retry);
        let all = std::iter::from_fn(|| attempts.failed()).take(count);
        all.map(|again| again.pause.as_secs()).collect()
    }

    #[test]
    fn a_number_of_times_is_at_a_fixed_pace_and_for_ever_slows_down() {
        let secs = Duration::from_secs;
        for (limit, interval, expected) in [
            (Some(0), 1, &[][..]),
            (Some(3), 2, &[2, 2, 2]),
            (None, 1, &[1, 2, 4, 8, 16, 32, 60, 60, 60]),
            (None, 90, &[90, 90, 90, 90, 90, 90, 90, 90, 90]),
            (None, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let interval = secs(interval);
            let retry = Retry { limit, interval };
            assert_eq!(pauses(retry, 9), expected, "{retry:?}");
        }
        let mut long = Attempts::new(Retry {
            limit: None,
            interval: secs(1),
        });
        let last = (0..100).filter_map(|_| long.failed()).last().unwrap();
        assert_eq!((last.pause, last.nth), (secs(60), 100));
    }

    #[test]
    fn what_came_back_begins_the_count_anew() {
        let mut attempts = Attempts::new(Retry {
            limit: Some(1),
            interval: Duration::from_millis(1500),
        });
        let again = attempts.failed().unwrap();
        assert_eq!(again.to_string(), "retry 1 of 1 in 1.5s");
        assert_eq!(attempts.failed(), None);
        attempts.succeeded();
        assert!(attempts.failed().is_some());
    }
}

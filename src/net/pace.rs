//! A rate as a leaky bucket with one number to keep: when the next one would be
//! due had all come evenly. Knows no clock: the caller says what time it is, in
//! nanoseconds since any moment that stays the same, and keeps the number.

use std::time::Duration;

use crate::values::Rate;

/// How far apart they are, and how much may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: u64,
    span: u64,
}

impl Pace {
    /// So many in such a time, and after a silence `burst` times as many at once.
    pub fn new(rate: Rate, burst: u64) -> Pace {
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX >> 8);
        let interval = (per / u64::from(rate.count)).max(1);
        let span = interval.saturating_mul(burst * u64::from(rate.count));
        Pace { interval, span }
    }

    /// When the one after this would be due, if this one may pass. A time that
    /// no sequence of these can have led to counts as none.
    pub fn admit(self, due: u64, now: u64) -> Option<u64> {
        let next = self.start(due, now).saturating_add(self.interval);
        (next <= now.saturating_add(self.span)).then_some(next)
    }

    /// How long until one may pass; `None` if one may now.
    pub fn wait(self, due: u64, now: u64) -> Option<Duration> {
        let next = self.start(due, now).saturating_add(self.interval);
        let early = next.saturating_sub(now.saturating_add(self.span));
        (early > 0).then(|| Duration::from_nanos(early))
    }

    fn start(self, due: u64, now: u64) -> u64 {
        let full = now.saturating_add(self.span);
        if due > full { now } else { due.max(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pace(count: u32, ms: u64) -> Pace {
        let per = Duration::from_millis(ms);
        Pace::new(Rate { count, per }, 1)
    }

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let pace = pace(4, 1000);
        let now = 7 * MS;
        let mut due = 0;
        for _ in 0..4 {
            assert_eq!(pace.wait(due, now), None);
            due = pace.admit(due, now).expect("of the burst");
        }
        assert_eq!(pace.admit(due, now), None);
        assert_eq!(pace.wait(due, now), Some(Duration::from_millis(250)));
        let later = now + 249 * MS;
        assert_eq!(pace.wait(due, later), Some(Duration::from_millis(1)));
        let later = now + 250 * MS;
        assert_eq!(pace.wait(due, later), None);
        due = pace.admit(due, later).expect("one");
        assert_eq!(pace.admit(due, later), None);
        // Who comes late has not lost what came together meanwhile.
        let later = later + 750 * MS;
        for _ in 0..3 {
            due = pace.admit(due, later).expect("saved");
        }
        assert_eq!(pace.admit(due, later), None);
    }

    #[test]
    fn nobody_ever_waits_longer_than_an_interval() {
        for (count, ms) in [(1, 1), (1, 1000), (3, 100), (1000, 1000)] {
            let pace = pace(count, ms);
            let interval = Duration::from_millis(ms) / count;
            for due in [0, 1, 500 * MS, 999 * MS, 1000 * MS, 5000 * MS, u64::MAX] {
                let wait = pace.wait(due, 1000 * MS).unwrap_or_default();
                assert!(wait <= interval, "{count}/{ms} due {due}: {wait:?}");
                let admitted = pace.admit(due, 1000 * MS).is_some();
                assert_eq!(wait.is_zero(), admitted, "{count}/{ms} due {due}");
            }
        }
    }
}

//! Workers that die before they serve: a broken build, a sandbox that forbids
//! too much, a library that makes a new call. Forking them again at once would
//! be a fork bomb that serves nobody.
//!
//! A clock without a clock, like `backoff`: the caller says what time it is.
//! Whoever lives to see a client makes it forget everything.

use std::time::{Duration, Instant};

use crate::daemon::shared::backoff::Backoff;

/// A worker that dies younger than this may have been born sick.
const YOUTH: Duration = Duration::from_secs(1);
/// So many young deaths one after the other may be somebody's kill(1).
const TOLERATED: usize = 32;
/// Wait after a first sick birth, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How the last births went.
pub struct Births {
    wait: Backoff,
    counted: Option<Instant>,
    row: usize,
}

impl Default for Births {
    fn default() -> Self {
        Births {
            wait: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            counted: None,
            row: 0,
        }
    }
}

impl Births {
    /// A worker has died without a client; `starting` if it did not even get as
    /// far as waiting for one. True if the next are to be forked slowly.
    ///
    /// Workers that were alive together when one died count as one death: five
    /// hundred killed at once are one accident.
    pub fn died(&mut self, born: Instant, now: Instant, starting: bool) -> bool {
        if self.counted.is_none_or(|at| born >= at) {
            self.counted = Some(now);
            let young = now.saturating_duration_since(born) < YOUTH;
            self.row = if young { self.row + 1 } else { 0 };
            if starting || self.row > TOLERATED {
                self.wait.fail(now);
            }
        }
        self.wait.failed()
    }

    /// A worker has got as far as a client, or none has died for a while.
    pub fn well(&mut self) {
        self.wait.reset();
        self.row = 0;
    }

    /// How many of `n` workers may be forked now. In trouble one at a time, each
    /// after a wait: the first that lives will tell.
    pub fn allowed(&self, n: usize, now: Instant) -> usize {
        match (self.wait.failed(), self.wait.waits(now)) {
            (_, true) => 0,
            (true, false) => n.min(1),
            (false, false) => n,
        }
    }

    /// When [`Births::allowed`] will say more.
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.wait.wakes_at(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_sick_birth_is_followed_by_one_at_a_time() {
        let born = Instant::now();
        let mut births = Births::default();
        assert_eq!(births.allowed(8, born), 8);
        let died = born + MS;
        for _ in 0..8 {
            assert!(births.died(born, died, true), "eight of one birth");
        }
        assert_eq!(births.allowed(8, died + 99 * MS), 0);
        assert_eq!(births.wakes_at(died), Some(died + 100 * MS));
        let again = died + 100 * MS;
        assert_eq!(births.allowed(8, again), 1);
        assert!(births.died(again, again + MS, true));
        assert_eq!(births.wakes_at(again), Some(again + 201 * MS));
        births.well();
        assert_eq!(births.allowed(8, again), 8);
    }

    #[test]
    fn deaths_while_waiting_are_forgiven_until_they_do_not_end() {
        let mut now = Instant::now();
        let mut births = Births::default();
        for n in 0..40 {
            let slowly = births.died(now, now + MS, false);
            assert_eq!(slowly, n >= TOLERATED, "{n}");
            now += 2 * MS;
        }
        // An old one shows that workers can live.
        let mut births = Births::default();
        for _ in 0..40 {
            assert!(!births.died(now, now + 2 * YOUTH, false));
            now += 3 * YOUTH;
        }
    }

    #[test]
    fn a_massacre_is_one_death() {
        let born = Instant::now();
        let mut births = Births::default();
        for n in 1..500 {
            assert!(!births.died(born, born + n * MS, false));
        }
        assert_eq!(births.allowed(500, born + 500 * MS), 500);
    }
}

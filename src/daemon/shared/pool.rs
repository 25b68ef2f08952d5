//! Spare servers: how many workers should wait. Pure arithmetic on counts.
//!
//! Apache's limits, without its tick: this is asked after every event, so a
//! taken worker is replaced at once, and a pool that runs dry doubles what it
//! forks each time until it no longer does.

use crate::config::PoolLimits;

/// The most that one decision forks beyond what is missing.
const MAX_BURST: usize = 32;

/// What to do about the number of idle workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is right.
    Stay,
    /// Fork so many.
    Fork(usize),
    /// Retire so many of the idle ones.
    Retire(usize),
}

/// Counts at the moment of asking.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    /// Workers that wait and were not told to retire.
    pub idle: usize,
    /// All processes, whatever they do.
    pub alive: usize,
    /// `--max-clients`.
    pub max: usize,
    /// Idle workers that died by accident since last asked. Each may have been
    /// woken for a client it did not live to accept, and the kernel wakes no
    /// other for it: one worker is forked for each, for it looks at the queue
    /// before it waits.
    pub lost: usize,
}

/// What TTIN or TTOU came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// The limits moved by one.
    Moved,
    /// They are as far as they go. No order is owed: the next one the other way
    /// counts.
    End,
    /// The same, and it has been said.
    StillAtEnd,
}

/// The limits, as TTIN and TTOU have moved them, and the growth.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    limits: PoolLimits,
    burst: usize,
    at_end: bool,
}

impl Pool {
    /// A pool that has not forked yet.
    pub fn new(limits: PoolLimits) -> Self {
        Pool {
            limits,
            burst: 1,
            at_end: false,
        }
    }

    /// How many to fork for a generation that has none.
    pub fn start(&self, census: Census) -> usize {
        self.limits
            .start
            .max(self.limits.min_spare)
            .min(census.max.saturating_sub(census.alive))
    }

    /// The present limits.
    pub fn limits(&self) -> PoolLimits {
        self.limits
    }

    /// TTIN: one worker more, up to `--max-clients`.
    pub fn grow(&mut self, max: usize) -> Shift {
        let room = self.limits.min_spare < max;
        if room {
            self.limits.min_spare += 1;
            self.limits.max_spare += 1;
        }
        self.shift(room)
    }

    /// TTOU: one worker fewer, but never none.
    pub fn shrink(&mut self) -> Shift {
        let room = self.limits.max_spare > 1;
        if room {
            self.limits.min_spare = self.limits.min_spare.saturating_sub(1).max(1);
            self.limits.max_spare -= 1;
        }
        self.shift(room)
    }

    fn shift(&mut self, moved: bool) -> Shift {
        match (moved, std::mem::replace(&mut self.at_end, !moved)) {
            (true, _) => Shift::Moved,
            (false, false) => Shift::End,
            (false, true) => Shift::StillAtEnd,
        }
    }

    /// What is to be done now.
    pub fn decide(&mut self, census: Census) -> Move {
        let room = census.max.saturating_sub(census.alive);
        let missing = self.limits.min_spare.saturating_sub(census.idle);
        let mut wanted = missing.max(census.lost);
        if missing == 0 {
            self.burst = 1;
        } else if census.idle == 0 && room > 0 {
            wanted = wanted.max(self.burst.min(self.limits.max_spare));
            self.burst = (self.burst * 2).min(MAX_BURST);
        }
        match wanted.min(room) {
            0 if census.idle > self.limits.max_spare => {
                Move::Retire(census.idle - self.limits.max_spare)
            }
            0 => Move::Stay,
            n => Move::Fork(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(min_spare: usize, max_spare: usize) -> Pool {
        Pool::new(PoolLimits {
            start: min_spare,
            min_spare,
            max_spare,
        })
    }

    fn census(idle: usize, alive: usize, max: usize, lost: usize) -> Census {
        Census {
            idle,
            alive,
            max,
            lost,
        }
    }

    #[test]
    fn decisions() {
        for (idle, alive, max, lost, expected) in [
            (8, 8, 512, 0, Move::Stay),
            (7, 8, 512, 0, Move::Fork(1)),
            (9, 20, 512, 0, Move::Stay),
            (32, 40, 512, 0, Move::Stay),
            (35, 40, 512, 0, Move::Retire(3)),
            (3, 510, 512, 0, Move::Fork(2)),
            (3, 512, 512, 0, Move::Stay),
            // an idle worker died: fork one even where enough are left
            (20, 30, 512, 1, Move::Fork(1)),
            (33, 40, 512, 2, Move::Fork(2)),
            (20, 512, 512, 1, Move::Stay),
        ] {
            let got = pool(8, 32).decide(census(idle, alive, max, lost));
            assert_eq!(
                got, expected,
                "idle {idle} alive {alive} max {max} lost {lost}"
            );
        }
    }

    #[test]
    fn a_dry_pool_doubles_until_it_is_not() {
        let mut pool = pool(2, 64);
        let forks: Vec<_> = (0..7).map(|_| pool.decide(census(0, 10, 512, 0))).collect();
        assert_eq!(forks, [2, 2, 4, 8, 16, 32, 32].map(Move::Fork));
        assert_eq!(pool.decide(census(2, 10, 512, 0)), Move::Stay);
        assert_eq!(pool.decide(census(0, 10, 512, 0)), Move::Fork(2));
    }

    #[test]
    fn row_105_ttin_and_ttou_move_both_limits_and_owe_nothing() {
        use Shift::{End, Moved, StillAtEnd};
        let mut pool = pool(8, 10);
        let limits = |pool: &Pool| (pool.limits().min_spare, pool.limits().max_spare);
        let more: Vec<_> = (0..6).map(|_| pool.grow(10)).collect();
        assert_eq!(
            more,
            [Moved, Moved, End, StillAtEnd, StillAtEnd, StillAtEnd]
        );
        assert_eq!(limits(&pool), (10, 12));
        assert_eq!(pool.shrink(), Moved);
        assert_eq!(limits(&pool), (9, 11));
        for least in (1..9).rev() {
            assert_eq!(pool.shrink(), Moved);
            assert_eq!(limits(&pool), (least, least + 2));
        }
        let fewer: Vec<_> = (0..4).map(|_| pool.shrink()).collect();
        assert_eq!(fewer, [Moved, Moved, End, StillAtEnd]);
        assert_eq!(limits(&pool), (1, 1));
        assert_eq!(pool.grow(10), Moved);
        assert_eq!(limits(&pool), (2, 2));
    }

    #[test]
    fn the_start_fits_the_room() {
        let pool = Pool::new(PoolLimits {
            start: 20,
            min_spare: 2,
            max_spare: 64,
        });
        assert_eq!(pool.start(census(0, 0, 512, 0)), 20);
        assert_eq!(pool.start(census(0, 500, 512, 0)), 12);
    }
}

//! What all threads of a run share: when it began and ends, how much is left
//! to do, and whether to stop.
//!
//! A server that nobody has reached yet ends the run at the first refused
//! connect: there is nothing to load. One that was reached and refuses later
//! is tried until the end. Knows no socket.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::load::outcomes::Outcomes;
use crate::load::plan::{Bound, Mode, Plan};
use crate::load::progress::Progress;

/// Shared by all threads of a run.
pub struct Board<'a> {
    /// When the run began.
    pub begun: Instant,
    /// When the figures begin: after the warm-up.
    pub from: Instant,
    /// When no new unit begins.
    pub until: Option<Instant>,
    /// Where units that fail are written down.
    pub outcomes: Option<&'a Outcomes>,
    /// What happened since somebody last looked, if anybody looks.
    pub progress: Option<Mutex<Progress>>,
    left: Option<AtomicU64>,
    opening: AtomicU64,
    connected: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl<'a> Board<'a> {
    /// The board of `plan`, whose run begins now. Whoever sets `stop` ends it.
    pub fn new(
        plan: &Plan,
        outcomes: Option<&'a Outcomes>,
        watched: bool,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let begun = Instant::now();
        let from = begun + plan.warmup;
        Board {
            begun,
            from,
            until: match (plan.mode, plan.bound) {
                (Mode::Hold, _) | (_, Bound::Count(_)) => None,
                (_, Bound::Time(time)) => Some(from + time),
            },
            outcomes,
            progress: watched.then(Mutex::default),
            left: match (plan.mode, plan.bound) {
                // A stream's messages are dealt out before it begins.
                (Mode::Rr | Mode::Crr, Bound::Count(count)) => Some(AtomicU64::new(count)),
                _ => None,
            },
            opening: AtomicU64::new(plan.workers()),
            connected: AtomicBool::new(false),
            stop,
        }
    }

    /// May a connection make its `nth` attempt, counted from 0, which begins or
    /// was due at `begin`?
    pub fn take(&self, nth: u64, begin: Instant) -> bool {
        if self.stopped() {
            return false;
        }
        if let Some(left) = &self.left
            && begin >= self.from
        {
            let one_less = |left: u64| left.checked_sub(1);
            return left.fetch_update(Relaxed, Relaxed, one_less).is_ok();
        }
        self.until.is_none_or(|until| nth == 0 || begin < until)
    }

    /// Somebody reached the server.
    pub fn connected(&self) {
        // Written once: the line is in every thread's cache.
        if !self.connected.load(Relaxed) {
            self.connected.store(true, Relaxed);
        }
    }

    /// A connect failed: the run ends if none has succeeded yet.
    pub fn refused(&self) {
        if !self.connected.load(Relaxed) {
            self.stop();
        }
    }

    /// Ends the run for all threads, each after the units it is in.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Is the run to end before its time?
    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// A thread of [`Mode::Hold`] has opened all it could.
    pub fn opened(&self) {
        self.opening.fetch_sub(1, Relaxed);
    }

    /// Have all threads opened all they could?
    pub fn all_opened(&self) -> bool {
        self.opening.load(Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::plan::tests::plan;

    fn board(bound: Bound) -> Board<'static> {
        let plan = Plan {
            bound,
            ..plan(Mode::Rr)
        };
        Board::new(&plan, None, false, Arc::default())
    }

    #[test]
    fn a_count_is_for_all_threads_together() {
        let board = board(Bound::Count(3));
        let now = Instant::now();
        let taken = (0..10).filter(|nth| board.take(nth % 2, now)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn a_warm_up_is_not_counted() {
        let mut board = board(Bound::Count(1));
        let now = Instant::now();
        board.from = now + Duration::from_secs(1);
        assert!(board.take(0, now) && board.take(1, now));
        assert!(board.take(2, board.from) && !board.take(3, board.from));
    }

    #[test]
    fn each_connection_tries_once_however_short_the_time() {
        let board = board(Bound::Time(Duration::ZERO));
        let now = Instant::now();
        assert!(board.take(0, now));
        assert!(!board.take(1, now));
    }

    #[test]
    fn only_a_server_never_reached_ends_the_run() {
        let time = Bound::Time(Duration::from_secs(60));
        let (reached, never) = (board(time), board(time));
        reached.connected();
        reached.refused();
        assert!(reached.take(0, Instant::now()));
        never.refused();
        assert!(!never.take(0, Instant::now()));
    }
}

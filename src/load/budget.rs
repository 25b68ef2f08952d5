//! How much is left to do, shared by all threads of a run.
//!
//! A server that nobody has reached yet ends the run at the first failed
//! connect: there is nothing to load. One that was reached and refuses later
//! is tried until the end. Knows no socket.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::load::plan::Bound;

/// When to stop, shared by all threads.
pub struct Budget {
    until: Option<Instant>,
    left: Option<AtomicU64>,
    connected: AtomicBool,
    stop: AtomicBool,
}

impl Budget {
    /// A budget of `bound`, or without an end of its own.
    pub fn new(bound: Option<Bound>) -> Self {
        Budget {
            until: match bound {
                Some(Bound::Time(time)) => Some(Instant::now() + time),
                _ => None,
            },
            left: match bound {
                Some(Bound::Count(count)) => Some(AtomicU64::new(count)),
                _ => None,
            },
            connected: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// May this thread make its `nth` attempt, counted from 0?
    pub fn take(&self, nth: u64) -> bool {
        if self.stop.load(Relaxed) {
            return false;
        }
        if let Some(left) = &self.left {
            let one_less = |left: u64| left.checked_sub(1);
            return left.fetch_update(Relaxed, Relaxed, one_less).is_ok();
        }
        self.until
            .is_none_or(|until| nth == 0 || Instant::now() < until)
    }

    /// Somebody reached the server.
    pub fn connected(&self) {
        self.connected.store(true, Relaxed);
    }

    /// A connect failed: the run ends if none has succeeded yet.
    pub fn refused(&self) {
        if !self.connected.load(Relaxed) {
            self.stop();
        }
    }

    /// Ends the run for all threads, each after the attempt it is in.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_count_is_for_all_threads_together() {
        let budget = Budget::new(Some(Bound::Count(3)));
        let taken = (0..10).filter(|nth| budget.take(nth % 2)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn each_thread_tries_once_however_short_the_time() {
        let budget = Budget::new(Some(Bound::Time(Duration::ZERO)));
        assert!(budget.take(0));
        assert!(!budget.take(1));
    }

    #[test]
    fn only_a_server_never_reached_ends_the_run() {
        let budget = Budget::new(None);
        budget.connected();
        budget.refused();
        assert!(budget.take(0));
        let budget = Budget::new(None);
        budget.refused();
        assert!(!budget.take(0));
    }
}

//! What all threads of a run share: when it began and ends, how much is left
//! to do, and whether to stop.
//!
//! A server that nobody has reached yet ends the run at the first refused
//! connect: there is nothing to load. One that was reached and refuses later
//! is tried until the end. An open loop begins when all its connections are
//! open. Knows no socket.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::load::fault::Outcomes;
use crate::load::plan::{Bound, Mode, Plan};
use crate::load::progress::{Progress, Stage};

/// Shared by all threads of a run.
pub struct Board<'a> {
    /// When the run began.
    pub begun: Instant,
    /// Where units that fail are written down.
    pub outcomes: Option<&'a Outcomes>,
    /// What happened since somebody last looked, if anybody looks.
    pub progress: Option<Mutex<Progress>>,
    /// When the load began.
    start: OnceLock<Instant>,
    warmup: Duration,
    time: Option<Duration>,
    left: Option<AtomicU64>,
    opening: AtomicU64,
    /// Connections that a hold has open, and since when all.
    open: AtomicU64,
    held: OnceLock<Instant>,
    connected: AtomicBool,
    stop: AtomicBool,
    interrupt: &'a AtomicUsize,
}

impl<'a> Board<'a> {
    /// The board of `plan`, whose run begins now. A signal in `interrupt`
    /// ends it, with whatever is on its way.
    pub fn new(
        plan: &Plan,
        outcomes: Option<&'a Outcomes>,
        watched: bool,
        interrupt: &'a AtomicUsize,
    ) -> Self {
        let begun = Instant::now();
        let start = OnceLock::new();
        if !plan.opens_first() {
            start.get_or_init(|| begun);
        }
        Board {
            begun,
            start,
            warmup: plan.lead(),
            time: match (plan.mode, plan.bound) {
                (Mode::Hold, _) | (_, Bound::Count(_)) => None,
                (_, Bound::Time(time)) => Some(time),
            },
            outcomes,
            progress: watched.then(Mutex::default),
            left: match (plan.mode, plan.bound) {
                // A stream's messages are dealt out before it begins.
                (Mode::Rr | Mode::Crr, Bound::Count(count)) => Some(AtomicU64::new(count)),
                _ => None,
            },
            opening: AtomicU64::new(plan.workers()),
            open: AtomicU64::new(0),
            held: OnceLock::new(),
            connected: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            interrupt,
        }
    }

    /// When the load began; `None` until all connections are open, where they
    /// are opened before it.
    pub fn start(&self) -> Option<Instant> {
        self.start.get().copied()
    }

    /// When the figures begin: after the warm-up.
    pub fn from(&self) -> Option<Instant> {
        self.start().map(|start| start + self.warmup)
    }

    /// When no new unit begins.
    pub fn until(&self) -> Option<Instant> {
        Some(self.from()? + self.time?)
    }

    /// Takes one of the units that are left to do; always true where they are
    /// not counted.
    pub fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.left
            .as_ref()
            .is_none_or(|left| left.fetch_update(Relaxed, Relaxed, one_less).is_ok())
    }

    /// Have all units been taken?
    pub fn exhausted(&self) -> bool {
        let left = self.left.as_ref();
        left.is_some_and(|left| left.load(Relaxed) == 0)
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
        self.stop.load(Relaxed) || self.interrupted()
    }

    /// Is it to end with whatever is on its way?
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Relaxed) != 0
    }

    /// A thread has opened all it could.
    pub fn opened(&self) {
        if self.opening.fetch_sub(1, Relaxed) == 1 {
            self.start.get_or_init(Instant::now);
            self.held.get_or_init(Instant::now);
        }
    }

    /// One more connection of a hold is open.
    pub fn holds_another(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// How far the run is; of `rounds`, this is one.
    pub fn stage(&self, rounds: (u64, u64)) -> Stage {
        Stage {
            at: self.begun.elapsed(),
            rounds,
            open: self.open.load(Relaxed),
            held: self.held.get().map(Instant::elapsed),
        }
    }

    /// Have all threads opened all they could?
    pub fn all_opened(&self) -> bool {
        self.opening.load(Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::plan;

    static NEVER: AtomicUsize = AtomicUsize::new(0);

    fn board(plan: &Plan) -> Board<'static> {
        Board::new(plan, None, false, &NEVER)
    }

    #[test]
    fn a_count_is_for_all_threads_together() {
        let board = board(&Plan {
            bound: Bound::Count(3),
            ..plan(Mode::Rr)
        });
        let taken = (0..10).filter(|_| board.take()).count();
        assert_eq!(taken, 3);
        assert!(board.exhausted());
    }

    #[test]
    fn an_open_loop_begins_when_every_thread_has_its_connections() {
        let board = board(&Plan {
            rate: Some(1.0),
            threads: 2,
            ..plan(Mode::Rr)
        });
        assert_eq!(board.until(), None);
        board.opened();
        assert_eq!(board.start(), None);
        board.opened();
        assert!(board.start() >= Some(board.begun) && board.until().is_some());
    }

    #[test]
    fn only_a_server_never_reached_ends_the_run() {
        let (reached, never) = (board(&plan(Mode::Rr)), board(&plan(Mode::Rr)));
        reached.connected();
        reached.refused();
        assert!(!reached.stopped());
        never.refused();
        assert!(never.stopped() && !never.interrupted());
    }
}

//! What all threads of a run share: when it began and ends, how much is left
//! to do, whether to stop, and what happened since somebody last looked, which is
//! told as a line and a bar: the caller prints them.
//!
//! A server that nobody has reached yet ends the run at the first refused
//! connect: there is nothing to load. One that was reached and refuses later
//! is tried until the end. An open loop begins when all its connections are
//! open. Knows no socket.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::load::plan::{Bound, Mode, Plan};
use crate::load::run::{Outcomes, at, histogram, record, time};

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

// How a run goes, while it does. Pure.

/// What happened since somebody last looked.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Complete units, those of the warm-up too.
    pub complete: u64,
    /// Units that failed.
    pub failed: u64,
    /// Nanoseconds of complete units.
    pub latency: Histogram<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            complete: 0,
            failed: 0,
            latency: histogram(),
        }
    }
}

impl Progress {
    /// One unit completed, after `took`.
    pub fn complete(&mut self, took: Duration) {
        self.complete += 1;
        record(&mut self.latency, took);
    }

    /// Adds what another thread saw.
    pub fn merge(&mut self, other: Progress) {
        self.complete += other.complete;
        self.failed += other.failed;
        let added = self.latency.add(&other.latency);
        added.expect("both grow without bound");
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stage {
    /// Since it, or this round of it, began.
    pub at: Duration,
    /// Rounds that are over, and all of them; 0 if there are none.
    pub rounds: (u64, u64),
    /// Connections that a `hold` has open, and for how long it has had all.
    pub open: u64,
    /// See there.
    pub held: Option<Duration>,
}

/// One line of how it goes: what happened in the last `every`.
pub fn interval(plan: &Plan, stage: Stage, every: Duration, news: &Progress) -> String {
    let at = stage.at;
    if plan.mode == Mode::Hold {
        let (open, all, failed) = (stage.open, plan.connections, news.failed);
        let failed = match failed {
            0 => String::new(),
            failed => format!("  {failed} FAILED"),
        };
        return format!("{:7.1} s {open:10} of {all} open{failed}", at.as_secs_f64());
    }
    // A round may be younger than that.
    let rate = news.complete as f64 / every.min(at).as_secs_f64().max(1e-9);
    let mut line = format!(
        "{:7.1} s {rate:10.1} {}/s",
        at.as_secs_f64(),
        plan.mode.units()
    );
    if !news.latency.is_empty() {
        let quantile = |quantile| time(news.latency.value_at_quantile(quantile) as f64);
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        let _ = write!(
            line,
            "  p50 {p50}  p99 {p99}  max {}",
            time(news.latency.max() as f64)
        );
    }
    if news.failed > 0 {
        let _ = write!(line, "  {} FAILED", news.failed);
    }
    if at < plan.lead() {
        line += "  (warm-up)";
    }
    line
}

/// The same as JSON, on one line.
pub fn json_line(plan: &Plan, stage: Stage, every: Duration, news: &Progress) -> String {
    let quantile = |quantile| match news.latency.is_empty() {
        true => None,
        false => Some(at(&news.latency, quantile) as f64 / 1e3),
    };
    let seconds = every.min(stage.at).as_secs_f64().max(1e-9);
    json!({
        "at_s": stage.at.as_secs_f64(),
        "target": plan.target.to_string(),
        "warmup": stage.at < plan.lead(),
        "complete": news.complete,
        "failed": news.failed,
        "rate_per_s": news.complete as f64 / seconds,
        "open": (plan.mode == Mode::Hold).then_some(stage.open),
        "p50_us": quantile(0.5),
        "p99_us": quantile(0.99),
        "max_us": quantile(1.0),
    })
    .to_string()
}

/// A bar of how much of the time is over: `[#####     ]  50 %, 5 s left`. Empty
/// where the end is not known.
pub fn bar(plan: &Plan, stage: Stage) -> String {
    const WIDTH: usize = 30;
    let (done, all) = (stage.rounds.0 as f64, stage.rounds.1.max(1) as f64);
    let seconds = |time: Duration| time.as_secs_f64().max(1e-9);
    let (share, whole) = match (plan.mode, plan.bound, stage.held) {
        (Mode::Hold, _, None) => (stage.open as f64 / plan.connections as f64, None),
        (Mode::Hold, _, Some(held)) => (seconds(held) / seconds(plan.keep()), Some(plan.keep())),
        (_, Bound::Time(time), _) => {
            let round = plan.lead() + time;
            let share = (seconds(stage.at) / seconds(round)).min(1.0);
            ((done + share) / all, Some(round.mul_f64(all)))
        }
        (_, Bound::Count(_), _) if all > 1.0 => (done / all, None),
        (_, Bound::Count(_), _) => return String::new(),
    };
    let share = share.min(1.0);
    let full = "#".repeat((share * WIDTH as f64) as usize);
    let left = whole.map(|whole| whole.mul_f64(1.0 - share).as_secs_f64());
    let left = left.map_or(String::new(), |left| format!(", {left:.0} s left"));
    format!("[{full:WIDTH$}] {:3.0} %{left}", share * 100.0)
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

    #[test]
    fn how_it_goes_is_a_line_and_a_bar() {
        let plan = plan(Mode::Rr);
        let mut news = Progress::default();
        (0..50).for_each(|_| news.complete(Duration::from_micros(100)));
        let second = Duration::from_secs(1);
        let at = |seconds| Stage {
            at: seconds * second,
            ..Stage::default()
        };
        let line = interval(&plan, at(5), second, &news);
        assert!(
            line.starts_with("    5.0 s       50.0 requests/s  p50 100 us"),
            "{line}"
        );
        assert!(!line.contains("FAILED"), "{line}");
        news.failed = 3;
        assert!(interval(&plan, at(1), second, &news).ends_with("  3 FAILED"));
        assert_eq!(
            bar(&plan, at(5)),
            format!("[{:30}]  50 %, 5 s left", "#".repeat(15))
        );
        let json: serde_json::Value =
            serde_json::from_str(&json_line(&plan, at(5), second, &news)).unwrap();
        assert_eq!(
            (&json["complete"], &json["failed"]),
            (&50.into(), &3.into())
        );
    }

    #[test]
    fn rounds_and_what_is_held_have_a_bar_too() {
        let stage = Stage {
            at: Duration::from_secs(5),
            rounds: (10, 40),
            ..Stage::default()
        };
        let text = bar(&plan(Mode::Rr), stage);
        assert!(text.ends_with(" 26 %, 295 s left"), "{text}");
        let hold = Plan {
            bound: Bound::Time(Duration::from_secs(8)),
            ..plan(Mode::Hold)
        };
        let open = Stage { open: 4, ..stage };
        let news = Progress::default();
        let line = interval(&hold, open, Duration::from_secs(1), &news);
        assert!(line.ends_with(" 4 of 16 open"), "{line}");
        assert!(bar(&hold, open).ends_with(" 25 %"));
        let held = Some(Duration::from_secs(2));
        let text = bar(&hold, Stage { held, ..open });
        assert!(text.ends_with(" 25 %, 6 s left"), "{text}");
    }
}

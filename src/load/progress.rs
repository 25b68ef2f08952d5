//! How a run goes, while it does: what happened since somebody last looked, as a
//! line and a bar. Pure: the caller prints them.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::load::plan::{Bound, Mode, Plan};
use crate::load::run::{at, histogram, record, time};

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

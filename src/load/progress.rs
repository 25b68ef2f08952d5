//! How a run goes, while it does: what happened since somebody last looked, as a
//! line and a bar. Pure: the caller prints them.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::chart::time;
use crate::load::latency::{histogram, record};
use crate::load::plan::{Bound, Mode, Plan};

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

/// One line of how it goes: what happened in the last `every`, at `at`.
pub fn interval(plan: &Plan, at: Duration, every: Duration, news: &Progress) -> String {
    let rate = news.complete as f64 / every.as_secs_f64().max(1e-9);
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
    if at < plan.warmup {
        line += "  (warm-up)";
    }
    line
}

/// A bar of how much of the time is over: `[#####     ]  50 %`. Empty where
/// the end is not known.
pub fn bar(plan: &Plan, at: Duration) -> String {
    const WIDTH: usize = 30;
    let Bound::Time(time) = plan.bound else {
        return String::new();
    };
    if plan.mode == Mode::Hold {
        return String::new();
    }
    let whole = (plan.warmup + time).as_secs_f64().max(1e-9);
    let share = (at.as_secs_f64() / whole).min(1.0);
    let full = "#".repeat((share * WIDTH as f64) as usize);
    format!("[{full:WIDTH$}] {:3.0} %", share * 100.0)
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
        let line = interval(&plan, 5 * second, second, &news);
        assert!(
            line.starts_with("    5.0 s       50.0 requests/s  p50 100 us"),
            "{line}"
        );
        assert!(!line.contains("FAILED"), "{line}");
        news.failed = 3;
        assert!(interval(&plan, second, second, &news).ends_with("  3 FAILED"));
        assert_eq!(
            bar(&plan, 5 * second),
            format!("[{:30}]  50 %", "#".repeat(15))
        );
    }
}

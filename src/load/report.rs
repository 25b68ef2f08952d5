//! A run as text. Pure: the caller prints it.
//!
//! One figure group a line, its name first, so that awk(1) finds it.

use std::fmt;

use crate::load::plan::{Mode, Plan, Rounds};
use crate::load::run::{Comparison, Run};
use crate::load::stats::Outcome;

/// Shows a run, when displayed.
pub struct Report<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// What came of it.
    pub run: &'a Run,
}

const MIB: f64 = (1 << 20) as f64;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, run } = self;
        let tally = &run.tally;
        let seconds = run.elapsed.as_secs_f64().max(1e-9);
        let mode = plan.mode.name();
        let unit = match plan.mode {
            Mode::Crr(_) => "connections/s",
            Mode::Rr(_) | Mode::Hold => "requests/s",
        };
        writeln!(
            f,
            "echoload {mode} {}: {} connections, {} bytes, {seconds:.2} s, closed loop",
            plan.target, plan.connections, plan.size
        )?;
        if let Some(held) = run.held {
            writeln!(f, "held {held} of {} at once", plan.connections)?;
        }
        let rate = tally.count(Outcome::Complete) as f64 / seconds;
        writeln!(f, "{unit} {rate:.1}")?;
        let mib = tally.received as f64 / MIB / seconds;
        writeln!(f, "MiB/s {mib:.2} each way, verified")?;
        writeln!(
            f,
            "latency p50 {} us p99 {} us max {} us, closed loop",
            tally.latency.value_at_quantile(0.5) / 1000,
            tally.latency.value_at_quantile(0.99) / 1000,
            tally.latency.max() / 1000
        )?;
        f.write_str("outcomes")?;
        for outcome in Outcome::ALL {
            write!(f, " {} {}", outcome.name(), tally.count(outcome))?;
        }
        writeln!(f)
    }
}

/// Shows a comparison, when displayed.
pub struct Versus<'a> {
    /// What a round was.
    pub plan: &'a Plan,
    /// Against whom.
    pub rounds: &'a Rounds,
    /// What came of it.
    pub done: &'a Comparison,
}

impl fmt::Display for Versus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Versus { plan, rounds, done } = self;
        let other = Plan {
            target: rounds.other.clone(),
            ..(*plan).clone()
        };
        for (plan, run) in [(*plan, &done.a), (&other, &done.b)] {
            write!(f, "{}", Report { plan, run })?;
        }
        write!(f, "ratio of rates ")?;
        match done.ratio() {
            None => write!(f, "unknown")?,
            Some(ratio) => {
                write!(f, "{:.3}", ratio.median)?;
                match ratio.interval {
                    Some((low, high)) => write!(f, ", 95 % within {low:.3} to {high:.3}")?,
                    None => write!(f, ", of too few pairs for an interval")?,
                }
            }
        }
        writeln!(f, ", median of {} pairs, first by second", done.pairs.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::plan::Bound;
    use crate::load::stats::Tally;

    fn run(requests: u64, held: Option<u64>) -> Run {
        let mut tally = Tally::default();
        for micros in 1..=requests {
            tally.received += 1 << 20;
            tally.complete(Duration::from_micros(micros));
        }
        Run {
            tally,
            elapsed: Duration::from_secs(2),
            held,
            ..Run::default()
        }
    }

    fn plan(mode: Mode) -> Plan {
        Plan {
            target: "127.0.0.1:7".parse().unwrap(),
            mode,
            connections: 4,
            size: 1 << 20,
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn figures_are_named_and_a_closed_loop_is_called_one() {
        let plan = plan(Mode::Crr(Bound::Count(100)));
        let run = run(100, None);
        let report = Report {
            plan: &plan,
            run: &run,
        };
        assert_eq!(
            report.to_string(),
            "echoload crr tcp:127.0.0.1:7: 4 connections, 1048576 bytes, 2.00 s, closed loop\n\
             connections/s 50.0\n\
             MiB/s 50.00 each way, verified\n\
             latency p50 50 us p99 99 us max 100 us, closed loop\n\
             outcomes complete 100 refused 0 reset 0 timeout 0 short 0 corrupt 0 other 0\n"
        );
    }

    #[test]
    fn hold_says_how_many_were_open_and_nothing_is_divided_by_zero() {
        let plan = plan(Mode::Hold);
        let mut run = run(0, Some(3));
        run.elapsed = Duration::ZERO;
        let report = Report {
            plan: &plan,
            run: &run,
        }
        .to_string();
        assert!(report.contains("held 3 of 4 at once\n"), "{report}");
        assert!(report.contains("requests/s 0.0\n"), "{report}");
    }
}

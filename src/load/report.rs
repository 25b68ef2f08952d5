//! A run as text. Pure: the caller prints it.
//!
//! One figure group a line, its name first, so that awk(1) finds it.

use std::fmt;

use crate::load::engine::Run;
use crate::load::plan::{Mode, Plan};
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
        let (mode, unit) = match plan.mode {
            Mode::Rr(_) => ("rr", "requests/s"),
            Mode::Crr(_) => ("crr", "connections/s"),
            Mode::Hold => ("hold", "requests/s"),
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
        let mib = tally.bytes as f64 / MIB / seconds;
        writeln!(f, "MiB/s {mib:.2} each way, verified")?;
        writeln!(
            f,
            "latency p50 {} us p99 {} us max {} us, closed loop",
            tally.latency.value_at_quantile(0.5),
            tally.latency.value_at_quantile(0.99),
            tally.latency.max()
        )?;
        f.write_str("outcomes")?;
        for outcome in Outcome::ALL {
            write!(f, " {} {}", outcome.name(), tally.count(outcome))?;
        }
        writeln!(f)
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
            tally.complete(1 << 20, Duration::from_micros(micros));
        }
        Run {
            tally,
            elapsed: Duration::from_secs(2),
            held,
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
             outcomes complete 100 refused 0 reset 0 timeout 0 short 0 corrupt 0\n"
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

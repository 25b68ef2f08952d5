//! A run as text, for people and for awk(1): the lines of figures have their
//! name first. Pure: the caller prints it.

use std::fmt::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::compare::{Comparison, Figure};
use crate::load::plan::{Mode, Plan, Rounds};
use crate::load::run::{Outcome, Run, at, time};

/// Shows a run, when displayed.
pub struct Report<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// What came of it.
    pub run: &'a Run,
    /// What bars are made of; no chart without.
    pub block: Option<char>,
}

const MIB: f64 = (1 << 20) as f64;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, run, block } = self;
        let tally = &run.tally;
        self.header(f)?;
        if let Some(held) = run.held {
            writeln!(f, "held {held} of {} at once", plan.connections)?;
        }
        writeln!(f, "{}/s {:.1}", plan.mode.units(), run.rate())?;
        let mib = run.throughput() / MIB;
        writeln!(f, "MiB/s {mib:.2} each way, verified")?;
        let kind = plan.loop_kind();
        if !tally.latency.is_empty() {
            let micros = |quantile| tally.latency.value_at_quantile(quantile) / 1000;
            let (p50, p99, max) = (micros(0.5), micros(0.99), tally.latency.max() / 1000);
            writeln!(
                f,
                "latency p50 {p50} us p99 {p99} us max {max} us, {kind} loop"
            )?;
        }
        let columns = [("echo", &tally.latency), ("connect", &tally.connect)];
        let there = columns.iter().filter(|(_, nanos)| !nanos.is_empty());
        let names: String = there.map(|(name, _)| format!("{name:>9}")).collect();
        if !names.is_empty() {
            writeln!(f, "\n  {:9}{names}", "")?;
        }
        table(f, &plan.percentiles, &columns)?;
        if let (Some(block), false) = (block, tally.latency.is_empty()) {
            writeln!(f, "\n  up to     echoes, {kind} loop")?;
            writeln!(f, "{}", chart(&tally.latency, *block))?;
        }
        self.processors(f)?;
        if plan.target.is_datagram() {
            let (lost, twice) = (tally.count(Outcome::Timeout), tally.duplicates);
            let all = (tally.count(Outcome::Complete) + tally.failed()).max(1) as f64;
            let percent = |count: u64| count as f64 / all * 100.0;
            let (lost_of, twice_of) = (percent(lost), percent(twice));
            writeln!(
                f,
                "datagrams lost {lost} ({lost_of:.3} %) duplicate {twice} ({twice_of:.3} %)"
            )?;
        }
        f.write_str("outcomes")?;
        for outcome in Outcome::ALL {
            write!(f, " {} {}", outcome.name(), tally.count(outcome))?;
        }
        for (name, count) in [("dropped", tally.dropped), ("unfinished", tally.unfinished)] {
            if count > 0 {
                write!(f, " {name} {count}")?;
            }
        }
        writeln!(f)
    }
}

impl Report<'_> {
    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, run, .. } = self;
        let (mode, target) = (plan.mode.name(), &plan.target);
        write!(f, "echoload {mode} {target}")?;
        if run.interrupted > 0 {
            f.write_str(": INTERRUPTED")?;
        }
        if let Some(rate) = plan.rate.filter(|_| run.too_slow(plan)) {
            let units = plan.mode.units();
            let reached = run.rate();
            write!(f, ": RATE NOT REACHED, {reached:.1} of {rate:.1} {units}/s")?;
        }
        write!(f, "\n{}, {:.2} s", plan.what(), run.elapsed.as_secs_f64())?;
        if !plan.warmup.is_zero() {
            write!(f, ", {:.2} s warm-up", plan.warmup.as_secs_f64())?;
        }
        match plan.rate {
            Some(rate) => writeln!(f, ", open loop at {rate}/s"),
            None => writeln!(f, ", closed loop"),
        }
    }

    fn processors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, run, .. } = self;
        let seconds = run.elapsed.as_secs_f64().max(1e-9);
        let share = |cpu: Duration| cpu.as_secs_f64() / seconds * 100.0;
        let client = run.client_cpu;
        write!(
            f,
            "cpu client {:.2} s ({:.0} %), server ",
            client.as_secs_f64(),
            share(client)
        )?;
        match run.server_cpu {
            Some(cpu) => writeln!(f, "{:.2} s ({:.0} %)", cpu.as_secs_f64(), share(cpu))?,
            None => match run.server_cpu_seen {
                Some(seen) => writeln!(f, "at least {:.2} s, not all known", seen.as_secs_f64())?,
                None => writeln!(f, "not known")?,
            },
        }
        if run.starved() {
            let waited = share(run.waited.unwrap_or_default());
            writeln!(
                f,
                "WARNING: a thread of echoload waited for a processor {waited:.0} % of the time:\n\
                 latencies are the machine's too"
            )?;
        }
        if !run.held_up.is_zero() {
            writeln!(
                f,
                "WARNING: echoload was held up for {} (stopped, or without a\n\
                 processor), which is in no figure",
                time(run.held_up.as_nanos() as f64)
            )?;
        }
        if run.limited {
            writeln!(
                f,
                "WARNING: a thread of echoload never waited: these are its limits, not the\n\
                 server's{}",
                more_threads(plan)
            )?;
        }
        Ok(())
    }
}

/// Advice where a processor is left for another thread, and the server.
fn more_threads(plan: &Plan) -> String {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    match plan.workers() < cores.min(plan.slots()) {
        true => format!("; {cores} processors are here: -t {}", plan.workers() + 1),
        false => "; no processor is left for another thread".to_owned(),
    }
}

/// A column for each histogram that has anything in it.
fn table(
    f: &mut fmt::Formatter<'_>,
    percents: &[f64],
    all: &[(&str, &Histogram<u64>)],
) -> fmt::Result {
    let columns: Vec<_> = all.iter().filter(|(_, nanos)| !nanos.is_empty()).collect();
    if columns.is_empty() {
        return Ok(());
    }
    let mut row = |name: &str, figure: &dyn Fn(&Histogram<u64>) -> f64| {
        write!(f, "  {name:9}")?;
        for (_, nanos) in &columns {
            write!(f, "{:>9}", time(figure(nanos)))?;
        }
        writeln!(f)
    };
    row("min", &|nanos| nanos.min() as f64)?;
    row("mean", &Histogram::mean)?;
    row("stddev", &Histogram::stdev)?;
    for percent in percents {
        row(&format!("p{percent}"), &|nanos| {
            at(nanos, percent / 100.0) as f64
        })?;
    }
    row("max", &|nanos| nanos.max() as f64)
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
        let block = None;
        for (plan, run) in [(*plan, &done.a), (&other, &done.b)] {
            writeln!(f, "{}", Report { plan, run, block })?;
        }
        // The rate, which is all there is of a stream, comes last.
        for figure in Figure::ALL.into_iter().rev() {
            if figure != Figure::Rate && plan.mode == Mode::Stream {
                continue;
            }
            write!(f, "ratio of {} ", figure.name())?;
            let pairs = done.pairs[figure as usize].len();
            match done.ratio(figure) {
                None if figure == Figure::Rate => write!(f, "unknown")?,
                None => write!(f, "unknown, of too few requests in a round")?,
                Some(ratio) => {
                    write!(f, "{:.3}", ratio.median)?;
                    match ratio.interval {
                        Some((low, high)) => write!(f, ", 95 % within {low:.3} to {high:.3}")?,
                        None => write!(f, ", of too few pairs for an interval")?,
                    }
                }
            }
            writeln!(f, ", median of {pairs} pairs, first by second")?;
        }
        Ok(())
    }
}

// A latency histogram drawn in text: two rows for each doubling. Pure.

/// Columns of the longest bar.
const WIDTH: f64 = 40.0;
/// More rows than that are joined in pairs.
const ROWS: usize = 16;

/// Bars of `nanos`, one line a row, each with its count and the share of all up
/// to its end. `block` is what bars are made of.
fn chart(nanos: &Histogram<u64>, block: char) -> String {
    let mut text = String::new();
    let rows = rows(nanos);
    let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
    let total = nanos.len().max(1) as f64;
    let mut below = 0;
    for (end, count) in rows {
        below += count;
        let length = (count as f64 / most as f64 * WIDTH).ceil() as usize;
        let bar: String = std::iter::repeat_n(block, length).collect();
        let share = below as f64 / total * 100.0;
        let _ = writeln!(
            text,
            "  {:>9} {bar:<40} {count:>9} {share:6.2} %",
            time(end as f64)
        );
    }
    text
}

/// The end of each row in nanoseconds, and how many are in it.
fn rows(nanos: &Histogram<u64>) -> Vec<(u64, u64)> {
    if nanos.is_empty() {
        return Vec::new();
    }
    let mut ends: Vec<u64> = (0..60).flat_map(|n| [1 << n, 3 << n >> 1]).collect();
    ends.sort_unstable();
    ends.dedup();
    let first = ends.partition_point(|end| *end <= nanos.min());
    let last = ends.partition_point(|end| *end < nanos.max());
    let mut ends = ends[first.min(last)..=last].to_vec();
    while ends.len() > ROWS {
        // The last stays, or the slowest would be in no row.
        let keep = ends.len() % 2;
        let joined = ends.iter().enumerate().filter(|(n, _)| n % 2 != keep);
        ends = joined.map(|(_, end)| *end).collect();
    }
    let mut rows: Vec<(u64, u64)> = ends.into_iter().map(|end| (end, 0)).collect();
    for step in nanos.iter_recorded() {
        let value = step.value_iterated_to();
        let row = rows.partition_point(|(end, _)| *end < value);
        let row = row.min(rows.len() - 1);
        rows[row].1 += step.count_at_value();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::plan;
    use crate::load::run::histogram;

    fn run(requests: u64, held: Option<u64>) -> Run {
        let mut run = Run {
            elapsed: Duration::from_secs(2),
            held,
            ..Run::default()
        };
        run.tally.connected = 1;
        for micros in 1..=requests {
            run.tally.received += 1 << 20;
            run.tally.complete();
            run.tally.echoed(Duration::from_micros(micros));
        }
        run
    }

    fn report(plan: &Plan, run: &Run) -> String {
        let block = Some('#');
        Report { plan, run, block }.to_string()
    }

    #[test]
    fn figures_are_named_and_a_closed_loop_is_called_one() {
        let text = report(&plan(Mode::Crr), &run(100, None));
        for line in [
            "echoload crr tcp:127.0.0.1:7",
            "16 connections, 64 bytes, 1 thread, 2.00 s, closed loop",
            "connections/s 50.0",
            "MiB/s 50.00 each way, verified",
            "latency p50 50 us p99 99 us max 100 us, closed loop",
            "cpu client 0.00 s (0 %), server not known",
            "outcomes complete 100 refused 0 reset 0 timeout 0 short 0 corrupt 0 other 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(text.contains("\n  p99.9       100 us\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.contains("  up to     echoes, closed loop\n"), "{text}");
        assert!(!text.contains("WARNING"), "{text}");
    }

    #[test]
    fn an_open_loop_says_first_that_its_rate_was_not_reached() {
        let open = Plan {
            rate: Some(100.0),
            warmup: Duration::from_secs(1),
            size: 64..=1500,
            ..plan(Mode::Rr)
        };
        let text = report(&open, &run(100, None));
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "echoload rr tcp:127.0.0.1:7: RATE NOT REACHED, 50.0 of 100.0 requests/s"
        );
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "16 connections, 64 to 1500 bytes, 1 thread, 2.00 s, 1.00 s warm-up, \
             open loop at 100/s"
        );
        assert!(!text.contains("closed"), "{text}");
    }

    #[test]
    fn hold_says_how_many_were_open_and_nothing_is_divided_by_zero() {
        let mut run = run(0, Some(3));
        run.elapsed = Duration::ZERO;
        run.limited = true;
        run.waited = Some(Duration::from_secs(1));
        let text = report(&plan(Mode::Hold), &run);
        assert!(text.contains("held 3 of 16 at once\n"), "{text}");
        assert!(text.contains("connections/s 0.0\n"), "{text}");
        assert!(
            text.contains("WARNING: a thread of echoload never waited"),
            "{text}"
        );
        assert!(text.contains("waited for a processor"), "{text}");
    }

    #[test]
    fn every_value_is_in_one_row() {
        for values in [
            &[1u64][..],
            &[1000, 1500, 2000, 50_000],
            &[900, 5_000_000_000],
            &[64, 64, 64],
            &[1, 1_000_000_000_000],
        ] {
            let mut nanos = histogram();
            values
                .iter()
                .for_each(|value| nanos.record(*value).unwrap());
            let rows = rows(&nanos);
            assert!(rows.len() <= ROWS, "{rows:?}");
            let sum: u64 = rows.iter().map(|row| row.1).sum();
            assert_eq!(sum, values.len() as u64, "{rows:?}");
            let text = chart(&nanos, '#');
            assert!(text.ends_with("100.00 %\n"), "{text}");
        }
        assert_eq!(chart(&histogram(), '#'), "");
    }
}

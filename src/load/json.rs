//! A run as JSON, schema `echoload/1`: keys carry their units, null is "does
//! not apply" or "not known". Keys may be added, never renamed. The text of
//! HdrHistogram stands here too: both are for programs. Pure.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::addr::Target;
use crate::error::Exit;
use crate::load::compare::{CONFIDENCE, Comparison, Figure};
use crate::load::plan::Plan;
use crate::load::run::{Outcome, Run, at, buckets};
use crate::load::sweep::{Step, Sweep, Swept};

const SCHEMA: &str = "echoload/1";

/// One run.
pub fn run(plan: &Plan, run: &Run) -> Value {
    object(plan, &plan.target, run)
}

/// A comparison with `other`.
pub fn comparison(plan: &Plan, other: &Target, done: &Comparison) -> Value {
    let mut object = json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "load": plan.mode.name(),
        "comparison": true,
        "interrupted": done.interrupted() > 0,
        "rounds": done.rounds,
        "a": object(plan, &plan.target, &done.a),
        "b": object(plan, other, &done.b),
        "fail_below": done.fail_below,
        "slower_by": done.slower(plan).map(|(figure, _)| figure.key()),
        "exit_status": exit_status(done.status(plan), done.interrupted()),
    });
    for figure in Figure::ALL {
        let ratio = done.ratio(figure);
        let interval = ratio.and_then(|ratio| ratio.interval);
        object[figure.key()] = json!({
            "median": ratio.map(|ratio| ratio.median),
            "low": interval.map(|(low, _)| low),
            "high": interval.map(|(_, high)| high),
            "confidence": CONFIDENCE,
            "pairs": done.pairs[figure as usize],
        });
    }
    object
}

/// A sweep of rates.
pub fn swept(plan: &Plan, sweep: &Sweep, swept: &Swept) -> Value {
    let (held, missed) = swept.knee();
    let step = |step: &Step| {
        let plan = Plan {
            rate: Some(step.rate),
            ..plan.clone()
        };
        let mut object = object(&plan, &plan.target, &step.run);
        object["held"] = Value::Null;
        object["rate_held"] = step.held.into();
        object
    };
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "load": plan.mode.name(),
        "sweep": true,
        "target": plan.target.to_string(),
        "p99_bound_us": micros(sweep.p99.as_nanos() as f64),
        "holds_per_s": held.map(|step| step.rate),
        "missed_per_s": missed.map(|step| step.rate),
        "interrupted": swept.interrupted() > 0,
        "steps": swept.steps.iter().map(step).collect::<Vec<_>>(),
        "exit_status": exit_status(swept.status(), swept.interrupted()),
    })
}

fn object(plan: &Plan, target: &Target, run: &Run) -> Value {
    let tally = &run.tally;
    let mut object = json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "load": plan.mode.name(),
        "target": target.to_string(),
        "connections": plan.connections,
        "size_bytes": plan.size.start(),
        "size_bytes_max": plan.size.end(),
        "threads": plan.workers(),
        "loop": plan.loop_kind(),
        "rate_wanted_per_s": plan.rate,
        "warmup_s": plan.warmup.as_secs_f64(),
        "elapsed_s": run.elapsed.as_secs_f64(),
        "held": run.held,
        "rate_per_s": run.rate(),
        "sent_bytes": tally.sent,
        "received_bytes": tally.received,
        "throughput_bytes_per_s": run.throughput(),
        "latency_us": latency(plan, &tally.latency),
        "connect_latency_us": latency(plan, &tally.connect),
        "latency_histogram_us": histogram(&tally.latency),
        "client_cpu_s": run.client_cpu.as_secs_f64(),
        "server_cpu_s": run.server_cpu.map(|cpu| cpu.as_secs_f64()),
        "server_cpu_seen_s": run.server_cpu_seen.map(|cpu| cpu.as_secs_f64()),
        "generator_limited": run.limited,
        "generator_starved": run.starved(),
        "generator_waited_s": run.waited.map(|time| time.as_secs_f64()),
        "generator_held_up_s": run.held_up.as_secs_f64(),
        "interrupted": run.interrupted > 0,
        "unfinished": tally.unfinished,
        "dropped": tally.dropped,
        "ramp_up_s": plan.ramp_up.as_secs_f64(),
        "think_s": plan.think.as_secs_f64(),
        "datagrams_lost": target.is_datagram().then(|| tally.count(Outcome::Timeout)),
        "datagrams_duplicate": target.is_datagram().then_some(tally.duplicates),
        "exit_status": exit_status(run.status(plan), run.interrupted),
    });
    for outcome in Outcome::ALL {
        object[outcome.name()] = tally.count(outcome).into();
    }
    object
}

/// As a shell has it: 128 and the signal, if it is one that ends the program.
fn exit_status(status: Exit, signal: u8) -> u8 {
    match signal {
        0 => status as u8,
        signal => 128 + signal,
    }
}

/// `[up to, how many]`, of the buckets with something in them.
fn histogram(nanos: &Histogram<u64>) -> Value {
    let buckets = buckets(nanos).into_iter();
    buckets
        .map(|(end, count)| json!([micros(end as f64), count]))
        .collect()
}

fn latency(plan: &Plan, nanos: &Histogram<u64>) -> Value {
    if nanos.is_empty() {
        return Value::Null;
    }
    let exact = |nanos: u64| micros(nanos as f64);
    let mut figures = Map::new();
    let mut put = |key: &str, value| figures.insert(key.to_owned(), value);
    put("min", exact(nanos.min()));
    put("mean", micros(nanos.mean()));
    put("stddev", micros(nanos.stdev()));
    for percent in &plan.percentiles {
        let key = format!("p{percent}").replace('.', "_");
        put(&key, exact(at(nanos, percent / 100.0)));
    }
    put("max", exact(nanos.max()));
    figures.into()
}

/// Microseconds, to the nanosecond.
fn micros(nanos: f64) -> Value {
    let nanos = Duration::from_nanos(nanos.round() as u64);
    json!(nanos.as_nanos() as f64 / 1e3)
}

// A latency histogram in the percentile text of HdrHistogram (`.hgrm`), which
// its plotters read. Values are microseconds. Pure.

/// Lines for each halving of what is left above, as the originals have.
const TICKS: u32 = 5;

/// The text of `nanos`.
pub fn hgrm(nanos: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let micros = |nanos: f64| nanos / 1e3;
    for step in nanos.iter_quantiles(TICKS) {
        let (value, quantile) = (
            step.value_iterated_to().min(nanos.max()),
            step.quantile_iterated_to(),
        );
        let count = nanos.count_between(0, step.value_iterated_to());
        let _ = write!(
            text,
            "{:12.3} {quantile:14.12} {count:10}",
            micros(value as f64)
        );
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let (mean, stddev) = (micros(nanos.mean()), micros(nanos.stdev()));
    let (max, total) = (micros(nanos.max() as f64), nanos.len());
    let _ = write!(
        text,
        "#[Mean    = {mean:12.3}, StdDeviation   = {stddev:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {total:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        nanos.buckets(),
        2048
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Mode;
    use crate::load::plan::tests::plan;
    use crate::load::run::histogram;

    fn done() -> Run {
        let mut run = Run {
            elapsed: Duration::from_secs(2),
            ..Run::default()
        };
        run.tally.connected = 1;
        for micros in 1..=100 {
            run.tally.complete();
            run.tally.echoed(Duration::from_micros(micros));
        }
        run
    }

    #[test]
    fn every_key_of_the_schema_is_there() {
        let object = run(&plan(Mode::Rr), &done());
        for key in [
            "schema",
            "version",
            "load",
            "target",
            "connections",
            "size_bytes",
            "size_bytes_max",
            "threads",
            "loop",
            "rate_wanted_per_s",
            "warmup_s",
            "elapsed_s",
            "complete",
            "refused",
            "reset",
            "timeout",
            "short",
            "corrupt",
            "other",
            "rate_per_s",
            "sent_bytes",
            "received_bytes",
            "throughput_bytes_per_s",
            "latency_us",
            "connect_latency_us",
            "latency_histogram_us",
            "interrupted",
            "unfinished",
            "dropped",
            "client_cpu_s",
            "server_cpu_s",
            "generator_limited",
            "exit_status",
        ] {
            assert!(object.get(key).is_some(), "{key}");
        }
        assert_eq!(object["schema"], "echoload/1");
        assert_eq!(object["rate_per_s"], 50.0);
        assert_eq!(object["loop"], "closed");
        for key in [
            "min", "mean", "stddev", "p50", "p75", "p90", "p99", "p99_9", "p99_99", "max",
        ] {
            assert!(object["latency_us"][key].is_number(), "{key}");
        }
        assert_eq!(object["connect_latency_us"], Value::Null);
        let buckets = object["latency_histogram_us"].as_array().unwrap();
        let count = |bucket: &Value| bucket[1].as_u64().unwrap();
        assert_eq!(buckets.iter().map(count).sum::<u64>(), 100);
        assert!(buckets.is_sorted_by_key(|bucket| bucket[0].as_f64().unwrap()));
        assert_eq!(buckets.last().unwrap()[0], object["latency_us"]["max"]);
        assert_eq!(object["server_cpu_s"], Value::Null);
    }

    #[test]
    fn a_comparison_has_both_and_their_ratio() {
        let both = Comparison {
            a: done(),
            b: done(),
            pairs: [vec![1.0, 2.0, 3.0], Vec::new(), Vec::new(), Vec::new()],
            fail_below: None,
            rounds: 3,
        };
        let other = "127.0.0.1:8".parse().unwrap();
        let object = comparison(&plan(Mode::Crr), &other, &both);
        assert_eq!(object["comparison"], true);
        assert_eq!(object["a"]["target"], "tcp:127.0.0.1:7");
        assert_eq!(object["b"]["target"], "tcp:127.0.0.1:8");
        assert_eq!(object["rate_ratio"]["median"], 2.0);
        assert_eq!(object["rate_ratio"]["low"], Value::Null);
        assert_eq!(object["rate_ratio"]["pairs"][2], 3.0);
    }

    #[test]
    fn the_text_is_what_plotters_read() {
        let mut nanos = histogram();
        for micros in 1..=1000 {
            nanos.record(micros * 1000).unwrap();
        }
        let text = hgrm(&nanos);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|word| word.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(rows.len() > 30, "{text}");
        assert!(
            rows.windows(2).all(|pair| pair[0][0] <= pair[1][0]),
            "{text}"
        );
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2]), (1.0, 1000.0), "{text}");
        assert!((last[0] - 1000.0).abs() < 1.0, "{text}");
        let half = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((half[0] - 500.0).abs() < 1.0 && half[3] == 2.0, "{half:?}");
        assert!(text.ends_with(" 2048]\n"));
    }

    #[test]
    fn an_empty_one_has_no_rows() {
        assert!(hgrm(&histogram()).contains("Total count    =            0]"));
    }
}

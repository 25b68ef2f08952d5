//! A run as JSON, schema `echoload/1`: keys carry their units, null is "does
//! not apply" or "not known". Keys may be added, never renamed. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::load::plan::Plan;
use crate::load::ratio::CONFIDENCE;
use crate::load::run::{Comparison, Run};
use crate::load::stats::Outcome;
use crate::load::target::Target;

const SCHEMA: &str = "echoload/1";

/// One run.
pub fn run(plan: &Plan, run: &Run) -> Value {
    object(plan, &plan.target, run)
}

/// A comparison with `other`.
pub fn comparison(plan: &Plan, other: &Target, done: &Comparison) -> Value {
    let ratio = done.ratio();
    let interval = ratio.and_then(|ratio| ratio.interval);
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "load": plan.mode.name(),
        "comparison": true,
        "rounds": done.rounds,
        "a": object(plan, &plan.target, &done.a),
        "b": object(plan, other, &done.b),
        "rate_ratio": {
            "median": ratio.map(|ratio| ratio.median),
            "low": interval.map(|(low, _)| low),
            "high": interval.map(|(_, high)| high),
            "confidence": CONFIDENCE,
            "pairs": done.pairs,
        },
        "exit_status": done.status(plan) as u8,
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
        "size_bytes": plan.size,
        "size_bytes_max": plan.size,
        "threads": plan.threads(),
        "loop": "closed",
        "rate_wanted_per_s": null,
        "warmup_s": 0.0,
        "elapsed_s": run.elapsed.as_secs_f64(),
        "held": run.held,
        "rate_per_s": run.rate(),
        "sent_bytes": tally.sent,
        "received_bytes": tally.received,
        "throughput_bytes_per_s": run.throughput(),
        "latency_us": latency(&tally.latency),
        "connect_latency_us": latency(&tally.connect),
        "client_cpu_s": run.client_cpu.as_secs_f64(),
        "server_cpu_s": run.server_cpu.map(|cpu| cpu.as_secs_f64()),
        "generator_limited": run.limited,
        "exit_status": run.status(plan) as u8,
    });
    for outcome in Outcome::ALL {
        object[outcome.name()] = tally.count(outcome).into();
    }
    object
}

/// The quantiles of every report, with the end of their keys.
const QUANTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99_9", 0.999),
    ("p99_99", 0.9999),
];

fn latency(nanos: &Histogram<u64>) -> Value {
    if nanos.is_empty() {
        return Value::Null;
    }
    let exact = |nanos: u64| micros(nanos as f64);
    let mut figures = Map::new();
    let mut put = |key: &str, value| figures.insert(key.to_owned(), value);
    put("min", exact(nanos.min()));
    put("mean", micros(nanos.mean()));
    put("stddev", micros(nanos.stdev()));
    for (key, quantile) in QUANTILES {
        put(
            key,
            exact(nanos.value_at_quantile(quantile).min(nanos.max())),
        );
    }
    put("max", exact(nanos.max()));
    figures.into()
}

/// Microseconds, to the nanosecond.
fn micros(nanos: f64) -> Value {
    let nanos = Duration::from_nanos(nanos.round() as u64);
    json!(nanos.as_nanos() as f64 / 1e3)
}

//! Latencies: a histogram of nanoseconds, and which of its quantiles are told.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// Nanoseconds above which a latency is not told from another: 13 days.
const LONGEST: u64 = 1 << 50;

/// The quantiles of every report.
pub const QUANTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// A histogram of nanoseconds, empty.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("3 digits are in its range")
}

/// The latency that so many do not exceed, in nanoseconds; 0 of none.
pub fn at(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    // A bucket's upper end may lie beyond the largest.
    histogram.value_at_quantile(quantile).min(histogram.max())
}

/// Adds one time to a histogram.
pub fn record(histogram: &mut Histogram<u64>, took: Duration) {
    record_n(histogram, took, 1);
}

/// Adds a time so many times.
pub fn record_n(histogram: &mut Histogram<u64>, took: Duration, count: u64) {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
    // Not saturating_record: that clamps to what was seen so far.
    histogram
        .record_n(nanos.clamp(1, LONGEST), count)
        .expect("it grows, and LONGEST is in its range");
}

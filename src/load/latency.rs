//! Latencies: a histogram of nanoseconds, and which of its quantiles are told.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// Nanoseconds above which a latency is not told from another: 13 days.
const LONGEST: u64 = 1 << 50;

/// The percentiles of a report that is not told which.
pub const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// Significant decimal digits of a bucket that is told.
const BUCKET_DIGITS: u8 = 2;

/// A histogram of nanoseconds, empty.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("3 digits are in its range")
}

/// The latency that so many do not exceed, in nanoseconds; 0 of none.
pub fn at(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    // A bucket's upper end may lie beyond the largest.
    histogram.value_at_quantile(quantile).min(histogram.max())
}

/// The upper ends of buckets, within 1 % of each other, in nanoseconds, and how
/// many are in each; only those with something in them.
pub fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let mut coarse = Histogram::<u64>::new(BUCKET_DIGITS).expect("2 digits are in its range");
    coarse.add(histogram).expect("it grows");
    let steps = coarse.iter_recorded();
    let bucket = |value: u64| coarse.highest_equivalent(value).min(histogram.max());
    steps
        .map(|step| (bucket(step.value_iterated_to()), step.count_at_value()))
        .collect()
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

//! A latency histogram in the percentile text of HdrHistogram (`.hgrm`), which
//! its plotters read. Values are microseconds. Pure.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Lines for each halving of what is left above, as the originals have.
const TICKS: u32 = 5;

/// The text of `nanos`.
pub fn text(nanos: &Histogram<u64>) -> String {
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
    use crate::load::latency::histogram;

    #[test]
    fn the_text_is_what_plotters_read() {
        let mut nanos = histogram();
        for micros in 1..=1000 {
            nanos.record(micros * 1000).unwrap();
        }
        let text = text(&nanos);
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
        assert!(text(&histogram()).contains("Total count    =            0]"));
    }
}

//! A latency histogram drawn in text: two rows for each doubling. Pure.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Columns of the longest bar.
const WIDTH: f64 = 40.0;
/// More rows than that are joined in pairs.
const ROWS: usize = 16;

/// Bars of `nanos`, one line a row, each with its count and the share of all up
/// to its end. `block` is what bars are made of.
pub fn chart(nanos: &Histogram<u64>, block: char) -> String {
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

/// A time as people say it: `850 ns`, `12.3 us`, `4.56 ms`, `1.20 s`.
pub fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 1e3 => return format!("{n:.0} ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    match value {
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// A number as people read it: `41,000`, `999.5`, `0.50`.
pub fn thousands(number: f64) -> String {
    match number {
        n if n < 10.0 => return format!("{n:.2}"),
        n if n < 1000.0 && n.fract() != 0.0 => return format!("{n:.1}"),
        _ => {}
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::latency::histogram;

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

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [
            (0.5, "0.50"),
            (100.0, "100"),
            (999.5, "999.5"),
            (1000.0, "1,000"),
            (41_000.4, "41,000"),
            (1e7, "10,000,000"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (nanos, text) in [
            (850.0, "850 ns"),
            (12_345.0, "12.3 us"),
            (4_560_000.0, "4.56 ms"),
            (123_000_000.0, "123 ms"),
            (1.2e9, "1.20 s"),
        ] {
            assert_eq!(time(nanos), text);
        }
    }
}

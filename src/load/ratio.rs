//! Two servers compared: the order of the rounds, and the median of paired
//! ratios with its interval. Pure.
//!
//! The interval is that of order statistics: of n ratios, each as likely above
//! the true median as below it, the number below is binomial with 1/2, whatever
//! the ratios' distribution. The k-th smallest and the k-th largest enclose the
//! median unless fewer than k lie on one side of it; k is the largest for which
//! that is rarer than 5 %.

use std::time::Duration;

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// ADDR.
    A,
    /// ADDR2.
    B,
}

/// How sure the interval is, at least.
pub const CONFIDENCE: f64 = 0.95;
/// Pairs below which no interval is that sure: 2 / 2^n > 5 %.
pub const FEWEST: u64 = 6;
/// Pairs unless the time is very short or long.
const USUAL: u64 = 20;
/// A round that is shorter tells little.
const SHORTEST: Duration = Duration::from_millis(100);
/// A round that is longer lets the machine change under it.
const LONGEST: Duration = Duration::from_secs(1);

/// The order of the rounds, A B B A A B B A: a drift of the machine that is
/// steady over four rounds favours neither side.
pub fn order(pairs: u64) -> impl Iterator<Item = Side> {
    (0..pairs).flat_map(|pair| match pair % 2 {
        0 => [Side::A, Side::B],
        _ => [Side::B, Side::A],
    })
}

/// Pairs of rounds, and the time of one round, that fill `total`.
pub fn rounds(total: Duration, pairs: Option<u64>) -> (u64, Duration) {
    let fit = |round: Duration| total.as_nanos() / (2 * round.as_nanos());
    let fit = |round| u64::try_from(fit(round)).unwrap_or(u64::MAX);
    let fill = USUAL.max(fit(LONGEST)).min(fit(SHORTEST)).max(FEWEST);
    let pairs = pairs.unwrap_or(fill);
    (pairs, total.div_f64(2.0 * pairs as f64))
}

/// The median of some ratios and where it may lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The interval's ends; `None` with fewer than [`FEWEST`] pairs.
    pub interval: Option<(f64, f64)>,
}

/// Summarizes `pairs`; `None` if there are none.
pub fn median(pairs: &[f64]) -> Option<Ratio> {
    let mut sorted = pairs.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    let median = match n {
        0 => return None,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    };
    let interval = rank(n).map(|k| (sorted[k - 1], sorted[n - k]));
    Some(Ratio { median, interval })
}

/// The largest k, from 1, of the interval; `None` if even 1 is too large.
fn rank(n: usize) -> Option<usize> {
    // The terms of Bin(n, 1/2) as logarithms: 2^-n underflows from 1075 on.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut below = 0.0;
    let mut k = 0;
    while k < n.div_ceil(2) {
        below += term.exp();
        if 2.0 * below > 1.0 - CONFIDENCE {
            break;
        }
        term += ((n - k) as f64 / (k + 1) as f64).ln();
        k += 1;
    }
    (k > 0).then_some(k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics, the sign test at 5 %.
        for (n, k) in [
            (0, None),
            (5, None),
            (6, Some(1)),
            (8, Some(1)),
            (9, Some(2)),
            (10, Some(2)),
            (12, Some(3)),
            (15, Some(4)),
            (20, Some(6)),
            (25, Some(8)),
            (50, Some(18)),
            (100, Some(40)),
        ] {
            assert_eq!(rank(n), k, "{n}");
        }
        assert!(rank(5000).is_some_and(|k| (2400..2500).contains(&k)));
    }

    #[test]
    fn the_median_and_its_interval() {
        let pairs = [1.3, 0.9, 1.0, 1.2, 1.1, 0.8];
        let ratio = median(&pairs).unwrap();
        assert!((ratio.median - 1.05).abs() < 1e-9);
        assert_eq!(ratio.interval, Some((0.8, 1.3)));
        assert_eq!(median(&[1.0, 3.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(median(&[1.0]).unwrap().interval, None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn rounds_fill_the_time_and_alternate() {
        let ms = Duration::from_millis;
        for (total, pairs, expected) in [
            (ms(10_000), None, (20, ms(250))),
            (ms(60_000), None, (30, ms(1000))),
            (ms(2_000), None, (10, ms(100))),
            (ms(600), None, (6, ms(50))),
            (ms(10_000), Some(5), (5, ms(1000))),
        ] {
            assert_eq!(rounds(total, pairs), expected, "{total:?}");
        }
        use Side::*;
        assert!(order(4).eq([A, B, B, A, A, B, B, A]));
    }
}

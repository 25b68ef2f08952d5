//! Two servers under the same load, in turn: short rounds, interleaved, so that
//! what the machine does besides falls on both; and which of them is faster.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::{Exit, Result};
use crate::load::engine::{Around, run};
use crate::load::plan::{Bound, Mode, Plan, Rounds};
use crate::load::run::Run;

/// Two servers' runs.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// ADDR, all rounds.
    pub a: Run,
    /// ADDR2, all rounds.
    pub b: Run,
    /// Each pair of rounds: what A did by what B did, by [`Figure`].
    pub pairs: [Vec<f64>; Figure::ALL.len()],
    /// Pairs that were meant to be.
    pub rounds: u64,
    /// What A must not surely be below.
    pub fail_below: Option<f64>,
}

/// What rounds are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Complete units in a second; in a stream, bytes.
    Rate,
    /// The median latency.
    P50,
    /// The latency that one of a hundred exceeds.
    P99,
    /// That one of a thousand does.
    P999,
}

impl Figure {
    /// All of them, in the order of the report.
    pub const ALL: [Figure; 4] = [Figure::Rate, Figure::P50, Figure::P99, Figure::P999];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Rate => "rates",
            Figure::P50 => "p50",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
        }
    }

    /// Its key in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Figure::Rate => "rate_ratio",
            Figure::P50 => "p50_ratio",
            Figure::P99 => "p99_ratio",
            Figure::P999 => "p99_9_ratio",
        }
    }

    /// What a round came to by it; `None` of too few latencies for it to be
    /// another than the largest.
    pub fn of(self, run: &Run, plan: &Plan) -> Option<f64> {
        let latency = &run.tally.latency;
        let quantile = |quantile: f64, fewest| {
            let value = latency.value_at_quantile(quantile);
            (latency.len() >= fewest).then_some(value as f64)
        };
        match self {
            Figure::Rate if plan.mode == Mode::Stream => Some(run.throughput()),
            Figure::Rate => Some(run.rate()),
            Figure::P50 => quantile(0.5, 10),
            Figure::P99 => quantile(0.99, 100),
            Figure::P999 => quantile(0.999, 1000),
        }
    }
}

/// Runs `plan` against its target and `rounds.other`, a round each in turn. A
/// server that could not be reached, or a fault of this side, ends it early.
///
/// # Errors
/// As [`run`].
pub fn compare(plan: &Plan, rounds: &Rounds, around: &Around) -> Result<Comparison> {
    let other = Plan {
        target: rounds.other.clone(),
        ..plan.clone()
    };
    let mut done = Comparison {
        a: Run::default(),
        b: Run::default(),
        pairs: Default::default(),
        rounds: rounds.pairs,
        fail_below: rounds.fail_below,
    };
    let mut figures = Vec::new();
    // Both are warm before the first round, and stay so.
    let warm = |plan: &Plan| -> Result<()> {
        let warmup = Plan {
            bound: Bound::Time(plan.warmup),
            warmup: Duration::ZERO,
            ..plan.clone()
        };
        match plan.warmup.is_zero() {
            true => Ok(()),
            false => run(&warmup, around).map(drop),
        }
    };
    warm(plan)?;
    warm(&other)?;
    let (plan, other) = (&cold(plan), &cold(&other));
    for (nth, side) in (0..).zip(order(rounds.pairs)) {
        around.rounds.set((nth, 2 * rounds.pairs));
        let (plan, all) = match side {
            Side::A => (plan, &mut done.a),
            Side::B => (other, &mut done.b),
        };
        let round = run(plan, around)?;
        figures.push((side, Figure::ALL.map(|figure| figure.of(&round, plan))));
        let tally = &round.tally;
        let lost = tally.connected == 0 || tally.local.is_some();
        all.merge(round);
        if lost || around.interrupt.load(Relaxed) != 0 {
            break;
        }
    }
    for figure in Figure::ALL {
        let ratio = |pair: &[_]| ratio(pair, figure);
        done.pairs[figure as usize] = figures.chunks_exact(2).filter_map(ratio).collect();
    }
    Ok(done)
}

/// A plan without a warm-up.
fn cold(plan: &Plan) -> Plan {
    Plan {
        warmup: Duration::ZERO,
        ..plan.clone()
    }
}

/// What a round came to, by [`Figure`].
type Figures = [Option<f64>; Figure::ALL.len()];

/// A by B; `None` where one of them is not known.
fn ratio(pair: &[(Side, Figures)], figure: Figure) -> Option<f64> {
    let of = |side| {
        let round = pair.iter().find(|(which, _)| *which == side)?;
        round.1[figure as usize].filter(|value| *value > 0.0)
    };
    Some(of(Side::A)? / of(Side::B)?)
}

impl Comparison {
    /// The ratio of A to B.
    pub fn ratio(&self, figure: Figure) -> Option<Ratio> {
        median(&self.pairs[figure as usize])
    }

    /// By what A is surely slower than it may be: by its rate, or where both
    /// have the same, by what requests took.
    pub fn slower(&self, plan: &Plan) -> Option<(Figure, Ratio)> {
        let least = self.fail_below?;
        let figures = match plan.rate {
            None => &Figure::ALL[..1],
            Some(_) => &Figure::ALL[1..3],
        };
        figures.iter().find_map(|figure| {
            let ratio = self.ratio(*figure)?;
            let (low, high) = ratio.interval?;
            let slower = match figure {
                Figure::Rate => high < least,
                _ => low > 1.0 / least,
            };
            slower.then_some((*figure, ratio))
        })
    }

    /// The signal that ended it before its time, or 0.
    pub fn interrupted(&self) -> u8 {
        self.a.interrupted.max(self.b.interrupted)
    }

    /// How the program ends: with the worse of the two.
    pub fn status(&self, plan: &Plan) -> Exit {
        match worse(self.a.status(plan), self.b.status(plan)) {
            Exit::Ok if self.slower(plan).is_some() => Exit::NotReached,
            status => status,
        }
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    const WORST_FIRST: [Exit; 2] = [Exit::Mismatch, Exit::Os];
    match WORST_FIRST
        .into_iter()
        .find(|exit| [one, other].contains(exit))
    {
        Some(exit) => exit,
        None if one == Exit::Ok => other,
        None => one,
    }
}

// The order of the rounds, and the median of paired ratios with its interval. Pure.
//
// The interval is that of order statistics: of n ratios, each as likely above
// the true median as below it, the number below is binomial with 1/2, whatever
// the ratios' distribution. The k-th smallest and the k-th largest enclose the
// median unless fewer than k lie on one side of it; k is the largest for which
// that is rarer than 5 %.

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
    fn a_pair_is_a_by_b_in_either_order() {
        use Side::*;
        let round = |rate, p99| [Some(rate), None, p99, None];
        let (fast, slow) = (round(6.0, Some(1.0)), round(3.0, Some(4.0)));
        for pair in [[(A, fast), (B, slow)], [(B, slow), (A, fast)]] {
            assert_eq!(ratio(&pair, Figure::Rate), Some(2.0));
            assert_eq!(ratio(&pair, Figure::P99), Some(0.25));
            assert_eq!(ratio(&pair, Figure::P50), None);
        }
        let none = round(0.0, None);
        assert_eq!(ratio(&[(A, fast), (B, none)], Figure::Rate), None);
        assert_eq!(ratio(&[(A, fast), (B, none)], Figure::P99), None);
    }

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

    #[test]
    fn the_worse_of_two_statuses() {
        use Exit::*;
        for (one, other, status) in [
            (Ok, Ok, Ok),
            (Ok, Io, Io),
            (Io, Ok, Io),
            (Io, Mismatch, Mismatch),
            (Unavailable, Ok, Unavailable),
        ] {
            assert_eq!(worse(one, other), status);
        }
    }
}

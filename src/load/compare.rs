//! Two servers under the same load, in turn: short rounds, interleaved, so that
//! what the machine does besides falls on both.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::Result;
use crate::load::engine::{Around, run};
use crate::load::plan::{Bound, Plan, Rounds};
use crate::load::ratio::{Side, order};
use crate::load::run::{Comparison, Figure, Run};

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
}

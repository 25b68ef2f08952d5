//! Two servers under the same load, in turn: short rounds, interleaved, so that
//! what the machine does besides falls on both.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::Result;
use crate::load::engine::{Around, run};
use crate::load::plan::{Bound, Plan, Rounds};
use crate::load::ratio::{Side, order};
use crate::load::run::{Comparison, Run};

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
        pairs: Vec::new(),
        rounds: rounds.pairs,
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
    for side in order(rounds.pairs) {
        let (plan, all) = match side {
            Side::A => (plan, &mut done.a),
            Side::B => (other, &mut done.b),
        };
        let round = run(plan, around)?;
        figures.push((side, round.figure(plan)));
        let tally = &round.tally;
        let lost = tally.connected == 0 || tally.local.is_some();
        all.merge(round);
        if lost || around.interrupt.load(Relaxed) != 0 {
            break;
        }
    }
    done.pairs = figures.chunks_exact(2).filter_map(ratio).collect();
    Ok(done)
}

/// A plan without a warm-up.
fn cold(plan: &Plan) -> Plan {
    Plan {
        warmup: Duration::ZERO,
        ..plan.clone()
    }
}

/// A by B; `None` where nothing was done.
fn ratio(pair: &[(Side, f64)]) -> Option<f64> {
    let of = |side| pair.iter().find(|(which, _)| *which == side);
    let (a, b) = (of(Side::A)?.1, of(Side::B)?.1);
    (a > 0.0 && b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_by_b_in_either_order() {
        use Side::*;
        assert_eq!(ratio(&[(A, 6.0), (B, 3.0)]), Some(2.0));
        assert_eq!(ratio(&[(B, 3.0), (A, 6.0)]), Some(2.0));
        assert_eq!(ratio(&[(B, 0.0), (A, 6.0)]), None);
    }
}

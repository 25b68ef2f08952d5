//! The knee of a server: the highest rate of an open loop that it holds. The
//! rate is doubled until it does not, and then closed in on.
//!
//! A machine does other things too, so a rate that is missed is tried once more
//! before it counts as missed.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::{Exit, Result};
use crate::load::engine::{Around, run};
use crate::load::plan::Plan;
use crate::load::run::{Run, at, thousands, time};

/// Two neighbours are close enough.
const CLOSE: f64 = 1.05;
/// How much faster, and how much slower where the first is missed.
const FASTER: f64 = 2.0;
const SLOWER: f64 = 4.0;

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sweep {
    /// The rate to begin with.
    pub first: f64,
    /// The lowest, and the highest.
    pub range: (f64, f64),
    /// What p99 must not pass.
    pub p99: Duration,
}

/// A rate that was tried.
#[derive(Clone, Debug)]
pub struct Step {
    /// Requests or connections a second.
    pub rate: f64,
    /// What came of it.
    pub run: Run,
    /// The rate was reached, nothing failed, and p99 was within its bound.
    pub held: bool,
}

/// All of them, by rate.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// From the lowest on.
    pub steps: Vec<Step>,
}

impl Sweep {
    /// The rate to try next, after those in `tried`, from the lowest on.
    fn next(&self, tried: &[(f64, bool)]) -> Option<f64> {
        let (low, high) = self.range;
        let missed = tried.iter().find(|(_, held)| !held);
        // One that is held above a miss is luck.
        let below = tried.iter().take_while(|(_, held)| *held).last();
        match (below, missed) {
            (None, None) => Some(self.first),
            (Some((rate, _)), None) if *rate >= high => None,
            (Some((rate, _)), None) => Some((rate * FASTER).min(high)),
            (None, Some((rate, _))) if *rate <= low => None,
            (None, Some((rate, _))) => Some((rate / SLOWER).max(low)),
            (Some((held, _)), Some((missed, _))) if missed / held <= CLOSE => None,
            (Some((held, _)), Some((missed, _))) => {
                let middle = (held * missed).sqrt();
                // As people write it, where that is still between the two.
                let digit = 10f64.powf(middle.log10().floor() - 2.0);
                let round = (middle / digit).round() * digit;
                Some(if *held < round && round < *missed {
                    round
                } else {
                    middle
                })
            }
        }
    }

    fn holds(&self, plan: &Plan, run: &Run) -> bool {
        let p99 = at(&run.tally.latency, 0.99);
        !run.too_slow(plan) && run.tally.failed() == 0 && p99 <= self.p99.as_nanos() as u64
    }
}

/// Tries rates of `plan` until its knee is known. Each has a warm-up.
///
/// # Errors
/// As [`run`].
pub fn sweep(plan: &Plan, sweep: &Sweep, around: &Around) -> Result<Swept> {
    let mut swept = Swept::default();
    loop {
        let tried: Vec<_> = swept
            .steps
            .iter()
            .map(|step| (step.rate, step.held))
            .collect();
        let Some(rate) = sweep.next(&tried) else {
            return Ok(swept);
        };
        let plan = Plan {
            rate: Some(rate),
            ..plan.clone()
        };
        let mut done = run(&plan, around)?;
        let over = |run: &Run| {
            run.tally.connected == 0
                || run.tally.local.is_some()
                || around.interrupt.load(Relaxed) != 0
        };
        if !over(&done) && !sweep.holds(&plan, &done) {
            done = run(&plan, around)?;
        }
        let (held, over) = (sweep.holds(&plan, &done), over(&done));
        let at = swept.steps.partition_point(|step| step.rate < rate);
        let run = done;
        swept.steps.insert(at, Step { rate, run, held });
        if over {
            return Ok(swept);
        }
    }
}

impl Swept {
    /// The highest rate that is held, with all below it, and the next, which
    /// is not.
    pub fn knee(&self) -> (Option<&Step>, Option<&Step>) {
        let held = self.steps.iter().take_while(|step| step.held).count();
        let last = held.checked_sub(1).and_then(|at| self.steps.get(at));
        (last, self.steps.get(held))
    }

    /// The signal that ended it before its time, or 0.
    pub fn interrupted(&self) -> u8 {
        let signals = self.steps.iter().map(|step| step.run.interrupted);
        signals.max().unwrap_or_default()
    }

    /// How the program ends: that a rate is missed is what was looked for.
    pub fn status(&self) -> Exit {
        let statuses = self.steps.iter().map(|step| step.run.tally.status());
        let bad = |exit: &Exit| !matches!(exit, Exit::Ok | Exit::Io);
        let worst = statuses
            .filter(bad)
            .max_by_key(|exit| *exit == Exit::Mismatch);
        match (worst, self.knee().0) {
            (Some(exit), _) => exit,
            (None, None) => Exit::NotReached,
            (None, Some(_)) => Exit::Ok,
        }
    }
}

/// Shows a sweep, when displayed.
pub struct Knee<'a> {
    /// What a step was, but for its rate.
    pub plan: &'a Plan,
    /// What was looked for.
    pub sweep: &'a Sweep,
    /// What was found.
    pub swept: &'a Swept,
    /// What bars are made of.
    pub block: char,
}

/// Columns of the longest bar.
const WIDTH: f64 = 16.0;

impl fmt::Display for Knee<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Knee { plan, swept, .. } = self;
        let bound = time(self.sweep.p99.as_nanos() as f64);
        let (mode, target) = (plan.mode.name(), &plan.target);
        writeln!(f, "echoload sweep {mode} {target}: {}", plan.what())?;
        let per = format!("{}/s", plan.mode.units());
        writeln!(
            f,
            "{per:>14} {:>10} {:>9} {:>9} {:>9}",
            "reached", "p50", "p99", "p99.9"
        )?;
        let p99 = |step: &Step| at(&step.run.tally.latency, 0.99).max(1) as f64;
        let all = || swept.steps.iter().map(p99);
        let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(1.0, f64::max));
        for step in &swept.steps {
            let quantile = |quantile| time(at(&step.run.tally.latency, quantile) as f64);
            let share = (p99(step) / least).ln() / (most / least).ln().max(1e-9);
            let bar = 1 + (share * (WIDTH - 1.0)) as usize;
            let bar: String = std::iter::repeat_n(self.block, bar).collect();
            writeln!(
                f,
                "{:>14} {:>10} {:>9} {:>9} {:>9} {bar}{}",
                thousands(step.rate),
                thousands(step.run.rate()),
                quantile(0.5),
                quantile(0.99),
                quantile(0.999),
                if step.held { "" } else { " missed" }
            )?;
        }
        self.found(f, &bound)
    }
}

impl Knee<'_> {
    fn found(&self, f: &mut fmt::Formatter<'_>, bound: &str) -> fmt::Result {
        let (held, missed) = self.swept.knee();
        match held {
            Some(step) => write!(f, "holds {}/s at p99 below {bound}", thousands(step.rate))?,
            None => write!(f, "holds no rate that was tried at p99 below {bound}")?,
        }
        if self.swept.interrupted() > 0 {
            return writeln!(f, "; interrupted");
        }
        let Some(Step { rate, run, .. }) = missed else {
            return writeln!(f, ", the highest that was asked for");
        };
        let rate = thousands(*rate);
        let p99 = at(&run.tally.latency, 0.99);
        match run.tally.failed() {
            0 if u128::from(p99) > self.sweep.p99.as_nanos() => {
                write!(f, "; at {rate}/s p99 was {}", time(p99 as f64))?;
            }
            0 => write!(f, "; of {rate}/s it did {}/s", thousands(run.rate()))?,
            failed => write!(f, "; at {rate}/s {failed} failed")?,
        }
        writeln!(f)?;
        match run.limited {
            true => writeln!(f, "WARNING: echoload was on a processor all the time there"),
            false if run.starved() => {
                writeln!(f, "WARNING: echoload waited for a processor there")
            }
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are tried of a server that holds up to `knee`.
    fn tried(sweep: &Sweep, knee: f64) -> Vec<(f64, bool)> {
        let mut tried: Vec<(f64, bool)> = Vec::new();
        while let Some(rate) = sweep.next(&tried) {
            assert!((sweep.range.0..=sweep.range.1).contains(&rate), "{tried:?}");
            assert!(tried.iter().all(|(before, _)| *before != rate), "{tried:?}");
            tried.push((rate, rate <= knee));
            tried.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(tried.len() < 40, "{tried:?}");
        }
        tried
    }

    #[test]
    fn the_knee_is_found_from_above_and_from_below() {
        let sweep = Sweep {
            first: 1000.0,
            range: (1.0, 1e7),
            p99: Duration::from_millis(5),
        };
        for knee in [1.0, 7.0, 999.0, 1000.0, 41_000.0, 1e6, 9.99e6] {
            let tried = tried(&sweep, knee);
            let held = tried.iter().rfind(|(_, held)| *held).unwrap().0;
            assert!(
                held <= knee && held * CLOSE * 1.01 > knee,
                "{knee}: {tried:?}"
            );
        }
        let none = tried(&sweep, 0.5);
        assert!(none.iter().all(|(_, held)| !held), "{none:?}");
        let all = tried(&sweep, f64::MAX);
        assert_eq!(all.last(), Some(&(1e7, true)));
        let narrow = Sweep {
            first: 100.0,
            range: (100.0, 300.0),
            ..sweep
        };
        let rates: Vec<f64> = tried(&narrow, 1e9).iter().map(|(rate, _)| *rate).collect();
        assert_eq!(rates, [100.0, 200.0, 300.0]);
    }
}

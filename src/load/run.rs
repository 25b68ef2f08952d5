//! What a run came to, and what follows from it. Pure.

use std::time::Duration;

use crate::error::Exit;
use crate::load::fault::Outcome;
use crate::load::plan::{Mode, Plan};
use crate::load::ratio::{Ratio, median};
use crate::load::stats::Tally;

/// This share of the rate that was asked for is the rate.
const ENOUGH: f64 = 0.98;

/// A thread that waits for a processor for this share of the time is starved.
const STARVED: f64 = 0.1;

/// One server's run, or all its rounds together.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What all threads saw, after the warm-up.
    pub tally: Tally,
    /// From the end of the warm-up to the last close.
    pub elapsed: Duration,
    /// What the quick ones took: after the last is due, so long passes with any
    /// server, and no more could have been sent in it.
    pub tail: Duration,
    /// Connections that were open at once, for `hold`.
    pub held: Option<u64>,
    /// Processor time of this process meanwhile.
    pub client_cpu: Duration,
    /// Processor time of the server meanwhile, if it can be known.
    pub server_cpu: Option<Duration>,
    /// What is known to be its at least.
    pub server_cpu_seen: Option<Duration>,
    /// The longest that a thread was ready to run and had no processor.
    pub waited: Option<Duration>,
    /// This side never waited: it, or the machine, set the rate.
    pub limited: bool,
    /// How long this side did nothing though there was something to do, which
    /// is not in the time that elapsed nor in any latency.
    pub held_up: Duration,
    /// The signal that ended it before its time, or 0.
    pub interrupted: u8,
}

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

impl Run {
    /// Complete units in a second.
    pub fn rate(&self) -> f64 {
        self.per_second(self.tally.count(Outcome::Complete))
    }

    /// Bytes that came back in a second.
    pub fn throughput(&self) -> f64 {
        self.per_second(self.tally.received)
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Was this side without a processor for so long that its figures are the
    /// machine's?
    pub fn starved(&self) -> bool {
        let waited = self.waited.unwrap_or_default();
        waited.as_secs_f64() > STARVED * self.elapsed.as_secs_f64()
    }

    /// Was the rate that was asked for not reached?
    pub fn too_slow(&self, plan: &Plan) -> bool {
        let time = self.elapsed.saturating_sub(self.tail);
        let time = time.as_secs_f64().max(1e-9);
        let rate = self.tally.count(Outcome::Complete) as f64 / time;
        plan.rate.is_some_and(|wanted| rate < wanted * ENOUGH)
    }

    /// How the program ends.
    pub fn status(&self, plan: &Plan) -> Exit {
        match self.tally.status() {
            Exit::Ok if self.too_slow(plan) => Exit::NotReached,
            status => status,
        }
    }

    /// Adds a later round.
    pub fn merge(&mut self, other: Run) {
        self.tally.merge(other.tally);
        self.client_cpu += other.client_cpu;
        self.server_cpu = match (self.elapsed.is_zero(), self.server_cpu, other.server_cpu) {
            (true, _, cpu) => cpu,
            (false, Some(mine), Some(theirs)) => Some(mine + theirs),
            _ => None,
        };
        self.server_cpu_seen = match (self.elapsed.is_zero(), self.server_cpu_seen) {
            (true, _) => other.server_cpu_seen,
            (false, seen) => seen
                .zip(other.server_cpu_seen)
                .map(|(mine, theirs)| mine + theirs),
        };
        self.waited = match (self.waited, other.waited) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
        self.elapsed += other.elapsed;
        self.tail += other.tail;
        self.held = other.held;
        self.limited |= other.limited;
        self.held_up += other.held_up;
        self.interrupted = self.interrupted.max(other.interrupted);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::plan;

    fn run(complete: u64, seconds: u64) -> Run {
        let mut run = Run {
            elapsed: Duration::from_secs(seconds),
            ..Run::default()
        };
        run.tally.connected = 1;
        (0..complete).for_each(|_| run.tally.complete());
        run
    }

    #[test]
    fn a_rate_is_reached_or_the_status_says_so() {
        for (complete, rate, status) in [
            (1000, None, Exit::Ok),
            (1000, Some(100.0), Exit::Ok),
            (985, Some(100.0), Exit::Ok),
            (970, Some(100.0), Exit::NotReached),
        ] {
            let plan = Plan {
                rate,
                ..plan(Mode::Rr)
            };
            assert_eq!(run(complete, 10).status(&plan), status, "{complete}");
        }
    }

    #[test]
    fn rounds_add_up_and_what_is_not_known_of_one_is_not_known_of_all() {
        let mut all = Run::default();
        let mut round = run(10, 1);
        round.server_cpu = Some(Duration::from_secs(1));
        all.merge(round.clone());
        all.merge(round.clone());
        assert_eq!(all.server_cpu, Some(Duration::from_secs(2)));
        assert_eq!(all.rate(), 10.0);
        round.server_cpu = None;
        all.merge(round.clone());
        assert_eq!(all.server_cpu, None);
        round.server_cpu = Some(Duration::from_secs(1));
        all.merge(round);
        assert_eq!(all.server_cpu, None);
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

    #[test]
    fn a_slow_answer_is_no_low_rate() {
        let plan = Plan {
            rate: Some(100.0),
            ..plan(Mode::Rr)
        };
        // 300 in 3 s, each of which takes half a second; or a queue that grows.
        for (first, last, too_slow) in [(500, 500, false), (5, 500, true)] {
            let mut run = Run {
                elapsed: Duration::from_millis(3500),
                ..Run::default()
            };
            for nth in 0..300 {
                let took = first + (last - first) * nth / 300;
                run.tally.complete();
                run.tally.echoed(Duration::from_millis(took));
            }
            run.tail = Duration::from_nanos(run.tally.latency.value_at_quantile(0.1));
            assert_eq!(run.too_slow(&plan), too_slow);
        }
    }
}

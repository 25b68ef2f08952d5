//! What a run came to, and what follows from it. Pure.

use std::time::Duration;

use crate::error::Exit;
use crate::load::plan::{Mode, Plan};
use crate::load::ratio::{Ratio, median};
use crate::load::stats::{Outcome, Tally};

/// One server's run, or all its rounds together.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What all threads saw, after the warm-up.
    pub tally: Tally,
    /// From the end of the warm-up to the last close.
    pub elapsed: Duration,
    /// Connections that were open at once, for `hold`.
    pub held: Option<u64>,
    /// Processor time of this process meanwhile.
    pub client_cpu: Duration,
    /// Processor time of the server meanwhile, if it can be known.
    pub server_cpu: Option<Duration>,
    /// This side never waited: it, or the machine, set the rate.
    pub limited: bool,
}

/// Two servers' runs.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// ADDR, all rounds.
    pub a: Run,
    /// ADDR2, all rounds.
    pub b: Run,
    /// Each pair of rounds: what A did by what B did.
    pub pairs: Vec<f64>,
    /// Pairs that were meant to be.
    pub rounds: u64,
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

    /// What rounds are compared by.
    pub fn figure(&self, plan: &Plan) -> f64 {
        match plan.mode {
            Mode::Rr(_) | Mode::Crr(_) | Mode::Hold => self.rate(),
        }
    }

    /// How the program ends.
    pub fn status(&self, plan: &Plan) -> Exit {
        let _ = plan;
        self.tally.status()
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
        self.elapsed += other.elapsed;
        self.held = other.held;
        self.limited |= other.limited;
    }
}

impl Comparison {
    /// The ratio of A to B.
    pub fn ratio(&self) -> Option<Ratio> {
        median(&self.pairs)
    }

    /// How the program ends: with the worse of the two.
    pub fn status(&self, plan: &Plan) -> Exit {
        worse(self.a.status(plan), self.b.status(plan))
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

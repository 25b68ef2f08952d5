//! What a run came to, and what follows from it. Pure.

use std::time::Duration;

use crate::error::Exit;
use crate::load::fault::Outcome;
use crate::load::plan::Plan;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Mode;
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

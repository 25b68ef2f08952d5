//! Runs a plan: blocking threads, each with its own tally, merged at the end.
//!
//! The thread's work is one of three short loops, [`Mode`] for mode; every loop
//! asks the [`Budget`] before each attempt.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;

use crate::error::{Error, Exit, Result};
use crate::load::budget::Budget;
use crate::load::exchange::{Connection, Scratch};
use crate::load::pattern::Pattern;
use crate::load::plan::{Bound, Mode, Plan};
use crate::load::run::Run;
use crate::load::stats::{Fault, Outcome, Tally};

/// A thread's stack: it calls a few functions deep, and there may be thousands.
const STACK: usize = 128 << 10;
/// Descriptors that are not connections: standard ones, and what libc opens.
const SPARE_FILES: u64 = 16;
/// After a refused connect, so that a dead server is not called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs `plan` to its end. Failures of the server, and of this side once the
/// run goes, are in the tally.
///
/// # Errors
/// The descriptor limit is too low (78), a thread cannot be made (71).
pub fn run(plan: &Plan) -> Result<Run> {
    raise_files(plan.connections)?;
    let (begun, cpu) = (Instant::now(), used()?);
    let (tally, held) = match plan.mode {
        Mode::Rr(bound) => (requests(plan, bound, keep_one)?, None),
        Mode::Crr(bound) => (requests(plan, bound, one_each)?, None),
        Mode::Hold => hold(plan).map(|(tally, held)| (tally, Some(held)))?,
    };
    Ok(Run {
        tally,
        elapsed: begun.elapsed(),
        held,
        client_cpu: used()? - cpu,
        ..Run::default()
    })
}

/// Processor time of all threads of this process so far.
fn used() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(|errno| Error::os("getrusage", "echoload", errno))?;
    let time = |time: TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// What one thread works with.
struct Hand<'a> {
    plan: &'a Plan,
    budget: &'a Budget,
    tally: Tally,
    scratch: Scratch,
}

impl<'a> Hand<'a> {
    fn new(plan: &'a Plan, budget: &'a Budget) -> Self {
        Hand {
            plan,
            budget,
            tally: Tally::default(),
            scratch: Scratch::new(plan.size),
        }
    }

    /// Connects, and ends the run if there is no point in going on.
    fn open(&mut self, spread: Option<u64>) -> Option<Connection<'a>> {
        match Connection::open(&self.plan.target, self.plan.timeout, spread) {
            Ok(connection) => {
                self.budget.connected();
                self.tally.connected += 1;
                Some(connection)
            }
            Err(fault) => {
                self.budget.refused();
                self.failed(fault);
                None
            }
        }
    }

    /// Counts and times one message; gives the connection back if it is good
    /// for another.
    fn echo(&mut self, connection: Connection<'a>, pattern: Pattern) -> Option<Connection<'a>> {
        let begun = Instant::now();
        match connection.echo(pattern, self.plan.size, &mut self.scratch) {
            Ok(()) => {
                self.done(begun);
                Some(connection)
            }
            Err(fault) => {
                self.failed(fault);
                None
            }
        }
    }

    /// Ends a connection whose messages are counted already.
    fn finish(&mut self, connection: Connection<'a>) {
        if let Err(fault) = connection.finish(&mut self.scratch) {
            self.failed(fault);
        }
    }

    fn done(&mut self, begun: Instant) {
        self.tally.sent += self.plan.size;
        self.tally.received += self.plan.size;
        self.tally.complete(begun.elapsed());
    }

    fn failed(&mut self, fault: Fault) {
        if fault.outcome == Outcome::Other {
            self.budget.stop();
        }
        self.tally.fault(fault);
    }
}

type Work = for<'a> fn(&mut Hand<'a>, u64);

fn requests(plan: &Plan, bound: Bound, work: Work) -> Result<Tally> {
    let budget = Budget::new(Some(bound));
    let tallies = in_threads(0..plan.threads(), &budget, |id| {
        let mut hand = Hand::new(plan, &budget);
        work(&mut hand, id);
        hand.tally
    })?;
    Ok(sum(tallies))
}

/// `rr`: one connection, request after request; a new one when it fails.
fn keep_one(hand: &mut Hand, id: u64) {
    let mut kept = None;
    let mut nth = 0;
    while hand.budget.take(nth) {
        nth += 1;
        kept = match kept.take().or_else(|| hand.open(None)) {
            Some(connection) => hand.echo(connection, Pattern::new(id, nth)),
            None => {
                thread::sleep(PAUSE);
                None
            }
        };
    }
    if let Some(connection) = kept {
        hand.finish(connection);
    }
}

/// `crr`: a connection for each request. Its latency is the whole life of it.
fn one_each(hand: &mut Hand, id: u64) {
    let mut nth = 0;
    while hand.budget.take(nth) {
        nth += 1;
        let begun = Instant::now();
        let Some(connection) = hand.open(Some(id + nth)) else {
            thread::sleep(PAUSE);
            continue;
        };
        let (size, pattern) = (hand.plan.size, Pattern::new(id, nth));
        let done = connection
            .echo(pattern, size, &mut hand.scratch)
            .and_then(|()| connection.finish(&mut hand.scratch));
        match done {
            Ok(()) => hand.done(begun),
            Err(fault) => hand.failed(fault),
        }
    }
}

/// `hold`: two phases, and all threads end the first before any begins the
/// second, so that all connections are open at once between them.
fn hold(plan: &Plan) -> Result<(Tally, u64)> {
    let budget = Budget::new(None);
    let threads = plan.threads();
    let opened = in_threads(0..threads, &budget, |thread| {
        let mut hand = Hand::new(plan, &budget);
        let mut open = Vec::new();
        for id in share(plan.connections, threads, thread) {
            if !budget.take(id) {
                break;
            }
            let connection = hand.open(Some(id));
            let served = connection.and_then(|new| hand.echo(new, Pattern::new(id, 0)));
            open.extend(served.map(|connection| (id, connection)));
        }
        (hand, open)
    })?;
    let held = opened.iter().map(|(_, open)| open.len() as u64).sum();
    let tallies = in_threads(opened, &budget, |(mut hand, open)| {
        let again: Vec<Connection> = open
            .into_iter()
            .filter_map(|(id, connection)| hand.echo(connection, Pattern::new(id, 1)))
            .collect();
        for connection in again {
            hand.finish(connection);
        }
        hand.tally
    })?;
    Ok((sum(tallies), held))
}

/// The connections, of `all`, that thread number `thread` of `threads` has.
fn share(all: u64, threads: u64, thread: u64) -> Range<u64> {
    all * thread / threads..all * (thread + 1) / threads
}

fn sum(tallies: impl IntoIterator<Item = Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), |mut all, one| {
        all.merge(one);
        all
    })
}

/// Runs `work` on each job in a thread of its own and waits for all.
fn in_threads<J: Send, T: Send>(
    jobs: impl IntoIterator<Item = J>,
    budget: &Budget,
    work: impl Fn(J) -> T + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for job in jobs {
            let spawned = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || work(job));
            threads.push(spawned.map_err(|error| {
                budget.stop();
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                Error::os("start", "a thread", errno).hint("use fewer connections")
            })?);
        }
        let joined = threads.into_iter().map(|thread| thread.join());
        Ok(joined
            .map(|done| done.expect("a thread that panics ends the program"))
            .collect())
    })
}

/// Makes room for `connections` descriptors.
fn raise_files(connections: u64) -> Result<()> {
    let need = connections + SPARE_FILES;
    let limit = |errno| Error::os("limit", "open files", errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(limit)?;
    if soft >= need {
        return Ok(());
    }
    if hard < need {
        let hint = format!("{need} open files are needed, ulimit -Hn allows {hard}");
        return Err(Error::usage(format!("-c {connections}"), hint).exit(Exit::Config));
    }
    setrlimit(Resource::RLIMIT_NOFILE, need, hard).map_err(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_there_is_and_do_not_overlap() {
        for (all, threads) in [(1, 1), (7, 3), (16, 16), (20_000, 16)] {
            let shares = (0..threads).flat_map(|thread| share(all, threads, thread));
            assert!(shares.eq(0..all), "{all} over {threads}");
        }
    }
}

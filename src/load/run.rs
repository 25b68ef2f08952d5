//! What happened in a run: how each attempt ended, and the file in which those that
//! failed are written down; outcomes counted by kind, how long they took (latencies: a
//! histogram of nanoseconds, and which of its quantiles are told), and what follows
//! from that. All but that file is pure.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use nix::errno::Errno;

use crate::addr::Target;
use crate::error::{Error, Exit, Result};
use crate::load::plan::Plan;

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All came back, and nothing else.
    Complete,
    /// Nobody listens there, or no way leads there.
    Refused,
    /// The server broke the connection.
    Reset,
    /// A connect, read or write took longer than `--timeout`.
    Timeout,
    /// The server closed before all was back.
    Short,
    /// Something came back that was not sent.
    Corrupt,
    /// This side could not go on: no descriptor, port or memory was left.
    Other,
}

impl Outcome {
    /// Every kind, in the order of the report.
    pub const ALL: [Outcome; 7] = [
        Outcome::Complete,
        Outcome::Refused,
        Outcome::Reset,
        Outcome::Timeout,
        Outcome::Short,
        Outcome::Corrupt,
        Outcome::Other,
    ];

    /// The word the report uses.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Refused => "refused",
            Outcome::Reset => "reset",
            Outcome::Timeout => "timeout",
            Outcome::Short => "short",
            Outcome::Corrupt => "corrupt",
            Outcome::Other => "other",
        }
    }

    /// What an errno of connect, read, write or shutdown says of the server, or
    /// [`Outcome::Other`] if it says something of this side.
    pub fn of(errno: Errno) -> Outcome {
        match errno {
            Errno::ECONNREFUSED
            | Errno::ENOENT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN => Outcome::Refused,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED | Errno::ENOTCONN => {
                Outcome::Reset
            }
            // A Unix socket whose queue is full says EAGAIN; see connect(2).
            Errno::ETIMEDOUT | Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY => {
                Outcome::Timeout
            }
            _ => Outcome::Other,
        }
    }
}

/// An attempt that did not complete.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the server did, or [`Outcome::Other`].
    pub outcome: Outcome,
    /// The same for people.
    pub error: Error,
}

// The file of `--outcomes`: a line for every unit that did not complete.
//
// Tab-separated: UNIX time in seconds with six decimals, kind, local address,
// target, bytes sent, bytes received back.

/// An open file of outcomes.
pub struct Outcomes {
    path: String,
    file: Mutex<BufWriter<File>>,
}

/// A unit that failed.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    /// How.
    pub outcome: Outcome,
    /// The client's address, or `-`.
    pub local: String,
    /// The server.
    pub target: &'a Target,
    /// Bytes sent on this unit.
    pub sent: u64,
    /// Bytes that came back.
    pub back: u64,
}

impl Outcomes {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// open(2)'s (73).
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = File::create(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("create", &shown, errno).exit(Exit::CantCreate)
        })?;
        Ok(Outcomes {
            path: shown,
            file: Mutex::new(BufWriter::new(file)),
        })
    }

    /// Writes one line. What cannot be written shows in [`Outcomes::close`].
    pub fn write(&self, failure: &Failure) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let line = line(now.unwrap_or_default().as_secs_f64(), failure);
        let mut file = self.file.lock().expect("no thread panics with it");
        let _ = file.write_all(line.as_bytes());
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// write(2)'s (74).
    pub fn close(self) -> Result<()> {
        let mut file = self.file.into_inner().expect("no thread panics with it");
        file.flush().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("write", &self.path, errno).exit(Exit::Io)
        })
    }
}

fn line(time: f64, failure: &Failure) -> String {
    let Failure {
        outcome,
        local,
        target,
        sent,
        back,
    } = failure;
    let kind = outcome.name();
    format!("{time:.6}\t{kind}\t{local}\t{target}\t{sent}\t{back}\n")
}

// Outcomes counted, and how long they took.

/// What one thread, or all of them, saw.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: [u64; Outcome::ALL.len()],
    /// Connections made, those of the warm-up too.
    pub connected: u64,
    /// Payload bytes that were sent.
    pub sent: u64,
    /// Payload bytes that came back, each of them verified.
    pub received: u64,
    /// Nanoseconds of complete units.
    pub latency: Histogram<u64>,
    /// Nanoseconds until a connection could be written to.
    pub connect: Histogram<u64>,
    /// Datagrams that came once more.
    pub duplicates: u64,
    /// Units of an open loop that were due and were never sent.
    pub dropped: u64,
    /// Units that were on their way when the run was interrupted.
    pub unfinished: u64,
    /// The first fault that says something of the server.
    pub first: Option<Error>,
    /// The first fault of this side: the run ended early.
    pub local: Option<Error>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            counts: [0; Outcome::ALL.len()],
            connected: 0,
            sent: 0,
            received: 0,
            latency: histogram(),
            connect: histogram(),
            duplicates: 0,
            dropped: 0,
            unfinished: 0,
            first: None,
            local: None,
        }
    }
}

impl Tally {
    /// One unit completed.
    pub fn complete(&mut self) {
        self.counts[Outcome::Complete as usize] += 1;
    }

    /// A message was back after `took`.
    pub fn echoed(&mut self, took: Duration) {
        record(&mut self.latency, took);
    }

    /// So many that were due, a time of `step` apart, are not sent; the first
    /// was due `late` ago. They are in the percentiles with the time that they
    /// waited, as wrk2 has it: their latency is at least that.
    pub fn dropped(&mut self, count: u64, late: Duration, step: Duration) {
        /// More different values than that would take longer than they tell.
        const VALUES: u64 = 10_000;
        self.dropped += count;
        let group = count.div_ceil(VALUES).max(1);
        for nth in (0..count).step_by(group as usize) {
            let waited = late.saturating_sub(step.mul_f64(nth as f64));
            record_n(&mut self.latency, waited, group.min(count - nth));
        }
    }

    /// A connection was made in `took`.
    pub fn connect(&mut self, took: Duration) {
        record(&mut self.connect, took);
    }

    /// One unit failed.
    pub fn fault(&mut self, fault: Fault) {
        self.counts[fault.outcome as usize] += 1;
        let kept = match fault.outcome {
            Outcome::Other => &mut self.local,
            _ => &mut self.first,
        };
        kept.get_or_insert(fault.error);
    }

    /// Units that ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Units that did not complete.
    pub fn failed(&self) -> u64 {
        self.counts[1..].iter().sum()
    }

    /// Adds what another thread, or another round, saw.
    pub fn merge(&mut self, other: Tally) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.connected += other.connected;
        self.sent += other.sent;
        self.received += other.received;
        for (mine, theirs) in [
            (&mut self.latency, &other.latency),
            (&mut self.connect, &other.connect),
        ] {
            mine.add(theirs).expect("both grow without bound");
        }
        self.duplicates += other.duplicates;
        self.dropped += other.dropped;
        self.unfinished += other.unfinished;
        self.first = self.first.take().or(other.first);
        self.local = self.local.take().or(other.local);
    }

    /// How the program ends: 0 only if all was verified and nothing failed.
    pub fn status(&self) -> Exit {
        if self.count(Outcome::Corrupt) > 0 {
            Exit::Mismatch
        } else if let Some(error) = &self.local {
            error.status()
        } else if self.connected == 0 {
            Exit::Unavailable
        } else if self.failed() > 0 {
            Exit::Io
        } else {
            Exit::Ok
        }
    }
}

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// Nanoseconds above which a latency is not told from another: 13 days.
const LONGEST: u64 = 1 << 50;

/// The percentiles of a report that is not told which.
pub const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// Significant decimal digits of a bucket that is told.
const BUCKET_DIGITS: u8 = 2;

/// A histogram of nanoseconds, empty.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("3 digits are in its range")
}

/// The latency that so many do not exceed, in nanoseconds; 0 of none.
pub fn at(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    // A bucket's upper end may lie beyond the largest.
    histogram.value_at_quantile(quantile).min(histogram.max())
}

/// The upper ends of buckets, within 1 % of each other, in nanoseconds, and how
/// many are in each; only those with something in them.
pub fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let mut coarse = Histogram::<u64>::new(BUCKET_DIGITS).expect("2 digits are in its range");
    coarse.add(histogram).expect("it grows");
    let steps = coarse.iter_recorded();
    let bucket = |value: u64| coarse.highest_equivalent(value).min(histogram.max());
    steps
        .map(|step| (bucket(step.value_iterated_to()), step.count_at_value()))
        .collect()
}

/// Adds one time to a histogram.
pub fn record(histogram: &mut Histogram<u64>, took: Duration) {
    record_n(histogram, took, 1);
}

/// Adds a time so many times.
fn record_n(histogram: &mut Histogram<u64>, took: Duration, count: u64) {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
    // Not saturating_record: that clamps to what was seen so far.
    histogram
        .record_n(nanos.clamp(1, LONGEST), count)
        .expect("it grows, and LONGEST is in its range");
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

// What a run came to.

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

    #[test]
    fn an_errno_is_the_servers_doing_or_ours() {
        for (errno, outcome) in [
            (Errno::ECONNREFUSED, Outcome::Refused),
            (Errno::ENOENT, Outcome::Refused),
            (Errno::ECONNRESET, Outcome::Reset),
            (Errno::EPIPE, Outcome::Reset),
            (Errno::EAGAIN, Outcome::Timeout),
            (Errno::ETIMEDOUT, Outcome::Timeout),
            (Errno::EMFILE, Outcome::Other),
            (Errno::EADDRNOTAVAIL, Outcome::Other),
            (Errno::EACCES, Outcome::Other),
        ] {
            assert_eq!(Outcome::of(errno), outcome, "{errno}");
        }
    }

    #[test]
    fn a_line_has_six_fields() {
        let target = "127.0.0.1:7".parse().unwrap();
        let failure = Failure {
            outcome: Outcome::Reset,
            local: "127.0.0.2:40000".to_owned(),
            target: &target,
            sent: 64,
            back: 10,
        };
        assert_eq!(
            line(1_700_000_000.25, &failure),
            "1700000000.250000\treset\t127.0.0.2:40000\ttcp:127.0.0.1:7\t64\t10\n"
        );
    }

    fn tally(connected: u64, complete: u64, faults: &[Outcome]) -> Tally {
        let mut tally = Tally {
            connected,
            ..Tally::default()
        };
        for _ in 0..complete {
            tally.complete();
            tally.echoed(Duration::from_micros(100));
        }
        for &outcome in faults {
            let error = Error::os("read", "tcp:h:1", Errno::EIO);
            tally.fault(Fault { outcome, error });
        }
        tally
    }

    #[test]
    fn the_status_says_the_worst_that_happened() {
        use Outcome::*;
        for (connected, complete, faults, status) in [
            (1, 5, &[][..], Exit::Ok),
            (1, 5, &[Corrupt, Other], Exit::Mismatch),
            (1, 5, &[Other, Reset], Exit::Os),
            (0, 0, &[Refused], Exit::Unavailable),
            (0, 0, &[Timeout], Exit::Unavailable),
            (1, 5, &[Refused], Exit::Io),
            (1, 5, &[Reset], Exit::Io),
            (1, 5, &[Timeout], Exit::Io),
            (1, 5, &[Short], Exit::Io),
        ] {
            let tally = tally(connected, complete, faults);
            assert_eq!(tally.status(), status, "{faults:?}");
            assert_eq!(tally.failed(), faults.len() as u64);
        }
    }

    #[test]
    fn merged_threads_count_as_one() {
        let mut all = tally(1, 2, &[Outcome::Short]);
        let mut slow = tally(3, 0, &[Outcome::Short]);
        slow.complete();
        slow.echoed(Duration::from_secs(7200));
        all.merge(slow);
        assert_eq!(all.connected, 4);
        assert_eq!(all.count(Outcome::Complete), 3);
        assert_eq!(all.count(Outcome::Short), 2);
        assert_eq!(all.latency.len(), 3);
        let p50 = all.latency.value_at_quantile(0.5);
        assert!((100_000..100_200).contains(&p50), "{p50}");
        assert!(all.latency.max() >= 7_200_000_000_000);
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

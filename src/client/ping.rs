//! Ping: an echo every so often, its round trip time, and what was lost.
//!
//! One loop: settle, wait, receive, send; the wire is [`super::wire`]. A connection
//! that is lost is made again for the next echo, and that it cannot be made is the
//! loss of that echo.
//!
//! Which echoes are out, which came back and which are lost, the outages that makes
//! and the figures of it all are decided apart from that, and pure (`Probes`,
//! `Outages`, `Tally`). Times are counted from the start of the run. An echo's fate is
//! settled once: an answer after the timeout is late, not an answer.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::poll::PollFd;

use crate::addr::Target;
use crate::client::dial::{Attempts, Dialer, Retry};
use crate::client::wait::{Waiter, Woken};
use crate::client::wire::{Gone, Payload, Wire};
use crate::client::{count, notice, session_number};
use crate::error::{Error, Exit, Result};

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub server: Target,
    /// For the first connection.
    pub retry: Retry,
    /// How many echoes; with a deadline, how many answers.
    pub count: Option<u64>,
    /// From one echo to the next; zero: as soon as the last is settled.
    pub interval: Duration,
    /// Bytes in an echo.
    pub size: usize,
    /// The end of it all.
    pub deadline: Option<Duration>,
    /// An echo is lost after this.
    pub timeout: Duration,
    /// Only the summary.
    pub quiet: bool,
    /// The time before each line.
    pub timestamps: bool,
    /// A connection for each echo, measured.
    pub connect: bool,
}

/// How it came out, as ping(8) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Alive,
    /// Not, or not often enough.
    Silent,
}

/// Pings until the count, the deadline or a signal.
///
/// # Errors
/// The name is not known, the system refuses something, standard output is
/// gone.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let waiter = Waiter::interruptible()?;
    let mut ping = Ping {
        plan,
        waiter: &waiter,
        dialer: Dialer::new(&plan.server, &waiter),
        payload: Payload::new(session_number(), plan.size),
        wire: None,
        set_up: None,
        probes: Probes::new(plan.timeout),
        outages: Outages::default(),
        tally: Tally::default(),
        begun: Instant::now(),
        wall: SystemTime::now(),
        next: Duration::ZERO,
    };
    let size = plan.size;
    let (server, s) = (&plan.server, if size == 1 { "" } else { "s" });
    ping.print(format_args!("PING {server}: {size} byte{s}"), true)?;
    ping.first_connection()?;
    ping.go()?;
    ping.summary()?;
    Ok(ping.outcome())
}

struct Ping<'a> {
    plan: &'a Plan,
    waiter: &'a Waiter,
    dialer: Dialer<'a>,
    payload: Payload,
    wire: Option<Wire>,
    /// How long the present connection took to make.
    set_up: Option<Duration>,
    probes: Probes,
    outages: Outages,
    tally: Tally,
    begun: Instant,
    wall: SystemTime,
    /// When the next echo is due.
    next: Duration,
}

impl Ping<'_> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn stopped(&self) -> bool {
        self.waiter.signals().is_some_and(|signals| signals.stop())
    }

    fn streams(&self) -> bool {
        !self.plan.server.is_datagram()
    }

    /// With `--retry`, the clock starts when the server is there.
    fn first_connection(&mut self) -> Result<()> {
        let mut attempts = Attempts::new(self.plan.retry);
        while attempts.any() && !self.stopped() {
            let error = match self.dialer.dial(self.plan.timeout, None) {
                Ok(link) => {
                    if !self.plan.connect {
                        self.wire = Some(Wire::new(link, !self.streams(), self.plan.size));
                    }
                    break;
                }
                Err(error) if error.status() != Exit::Unavailable => return Err(error),
                Err(error) => error,
            };
            let Some(again) = attempts.failed() else {
                break;
            };
            if !self.plan.quiet {
                notice(format_args!("{error}: {again}"));
            }
            self.waiter.pause(again.pause)?;
        }
        self.begun = Instant::now();
        self.wall = SystemTime::now();
        Ok(())
    }

    fn go(&mut self) -> Result<()> {
        loop {
            let lost = self.probes.expire(self.now());
            if !lost.is_empty() {
                self.lose(lost, format_args!("within {:?}", self.plan.timeout))?;
                if self.streams() {
                    self.hang_up("the connection is given up")?;
                }
            }
            self.settle()?;
            if self.stopped() || self.finished() {
                return Ok(());
            }
            let woken = self.wait()?;
            if self
                .waiter
                .signals()
                .is_some_and(|signals| signals.report())
            {
                self.interim();
            }
            if woken == Woken::Ready {
                self.receive()?;
            }
            if self.due() && !self.stopped() {
                self.send()?;
            }
        }
    }

    /// Whether there is an echo to send, now or later.
    fn more(&self) -> bool {
        match (self.plan.count, self.plan.deadline) {
            (Some(count), None) => self.probes.sent() < count,
            _ => true,
        }
    }

    fn finished(&self) -> bool {
        let passed = |deadline| self.now() >= deadline;
        let enough = match (self.plan.count, self.plan.deadline) {
            (Some(count), Some(_)) => self.tally.received >= count,
            (Some(_), None) => !self.more() && self.probes.out() == 0,
            _ => false,
        };
        enough || self.plan.deadline.is_some_and(passed)
    }

    /// Whether the next echo has to wait for the last.
    fn one_by_one(&self) -> bool {
        self.plan.connect || self.plan.interval.is_zero()
    }

    fn due(&self) -> bool {
        let free = !self.one_by_one() || self.probes.out() == 0;
        self.more() && free && self.now() >= self.next
    }

    fn wait(&self) -> Result<Woken> {
        let free = !self.one_by_one() || self.probes.out() == 0;
        let next = (self.more() && free).then_some(self.next);
        let times = [next, self.probes.next_expiry(), self.plan.deadline];
        let until = times.into_iter().flatten().min();
        let until = until.map(|until| self.begun + until);
        match &self.wire {
            None => self.waiter.wait(&mut [], until),
            Some(wire) => {
                let mut fds = [PollFd::new(wire.as_fd(), wire.events())];
                self.waiter.wait(&mut fds, until)
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        // Late is no reason to send twice as fast.
        self.next = (self.next + self.plan.interval).max(self.now());
        if self.plan.connect {
            self.wire = None;
        }
        if self.wire.is_none()
            && let Err(error) = self.dial()
        {
            return self.no_connection(error);
        }
        let at = self.now();
        let seq = self.probes.send(at);
        self.tally.sent += 1;
        let message = self.payload.bytes(seq);
        match self
            .wire
            .as_mut()
            .map_or(Ok(()), |wire| wire.send(&message))
        {
            Err(gone) => self.gone(gone),
            Ok(()) => Ok(()),
        }
    }

    fn dial(&mut self) -> Result<()> {
        let begun = Instant::now();
        let until = self.plan.deadline.map(|deadline| self.begun + deadline);
        let link = self.dialer.dial(self.plan.timeout, until)?;
        let took = begun.elapsed();
        self.set_up = self.plan.connect.then_some(took);
        if self.plan.connect {
            self.tally.connect.record(took);
        }
        self.wire = Some(Wire::new(link, !self.streams(), self.plan.size));
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        while let Some(echo) = self.probes.settled() {
            if let Some(outage) = self.outages.settled(echo) {
                self.print(outage, false)?;
            }
        }
        Ok(())
    }

    fn outcome(&self) -> Outcome {
        let wanted = match (self.plan.count, self.plan.deadline) {
            (Some(count), Some(_)) => count,
            _ => 1,
        };
        match self.tally.received >= wanted {
            true => Outcome::Alive,
            false => Outcome::Silent,
        }
    }
}

// What comes back: an answer, late or twice, or bytes that are no echo of ours.

impl Ping<'_> {
    fn receive(&mut self) -> Result<()> {
        loop {
            let Some(wire) = &mut self.wire else {
                return Ok(());
            };
            let received = wire.flush().and_then(|()| wire.receive());
            match received {
                Ok(None) => return self.excess(),
                Ok(Some(message)) => self.message(&message)?,
                Err(gone) => self.gone(gone)?,
            }
        }
    }

    fn message(&mut self, message: &[u8]) -> Result<()> {
        let now = self.now();
        let Some(seq) = self.payload.number(message, self.probes.sent()) else {
            return self.corrupted(message.len());
        };
        let (rtt, note) = match self.probes.back(seq, now) {
            Verdict::Answer { rtt, overtook } => {
                self.tally.received += 1;
                self.tally.reordered += u64::from(overtook);
                self.tally.rtt.record(rtt);
                (Some(rtt), if overtook { " (out of order)" } else { "" })
            }
            Verdict::Late { rtt } => {
                self.tally.late += 1;
                (Some(rtt), " (late, counted as lost)")
            }
            Verdict::Duplicate => {
                self.tally.duplicates += 1;
                (None, " (DUP!)")
            }
        };
        self.dialer.answered();
        let set_up = self.set_up.map(Millis);
        let set_up = set_up.map_or(String::new(), |took| format!(" connect={took}"));
        let time = rtt.map_or(String::new(), |rtt| format!(" time={}", Millis(rtt)));
        let peer = self.wire.as_ref().map_or("", |wire| wire.link().peer());
        let line = format!(
            "{} bytes from {peer}: seq={seq}{set_up}{time}{note}",
            message.len()
        );
        self.print(line, false)?;
        if self.plan.connect {
            self.excess()?;
            self.wire = None;
        }
        Ok(())
    }

    /// Bytes that came though all echoes are back.
    fn excess(&mut self) -> Result<()> {
        let rest = self.wire.as_ref().map_or(0, |wire| wire.rest());
        match rest > 0 && self.streams() && self.probes.out() == 0 {
            true => self.corrupted(rest),
            false => Ok(()),
        }
    }

    /// Something came that no echo of ours is. On a stream it stood in the
    /// place of one.
    fn corrupted(&mut self, len: usize) -> Result<()> {
        self.tally.corrupted += 1;
        let (bytes, are) = (
            count(len as u64, "byte"),
            if len == 1 { "is" } else { "are" },
        );
        self.print(format_args!("{bytes} that {are} no echo of ours"), false)?;
        if self.streams() {
            let lost = self.probes.lose_oldest();
            self.lose(lost, ": the content differs")?;
            self.hang_up("the connection is given up")?;
        }
        Ok(())
    }
}

// What is lost: echoes without an answer in time, and those whose connection
// ended or could not be made.

/// After a refusal, however short the interval: a server that is down is not
/// called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

impl Ping<'_> {
    /// The echo that needed a connection is lost.
    fn no_connection(&mut self, error: Error) -> Result<()> {
        let never = self.tally.received == 0 && self.tally.lost == 0;
        match error.errno() {
            // A signal: the echo is due again if the run goes on.
            Some(Errno::EINTR) => return Ok(()),
            None if never => return Err(error),
            _ if error.status() != Exit::Unavailable => return Err(error),
            _ => {}
        }
        self.probes.send(self.now());
        self.tally.sent += 1;
        self.next = self.next.max(self.now() + PAUSE);
        let lost = self.probes.lose_all();
        self.lose(lost, format_args!(": {error}"))
    }

    fn gone(&mut self, gone: Gone) -> Result<()> {
        if self.streams() {
            return self.hang_up(gone);
        }
        self.wire = None;
        if self.dialer.refused() && self.dial().is_ok() {
            return self.send_again();
        }
        self.next = self.next.max(self.now() + PAUSE);
        // The refusal is of one datagram, most likely the first.
        let lost = self.probes.lose_oldest();
        self.lose(lost, format_args!(": {gone}"))
    }

    /// What one address of a datagram server refused, another may answer.
    fn send_again(&mut self) -> Result<()> {
        for seq in self.probes.numbers_out() {
            let message = self.payload.bytes(seq);
            if let Some(wire) = &mut self.wire {
                // A refusal shows again when we receive.
                let _ = wire.send(&message);
            }
        }
        Ok(())
    }

    /// The connection is over, and what is out with it.
    fn hang_up(&mut self, why: impl fmt::Display) -> Result<()> {
        self.wire = None;
        self.next = self.next.max(self.now() + PAUSE);
        let lost = self.probes.lose_all();
        self.lose(lost, format_args!(": {why}"))
    }

    fn lose(&mut self, lost: Vec<u64>, why: impl fmt::Display) -> Result<()> {
        self.tally.lost += lost.len() as u64;
        let why = why.to_string();
        let space = if why.starts_with(':') { "" } else { " " };
        for seq in lost {
            self.print(format_args!("no echo: seq={seq}{space}{why}"), false)?;
        }
        Ok(())
    }
}

// What a ping prints: lines as they come, and the summary.

impl Ping<'_> {
    /// A line, unless only the summary is asked for.
    fn print(&self, line: impl fmt::Display, always: bool) -> Result<()> {
        if self.plan.quiet && !always {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let stamp = match (self.plan.timestamps, now) {
            (true, Ok(now)) => format!("[{}.{:06}] ", now.as_secs(), now.subsec_micros()),
            _ => String::new(),
        };
        put(format_args!("{stamp}{line}\n"))
    }

    /// SIGQUIT: the figures so far, on standard error.
    fn interim(&self) {
        let tally = &self.tally;
        let times = match tally.rtt.is_empty() {
            true => String::new(),
            false => format!(", min/avg/max/mdev = {} ms", tally.rtt.range()),
        };
        let _ = writeln!(io::stderr(), "{tally}{times}");
    }

    /// What it all came to.
    fn summary(&self) -> Result<()> {
        let (server, tally) = (&self.plan.server, &self.tally);
        let end = self.now();
        put(format_args!(
            "--- {server} ping statistics ---\n{tally}, time {}ms\n",
            end.as_millis()
        ))?;
        for (name, times) in [("connect", &tally.connect), ("rtt", &tally.rtt)] {
            if !times.is_empty() {
                put(times.lines(name))?;
            }
        }
        put(self.outages.lines(self.wall, end))
    }
}

/// A time as ping(8) writes it.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

fn put(text: impl fmt::Display) -> Result<()> {
    write!(io::stdout(), "{text}").map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        Error::os("write", "standard output", errno).exit(Exit::Io)
    })
}

// The echoes of a ping: which are out, which came back, which are lost. Pure.

/// Settled echoes remembered, to know a duplicate.
const REMEMBERED: usize = 4096;

/// What became of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Out,
    Answered,
    Lost,
    /// Lost, and then it came.
    Late,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Duration,
    fate: Fate,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The answer to an echo that was out.
    Answer { rtt: Duration, overtook: bool },
    /// The echo was counted as lost already.
    Late { rtt: Duration },
    /// It had been answered already, or is so old that nobody knows.
    Duplicate,
}

/// An echo whose fate is settled, in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settled {
    /// When it was sent.
    at: Duration,
    /// Whether it was answered in time.
    answered: bool,
}

/// All echoes, by number from 1.
struct Probes {
    timeout: Duration,
    list: VecDeque<Probe>,
    /// The number of the first in `list`.
    first: u64,
    /// All before this number are settled and told.
    told: u64,
    out: usize,
    /// The newest that was answered.
    newest: u64,
}

impl Probes {
    /// None yet; each is lost after `timeout`.
    fn new(timeout: Duration) -> Self {
        Probes {
            timeout,
            list: VecDeque::new(),
            first: 1,
            told: 1,
            out: 0,
            newest: 0,
        }
    }

    /// How many were sent.
    fn sent(&self) -> u64 {
        self.first + self.list.len() as u64 - 1
    }

    /// How many are out.
    fn out(&self) -> usize {
        self.out
    }

    /// One is sent: its number.
    fn send(&mut self, at: Duration) -> u64 {
        let fate = Fate::Out;
        self.list.push_back(Probe { at, fate });
        self.out += 1;
        while self.list.len() > REMEMBERED && self.first < self.told {
            self.list.pop_front();
            self.first += 1;
        }
        self.sent()
    }

    /// Number `seq`, which was sent, came back.
    fn back(&mut self, seq: u64, now: Duration) -> Verdict {
        let index = seq.checked_sub(self.first).map(|index| index as usize);
        let Some(probe) = index.and_then(|index| self.list.get_mut(index)) else {
            return Verdict::Duplicate;
        };
        let rtt = now.saturating_sub(probe.at);
        match probe.fate {
            Fate::Out => {
                probe.fate = Fate::Answered;
                self.out -= 1;
                let overtook = seq < self.newest;
                self.newest = self.newest.max(seq);
                Verdict::Answer { rtt, overtook }
            }
            Fate::Lost => {
                probe.fate = Fate::Late;
                Verdict::Late { rtt }
            }
            Fate::Answered | Fate::Late => Verdict::Duplicate,
        }
    }

    /// Loses those that are out for too long; their numbers.
    fn expire(&mut self, now: Duration) -> Vec<u64> {
        let timeout = self.timeout;
        self.lose(|probe| now >= probe.at + timeout)
    }

    /// Loses all that are out, as when their connection breaks.
    fn lose_all(&mut self) -> Vec<u64> {
        self.lose(|_| true)
    }

    /// Loses the one that is out for longest.
    fn lose_oldest(&mut self) -> Vec<u64> {
        let mut first = true;
        self.lose(|_| std::mem::take(&mut first))
    }

    fn lose(&mut self, mut is_lost: impl FnMut(&Probe) -> bool) -> Vec<u64> {
        let skip = (self.told - self.first) as usize;
        let mut lost = Vec::new();
        for (seq, probe) in (self.told..).zip(self.list.iter_mut().skip(skip)) {
            if probe.fate == Fate::Out && is_lost(probe) {
                probe.fate = Fate::Lost;
                self.out -= 1;
                lost.push(seq);
            }
        }
        lost
    }

    /// The numbers of those that are out.
    fn numbers_out(&self) -> Vec<u64> {
        let skip = (self.told - self.first) as usize;
        let left = (self.told..).zip(self.list.iter().skip(skip));
        left.filter(|(_, probe)| probe.fate == Fate::Out)
            .map(|(seq, _)| seq)
            .collect()
    }

    /// When the next is lost, unless it comes.
    fn next_expiry(&self) -> Option<Duration> {
        let skip = (self.told - self.first) as usize;
        let mut left = self.list.iter().skip(skip);
        left.find(|probe| probe.fate == Fate::Out)
            .map(|probe| probe.at + self.timeout)
    }

    /// The next that is settled and has not been told; in the order of sending,
    /// so one that is out holds back those after it.
    fn settled(&mut self) -> Option<Settled> {
        let probe = self.list.get((self.told - self.first) as usize)?;
        if probe.fate == Fate::Out {
            return None;
        }
        self.told += 1;
        Some(Settled {
            at: probe.at,
            answered: probe.fate == Fate::Answered,
        })
    }
}

// The ledger of outages: when it was down, for how long, at what cost. Pure.
//
// An outage lasts from the sending of the first echo that is lost to the
// sending of the next that is answered.

/// Outages listed one by one, the last ones; all are in the totals.
const LISTED: usize = 100;

/// One time that it was down. Times are counted from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    /// When the first echo that was lost had been sent.
    from: Duration,
    /// When the next that was answered had been sent.
    to: Duration,
    /// Echoes lost.
    lost: u64,
}

impl Outage {
    fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// All outages of a run.
#[derive(Debug, Default)]
struct Outages {
    now: Option<Outage>,
    past: VecDeque<Outage>,
    number: u64,
    total: Duration,
    longest: Duration,
}

impl Outages {
    /// The fate of the next echo in the order of sending. Returns the outage
    /// that it ends.
    fn settled(&mut self, echo: Settled) -> Option<Outage> {
        if !echo.answered {
            let from = echo.at;
            let fresh = Outage {
                from,
                to: from,
                lost: 0,
            };
            self.now.get_or_insert(fresh).lost += 1;
            return None;
        }
        let mut over = self.now.take()?;
        over.to = echo.at;
        self.number += 1;
        self.total += over.length();
        self.longest = self.longest.max(over.length());
        self.past.push_back(over);
        if self.past.len() > LISTED {
            self.past.pop_front();
        }
        Some(over)
    }

    /// Lines of the summary: none if it never was down. The run began at
    /// `start` and has lasted until `end`.
    fn lines(&self, start: SystemTime, end: Duration) -> String {
        let at = |time| humantime::format_rfc3339_millis(start + time);
        let mut text = String::new();
        for outage in &self.past {
            text += &format!(
                "down {} for {:.3}s, {} lost\n",
                at(outage.from),
                outage.length().as_secs_f64(),
                echoes(outage.lost)
            );
        }
        let open = self.now.map(|now| Outage { to: end, ..now });
        if let Some(open) = open {
            text += &format!(
                "down {} for {:.3}s so far, {} lost\n",
                at(open.from),
                open.length().as_secs_f64(),
                echoes(open.lost)
            );
        }
        let length = open.map_or(Duration::ZERO, |open| open.length());
        match self.number + u64::from(open.is_some()) {
            0 => text,
            number => format!(
                "{}, {:.3}s in all, longest {:.3}s\n{text}",
                count(number, "outage"),
                (self.total + length).as_secs_f64(),
                self.longest.max(length).as_secs_f64()
            ),
        }
    }
}

/// What is said when an outage is over.
impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.length().as_secs_f64();
        write!(
            f,
            "up again after {seconds:.3}s, {} lost",
            echoes(self.lost)
        )
    }
}

fn echoes(number: u64) -> String {
    match number {
        1 => "1 echo".to_owned(),
        _ => format!("{number} echoes"),
    }
}

// The figures of a ping: counts, and round trip times. Pure.

/// Significant decimal digits of a percentile.
const DIGITS: u8 = 3;
/// Nanoseconds above which a time is not told from another: 13 days.
const LONGEST: u64 = 1 << 50;

/// Durations of one kind, in a memory that does not grow with their number.
#[derive(Clone, Debug)]
struct Times {
    histogram: Histogram<u64>,
    least: u64,
    most: u64,
    sum: f64,
    squares: f64,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            histogram: Histogram::new(DIGITS).expect("3 digits are in its range"),
            least: u64::MAX,
            most: 0,
            sum: 0.0,
            squares: 0.0,
        }
    }
}

impl Times {
    /// One more.
    fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos())
            .unwrap_or(LONGEST)
            .min(LONGEST);
        self.histogram
            .record(nanos)
            .expect("it grows, and LONGEST is in its range");
        self.least = self.least.min(nanos);
        self.most = self.most.max(nanos);
        self.sum += nanos as f64;
        self.squares += (nanos as f64).powi(2);
    }

    /// How many.
    fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// None yet?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `0.042/0.051/0.060/0.005`: minimum, average, maximum and standard
    /// deviation in milliseconds; of at least one.
    fn range(&self) -> String {
        let number = self.len() as f64;
        let average = self.sum / number;
        // Rounding may leave a little less than nothing.
        let variance = (self.squares / number - average.powi(2)).max(0.0);
        format!(
            "{:.3}/{:.3}/{:.3}/{:.3}",
            millis(self.least as f64),
            millis(average),
            millis(self.most as f64),
            millis(variance.sqrt())
        )
    }

    /// The same, and percentiles, as lines of the summary.
    fn lines(&self, name: &str) -> String {
        let at = |quantile| {
            let value = self.histogram.value_at_quantile(quantile);
            // A bucket's upper end may lie beyond the largest.
            millis(value.clamp(self.least, self.most) as f64)
        };
        format!(
            "{name} min/avg/max/mdev = {} ms\n\
             {name} p50/p90/p99/p99.9 = {:.3}/{:.3}/{:.3}/{:.3} ms\n",
            self.range(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999)
        )
    }
}

fn millis(nanos: f64) -> f64 {
    nanos / 1e6
}

/// What a ping came to so far.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Echoes sent.
    sent: u64,
    /// Answered in time, once, as they were sent.
    received: u64,
    /// Not answered in time.
    lost: u64,
    /// Answered again.
    duplicates: u64,
    /// Answered after one that was sent later.
    reordered: u64,
    /// Answered after they were counted as lost.
    late: u64,
    /// Answers that were no echo of ours.
    corrupted: u64,
    /// Round trip times of those received.
    rtt: Times,
    /// Connection set-ups, where each is measured.
    connect: Times,
}

impl Tally {
    /// Lost ones in a hundred of those whose fate is known.
    fn loss(&self) -> f64 {
        match self.lost + self.received {
            0 => 0.0,
            settled => 100.0 * self.lost as f64 / settled as f64,
        }
    }
}

/// The first line of the summary, without the time.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} echoes sent, {} received", self.sent, self.received)?;
        for (number, what) in [
            (self.duplicates, "duplicate"),
            (self.reordered, "out of order"),
            (self.late, "late"),
            (self.corrupted, "corrupted"),
        ] {
            if number > 0 {
                write!(f, ", +{number} {what}")?;
            }
        }
        // As ping(8), which cuts the decimals: 1 lost of 1000 is not 0 here.
        let loss = self.loss();
        match loss.fract() {
            0.0 => write!(f, ", {loss:.0}% loss"),
            _ => write!(f, ", {loss:.3}% loss"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn told(probes: &mut Probes) -> Vec<bool> {
        std::iter::from_fn(|| probes.settled())
            .map(|settled| settled.answered)
            .collect()
    }

    #[test]
    fn each_echo_has_one_fate_and_is_told_in_order() {
        let mut probes = Probes::new(ms(100));
        for at in [0, 10, 20, 30] {
            probes.send(ms(at));
        }
        assert_eq!(probes.next_expiry(), Some(ms(100)));
        let answer = |rtt, overtook| Verdict::Answer { rtt, overtook };
        assert_eq!(probes.back(3, ms(25)), answer(ms(5), false));
        assert_eq!(probes.back(2, ms(26)), answer(ms(16), true));
        assert_eq!(probes.back(3, ms(27)), Verdict::Duplicate);
        assert!(told(&mut probes).is_empty(), "the first is still out");
        assert!(probes.expire(ms(99)).is_empty());
        assert_eq!(probes.expire(ms(100)), [1]);
        assert_eq!(told(&mut probes), [false, true, true]);
        assert_eq!(probes.back(1, ms(150)), Verdict::Late { rtt: ms(150) });
        assert_eq!(probes.back(1, ms(151)), Verdict::Duplicate);
        assert_eq!((probes.out(), probes.sent()), (1, 4));
        assert_eq!(probes.lose_oldest(), [4]);
        assert_eq!(told(&mut probes), [false]);
        assert_eq!(probes.next_expiry(), None);
    }

    #[test]
    fn a_broken_connection_takes_all_that_are_out() {
        let mut probes = Probes::new(ms(100));
        for at in 0..4 {
            probes.send(ms(at));
        }
        probes.back(2, ms(5));
        assert_eq!(probes.numbers_out(), [1, 3, 4]);
        assert_eq!(probes.lose_oldest(), [1]);
        assert_eq!(probes.lose_all(), [3, 4]);
        assert_eq!(probes.out(), 0);
    }

    #[test]
    fn a_long_run_keeps_a_bounded_memory() {
        let mut probes = Probes::new(ms(100));
        for n in 1..=20_000 {
            assert_eq!(probes.send(ms(n)), n);
            probes.back(n, ms(n));
            probes.settled();
        }
        assert!(probes.list.len() <= REMEMBERED + 1);
        assert_eq!(probes.back(3, ms(30_000)), Verdict::Duplicate);
        assert_eq!(probes.sent(), 20_000);
    }

    fn fed(fates: &[(u64, bool)]) -> (Outages, Vec<Outage>) {
        let mut outages = Outages::default();
        let settled = |(at, answered): &(u64, bool)| Settled {
            at: Duration::from_secs(*at),
            answered: *answered,
        };
        let over = fates
            .iter()
            .filter_map(|fate| outages.settled(settled(fate)))
            .collect();
        (outages, over)
    }

    #[test]
    fn an_outage_lasts_from_the_first_loss_to_the_next_answer() {
        let (outages, over) = fed(&[
            (0, true),
            (1, false),
            (2, false),
            (3, true),
            (4, true),
            (5, false),
            (6, true),
        ]);
        let secs = Duration::from_secs;
        assert_eq!(
            over,
            [
                Outage {
                    from: secs(1),
                    to: secs(3),
                    lost: 2
                },
                Outage {
                    from: secs(5),
                    to: secs(6),
                    lost: 1
                }
            ]
        );
        assert_eq!(over[0].to_string(), "up again after 2.000s, 2 echoes lost");
        assert_eq!(
            outages.lines(SystemTime::UNIX_EPOCH, secs(7)),
            "2 outages, 3.000s in all, longest 2.000s\n\
             down 1970-01-01T00:00:01.000Z for 2.000s, 2 echoes lost\n\
             down 1970-01-01T00:00:05.000Z for 1.000s, 1 echo lost\n"
        );
    }

    #[test]
    fn one_that_is_not_over_is_counted_to_the_end() {
        let (outages, over) = fed(&[(2, false), (3, false)]);
        assert_eq!(over, []);
        assert_eq!(
            outages.lines(SystemTime::UNIX_EPOCH, Duration::from_millis(3500)),
            "1 outage, 1.500s in all, longest 1.500s\n\
             down 1970-01-01T00:00:02.000Z for 1.500s so far, 2 echoes lost\n"
        );
        let (none, _) = fed(&[(1, true)]);
        assert_eq!(none.lines(SystemTime::UNIX_EPOCH, Duration::ZERO), "");
    }

    #[test]
    fn many_outages_are_all_counted_and_the_last_listed() {
        let fates: Vec<_> = (0..1000).map(|at| (at, at % 2 == 1)).collect();
        let (outages, over) = fed(&fates);
        assert_eq!(over.len(), 500);
        let lines = outages.lines(SystemTime::UNIX_EPOCH, Duration::from_secs(1000));
        assert_eq!(lines.lines().count(), 1 + LISTED);
        assert!(lines.starts_with("500 outages, 500.000s in all"), "{lines}");
    }

    #[test]
    fn times_are_summed_up_as_ping_does() {
        let mut times = Times::default();
        for millis in [10, 20, 30, 40] {
            times.record(Duration::from_millis(millis));
        }
        assert_eq!(times.range(), "10.000/25.000/40.000/11.180");
        let mut one = Times::default();
        one.record(Duration::from_nanos(123_456));
        assert_eq!(
            one.lines("rtt"),
            "rtt min/avg/max/mdev = 0.123/0.123/0.123/0.000 ms\n\
             rtt p50/p90/p99/p99.9 = 0.123/0.123/0.123/0.123 ms\n"
        );
        one.record(Duration::MAX);
        assert_eq!(one.len(), 2);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut times = Times::default();
        for micros in (1..=1000).rev() {
            times.record(Duration::from_micros(micros));
        }
        let lines = times.lines("rtt");
        assert!(lines.contains("= 0.500/0.900/0.990/0.999 ms"), "{lines}");
    }

    #[test]
    fn only_what_happened_is_named_and_a_small_loss_is_not_none() {
        let mut tally = Tally {
            sent: 1000,
            received: 999,
            lost: 1,
            ..Tally::default()
        };
        let line = "1000 echoes sent, 999 received, 0.100% loss";
        assert_eq!(tally.to_string(), line);
        tally = Tally {
            sent: 5,
            received: 2,
            lost: 2,
            duplicates: 1,
            reordered: 2,
            ..Tally::default()
        };
        assert_eq!(
            tally.to_string(),
            "5 echoes sent, 2 received, +1 duplicate, +2 out of order, 50% loss",
            "one is still on its way"
        );
        assert!(Tally::default().to_string().ends_with(" 0% loss"));
    }
}

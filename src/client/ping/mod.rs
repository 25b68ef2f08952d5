//! Ping: an echo every so often, its round trip time, and what was lost.
//!
//! One loop: settle, wait, receive, send. What is out and what is lost is decided
//! in [`probes`]; the wire is [`super::wire`]. A connection that is lost is made again for the next echo,
//! and that it cannot be made is the loss of that echo.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::PollFd;

use crate::addr::Target;
use crate::client::dial::{Attempts, Dialer, Retry};
use crate::client::ping::probes::{Outages, Probes, Tally, Verdict};
use crate::client::wait::{Waiter, Woken};
use crate::client::wire::{Gone, Payload, Wire};
use crate::client::{count, notice, session_number};
use crate::error::{Error, Exit, Result};

pub mod probes;

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

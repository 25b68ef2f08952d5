//! Ping: an echo every so often, its round trip time, and what was lost.
//!
//! One loop: settle, wait, receive (`answers`), send. What is out and what is
//! lost is decided in [`super::probes`], and told in `losses`; the wire is
//! [`super::wire`]. A connection that is lost is made again for the next echo,
//! and that it cannot be made is the loss of that echo.

use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::PollFd;

use super::dial::Dialer;
use super::outage::Outages;
use super::payload::Payload;
use super::probes::Probes;
use super::retry::{Attempts, Retry};
use super::server::Server;
use super::stats::Tally;
use super::wait::{Waiter, Woken};
use super::wire::Wire;
use super::{notice, session_number};
use crate::error::{Exit, Result};

mod answers;
mod losses;
mod report;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub server: Server,
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
        !self.plan.server.datagrams()
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

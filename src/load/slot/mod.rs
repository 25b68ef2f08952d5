//! One connection of the client's side: what was sent and what came back.
//!
//! Sockets never block: `readiness` says what may be tried, and `pump` tries it,
//! and verifies every byte as it arrives. Says what went wrong as a [`Fault`];
//! counts nothing.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::vec;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};

use crate::error::Exit;
use crate::load::fault::{Fault, Outcome};
use crate::load::pattern::Pattern;
use crate::load::plan::Mode;
use crate::load::socket::{Dialled, dial};
use crate::load::target::{Endpoint, Target};

mod faults;
mod io;
mod pump;
mod readiness;

use faults::fault;
pub use io::Io;
pub use pump::Pumped;
use readiness::Readiness;

/// The most in one read; more than any datagram.
const READ: usize = 256 << 10;
/// The most in one write.
const WRITE: u64 = 256 << 10;

/// Messages remembered, to know a datagram that comes twice.
const REMEMBERED: usize = 16;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is on its way: it waits for its time, or is not connected.
    Idle,
    /// It is being connected, before there is anything to send.
    Open,
    /// A message is on its way.
    Echo,
    /// Nothing more is sent; end of file is to come.
    Finish,
    /// It is over.
    Closed,
}

/// One connection, or the place for one.
pub struct Slot {
    /// Where it is.
    pub phase: Phase,
    /// When its unit began, or was due.
    pub begun: Instant,
    /// When connect(2) was called.
    pub dialled: Instant,
    /// It is connected since then, and nobody has noted it yet.
    pub fresh: bool,
    /// When it is late.
    pub deadline: Instant,
    /// Bytes of the message; as many as the time allows, in a stream.
    pub size: u64,
    /// Bytes of it that were sent.
    pub sent: u64,
    /// Bytes of it that are back.
    pub back: u64,
    /// Messages begun so far.
    pub nth: u64,
    fd: Option<OwnedFd>,
    pattern: Pattern,
    /// The messages before, the last first, and their sizes: what a network
    /// delivers twice is one of them.
    answered: VecDeque<(Pattern, u64)>,
    rest: vec::IntoIter<Endpoint>,
    datagram: bool,
    connecting: bool,
    ready: Readiness,
}

impl Slot {
    /// A place for a connection.
    pub fn new(target: &Target, now: Instant) -> Self {
        Slot {
            phase: Phase::Idle,
            begun: now,
            dialled: now,
            fresh: false,
            deadline: now,
            size: 0,
            sent: 0,
            back: 0,
            nth: 0,
            fd: None,
            pattern: Pattern::new(0, 0),
            answered: VecDeque::new(),
            rest: Vec::new().into_iter(),
            datagram: target.is_datagram(),
            connecting: false,
            ready: Readiness::default(),
        }
    }

    /// The open socket.
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Is it open, to the end of the handshake?
    pub fn is_connected(&self) -> bool {
        self.fd.is_some() && !self.connecting
    }

    /// Begins a message of `size` bytes on the open connection, if there is one,
    /// or on a new one.
    ///
    /// # Errors
    /// Nothing can be connected to.
    pub fn start(&mut self, io: &mut Io, pattern: Pattern, size: u64) -> Result<(), Fault> {
        self.phase = Phase::Echo;
        if self.datagram && self.fd.is_some() {
            self.answered.push_front((self.pattern, self.size));
            self.answered.truncate(REMEMBERED);
        }
        (self.pattern, self.size) = (pattern, size);
        (self.sent, self.back) = (0, 0);
        self.nth += 1;
        self.deadline = io.now + io.plan.timeout;
        match self.fd.is_some() {
            true => Ok(()),
            false => self.connect(io),
        }
    }

    /// Connects, with nothing to send yet.
    ///
    /// # Errors
    /// Nothing can be connected to.
    pub fn open(&mut self, io: &mut Io) -> Result<(), Fault> {
        self.phase = Phase::Open;
        self.deadline = io.now + io.plan.timeout;
        self.connect(io)
    }

    fn connect(&mut self, io: &mut Io) -> Result<(), Fault> {
        let target = &io.plan.target;
        let endpoints = target.resolve().map_err(|error| Fault {
            outcome: match error.status() {
                Exit::Unavailable => Outcome::Refused,
                _ => Outcome::Other,
            },
            error,
        })?;
        self.rest = endpoints.into_iter();
        // A resolver may have taken its time, which is nobody's latency here.
        self.dialled = Instant::now();
        self.redial(io, Errno::EADDRNOTAVAIL)
    }

    /// Calls the next address, `last` being what the one before said.
    fn redial(&mut self, io: &mut Io, mut last: Errno) -> Result<(), Fault> {
        self.close();
        let plan = io.plan;
        let delay = plan.mode == Mode::Crr && *plan.size.end() <= WRITE;
        while let Some(endpoint) = self.rest.as_slice().first() {
            io.dialled += 1;
            match dial(endpoint, (io.dialled, plan.sources), delay) {
                // The same address again, when the caller's patience allows.
                Ok((_, Dialled::Full)) => return Ok(()),
                Ok((fd, dialled)) => {
                    self.rest.next();
                    self.fd = Some(fd);
                    self.connecting = dialled == Dialled::Begun;
                    self.fresh = !self.connecting;
                    // A message is tried at once: that it goes out tells that
                    // the connection is made. Without one, epoll tells.
                    self.ready.writable = self.fresh || self.phase != Phase::Open;
                    return Ok(());
                }
                Err(errno) => {
                    self.rest.next();
                    last = errno;
                }
            }
        }
        Err(fault("connect", &plan.target, last))
    }

    /// Notes what epoll said.
    pub fn event(&mut self, flags: EpollFlags) {
        self.ready.event(flags);
    }

    /// The events to ask epoll for, if it does not know; true the first time.
    pub fn interest(&mut self) -> Option<(EpollFlags, bool)> {
        self.fd.as_ref()?;
        self.ready.interest()
    }

    /// Says that nothing more comes from here.
    ///
    /// # Errors
    /// shutdown(2)'s.
    pub fn finish(&mut self, io: &Io) -> Result<(), Fault> {
        self.phase = Phase::Finish;
        self.deadline = io.now + io.plan.timeout;
        match &self.fd {
            Some(fd) => shutdown(fd.as_raw_fd(), Shutdown::Write)
                .map_err(|errno| self.broken("shutdown", io, errno)),
            None => Ok(()),
        }
    }

    /// This side could do nothing for a time of `held`, which is not the
    /// server's: all that has begun, began later.
    pub fn held_up(&mut self, held: Duration) {
        self.begun += held;
        self.dialled += held;
        self.deadline += held;
    }

    /// Closes it, whatever is on its way.
    pub fn close(&mut self) {
        self.fd = None;
        self.answered.clear();
        self.ready = Readiness::default();
        (self.connecting, self.fresh) = (false, false);
    }
}

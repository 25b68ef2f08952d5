//! One connection of the client's side: its socket, made, bound and on its way to
//! the server; what was sent and what came back.
//!
//! Sockets never block: `Readiness` says what may be tried, and `pump` tries it,
//! and verifies every byte as it arrives. Says what went wrong as a [`Fault`];
//! counts nothing.

use std::collections::VecDeque;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::vec;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind,
    connect, getsockname, getsockopt, recv, send, setsockopt, shutdown, sockopt,
};

use crate::addr::{Addr, Endpoint, Target};
use crate::error::{Error, Exit};
use crate::load::plan::{Mode, Pattern, Plan};
use crate::load::run::{Fault, Outcome};

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
            match dial(endpoint, self.datagram, (io.dialled, plan.sources), delay) {
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

// A turn of a connection: bytes go out and come back, each verified, until it
// must wait.

/// Reads and writes before other connections have their turn.
const TURNS: usize = 16;

/// How far a turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Until the next event.
    Blocked,
    /// Until the others had a turn.
    Busy,
    /// Until a Unix server has room in its queue.
    Full,
    /// It is connected, and there is nothing to send yet.
    Open,
    /// The whole message is back.
    Back,
    /// End of file, where it belongs.
    Ended,
}

impl Slot {
    /// Sends and receives until it must wait.
    ///
    /// # Errors
    /// How the unit failed; the connection is then of no more use.
    pub fn pump(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        if self.phase == Phase::Finish {
            return self.expect_end(io);
        }
        if self.fd.is_none() {
            self.redial(io, Errno::EAGAIN)?;
            if self.fd.is_none() {
                return Ok(Pumped::Full);
            }
        }
        if self.phase == Phase::Open {
            return self.open_up(io);
        }
        let window = match io.plan.mode {
            Mode::Stream => io.plan.window,
            _ => u64::MAX,
        };
        for _ in 0..TURNS {
            let room = self.sent < self.size && self.sent - self.back < window;
            let sends = self.ready.writable && room;
            if sends {
                self.send(io)?;
            }
            let receives = self.ready.readable && (self.back < self.sent || self.ready.hung_up);
            if receives {
                self.receive(io)?;
            }
            if self.back == self.size {
                return Ok(Pumped::Back);
            }
            if !sends && !receives {
                return Ok(Pumped::Blocked);
            }
        }
        Ok(Pumped::Busy)
    }

    fn open_up(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        while self.connecting && self.ready.writable {
            let fd = self.fd.as_ref().expect("it is connecting");
            let errno =
                getsockopt(fd, sockopt::SocketError).map_or_else(|errno| errno, Errno::from_raw);
            match errno {
                Errno::UnknownErrno => (self.connecting, self.fresh) = (false, true),
                errno => self.redial(io, errno)?,
            }
        }
        Ok(match self.connecting {
            true => Pumped::Blocked,
            false => Pumped::Open,
        })
    }

    fn send(&mut self, io: &mut Io) -> Result<(), Fault> {
        let lead = self.sent % 8;
        let most = (*io.plan.size.end()).min(WRITE);
        let len = (self.size - self.sent).min(most);
        let part = &mut io.out[..(lead + len) as usize];
        self.pattern.fill(self.sent - lead, part);
        let part = &part[lead as usize..];
        let fd = self.fd.as_ref().expect("a message is sent on an open one");
        match send(fd.as_raw_fd(), part, MsgFlags::MSG_NOSIGNAL) {
            Ok(done) => {
                // A short write: the buffer is full until epoll says more.
                self.ready.writable = done == part.len();
                self.sent += done as u64;
                io.sent += done as u64;
                self.deadline = io.now + io.plan.timeout;
                if self.connecting {
                    self.connecting = false;
                    self.fresh = true;
                }
            }
            Err(Errno::EAGAIN) => self.ready.writable = false,
            Err(Errno::EINTR) => {}
            Err(errno) if self.connecting => self.redial(io, errno)?,
            Err(errno) => return Err(self.broken("write", io, errno)),
        }
        Ok(())
    }

    fn receive(&mut self, io: &mut Io) -> Result<(), Fault> {
        let len = match self.read(io)? {
            None => return Ok(()),
            Some(0) if !self.datagram => {
                let size = match io.plan.mode {
                    Mode::Stream => self.sent,
                    _ => self.size,
                };
                let hint = format!("end of file after {} of {size} bytes", self.back);
                return Err(self.wrong(io, Outcome::Short, Exit::Io, hint));
            }
            Some(len) => len,
        };
        if self.datagram && self.is_second(len, io) {
            io.duplicates += 1;
            // The answer may stand behind it, and is announced once.
            self.ready.readable = true;
            return Ok(());
        }
        if len as u64 > self.sent - self.back {
            return Err(self.corrupt(io, "more came back than was sent"));
        }
        let got = &io.got[..len];
        if let Some(at) = self.pattern.mismatch(self.back, got, &mut io.want) {
            let size = self.size;
            let hint = match io.plan.mode {
                Mode::Stream => format!("byte {at} differs"),
                _ => format!("byte {at} of {size} differs"),
            };
            return Err(self.corrupt(io, hint));
        }
        if self.datagram && (len as u64) < self.size {
            let hint = format!("a datagram of {len} for {} bytes", self.size);
            return Err(self.wrong(io, Outcome::Short, Exit::Io, hint));
        }
        self.back += len as u64;
        io.received += len as u64;
        self.deadline = io.now + io.plan.timeout;
        Ok(())
    }

    /// Is what came no answer to this message, but one more to another?
    fn is_second(&self, len: usize, io: &mut Io) -> bool {
        let Io { got, want, .. } = io;
        let got = &got[..len];
        let mut is = |pattern: &Pattern, size: u64| {
            len as u64 == size && pattern.mismatch(0, got, want).is_none()
        };
        !is(&self.pattern, self.size)
            && self
                .answered
                .iter()
                .any(|(pattern, size)| is(pattern, *size))
    }

    fn expect_end(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        if !self.ready.readable {
            return Ok(Pumped::Blocked);
        }
        match self.read(io)? {
            None => Ok(Pumped::Blocked),
            Some(0) => Ok(Pumped::Ended),
            Some(_) => Err(self.corrupt(io, "more came back than was sent")),
        }
    }

    fn read(&mut self, io: &mut Io) -> Result<Option<usize>, Fault> {
        let fd = self.fd.as_ref().expect("only an open one is read");
        match recv(fd.as_raw_fd(), &mut io.got, MsgFlags::empty()) {
            Ok(len) => {
                // What is short was all there was, see epoll(7); end of file
                // may still stand behind it, and is announced once.
                self.ready.readable = (len == READ || self.ready.hung_up) && !self.datagram;
                Ok(Some(len))
            }
            Err(Errno::EAGAIN) => {
                self.ready.readable = false;
                Ok(None)
            }
            Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(self.broken("read", io, errno)),
        }
    }
}

// What went wrong on a connection, as a [`Fault`]: what it says of the server,
// and the same for people.

impl Slot {
    /// What it waits for too long.
    pub fn late(&self, io: &Io) -> Fault {
        let op = match self.phase {
            _ if !self.is_connected() => "connect",
            Phase::Echo if !self.ready.writable => "write",
            _ => "read",
        };
        let fault = fault(op, &io.plan.target, Errno::ETIMEDOUT);
        match io.plan.target.addr() {
            // A longer wait brings back nothing that was dropped.
            Addr::Udp { .. } if op == "read" => Fault {
                error: fault.error.hint(
                    "the datagram or its answer was lost, or is not answered: \
                     if this is echod, see its --udp-rate",
                ),
                ..fault
            },
            _ => fault,
        }
    }

    fn broken(&self, op: &str, io: &Io, errno: Errno) -> Fault {
        fault(op, &io.plan.target, errno)
    }

    fn corrupt(&self, io: &Io, what: impl Display) -> Fault {
        self.wrong(io, Outcome::Corrupt, Exit::Mismatch, what)
    }

    fn wrong(&self, io: &Io, outcome: Outcome, exit: Exit, what: impl Display) -> Fault {
        let subject = format!("read {}", io.plan.target);
        Fault {
            outcome,
            error: Error::usage(subject, what).exit(exit),
        }
    }
}

/// Names a failed call. What this side lacks comes with what to do about it.
fn fault(op: &str, target: &Target, errno: Errno) -> Fault {
    let error = Error::os(op, target, errno);
    let error = match errno {
        Errno::ETIMEDOUT => error.hint("--timeout allows more"),
        Errno::EMFILE | Errno::ENFILE => error.hint("raise ulimit -n, or use fewer connections"),
        Errno::EADDRNOTAVAIL => error.hint("no source port is left, or no such address is here"),
        Errno::EMSGSIZE => error.hint("no datagram is that long: a smaller -s"),
        _ => error,
    };
    Fault {
        outcome: Outcome::of(errno),
        error,
    }
}

// What the connections of one thread work with: the time, the buffers, and the
// bytes that they moved.

/// What the connections of one thread work with.
pub struct Io<'a> {
    /// What is meant.
    pub plan: &'a Plan,
    /// When the thread woke, or later.
    pub now: Instant,
    /// Bytes sent since the thread last took them.
    pub sent: u64,
    /// Bytes received and verified since the thread last took them.
    pub received: u64,
    /// Datagrams that had been answered before.
    pub duplicates: u64,
    /// Attempts to connect, for `dial`.
    pub dialled: u64,
    out: Vec<u8>,
    got: Vec<u8>,
    want: Vec<u8>,
}

impl<'a> Io<'a> {
    /// Memory for the messages of `plan`.
    pub fn new(plan: &'a Plan) -> Self {
        Io {
            plan,
            now: Instant::now(),
            sent: 0,
            received: 0,
            duplicates: 0,
            dialled: 0,
            out: vec![0; (*plan.size.end()).min(WRITE) as usize + 8],
            got: vec![0; READ],
            want: vec![0; READ + 8],
        }
    }
}

// What may be tried on a socket. Events are edge-triggered: a flag stays until
// a short read or EAGAIN clears it, see epoll(7).

/// What epoll said of one socket, and what it was asked.
#[derive(Default)]
struct Readiness {
    /// A read may be tried.
    readable: bool,
    /// A write may be tried.
    writable: bool,
    /// Nothing more will come after what is there: the end, or an error.
    hung_up: bool,
    registered: Option<EpollFlags>,
}

impl Readiness {
    /// Notes what epoll said.
    fn event(&mut self, flags: EpollFlags) {
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let ended = over | EpollFlags::EPOLLRDHUP;
        self.readable |= flags.intersects(EpollFlags::EPOLLIN | ended);
        self.writable |= flags.intersects(EpollFlags::EPOLLOUT | over);
        self.hung_up |= flags.intersects(ended);
    }

    /// The events to ask epoll for, if it does not know; true the first time.
    fn interest(&mut self) -> Option<(EpollFlags, bool)> {
        let mut want = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        // Only where a write was refused: a Unix socket reports room each time
        // its peer reads.
        if !self.writable {
            want |= EpollFlags::EPOLLOUT;
        }
        let known = self.registered;
        if known.is_some_and(|known| known.contains(want)) {
            return None;
        }
        self.registered = Some(want);
        Some((want, known.is_none()))
    }
}

// A socket: made, bound and on its way to the server, never blocking.

/// How far a connect came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialled {
    /// It is made.
    Connected,
    /// It is under way, or made: a write tells.
    Begun,
    /// A Unix server's queue is full: try again, there is nothing to wait for.
    Full,
}

/// Begins to connect. `spread` is which attempt this is, and over how many
/// source addresses a loopback server's clients spread; `delay` leaves Nagle's
/// algorithm on, which does no harm to a message that is one write.
///
/// # Errors
/// Any errno of socket(2), setsockopt(2), bind(2) and connect(2).
fn dial(
    endpoint: &Endpoint,
    datagram: bool,
    (nth, sources): (u64, u64),
    delay: bool,
) -> Result<(OwnedFd, Dialled), Errno> {
    let family = match endpoint {
        Endpoint::Inet(SocketAddr::V4(_)) => AddressFamily::Inet,
        Endpoint::Inet(SocketAddr::V6(_)) => AddressFamily::Inet6,
        Endpoint::Unix(_) => AddressFamily::Unix,
    };
    let kind = match datagram {
        true => SockType::Datagram,
        false => SockType::Stream,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(family, kind, flags, None)?;
    let result = match endpoint {
        Endpoint::Inet(addr) => {
            if !datagram && !delay {
                setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
            }
            if let Some(source) = source(addr, nth, sources) {
                // The port is chosen by connect(2), which knows the peer and so
                // may share a port that is in use towards another; see ip(7).
                setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
                bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
            }
            connect(fd.as_raw_fd(), &SockaddrStorage::from(*addr))
        }
        Endpoint::Unix(addr) => {
            if datagram {
                // Without a name nobody could answer: this asks for one; see
                // "Autobind" in unix(7).
                bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
            }
            connect(fd.as_raw_fd(), addr)
        }
    };
    match result {
        Ok(()) => Ok((fd, Dialled::Connected)),
        Err(Errno::EINPROGRESS | Errno::EINTR) => Ok((fd, Dialled::Begun)),
        Err(Errno::EAGAIN) if family == AddressFamily::Unix => Ok((fd, Dialled::Full)),
        Err(errno) => Err(errno),
    }
}

/// The address to call a loopback IPv4 server from, the `nth` time: each has
/// its own ephemeral ports, so those in TIME-WAIT are not missed.
fn source(server: &SocketAddr, nth: u64, sources: u64) -> Option<SocketAddrV4> {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() && sources > 1 => {
            let host = 1 + (nth % sources) as u8;
            Some(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0))
        }
        _ => None,
    }
}

/// A client's own address, `-` if it has none.
pub fn local(fd: &OwnedFd) -> String {
    let unknown = || "-".to_owned();
    let Ok(name) = getsockname::<SockaddrStorage>(fd.as_raw_fd()) else {
        return unknown();
    };
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) if v4.port() != 0 => v4.to_string(),
        (_, Some(v6)) if v6.port() != 0 => format!("[{}]:{}", v6.ip(), v6.port()),
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_servers_are_called_from_many_addresses() {
        for (server, nth, sources, from) in [
            ("127.0.0.1:7", 0, 8, Some("127.0.0.1:0")),
            ("127.0.0.1:7", 7, 8, Some("127.0.0.8:0")),
            ("127.9.9.9:7", 8, 8, Some("127.0.0.1:0")),
            ("127.0.0.1:7", 249, 250, Some("127.0.0.250:0")),
            ("127.0.0.1:7", 1, 1, None),
            ("192.0.2.1:7", 1, 8, None),
            ("[::1]:7", 1, 8, None),
        ] {
            let from = from.map(|from| from.parse().unwrap());
            let server = server.parse().unwrap();
            assert_eq!(source(&server, nth, sources), from, "{server}");
        }
    }
}

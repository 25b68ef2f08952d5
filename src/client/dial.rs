//! Connecting: every address of a server in turn, resolved again each time; and
//! when to try again.
//!
//! A [`Link`] is a connected socket that does not block. A datagram socket is
//! connected too, so that it takes nobody else's answer; that a server is
//! absent shows there only when it is asked, so the caller says
//! [`Dialer::refused`] and the next dial begins with the next address.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect,
    getpeername, getsockname, getsockopt, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::addr::{Endpoint, Target};
use crate::client::wait::{Waiter, Woken};
use crate::error::{Error, Exit, Result};

/// A connected, non-blocking socket.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    peer: String,
}

impl Link {
    /// The address that answered: `127.0.0.1:7777`, or the server's own name.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Ends our side.
    ///
    /// # Errors
    /// shutdown(2)'s: the connection is gone.
    pub fn half_close(&self) -> Result<(), Errno> {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes connections to one server.
pub struct Dialer<'a> {
    server: &'a Target,
    waiter: &'a Waiter,
    /// Which of a datagram server's addresses is next.
    turn: usize,
    /// How many of them refused, one after the other.
    refused: usize,
    /// How many there were.
    known: usize,
}

impl<'a> Dialer<'a> {
    /// Nothing is connected yet.
    pub fn new(server: &'a Target, waiter: &'a Waiter) -> Self {
        Dialer {
            server,
            waiter,
            turn: 0,
            refused: 0,
            known: 1,
        }
    }

    /// Connects to the first address that answers, each within `each`, and
    /// all of them before `until`: an address that is silent leaves the others
    /// their share.
    ///
    /// # Errors
    /// The server cannot be reached (69), or this side cannot go on (71).
    pub fn dial(&mut self, each: Duration, until: Option<Instant>) -> Result<Link> {
        let mut endpoints = self.server.resolve()?;
        self.known = endpoints.len();
        let first = self.turn % endpoints.len();
        endpoints.rotate_left(first);
        let mut tried = Vec::new();
        let mut last = Errno::EADDRNOTAVAIL;
        for (n, endpoint) in endpoints.iter().enumerate() {
            let share = until.map(|until| {
                let left = until.saturating_duration_since(Instant::now());
                left / (endpoints.len() - n) as u32
            });
            let limit = Instant::now() + share.map_or(each, |share| share.min(each));
            match self.open(endpoint, limit) {
                Ok(fd) => {
                    let peer = match endpoint {
                        Endpoint::Inet(addr) => addr.to_string(),
                        Endpoint::Unix(_) => self.server.to_string(),
                    };
                    return Ok(Link { fd, peer });
                }
                Err(errno) => last = errno,
            }
            if let Endpoint::Inet(addr) = endpoint {
                tried.push(addr.to_string());
            }
            if last == Errno::EINTR {
                break;
            }
            self.turn += 1;
        }
        Err(explain(self.server, last, &tried))
    }

    /// The address that was dialled last refused a datagram. True if another
    /// has not been asked since the last [`Dialer::answered`].
    pub fn refused(&mut self) -> bool {
        self.turn += 1;
        self.refused += 1;
        self.refused < self.known
    }

    /// The address that was dialled last answered.
    pub fn answered(&mut self) {
        self.refused = 0;
    }

    fn open(&self, endpoint: &Endpoint, until: Instant) -> Result<OwnedFd, Errno> {
        let kind = match self.server.is_datagram() {
            true => SockType::Datagram,
            false => SockType::Stream,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match endpoint {
            Endpoint::Unix(addr) => {
                let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
                open_unix(&fd, kind, addr, until)?;
                Ok(fd)
            }
            Endpoint::Inet(addr) => {
                let family = match addr {
                    SocketAddr::V4(_) => AddressFamily::Inet,
                    SocketAddr::V6(_) => AddressFamily::Inet6,
                };
                let fd = socket(family, kind, flags, None)?;
                if kind == SockType::Stream {
                    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
                }
                match connect(fd.as_raw_fd(), &SockaddrStorage::from(*addr)) {
                    Err(Errno::EINPROGRESS) => self.finish(&fd, until)?,
                    done => done?,
                }
                not_ourselves(&fd)?;
                Ok(fd)
            }
        }
    }

    fn finish(&self, fd: &OwnedFd, until: Instant) -> Result<(), Errno> {
        let woken = self
            .waiter
            .one(fd.as_fd(), PollFlags::POLLOUT, Some(until))
            .map_err(|error| error.errno().unwrap_or(Errno::EINVAL))?;
        match woken {
            Woken::Late => Err(Errno::ETIMEDOUT),
            Woken::Signal => Err(Errno::EINTR),
            Woken::Ready => match getsockopt(fd, sockopt::SocketError)? {
                0 => Ok(()),
                errno => Err(Errno::from_raw(errno)),
            },
        }
    }
}

/// A non-blocking connect(2) to a Unix socket whose queue is full fails at
/// once, so this one waits, as long as SO_SNDTIMEO says (`socket(7)`).
fn open_unix(fd: &OwnedFd, kind: SockType, addr: &UnixAddr, until: Instant) -> Result<(), Errno> {
    if kind == SockType::Datagram {
        // An abstract name of the kernel's choice, for the answers: unix(7).
        bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
    }
    let left = until.saturating_duration_since(Instant::now());
    // A time of 0 would be for ever.
    let left = left.max(Duration::from_millis(1));
    let left = TimeVal::new(left.as_secs() as i64, left.subsec_micros().into());
    setsockopt(fd, sockopt::SendTimeout, &left)?;
    connect(fd.as_raw_fd(), addr).map_err(|errno| match errno {
        Errno::EAGAIN => Errno::ETIMEDOUT,
        errno => errno,
    })?;
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// The kernel may give a client the very port it calls, where nobody listens,
/// and connect it to itself: an echo that proves nothing.
fn not_ourselves(fd: &OwnedFd) -> Result<(), Errno> {
    let ours: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    match getpeername::<SockaddrStorage>(fd.as_raw_fd()) {
        Ok(theirs) if theirs == ours => Err(Errno::ECONNREFUSED),
        // A peer that is gone already is for the caller to find.
        _ => Ok(()),
    }
}

fn explain(server: &Target, errno: Errno, tried: &[String]) -> Error {
    let error = Error::os("connect", server, errno);
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => error,
        Errno::EACCES | Errno::EPERM => error.exit(Exit::NoPermission),
        _ if tried.len() > 1 => {
            let (number, all) = (tried.len(), tried.join(", "));
            error
                .hint(format_args!("{number} addresses tried: {all}"))
                .exit(Exit::Unavailable)
        }
        _ => error.exit(Exit::Unavailable),
    }
}

// When to try again. Pure.
//
// Failures are counted from the last success on: a server that accepts and
// closes at once, again and again, is not a success.

/// The longest pause of `forever`, unless the first is longer.
const CAP: Duration = Duration::from_secs(60);

/// The shortest: a server that is not there is not called in a hot loop.
const FLOOR: Duration = Duration::from_millis(1);

/// How often and how soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often after the first attempt; `None` is for ever.
    pub limit: Option<u32>,
    /// The pause before the next attempt; doubled each time when for ever.
    pub interval: Duration,
}

/// The failures since the last success.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    retry: Retry,
    failed: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// The pause before it.
    pub pause: Duration,
    /// Which retry it is, from 1.
    pub nth: u32,
    /// Of how many.
    pub of: Option<u32>,
}

impl Attempts {
    /// None so far.
    pub fn new(retry: Retry) -> Self {
        Attempts { retry, failed: 0 }
    }

    /// An attempt failed: is there another?
    pub fn failed(&mut self) -> Option<Again> {
        if self.retry.limit.is_some_and(|limit| self.failed >= limit) {
            return None;
        }
        let doublings = match self.retry.limit {
            None => self.failed,
            Some(_) => 0,
        };
        self.failed = self.failed.saturating_add(1);
        Some(Again {
            pause: self.pause(doublings),
            nth: self.failed,
            of: self.retry.limit,
        })
    }

    /// Something came back: the count begins anew.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Whether a connection that is lost is made again.
    pub fn any(&self) -> bool {
        self.retry.limit != Some(0)
    }

    fn pause(&self, doublings: u32) -> Duration {
        let interval = self.retry.interval.max(FLOOR);
        let doubled = interval.saturating_mul(2u32.saturating_pow(doublings));
        doubled.min(interval.max(CAP))
    }
}

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "retry {}", self.nth)?;
        if let Some(of) = self.of {
            write!(f, " of {of}")?;
        }
        write!(f, " in {:?}", self.pause)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn server(text: &str) -> Target {
        text.parse().expect(text)
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_name_is_tried_at_all_its_addresses() {
        // On most machines localhost is ::1 first, where this does not listen.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = server(&format!("localhost:{port}"));
        let waiter = Waiter::steady();
        let link = Dialer::new(&server, &waiter).dial(SOON, None).unwrap();
        assert_eq!(link.peer(), format!("127.0.0.1:{port}"));
    }

    #[test]
    fn nobody_there_is_status_69() {
        let listener = TcpListener::bind("127.213.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        for text in [
            format!("127.213.0.1:{port}"),
            "unix:@echoc-test-nobody".to_owned(),
            "unixgram:@echoc-test-nobody".to_owned(),
            "unix:/nonexistent/x".to_owned(),
        ] {
            let (server, waiter) = (server(&text), Waiter::steady());
            let error = Dialer::new(&server, &waiter).dial(SOON, None).unwrap_err();
            assert_eq!(error.status(), Exit::Unavailable, "{error}");
        }
    }

    #[test]
    fn an_error_names_every_address_of_a_name() {
        let tried = ["[::1]:7".to_owned(), "127.0.0.1:7".to_owned()];
        let error = explain(&server("h:7"), Errno::ECONNREFUSED, &tried);
        assert_eq!(
            error.to_string(),
            "connect tcp:h:7: Connection refused (ECONNREFUSED): \
             2 addresses tried: [::1]:7, 127.0.0.1:7"
        );
    }

    #[test]
    fn a_datagram_server_has_a_turn_for_each_address() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let (server, waiter) = (server(&format!("udp:127.0.0.1:{port}")), Waiter::steady());
        let mut dialer = Dialer::new(&server, &waiter);
        dialer.dial(SOON, None).unwrap();
        assert!(!dialer.refused(), "there is one address");
        dialer.known = 2;
        dialer.answered();
        assert!(dialer.refused());
        assert!(!dialer.refused());
    }

    #[test]
    fn a_socket_connected_to_itself_is_found_out() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let fd = OwnedFd::from(socket);
        assert_eq!(not_ourselves(&fd), Err(Errno::ECONNREFUSED));
    }

    fn pauses(retry: Retry, count: usize) -> Vec<u64> {
        let mut attempts = Attempts::new(retry);
        let all = std::iter::from_fn(|| attempts.failed()).take(count);
        all.map(|again| again.pause.as_secs()).collect()
    }

    #[test]
    fn a_number_of_times_is_at_a_fixed_pace_and_for_ever_slows_down() {
        let secs = Duration::from_secs;
        for (limit, interval, expected) in [
            (Some(0), 1, &[][..]),
            (Some(3), 2, &[2, 2, 2]),
            (None, 1, &[1, 2, 4, 8, 16, 32, 60, 60, 60]),
            (None, 90, &[90, 90, 90, 90, 90, 90, 90, 90, 90]),
            (None, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let interval = secs(interval);
            let retry = Retry { limit, interval };
            assert_eq!(pauses(retry, 9), expected, "{retry:?}");
        }
        let mut long = Attempts::new(Retry {
            limit: None,
            interval: secs(1),
        });
        let last = (0..100).filter_map(|_| long.failed()).last().unwrap();
        assert_eq!((last.pause, last.nth), (secs(60), 100));
    }

    #[test]
    fn what_came_back_begins_the_count_anew() {
        let mut attempts = Attempts::new(Retry {
            limit: Some(1),
            interval: Duration::from_millis(1500),
        });
        let again = attempts.failed().unwrap();
        assert_eq!(again.to_string(), "retry 1 of 1 in 1.5s");
        assert_eq!(attempts.failed(), None);
        attempts.succeeded();
        assert!(attempts.failed().is_some());
    }
}

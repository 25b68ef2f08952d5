//! One connection of the client's side: connect, echo, finish.
//!
//! Sockets block, and SO_RCVTIMEO and SO_SNDTIMEO bound every call on them,
//! connect(2) too (socket(7)). All bytes are verified as they arrive. Says what
//! went wrong as a [`Fault`]; counts nothing and keeps no time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage};
use nix::sys::socket::{bind, connect, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd;

use crate::error::{Error, Exit};
use crate::load::pattern::Pattern;
use crate::load::stats::{Fault, Outcome};
use crate::load::target::{Endpoint, Target};

/// One write; a multiple of 8, as [`Pattern::fill`] wants its offsets.
const CHUNK: u64 = 16 << 10;
/// Bytes of a message on their way at once. More than the buffers on the way
/// take, and a server that waits for us to read would wait for ever.
const WINDOW: u64 = 4 * CHUNK;
/// Source addresses to spread over, 127.0.0.1 and up: each has its own
/// ephemeral ports, so those in TIME_WAIT are not missed.
const SOURCES: u64 = 8;

/// Memory one thread works in, for messages of one size.
pub struct Scratch {
    out: Vec<u8>,
    got: Vec<u8>,
    want: Vec<u8>,
}

impl Scratch {
    /// Memory for messages of `size` bytes.
    pub fn new(size: u64) -> Self {
        let got = size.min(WINDOW) as usize + 1;
        Scratch {
            out: vec![0; size.min(CHUNK) as usize],
            got: vec![0; got],
            want: vec![0; got + 8],
        }
    }
}

/// An open connection to an echo server.
pub struct Connection<'a> {
    fd: OwnedFd,
    target: &'a Target,
}

impl<'a> Connection<'a> {
    /// Connects to the first address of `target` that answers. With `spread`,
    /// a loopback IPv4 server is called from one of several source addresses,
    /// picked by that number.
    pub fn open(target: &'a Target, timeout: Duration, spread: Option<u64>) -> Result<Self, Fault> {
        let endpoints = target.resolve().map_err(|error| Fault {
            outcome: match error.status() {
                Exit::Unavailable => Outcome::Refused,
                _ => Outcome::Other,
            },
            error,
        })?;
        let mut last = Errno::EADDRNOTAVAIL;
        for endpoint in endpoints {
            match dial(&endpoint, timeout, spread) {
                Ok(fd) => return Ok(Connection { fd, target }),
                Err(errno) => last = errno,
            }
        }
        Err(fault("connect", target, last))
    }

    /// Sends one message of `size` bytes and reads it back, both at once when
    /// it is longer than a window.
    pub fn echo(&self, pattern: Pattern, size: u64, scratch: &mut Scratch) -> Result<(), Fault> {
        let (mut sent, mut back) = (0, 0);
        while back < size {
            while sent < size && sent - back <= WINDOW - CHUNK {
                let part = &mut scratch.out[..CHUNK.min(size - sent) as usize];
                pattern.fill(sent, part);
                self.write_all(part)?;
                sent += part.len() as u64;
            }
            let len = self.read(&mut scratch.got)?;
            if len == 0 {
                return Err(self.short(back, size));
            }
            if len as u64 > sent - back {
                return Err(self.corrupt("more came back than was sent"));
            }
            let got = &scratch.got[..len];
            if let Some(at) = pattern.mismatch(back, got, &mut scratch.want) {
                return Err(self.corrupt(format_args!("byte {at} of {size} differs")));
            }
            back += len as u64;
        }
        Ok(())
    }

    /// Half-closes, and expects end of file and nothing before it.
    pub fn finish(self, scratch: &mut Scratch) -> Result<(), Fault> {
        shutdown(self.fd.as_raw_fd(), Shutdown::Write)
            .map_err(|errno| fault("shutdown", self.target, errno))?;
        match self.read(&mut scratch.got)? {
            0 => Ok(()),
            _ => Err(self.corrupt("more came back than was sent")),
        }
    }

    fn write_all(&self, mut part: &[u8]) -> Result<(), Fault> {
        while !part.is_empty() {
            match unistd::write(&self.fd, part) {
                Ok(len) => part = &part[len..],
                // SIGCONT interrupts calls that have a timeout; see signal(7).
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(fault("write", self.target, errno)),
            }
        }
        Ok(())
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            match unistd::read(&self.fd, buffer) {
                Ok(len) => return Ok(len),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(fault("read", self.target, errno)),
            }
        }
    }

    fn short(&self, back: u64, size: u64) -> Fault {
        let hint = format!("end of file after {back} of {size} bytes");
        Fault {
            outcome: Outcome::Short,
            error: Error::usage(format!("read {}", self.target), hint).exit(Exit::Io),
        }
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Fault {
        Fault {
            outcome: Outcome::Corrupt,
            error: Error::usage(format!("read {}", self.target), what).exit(Exit::Mismatch),
        }
    }
}

/// Names a failed call. What this side lacks comes with what to do about it.
fn fault(op: &str, target: &Target, errno: Errno) -> Fault {
    let error = Error::os(op, target, errno);
    let error = match errno {
        // "Operation now in progress" would puzzle.
        Errno::EINPROGRESS | Errno::EAGAIN => {
            Error::os(op, target, Errno::ETIMEDOUT).hint("--timeout allows more")
        }
        Errno::EMFILE | Errno::ENFILE => error.hint("raise ulimit -n, or use fewer connections"),
        Errno::EADDRNOTAVAIL => error.hint("no source port is left, or no such address is here"),
        _ => error,
    };
    Fault {
        outcome: Outcome::of(errno),
        error,
    }
}

fn dial(endpoint: &Endpoint, timeout: Duration, spread: Option<u64>) -> Result<OwnedFd, Errno> {
    let family = match endpoint {
        Endpoint::Tcp(SocketAddr::V4(_)) => AddressFamily::Inet,
        Endpoint::Tcp(SocketAddr::V6(_)) => AddressFamily::Inet6,
        Endpoint::Unix(_) => AddressFamily::Unix,
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = TimeVal::new(timeout.as_secs() as i64, timeout.subsec_micros().into());
    setsockopt(&fd, sockopt::SendTimeout, &bound)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &bound)?;
    match endpoint {
        Endpoint::Tcp(addr) => {
            setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
            if let Some(source) = spread.and_then(|nth| source(addr, nth)) {
                // The port is chosen by connect(2), which knows the peer and so
                // may share a port that is in use towards another; see ip(7).
                setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
                bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
            }
            let addr = SockaddrStorage::from(*addr);
            retry(|| connect(fd.as_raw_fd(), &addr))?;
        }
        Endpoint::Unix(addr) => retry(|| connect(fd.as_raw_fd(), addr))?,
    }
    Ok(fd)
}

/// On Linux a blocking connect(2) that a signal interrupted is waited for by
/// calling it again.
fn retry(call: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// The address to call a loopback server from, the `nth` time.
fn source(server: &SocketAddr, nth: u64) -> Option<SocketAddrV4> {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let host = 1 + (nth % SOURCES) as u8;
            Some(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_servers_are_called_from_many_addresses() {
        for (server, nth, from) in [
            ("127.0.0.1:7", 0, Some("127.0.0.1:0")),
            ("127.0.0.1:7", 7, Some("127.0.0.8:0")),
            ("127.9.9.9:7", 8, Some("127.0.0.1:0")),
            ("192.0.2.1:7", 1, None),
            ("[::1]:7", 1, None),
        ] {
            let from = from.map(|from| from.parse().unwrap());
            assert_eq!(source(&server.parse().unwrap(), nth), from, "{server}");
        }
    }
}

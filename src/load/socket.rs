//! A client's socket: made, bound and on its way to the server, never blocking.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, getsockname,
    setsockopt, sockopt,
};

use crate::addr::Endpoint;

/// How far a connect came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
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
pub fn dial(
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

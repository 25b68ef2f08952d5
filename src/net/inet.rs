//! Opening TCP and UDP sockets: every address of a name, every family of `*`.
//!
//! All sockets of one `--listen` share one port, also where the kernel picks
//! it. A family this machine lacks is skipped as long as another one is there.
//! Knows neither connections nor Unix sockets.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket,
    sockopt,
};

use crate::addr::{Attrs, ListenSpec};
use crate::error::{Error, Exit};
use crate::net::options::{self, ListenOptions, backlog, birth_flags};
use crate::sys::sockopt as sys;

/// How often a port is chosen anew when the kernel's choice for one family is
/// taken in another.
const PORT_TRIES: usize = 16;

/// A listening socket and its address with the real port.
type Bound = (OwnedFd, SocketAddr);

/// All addresses on one port, also where the kernel picks it.
///
/// # Errors
/// 69 address in use, not here or unknown, 77 no permission, else 71.
pub(super) fn open(spec: &ListenSpec, opts: &ListenOptions) -> Result<Vec<Bound>, Error> {
    open_all(spec, |addr| {
        let first = open_inet(addr, spec, opts, false)?;
        let more = share(&first, spec, opts)?;
        Ok(std::iter::once(first).chain(more).collect())
    })
}

/// The same for datagrams.
///
/// # Errors
/// As [`open`]'s.
pub(super) fn open_udp(spec: &ListenSpec) -> Result<Vec<Bound>, Error> {
    open_all(spec, |addr| Ok(vec![bind_udp(addr, &spec.attrs)?]))
}

fn open_all(
    spec: &ListenSpec,
    open_at: impl Fn(SocketAddr) -> Result<Vec<Bound>, Error>,
) -> Result<Vec<Bound>, Error> {
    let addrs = spec.addr.resolve()?;
    let shares_a_picked_port = addrs.len() > 1 && addrs[0].port() == 0;
    let tries = if shares_a_picked_port { PORT_TRIES } else { 1 };
    let mut result = open_each(&addrs, &open_at);
    for _ in 1..tries {
        match &result {
            Err(error) if error.errno() == Some(Errno::EADDRINUSE) => {
                result = open_each(&addrs, &open_at);
            }
            _ => break,
        }
    }
    result
}

fn open_each(
    addrs: &[SocketAddr],
    open_at: &impl Fn(SocketAddr) -> Result<Vec<Bound>, Error>,
) -> Result<Vec<Bound>, Error> {
    let mut listeners = Vec::new();
    let mut lacking = None;
    let mut port = addrs.first().map_or(0, SocketAddr::port);
    for mut addr in addrs.iter().copied() {
        addr.set_port(port);
        match open_at(addr) {
            Ok(opened) => {
                port = opened.first().map_or(port, |(_, bound)| bound.port());
                listeners.extend(opened);
            }
            Err(error) if family_is_lacking(error.errno(), addr) => lacking = Some(error),
            Err(error) => return Err(error),
        }
    }
    match lacking {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

/// No such family in this kernel; or IPv6 switched off by sysctl, where ::1 is
/// still in /etc/hosts but on no interface.
fn family_is_lacking(errno: Option<Errno>, addr: SocketAddr) -> bool {
    match errno {
        Some(Errno::EAFNOSUPPORT) => true,
        Some(Errno::EADDRNOTAVAIL) => addr.is_ipv6(),
        _ => false,
    }
}

fn open_inet(
    addr: SocketAddr,
    spec: &ListenSpec,
    opts: &ListenOptions,
    shared: bool,
) -> Result<Bound, Error> {
    let explain = |op: &'static str| move |errno| explain(op, "tcp", addr, errno);
    let fd =
        socket(family(addr), SockType::Stream, birth_flags(), None).map_err(explain("socket"))?;
    tie(&fd, "tcp", addr, &spec.attrs)?;
    prepare_bind(&fd, addr, spec.attrs.freebind).map_err(explain("setsockopt"))?;
    options::set_tcp(fd.as_fd(), &opts.timeouts).map_err(explain("setsockopt"))?;
    if shared {
        setsockopt(&fd, sockopt::ReusePort, &true).map_err(explain("setsockopt"))?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr)).map_err(explain("bind"))?;
    // With SO_REUSEADDR on both, it is listen(2) that tells two servers apart.
    if !opts.dry {
        sys::listen(fd.as_fd(), backlog(spec, opts)).map_err(explain("listen"))?;
    }
    let bound = local_addr(&fd).map_err(explain("getsockname"))?;
    Ok((fd, bound))
}

/// Without SO_REUSEADDR: two UDP sockets that both have it share a port, and
/// one of them silently gets nothing, see socket(7).
fn bind_udp(addr: SocketAddr, attrs: &Attrs) -> Result<Bound, Error> {
    let explain = |op: &'static str| move |errno| explain(op, "udp", addr, errno);
    let fd = socket(
        family(addr),
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(explain("socket"))?;
    tie(&fd, "udp", addr, attrs)?;
    options::set_udp(&fd, addr.is_ipv6(), attrs.freebind).map_err(explain("setsockopt"))?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr)).map_err(explain("bind"))?;
    let bound = local_addr(&fd).map_err(explain("getsockname"))?;
    Ok((fd, bound))
}

fn family(addr: SocketAddr) -> AddressFamily {
    match addr {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The other sockets that listen where `first` does, which so far listens
/// alone.
///
/// Had `first` been born with SO_REUSEPORT, a second instance would have joined
/// the first without a word. As it was not, it has taken the address for
/// itself, or failed; only now may others join it, and every instance's first
/// socket still fails. Of servers with our own user id that set the option from
/// the beginning, the kernel keeps none away: `socket(7)`.
fn share(first: &Bound, spec: &ListenSpec, opts: &ListenOptions) -> Result<Vec<Bound>, Error> {
    let (fd, addr) = first;
    if opts.sockets > 1 {
        setsockopt(fd, sockopt::ReusePort, &true)
            .map_err(|e| explain("setsockopt", "tcp", *addr, e))?;
    }
    (1..opts.sockets)
        .map(|_| open_inet(*addr, spec, opts, true))
        .collect()
}

fn prepare_bind(fd: &OwnedFd, addr: SocketAddr, freebind: bool) -> Result<(), Errno> {
    // A restart must not wait for connections in TIME_WAIT, see socket(7).
    setsockopt(fd, sockopt::ReuseAddr, &true)?;
    if addr.is_ipv6() {
        setsockopt(fd, sockopt::Ipv6V6Only, &true)?;
    }
    if freebind {
        setsockopt(fd, sockopt::IpFreebind, &true)?;
    }
    Ok(())
}

/// The attribute `device`.
fn tie(fd: &OwnedFd, scheme: &str, addr: SocketAddr, attrs: &Attrs) -> Result<(), Error> {
    let Some(device) = attrs.device.as_deref() else {
        return Ok(());
    };
    options::bind_to_device(fd, device).map_err(|errno| {
        let what = format_args!("{scheme}:{addr},device={device}");
        let error = Error::os("setsockopt", what, errno);
        match errno {
            Errno::ENODEV => error
                .hint("there is no such interface; ip link shows which there are")
                .exit(Exit::Unavailable),
            Errno::EPERM => error.exit(Exit::NoPermission),
            _ => error,
        }
    })
}

fn local_addr(fd: &OwnedFd) -> Result<SocketAddr, Errno> {
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    socket_addr(&bound).ok_or(Errno::EAFNOSUPPORT)
}

/// An IPv4 or IPv6 address, if it is one.
pub(super) fn socket_addr(bound: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = bound
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = || {
        bound
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    };
    v4.or_else(v6)
}

/// Is one of these in the way of the other?
pub fn share_an_address(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    let same = a.is_ipv4() == b.is_ipv4() && (any || a.ip() == b.ip());
    a.port() != 0 && a.port() == b.port() && same
}

/// What a failure on the way to listening means, and what to do about it.
fn explain(op: &str, scheme: &str, addr: SocketAddr, errno: Errno) -> Error {
    let error = Error::os(op, format_args!("{scheme}:{addr}"), errno);
    match errno {
        Errno::EADDRINUSE if scheme == "udp" => error
            .hint("another program serves there; ss -lunp shows which")
            .exit(Exit::Unavailable),
        Errno::EADDRINUSE => error
            .hint("another program listens there; ss -ltnp shows which")
            .exit(Exit::Unavailable),
        Errno::EADDRNOTAVAIL => error
            .hint("no interface has this address; add ,freebind to bind it all the same")
            .exit(Exit::Unavailable),
        Errno::EACCES if (1..1024).contains(&addr.port()) => error
            .hint("ports below 1024 need CAP_NET_BIND_SERVICE")
            .exit(Exit::NoPermission),
        Errno::EACCES | Errno::EPERM => error.exit(Exit::NoPermission),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_bind_says_what_to_do() {
        let table = [
            (
                "127.0.0.1:7",
                Errno::EACCES,
                Exit::NoPermission,
                "CAP_NET_BIND",
            ),
            (
                "127.0.0.1:7",
                Errno::EADDRINUSE,
                Exit::Unavailable,
                "ss -ltnp",
            ),
            (
                "[::1]:0",
                Errno::EADDRNOTAVAIL,
                Exit::Unavailable,
                "freebind",
            ),
            ("[::1]:0", Errno::EPERM, Exit::NoPermission, "EPERM"),
            ("[::1]:0", Errno::EAFNOSUPPORT, Exit::Os, "EAFNOSUPPORT"),
            ("[::1]:0", Errno::ENOBUFS, Exit::Os, "ENOBUFS"),
        ];
        for (addr, errno, status, part) in table {
            let error = explain("bind", "tcp", addr.parse().expect("address"), errno);
            assert_eq!(error.status(), status, "{error}");
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.to_string().starts_with(&format!("bind tcp:{addr}: ")));
        }
        let high = explain("bind", "tcp", ([127, 0, 0, 1], 7777).into(), Errno::EACCES);
        assert!(!high.to_string().contains("CAP_"), "{high}");
    }

    #[test]
    fn only_a_lacking_family_may_be_skipped() {
        let v4 = SocketAddr::from(([127, 0, 0, 1], 0));
        let v6 = SocketAddr::from(([0u16; 8], 0));
        assert!(family_is_lacking(Some(Errno::EAFNOSUPPORT), v4));
        assert!(family_is_lacking(Some(Errno::EADDRNOTAVAIL), v6));
        assert!(!family_is_lacking(Some(Errno::EADDRNOTAVAIL), v4));
        assert!(!family_is_lacking(Some(Errno::EADDRINUSE), v6));
        assert!(!family_is_lacking(None, v6));
    }
}

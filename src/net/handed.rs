//! Sockets that somebody else opened and handed over, as systemd does.
//!
//! Whoever opened one keeps it, and will hand it to the next echod: its queue,
//! its file and its permissions are theirs. So nothing here or in [`Listener`]
//! does to it what a successor would suffer from: no shutdown(2), no filter, no
//! unlink(2). What is set on it is set again by every echod that gets it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    SockType, SockaddrStorage, UnixAddr, getpeername, getsockname, getsockopt, sockopt,
};

use crate::addr::{Addr, Host, ListenSpec, UnixPath};
use crate::error::{Error, Exit};
use crate::net::datagram::DatagramSocket;
use crate::net::inet;
use crate::net::listener::Listener;
use crate::net::options::{self, ListenOptions};
use crate::sys::{fd, sockopt as sys};

/// A socket that was handed over, and found to be one we can serve at.
#[derive(Debug)]
pub struct Handed {
    fd: OwnedFd,
    label: String,
    addr: Addr,
    bound: Option<SocketAddr>,
}

/// What it is used as.
#[derive(Debug)]
pub enum Opened {
    /// For connections.
    Stream(Listener),
    /// For datagrams.
    Datagram(DatagramSocket),
}

impl Handed {
    /// Looks at a descriptor that was handed over; `label` names it in messages
    /// and in the log.
    ///
    /// # Errors
    /// 78 for what is no socket, or none that can be served at.
    pub fn new(fd: OwnedFd, label: String) -> Result<Handed, Error> {
        match inspect(fd.as_fd()) {
            Ok((addr, bound)) => Ok(Handed {
                fd,
                label,
                addr,
                bound,
            }),
            Err(why) => Err(refused(&label, why)),
        }
    }

    /// The descriptor's number.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// How it is called in the log.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where it serves, without attributes: those are its opener's.
    pub fn spec(&self) -> ListenSpec {
        self.addr.clone().into()
    }

    /// Makes it ready to be served at.
    ///
    /// # Errors
    /// 71, fcntl(2)'s, listen(2)'s or setsockopt(2)'s.
    pub fn open(self, opts: &ListenOptions) -> Result<Opened, Error> {
        let name = self.name();
        let failed = |op: &'static str, name: &str, errno| Error::os(op, name, errno);
        // Both flags are the opener's choice, and shared with it.
        let datagrams = self.addr.is_datagram();
        fd::set_nonblocking(self.fd.as_fd(), !datagrams).map_err(|e| failed("fcntl", &name, e))?;
        if datagrams {
            match self.bound {
                Some(bound) => options::ask_destination(&self.fd, bound.is_ipv6()),
                None => options::ask_sender(&self.fd),
            }
            .map_err(|e| failed("setsockopt", &name, e))?;
            let socket = DatagramSocket::handed(self.fd, name, self.bound);
            return Ok(Opened::Datagram(socket));
        }
        if self.bound.is_some() {
            options::set_tcp_again(self.fd.as_fd(), &opts.timeouts)
                .map_err(|e| failed("setsockopt", &name, e))?;
        }
        // It listens already; how long its queue is was its opener's choice.
        if opts.backlog.is_some() {
            sys::listen(self.fd.as_fd(), opts.backlog).map_err(|e| failed("listen", &name, e))?;
        }
        let unix = self.bound.is_none().then_some(opts.timeouts);
        Ok(Opened::Stream(Listener::handed(self.fd, name, unix)))
    }

    /// On one line whatever the path holds. With an address's zone, which an
    /// [`Addr`] cannot keep.
    pub fn name(&self) -> String {
        match (self.bound, self.addr.is_datagram()) {
            (Some(bound), true) => format!("udp:{bound}"),
            (Some(bound), false) => format!("tcp:{bound}"),
            (None, _) => self.addr.to_string().replace(char::is_control, "?"),
        }
    }
}

/// The error for a descriptor that cannot be served at.
pub fn refused(label: &str, why: impl std::fmt::Display) -> Error {
    Error::usage(format!("LISTEN_FDS: {label}"), why).exit(Exit::Config)
}

fn inspect(fd: BorrowedFd<'_>) -> Result<(Addr, Option<SocketAddr>), &'static str> {
    let datagrams = match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => false,
        Ok(SockType::Datagram) => true,
        Err(Errno::ENOTSOCK | Errno::EBADF) => return Err("not a socket"),
        _ => return Err("a socket of neither streams nor datagrams"),
    };
    let listens = getsockopt(&fd, sockopt::AcceptConn) == Ok(true);
    if !datagrams && !listens {
        return Err(match getpeername::<SockaddrStorage>(fd.as_raw_fd()) {
            Ok(_) => {
                "a connection, not a listener: say Accept=no in the socket unit, \
                 or serve it with --inetd and StandardInput=socket"
            }
            Err(_) => "a socket that does not listen",
        });
    }
    const STRANGE: &str = "a socket of a family that is not served: \
                           there are IPv4, IPv6 and Unix sockets";
    let own: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|_| STRANGE)?;
    if let Some(unix) = own.as_unix_addr() {
        let path = unix_path(unix).ok_or("a socket that is bound to no address")?;
        let addr = match datagrams {
            true => Addr::UnixGram(path),
            false => Addr::Unix(path),
        };
        return Ok((addr, None));
    }
    let bound = inet::socket_addr(&own).ok_or(STRANGE)?;
    if bound.port() == 0 {
        return Err("a socket that is bound to no port");
    }
    // MPTCP takes neither the filter of a stop nor all options, and sctp(7), UDP-Lite
    // and the ICMP of icmp(7) look like what they are not.
    let protocol = if datagrams {
        libc::IPPROTO_UDP
    } else {
        libc::IPPROTO_TCP
    };
    match sys::protocol(fd) {
        Ok(other) if other == libc::IPPROTO_MPTCP => {
            return Err("an MPTCP socket, which is not served: \
                        say SocketProtocol=tcp in the socket unit, or leave it out");
        }
        Ok(other) if other != protocol => {
            return Err("a socket of another protocol than TCP or UDP");
        }
        _ => {}
    }
    // Its IPv4 clients would be judged as if they were one IPv6 network.
    let mixed = bound.is_ipv6() && getsockopt(&fd, sockopt::Ipv6V6Only) != Ok(true);
    if datagrams && mixed && bound.ip().is_unspecified() {
        return Err("UDP of both families on one socket: \
                    say BindIPv6Only=ipv6-only in the socket unit, and a socket for each");
    }
    let (host, port) = (host(bound), bound.port());
    let addr = match datagrams {
        true => Addr::Udp { host, port },
        false => Addr::Tcp { host, port },
    };
    Ok((addr, Some(bound)))
}

fn unix_path(addr: &UnixAddr) -> Option<UnixPath> {
    let file = addr.path().map(|path| UnixPath::Path(path.to_owned()));
    let name = || addr.as_abstract().map(|n| UnixPath::Abstract(n.to_vec()));
    file.or_else(name)
}

fn host(bound: SocketAddr) -> Host {
    match bound {
        SocketAddr::V4(v4) => Host::V4(*v4.ip()),
        SocketAddr::V6(v6) => Host::V6(*v6.ip()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::socket::{AddressFamily, SockFlag, socket};

    use super::*;
    use crate::config::Timeouts;

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: None,
        timeouts: Timeouts {
            idle: None,
            write: None,
            lifetime: None,
            keepalive: None,
        },
        sockets: 1,
        dry: false,
    };

    fn look(fd: impl Into<OwnedFd>) -> Result<Handed, Error> {
        Handed::new(fd.into(), "descriptor 3 (test)".to_owned())
    }

    fn family(family: AddressFamily, kind: SockType) -> OwnedFd {
        socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket")
    }

    #[test]
    fn what_cannot_be_served_at_is_refused_by_what_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (pair, _other) = UnixStream::pair().expect("pair");
        let dual = {
            let fd = family(AddressFamily::Inet6, SockType::Datagram);
            nix::sys::socket::setsockopt(&fd, sockopt::Ipv6V6Only, &false).expect("option");
            let any = SockaddrStorage::from(SocketAddr::from(([0u16; 8], 0)));
            nix::sys::socket::bind(fd.as_raw_fd(), &any).expect("bind");
            fd
        };
        let table: [(OwnedFd, &str); 9] = [
            (
                std::fs::File::open("/dev/null").expect("open").into(),
                "not a socket",
            ),
            (client.into(), "a connection"),
            (pair.into(), "a connection"),
            (
                family(AddressFamily::Inet, SockType::Stream),
                "does not listen",
            ),
            (family(AddressFamily::Inet, SockType::Datagram), "no port"),
            (
                UnixDatagram::unbound().expect("socket").into(),
                "no address",
            ),
            (family(AddressFamily::Unix, SockType::SeqPacket), "neither"),
            (family(AddressFamily::Netlink, SockType::Datagram), "family"),
            (dual, "BindIPv6Only"),
        ];
        for (fd, part) in table {
            let error = look(fd).expect_err(part);
            assert_eq!(error.status(), Exit::Config, "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with("LISTEN_FDS: descriptor 3 (test): "),
                "{text}"
            );
            assert!(text.contains(part), "{text}: {part}");
        }
    }

    #[test]
    fn a_stream_is_left_to_its_owner_at_the_end() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s");
        let theirs = UnixListener::bind(&path).expect("bind");
        let handed = look(theirs.try_clone().expect("copy")).expect("a listener");
        assert_eq!(
            handed.spec().to_string(),
            format!("unix:{}", path.display())
        );
        let Ok(Opened::Stream(ours)) = handed.open(&OPTIONS) else {
            panic!("a stream");
        };
        assert!(ours.is_handed());
        ours.refuse_new().expect("nothing to do");
        ours.shut().expect("nothing to do");
        assert_eq!(ours.unlink(), Ok(false));
        let _queued = UnixStream::connect(&path).expect("still open");
        assert_eq!(ours.accept().map(drop), Ok(()));
        assert_eq!(ours.accept().map(drop), Err(Errno::EAGAIN), "non-blocking");
        drop(ours);
        UnixStream::connect(&path).expect("theirs");
    }

    #[test]
    fn options_of_a_former_echod_do_not_stay() {
        let theirs = TcpListener::bind("127.0.0.1:0").expect("bind");
        let open = |idle: Option<std::time::Duration>| {
            let timeouts = Timeouts {
                idle,
                write: idle,
                ..OPTIONS.timeouts
            };
            let options = ListenOptions {
                timeouts,
                ..OPTIONS
            };
            let copy = theirs.try_clone().expect("copy");
            look(copy)
                .expect("a listener")
                .open(&options)
                .expect("opens");
            let micros = getsockopt(&theirs, sockopt::ReceiveTimeout).expect("option");
            let user = getsockopt(&theirs, sockopt::TcpUserTimeout).expect("option");
            (micros.tv_sec(), user)
        };
        assert_eq!(open(Some(std::time::Duration::from_secs(7))), (7, 7000));
        assert_eq!(open(None), (0, 0));
    }

    #[test]
    fn datagrams_wait_and_are_not_made_deaf() {
        let theirs = UdpSocket::bind("127.0.0.1:0").expect("bind");
        theirs.set_nonblocking(true).expect("nonblocking");
        let to = theirs.local_addr().expect("address");
        let handed = look(theirs.try_clone().expect("copy")).expect("a socket");
        let Ok(Opened::Datagram(ours)) = handed.open(&OPTIONS) else {
            panic!("datagrams");
        };
        assert_eq!(ours.name(), format!("udp:{to}"));
        assert_eq!(ours.port(), Some(to.port()));
        let flags = fcntl(ours.as_fd(), FcntlArg::F_GETFL).expect("flags");
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        ours.deafen().expect("nothing to do");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.send_to(b"late", to).expect("send");
        assert_eq!(theirs.recv(&mut [0; 8]).expect("it came"), 4);
    }
}

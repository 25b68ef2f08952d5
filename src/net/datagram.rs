//! Datagram sockets: bound, and ready for a worker.
//!
//! [`open_datagram`] gives every [`DatagramSocket`] the same birth: CLOEXEC,
//! blocking (its worker waits in it), one address family each, never
//! SO_REUSEADDR (a second instance must fail, not share silently), and for UDP the options that tell to which
//! address a datagram was sent. Dropping one closes it and no more; only
//! [`DatagramSocket::unlink`] removes a socket file. Knows no process and no
//! datagram: `sys::mmsg` moves those.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, SockFlag, SockType, UnixAddr, getsockname, shutdown};

use super::listener::{bind_abstract, check, unix_socket};
use super::unix_path::{SocketFile, absolute};
use super::{inet, options};
use crate::addr::{Addr, ListenSpec, UnixPath};
use crate::error::{Error, Exit};
use crate::sys::sockopt as sys;

/// A bound datagram socket.
#[derive(Debug)]
pub struct DatagramSocket {
    fd: OwnedFd,
    name: String,
    kind: Kind,
    /// Somebody else opened it and keeps it.
    handed: bool,
    service: Option<String>,
}

#[derive(Debug)]
enum Kind {
    Udp(SocketAddr),
    /// An abstract name has no file.
    Unix(Option<SocketFile>),
}

/// Opens what one `--listen` of datagrams asks for: one socket, or one for each
/// family of `*` and each address of a name, at least one.
///
/// After an error nothing is left behind; sockets opened by earlier calls are
/// the caller's to [`DatagramSocket::unlink`]. `dry` only tries, and leaves no file.
///
/// # Errors
/// As for streams: 64, 69, 73, 77, else 71.
pub fn open_datagram(spec: &ListenSpec, dry: bool) -> Result<Vec<DatagramSocket>, Error> {
    check(spec)?;
    let mut opened = open_each(spec, dry)?;
    for socket in &mut opened {
        socket.service.clone_from(&spec.attrs.service);
    }
    Ok(opened)
}

fn open_each(spec: &ListenSpec, dry: bool) -> Result<Vec<DatagramSocket>, Error> {
    let (fd, name, file) = match &spec.addr {
        Addr::Udp { .. } => {
            let opened = inet::open_udp(spec)?.into_iter();
            let sockets = opened.map(|(fd, bound)| DatagramSocket {
                fd,
                name: format!("udp:{bound}"),
                kind: Kind::Udp(bound),
                handed: false,
                service: None,
            });
            return Ok(sockets.collect());
        }
        Addr::UnixGram(UnixPath::Path(path)) => {
            let path = absolute(path)?;
            let name = Addr::UnixGram(UnixPath::Path(path.clone())).to_string();
            let fd = unix_socket(&name, SockType::Datagram, SockFlag::SOCK_CLOEXEC)?;
            let file = match dry {
                true => SocketFile::rehearse(&fd, &path, &name, &spec.attrs).map(|()| None),
                false => SocketFile::bind(&fd, &path, &name, &spec.attrs).map(Some),
            }?;
            (fd, name, file)
        }
        Addr::UnixGram(UnixPath::Abstract(raw)) => {
            let name = spec.addr.to_string();
            let fd = unix_socket(&name, SockType::Datagram, SockFlag::SOCK_CLOEXEC)?;
            bind_abstract(&fd, raw, &name)?;
            (fd, name, None)
        }
        Addr::Tcp { .. } | Addr::Unix(_) => {
            return Err(Error::usage(spec, "a stream has no datagrams").exit(Exit::Internal));
        }
    };
    let socket = DatagramSocket {
        fd,
        name,
        kind: Kind::Unix(file),
        handed: false,
        service: None,
    };
    match options::set_unix_datagram(&socket.fd) {
        Ok(()) => Ok(vec![socket]),
        Err(errno) => {
            let _ = socket.unlink();
            Err(Error::os("setsockopt", &socket.name, errno))
        }
    }
}

impl DatagramSocket {
    /// One that was opened by somebody else: UDP if it is `bound` to an address,
    /// else a Unix socket, whose file is nothing to us.
    pub(super) fn handed(fd: OwnedFd, name: String, bound: Option<SocketAddr>) -> Self {
        DatagramSocket {
            fd,
            name,
            kind: bound.map_or(Kind::Unix(None), Kind::Udp),
            handed: true,
            service: None,
        }
    }

    /// The canonical address with the real port: `udp:127.0.0.1:41234`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service attribute as it was typed; what it means is not known here.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Its port, if it is UDP; else it is a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self.kind {
            Kind::Udp(bound) => Some(bound.port()),
            Kind::Unix(_) => None,
        }
    }

    /// The name that its answers have, if it is a Unix socket: as it was bound.
    pub fn unix_name(&self) -> Option<Vec<u8>> {
        let own: UnixAddr = getsockname(self.fd.as_raw_fd()).ok()?;
        let path = || own.path().map(|path| path.as_os_str().as_bytes().to_vec());
        let abstract_name = own.as_abstract().map(|name| [&[0], name].concat());
        abstract_name.or_else(path)
    }

    /// Whether all it sends leaves from the same address: it is not a wildcard.
    pub fn has_one_address(&self) -> bool {
        match self.kind {
            Kind::Udp(bound) => !bound.ip().is_unspecified(),
            Kind::Unix(_) => true,
        }
    }

    /// The Internet address that all it receives was sent to, if it is bound to one.
    pub fn own_address(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::Udp(bound) if self.has_one_address() => Some(bound.ip()),
            Kind::Udp(_) | Kind::Unix(_) => None,
        }
    }

    /// When the drain of a stop begins: nothing more gets into the queue, and what is there
    /// can still be received. Senders to a Unix socket are told (EPIPE); to UDP
    /// they are not, as with any datagram that gets lost. A socket that was handed
    /// over stays as it is: what comes is its next owner's.
    ///
    /// # Errors
    /// shutdown(2)'s or setsockopt(2)'s.
    pub fn deafen(&self) -> Result<(), Errno> {
        match self.kind {
            _ if self.handed => Ok(()),
            Kind::Udp(_) => sys::attach_deaf_filter(self.fd.as_fd()),
            Kind::Unix(_) => shutdown(self.fd.as_raw_fd(), Shutdown::Read),
        }
    }

    /// Removes the socket file if there is one and it is still ours, and says
    /// whether it did. Works after chroot(2) too.
    ///
    /// # Errors
    /// EACCES or EPERM after privileges were given up, EROFS.
    pub fn unlink(&self) -> Result<bool, Errno> {
        match &self.kind {
            Kind::Unix(Some(file)) => file.unlink(),
            _ => Ok(false),
        }
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{MsgFlags, recv};

    use super::*;

    fn open(spec: &str) -> Result<Vec<DatagramSocket>, Error> {
        open_datagram(&spec.parse().expect(spec), false)
    }

    fn one(spec: &str) -> DatagramSocket {
        open(spec).unwrap_or_else(|e| panic!("{e}")).remove(0)
    }

    fn next(socket: &DatagramSocket) -> Result<usize, Errno> {
        recv(
            socket.as_fd().as_raw_fd(),
            &mut [0; 64],
            MsgFlags::MSG_DONTWAIT,
        )
    }

    #[test]
    fn a_second_socket_at_the_same_place_is_refused() {
        let first = one("udp:127.0.0.1:0");
        let error = open(first.name()).expect_err("taken");
        assert_eq!(error.status(), Exit::Unavailable, "{error}");
        assert!(error.to_string().contains("ss -lunp"), "{error}");

        let dir = tempfile::tempdir().expect("tempdir");
        let name = format!("unixgram:{}", dir.path().join("s").display());
        let first = one(&name);
        let error = open(&name).expect_err("taken");
        assert_eq!(error.status(), Exit::Unavailable, "{error}");
        assert_eq!(first.unlink(), Ok(true));
        let name = format!("unixgram:@echod-gram-{}", std::process::id());
        let _first = one(&name);
        assert_eq!(open(&name).expect_err("taken").status(), Exit::Unavailable);
    }

    #[test]
    fn a_star_has_one_port_for_both_families() {
        let sockets = open("udp:*:0").expect("opens");
        let ports: Vec<_> = sockets.iter().map(DatagramSocket::port).collect();
        assert!(ports.iter().all(|&port| port == ports[0]), "{ports:?}");
    }

    #[test]
    fn a_deaf_socket_keeps_its_queue_and_takes_no_more() {
        let socket = one("udp:127.0.0.1:0");
        let to = socket.name().strip_prefix("udp:").expect("udp").to_owned();
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.send_to(b"early", &to).expect("send");
        socket.deafen().expect("deaf");
        client.send_to(b"late", &to).expect("send");
        assert_eq!((next(&socket), next(&socket)), (Ok(5), Err(Errno::EAGAIN)));

        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s");
        let socket = one(&format!("unixgram:{}", path.display()));
        let client = UnixDatagram::unbound().expect("socket");
        client.send_to(b"early", &path).expect("send");
        socket.deafen().expect("deaf");
        client.send_to(b"late", &path).expect_err("told");
        assert_eq!((next(&socket), next(&socket)), (Ok(5), Err(Errno::EAGAIN)));
    }
}

//! Listening sockets: from what was asked for to descriptors that accept.
//!
//! [`open`] gives every [`Listener`] the same birth: CLOEXEC and O_NONBLOCK,
//! SO_REUSEADDR, one address family each, options for the connections set once.
//! SO_REUSEPORT only where several sockets of ours are to share an address, and
//! in a way that a second instance fails and does not share silently.
//! Dropping a Listener closes it and no more, since every forked child drops
//! one too; only [`Listener::unlink`] removes a socket file. Knows no process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, bind, shutdown, socket,
};

use crate::addr::{Addr, ListenSpec, Peer, UnixPath};
use crate::config::Timeouts;
use crate::error::{Error, Exit};
use crate::net::inet;
use crate::net::options::{self, ListenOptions, backlog, birth_flags};
use crate::net::unix_path::{SocketFile, absolute};
use crate::sys::sockopt as sys;

/// An open listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    name: String,
    kind: Kind,
    service: Option<String>,
    /// Somebody else opened it and keeps it.
    handed: bool,
}

/// A listen queue at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Clients in it; of a Unix socket's the kernel says only whether there are any.
    pub waiting: u32,
    /// How long it may be: one more than this, and the next is dropped.
    pub limit: u32,
}

impl Queue {
    /// Is the next one dropped?
    pub fn is_full(self) -> bool {
        self.waiting > self.limit
    }
}

#[derive(Debug)]
enum Kind {
    Tcp,
    /// An abstract name has no file.
    Unix(Option<SocketFile>, Timeouts),
}

/// Says whether this version can serve the listener, without opening it.
///
/// # Errors
/// A usage error: a service that does not exist.
pub fn check(spec: &ListenSpec) -> Result<(), Error> {
    match spec.attrs.service.as_deref() {
        None | Some("echo" | "command") => Ok(()),
        Some(other) => {
            let why = format!("service: there are echo and command, not {other}");
            Err(Error::usage(spec, why))
        }
    }
}

/// Opens what one `--listen` of streams asks for ([`super::datagram`] opens the
/// others): one listener, or one for each family of
/// `*` and each address of a name, at least one.
///
/// After an error nothing is left behind; listeners opened by earlier calls are
/// the caller's to [`Listener::unlink`].
///
/// # Errors
/// 64 where it cannot be meant, 69 address in use, not here or unknown, 73 the
/// socket file cannot be created, 77 no permission, 71 anything else.
pub fn open(spec: &ListenSpec, opts: &ListenOptions) -> Result<Vec<Listener>, Error> {
    check(spec)?;
    let mut opened = open_each(spec, opts)?;
    for listener in &mut opened {
        listener.service.clone_from(&spec.attrs.service);
    }
    Ok(opened)
}

fn open_each(spec: &ListenSpec, opts: &ListenOptions) -> Result<Vec<Listener>, Error> {
    match &spec.addr {
        Addr::Tcp { .. } => {
            let opened = inet::open(spec, opts)?;
            let listeners = opened.into_iter().map(|(fd, bound)| Listener {
                fd,
                name: format!("tcp:{bound}"),
                kind: Kind::Tcp,
                service: None,
                handed: false,
            });
            Ok(listeners.collect())
        }
        Addr::Unix(UnixPath::Path(path)) => {
            let path = absolute(path)?;
            let name = Addr::Unix(UnixPath::Path(path.clone())).to_string();
            let fd = unix_socket(&name, SockType::Stream, birth_flags())?;
            let file = match opts.dry {
                true => SocketFile::rehearse(&fd, &path, &name, &spec.attrs).map(|()| None),
                false => SocketFile::listen(&fd, &path, &name, &spec.attrs, backlog(spec, opts))
                    .map(Some),
            }?;
            Ok(vec![unix_listener(fd, name, file, opts)])
        }
        Addr::Unix(UnixPath::Abstract(name)) => open_abstract(spec, name, opts),
        Addr::Udp { .. } | Addr::UnixGram(_) => {
            Err(Error::usage(spec, "datagrams have no listener").exit(Exit::Internal))
        }
    }
}

pub(super) fn unix_socket(name: &str, kind: SockType, flags: SockFlag) -> Result<OwnedFd, Error> {
    socket(AddressFamily::Unix, kind, flags, None).map_err(|errno| Error::os("socket", name, errno))
}

fn unix_listener(
    fd: OwnedFd,
    name: String,
    file: Option<SocketFile>,
    opts: &ListenOptions,
) -> Listener {
    let kind = Kind::Unix(file, opts.timeouts);
    Listener {
        fd,
        name,
        kind,
        service: None,
        handed: false,
    }
}

fn open_abstract(
    spec: &ListenSpec,
    raw: &[u8],
    opts: &ListenOptions,
) -> Result<Vec<Listener>, Error> {
    let name = spec.addr.to_string();
    let fd = unix_socket(&name, SockType::Stream, birth_flags())?;
    bind_abstract(&fd, raw, &name)?;
    if !opts.dry {
        sys::listen(fd.as_fd(), backlog(spec, opts))
            .map_err(|errno| Error::os("listen", &name, errno))?;
    }
    Ok(vec![unix_listener(fd, name, None, opts)])
}

/// Takes an abstract name, which fails where another server has it.
pub(super) fn bind_abstract(fd: &OwnedFd, raw: &[u8], name: &str) -> Result<(), Error> {
    UnixAddr::new_abstract(raw)
        .and_then(|addr| bind(fd.as_raw_fd(), &addr))
        .map_err(|errno| match errno {
            Errno::EADDRINUSE => Error::os("bind", name, errno)
                .hint("another server has this name")
                .exit(Exit::Unavailable),
            _ => Error::os("bind", name, errno),
        })
}

impl Listener {
    /// One that was opened by somebody else: TCP, or with `unix` a Unix socket,
    /// whose file is nothing to us.
    pub(super) fn handed(fd: OwnedFd, name: String, unix: Option<Timeouts>) -> Listener {
        Listener {
            fd,
            name,
            kind: unix.map_or(Kind::Tcp, |timeouts| Kind::Unix(None, timeouts)),
            service: None,
            handed: true,
        }
    }

    /// Was it handed over? Then whoever did that keeps it and its queue: at a
    /// stop it is closed and no more, and whom it holds the next echod serves.
    pub fn is_handed(&self) -> bool {
        self.handed
    }

    /// The canonical address with the real port: `tcp:127.0.0.1:41234`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The service attribute as it was typed; what it means is not known here.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Whether this is TCP, else it is a Unix stream socket.
    pub fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp)
    }

    /// Takes one connection, a blocking socket; never waits for one.
    ///
    /// # Errors
    /// accept(2)'s; [`super::classify`] says what each asks for.
    pub fn accept(&self) -> Result<(OwnedFd, Peer), Errno> {
        sys::accept(self.fd.as_fd())
    }

    /// Sets once more what its connections inherit, and that accept(2) does not wait:
    /// whoever held a copy of the descriptor may have changed either, for all who
    /// share the socket.
    ///
    /// # Errors
    /// fcntl(2)'s or setsockopt(2)'s.
    pub fn set_again(&self, timeouts: &Timeouts) -> Result<(), Errno> {
        fcntl(&self.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        match self.kind {
            Kind::Tcp => options::set_tcp_again(self.fd.as_fd(), timeouts),
            Kind::Unix(..) => Ok(()),
        }
    }

    /// Sets the options an accepted connection has not inherited. For TCP
    /// there are none, and no system call.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn prepare(&self, conn: BorrowedFd<'_>) -> Result<(), Errno> {
        match &self.kind {
            Kind::Tcp => Ok(()),
            Kind::Unix(_, timeouts) => options::set_stream(conn, timeouts),
        }
    }

    /// First step of a stop: TCP clients that come from now on do not get in,
    /// while those in the queue or in their handshake can still be accepted.
    /// Does nothing to a Unix socket, which has [`Listener::shut`], nor to one that
    /// was handed over: the filter would be its next owner's too.
    ///
    /// A SYN filter leaves newcomers unanswered; where that needs a privilege
    /// we gave up, they are refused at once instead.
    ///
    /// # Errors
    /// setsockopt(2)'s; then closing the listener resets whom it holds.
    pub fn refuse_new(&self) -> Result<(), Errno> {
        match self.kind {
            _ if self.handed => Ok(()),
            Kind::Tcp => sys::attach_syn_filter(self.fd.as_fd()).or_else(|errno| match errno {
                Errno::EPERM => sys::detach_from_interfaces(self.fd.as_fd()),
                _ => Err(errno),
            }),
            Kind::Unix(..) => Ok(()),
        }
    }

    /// The same for a Unix socket: new clients are refused, the queue can still
    /// be accepted. Does nothing to TCP, nor to a socket that was handed over.
    ///
    /// From then on poll(2) finds it readable for ever, also when the queue is
    /// empty, which only [`Listener::accept`] tells, by EAGAIN. Whoever goes on
    /// polling must ask [`Listener::is_shut`] after EAGAIN, or it spins.
    ///
    /// # Errors
    /// shutdown(2)'s.
    pub fn shut(&self) -> Result<(), Errno> {
        match self.kind {
            _ if self.handed => Ok(()),
            Kind::Tcp => Ok(()),
            Kind::Unix(..) => shutdown(self.fd.as_raw_fd(), Shutdown::Read),
        }
    }

    /// Whether any process that shares this socket has [`Listener::shut`] it:
    /// after EAGAIN then, nothing will ever be queued again.
    pub fn is_shut(&self) -> bool {
        sys::is_read_shut(self.fd.as_fd())
    }

    /// How many times the kernel has dropped who tried to connect, mostly because
    /// the queue was full; goes round at 2^32. 0 for a Unix socket, where clients
    /// wait instead.
    pub fn dropped(&self) -> u32 {
        match self.kind {
            Kind::Tcp => sys::drops(self.fd.as_fd()).unwrap_or(0),
            Kind::Unix(..) => 0,
        }
    }

    /// Who waits in the queue to be accepted.
    pub fn queue(&self) -> Queue {
        let counted = match self.kind {
            Kind::Tcp => sys::queue(self.fd.as_fd()).ok(),
            Kind::Unix(..) => None,
        };
        let (waiting, limit) = counted.unwrap_or_else(|| {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0);
            (u32::from(ready > 0), u32::MAX)
        });
        Queue { waiting, limit }
    }

    /// Removes the socket file if there is one and it is still ours, and says
    /// whether it did. Works after chroot(2) too.
    ///
    /// # Errors
    /// EACCES or EPERM after privileges were given up, EROFS.
    pub fn unlink(&self) -> Result<bool, Errno> {
        match &self.kind {
            Kind::Unix(Some(file), _) => file.unlink(),
            _ => Ok(false),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;

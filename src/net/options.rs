//! Socket options, of a listener and of a connection: how long it may be silent or stuck, how a
//! dead peer is found out, where an urgent byte goes.
//!
//! An accepted TCP socket inherits them all from its listener, so they are set
//! once there and cost a connection nothing. An accepted Unix socket inherits
//! none. What is set per connection here runs in a forked child: it neither
//! allocates nor logs.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::addr::ListenSpec;
use crate::config::Timeouts;

/// What applies to every listener alike.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// listen(2)'s backlog where the listener itself names none; `None` is as
    /// much as the kernel allows (net.core.somaxconn).
    pub backlog: Option<u32>,
    /// Limits on each connection.
    pub timeouts: Timeouts,
    /// Sockets for each TCP address; beyond one they share it by SO_REUSEPORT.
    pub sockets: usize,
    /// Only try: take the address and do not listen, make no file that stays.
    pub dry: bool,
}

/// Bytes a datagram socket may hold, each way; the kernel doubles it for its
/// own bookkeeping, see socket(7).
const DATAGRAM_BUFFER: usize = 1 << 20;

pub(super) fn backlog(spec: &ListenSpec, opts: &ListenOptions) -> Option<u32> {
    spec.attrs.backlog.or(opts.backlog)
}

/// CLOEXEC, and O_NONBLOCK because a sibling may take the connection that woke
/// us; see accept(2).
pub(super) fn birth_flags() -> SockFlag {
    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK
}

/// Sets on a TCP listener what its connections inherit. TCP_NODELAY, or of two
/// small answers the second would wait for the client to acknowledge the first.
///
/// SO_RCVTIMEO would also time out a blocking accept(2) there; ours never
/// blocks.
pub(super) fn set_tcp(listener: BorrowedFd<'_>, timeouts: &Timeouts) -> Result<(), Errno> {
    set_stream(listener, timeouts)?;
    setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
    setsockopt(&listener, sockopt::KeepAlive, &timeouts.keepalive.is_some())?;
    if let Some(keepalive) = timeouts.keepalive {
        setsockopt(&listener, sockopt::TcpKeepIdle, &keepalive.idle)?;
        setsockopt(&listener, sockopt::TcpKeepInterval, &keepalive.interval)?;
        setsockopt(&listener, sockopt::TcpKeepCount, &keepalive.count)?;
    }
    if let Some(write) = timeouts.write {
        setsockopt(&listener, sockopt::TcpUserTimeout, &milliseconds(write))?;
    }
    Ok(())
}

/// Sets the same on a TCP listener that has been in other hands: a former echod's,
/// or a worker's. What `timeouts` do not set anew is taken back.
pub(super) fn set_tcp_again(listener: BorrowedFd<'_>, timeouts: &Timeouts) -> Result<(), Errno> {
    let never = TimeVal::new(0, 0);
    let in_peace = nix::libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    setsockopt(&listener, sockopt::Linger, &in_peace)?;
    if timeouts.idle.is_none() {
        setsockopt(&listener, sockopt::ReceiveTimeout, &never)?;
    }
    if timeouts.write.is_none() {
        setsockopt(&listener, sockopt::SendTimeout, &never)?;
        setsockopt(&listener, sockopt::TcpUserTimeout, &0)?;
    }
    set_tcp(listener, timeouts)
}

/// Sets what any connection needs: the timeouts, and an urgent byte in its
/// place among the others, where read(2) finds it.
pub(super) fn set_stream(socket: BorrowedFd<'_>, timeouts: &Timeouts) -> Result<(), Errno> {
    if let Some(idle) = timeouts.idle {
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeval(idle))?;
    }
    if let Some(write) = timeouts.write {
        setsockopt(&socket, sockopt::SendTimeout, &timeval(write))?;
    }
    setsockopt(&socket, sockopt::OobInline, &true)
}

/// Sets what a connection needs that somebody else accepted, and that has inherited
/// nothing of ours. Beyond the timeouts it is as good as this kernel has it: an
/// MPTCP connection lacks some.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_accepted(socket: BorrowedFd<'_>, timeouts: &Timeouts) -> Result<(), Errno> {
    set_stream(socket, timeouts)?;
    if getsockopt(&socket, sockopt::TcpNoDelay).is_ok() {
        let _ = set_tcp(socket, timeouts);
    }
    Ok(())
}

/// Ends a TCP connection with a reset instead of a FIN, dropping what is
/// unsent. A Unix connection is merely closed.
///
/// Best effort: where even this option is refused, it is a plain close.
pub fn overflow_reset(conn: OwnedFd) {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(&conn, sockopt::Linger, &at_once);
    drop(conn);
}

/// As setsockopt(2) takes it, where 0 would mean "for ever".
fn timeval(limit: Duration) -> TimeVal {
    let seconds = limit.as_secs().try_into().unwrap_or(i64::MAX);
    let micros = i64::from(limit.subsec_micros());
    TimeVal::new(seconds, if seconds == 0 { micros.max(1) } else { micros })
}

/// Asks that each datagram of a UDP socket tell which of our addresses it was
/// sent to, so that the reply can leave from there.
pub(super) fn ask_destination(socket: &OwnedFd, v6: bool) -> Result<(), Errno> {
    if v6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    }
}

/// Ties a socket to an interface: what comes by another is not for it, socket(7). Since
/// Linux 5.7 anybody may do so to a socket that is not tied yet.
pub(super) fn bind_to_device(socket: &OwnedFd, device: &str) -> Result<(), Errno> {
    setsockopt(socket, sockopt::BindToDevice, &OsString::from(device))
}

/// Sets on a UDP socket what it is born with.
pub(super) fn set_udp(socket: &OwnedFd, v6: bool, freebind: bool) -> Result<(), Errno> {
    if v6 {
        setsockopt(socket, sockopt::Ipv6V6Only, &true)?;
    }
    ask_destination(socket, v6)?;
    if freebind {
        setsockopt(socket, sockopt::IpFreebind, &true)?;
    }
    set_datagram(socket)
}

/// Sets what any datagram socket needs: room for a burst while the worker is
/// being replaced, as far as net.core.rmem_max and wmem_max go.
pub(super) fn set_datagram(socket: &OwnedFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::RcvBuf, &DATAGRAM_BUFFER)?;
    setsockopt(socket, sockopt::SndBuf, &DATAGRAM_BUFFER)
}

/// The same on a Unix socket, and that each datagram tell whose it is: in the words
/// of whoever receives it, so root of another user namespace is not root.
pub(super) fn set_unix_datagram(socket: &OwnedFd) -> Result<(), Errno> {
    ask_sender(socket)?;
    set_datagram(socket)
}

/// Asks that each datagram of a Unix socket tell whose it is (unix(7)).
pub(super) fn ask_sender(socket: &OwnedFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::PassCred, &true)
}

/// As TCP_USER_TIMEOUT takes it, an int in tcp(7), where 0 is the default.
fn milliseconds(limit: Duration) -> u32 {
    let most = i32::MAX as u32;
    u32::try_from(limit.as_millis()).map_or(most, |ms| ms.clamp(1, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_never_turns_into_no_limit() {
        let table = [
            (Duration::from_nanos(1), (0, 1), 1),
            (Duration::from_micros(999), (0, 999), 1),
            (Duration::from_millis(1500), (1, 500_000), 1500),
            (Duration::from_secs(600), (600, 0), 600_000),
            (Duration::MAX, (i64::MAX, 999_999), i32::MAX as u32),
        ];
        for (limit, (seconds, micros), ms) in table {
            assert_eq!(timeval(limit), TimeVal::new(seconds, micros), "{limit:?}");
            assert_eq!(milliseconds(limit), ms, "{limit:?}");
        }
    }
}

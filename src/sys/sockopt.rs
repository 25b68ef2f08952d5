//! Socket calls that nix does not wrap, or not well enough.
//!
//! [`accept`] because nix's accept4(2) drops the peer's address,
//! [`attach_syn_filter`] and [`detach_from_interfaces`] because it has neither
//! SO_ATTACH_FILTER nor SO_BINDTOIFINDEX, [`listen`] because its backlog ends
//! at 4096, [`drops`] because it has no SO_MEMINFO, [`queue`] no TCP_INFO,
//! [`is_of_this_namespace`] no SO_NETNS_COOKIE, [`is_read_shut`] because
//! its poll(2) has no POLLRDHUP. Every other option is nix's own. Knows no
//! listener: descriptors come in, descriptors and errnos go out. [`accept`]
//! neither allocates nor locks, so a forked child may call it.

use std::ffi::c_int;
use std::fmt;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::from_mut;

use libc::{sock_filter, sock_fprog, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use nix::errno::Errno;

use crate::sys::raw;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An Internet address.
    Inet(SocketAddr),
    /// A client of a Unix socket, which seldom has a name.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Inet(addr) => addr.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Takes one connection from the queue, CLOEXEC from birth, and says who it is
/// without a further system call. The connection is blocking whatever the
/// listener is, see accept(2).
///
/// # Errors
/// accept(2)'s; `net::classify` says what each asks for.
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Peer), Errno> {
    // Room for the longest Internet address. A Unix peer's name is cut off,
    // which accept(2) allows: only its family is looked at.
    // SAFETY: sockaddr_in6 is integers and arrays of them, for which all zero
    // bits are a value.
    let mut address: sockaddr_in6 = unsafe { zeroed() };
    let mut length = size_of::<sockaddr_in6>() as socklen_t;
    // SAFETY: `address` is `length` bytes of writable memory and both outlive
    // the call; the kernel writes no more than `length` bytes.
    let fd = unsafe {
        raw::accept4(
            listener,
            from_mut(&mut address).cast::<sockaddr>(),
            &raw mut length,
            libc::SOCK_CLOEXEC,
        )
    }?;
    // SAFETY: accept4 has just made this descriptor and nobody else knows it.
    let conn = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((conn, peer(&address)))
}

fn peer(address: &sockaddr_in6) -> Peer {
    match c_int::from(address.sin6_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_in is shorter than a sockaddr_in6, as aligned,
            // and all integers; the family says that the kernel wrote one here.
            let v4 = unsafe { &*std::ptr::from_ref(address).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Peer::Inet(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Peer::Inet(match ip.to_ipv4_mapped() {
                // On a socket of both families, which can only be handed over.
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => {
                    let (flow, scope) = (address.sin6_flowinfo, address.sin6_scope_id);
                    SocketAddrV6::new(ip, port, flow, scope).into()
                }
            })
        }
        _ => Peer::Unix,
    }
}

/// Starts listening. `None` asks for as many as the kernel allows: it cuts any
/// number down to net.core.somaxconn, see listen(2).
///
/// # Errors
/// listen(2)'s; EADDRINUSE where another socket listens on the port already.
pub fn listen(socket: BorrowedFd<'_>, backlog: Option<u32>) -> Result<(), Errno> {
    let backlog = backlog.map_or(c_int::MAX, |n| c_int::try_from(n).unwrap_or(c_int::MAX));
    // SAFETY: integers only; the borrow keeps the descriptor open.
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Whether shutdown(2) has ended reading on this Unix listener, in whichever
/// process; nix's poll flags lack POLLRDHUP. Never waits.
pub fn is_read_shut(listener: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found == 1 && asked.revents & libc::POLLRDHUP != 0
}

/// Which protocol a socket speaks, SO_PROTOCOL.
///
/// # Errors
/// getsockopt(2)'s.
pub fn protocol(socket: BorrowedFd<'_>) -> Result<c_int, Errno> {
    let mut protocol: c_int = 0;
    let mut size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, which `protocol` has.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PROTOCOL,
            (&raw mut protocol).cast(),
            &raw mut size,
        )
    })?;
    Ok(protocol)
}

/// Makes a TCP listener deaf to new clients while those in its queue, and
/// those whose handshake is under way, can still be accepted: the kernel drops
/// every segment with SYN and without ACK before TCP sees it. A dropped client
/// tries again by itself a second later.
///
/// The filter belongs to the socket: every process that shares it is deaf too.
///
/// # Errors
/// setsockopt(2)'s; EPERM without CAP_NET_ADMIN on kernels that guard TCP (see
/// [`detach_from_interfaces`]), ENOMEM beyond net.core.optmem_max, ENOPROTOOPT
/// for MPTCP.
pub fn attach_syn_filter(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // A socket filter on TCP sees the segment from the TCP header on, in both
    // families; byte 13 holds the flags (RFC 9293).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let mut program = [
        bpf(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS, 0),
        bpf(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK, 0),
        bpf(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, 1),
        bpf(libc::BPF_RET | libc::BPF_K, 0, 0),
        bpf(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
    ];
    let filter = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: SO_ATTACH_FILTER takes a sock_fprog, and this one points to `len`
    // instructions, which the kernel copies during the call.
    unsafe { set(listener, libc::SO_ATTACH_FILTER, &filter) }
}

/// Makes a UDP socket deaf: whatever comes is dropped by the kernel, what is
/// queued already can still be received.
///
/// # Errors
/// setsockopt(2)'s; ENOMEM beyond net.core.optmem_max.
pub fn attach_deaf_filter(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut program = [bpf(libc::BPF_RET | libc::BPF_K, 0, 0)];
    let filter = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: as in attach_syn_filter.
    unsafe { set(socket, libc::SO_ATTACH_FILTER, &filter) }
}

/// The same end without privileges, and what is left of it where filters on TCP
/// need CAP_NET_ADMIN (Linux since 5d39580f68e6): binds the listener to an
/// interface that does not exist. A new SYN then meets no listener and is
/// refused at once; a handshake under way keeps the interface it began with and
/// completes, and the queue can be accepted. The port stays taken.
///
/// # Errors
/// setsockopt(2)'s; ENOPROTOOPT before Linux 5.1, EPERM without CAP_NET_RAW
/// before 5.7 or if the listener is bound to an interface already.
pub fn detach_from_interfaces(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // Indices are handed out from 1 up; see netdevice(7).
    let nowhere = c_int::MAX;
    // SAFETY: SO_BINDTOIFINDEX takes an int.
    unsafe { set(listener, libc::SO_BINDTOIFINDEX, &nowhere) }
}

/// What the kernel has dropped that came for this socket; for a listener, the
/// attempts to connect that its full queue had no room for.
///
/// # Errors
/// getsockopt(2)'s; ENOPROTOOPT before Linux 4.12.
pub fn drops(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SK_MEMINFO_DROPS, the last of the nine words of <linux/sock_diag.h>.
    const DROPS: usize = 8;
    let mut words = [0_u32; DROPS + 1];
    let mut length = size_of_val(&words) as socklen_t;
    // SAFETY: `words` is `length` bytes of writable memory, and the kernel writes
    // no more than that.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(words[DROPS])
}

/// A TCP listener's queue: how many wait in it to be accepted, and how long it may
/// be; see tcp(7), TCP_INFO.
///
/// # Errors
/// getsockopt(2)'s.
pub fn queue(listener: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    // In a listener's, `tcpi_unacked` is sk_ack_backlog and `tcpi_sacked`
    // sk_max_ack_backlog; the kernel cuts the struct off where we say.
    const WORDS: usize = 8;
    const { assert!(std::mem::offset_of!(libc::tcp_info, tcpi_sacked) == 4 * (WORDS - 1)) };
    let mut words = [0_u32; WORDS];
    let mut length = size_of_val(&words) as socklen_t;
    // SAFETY: as in drops.
    Errno::result(unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok((words[WORDS - 2], words[WORDS - 1]))
}

/// Does the socket belong to the network namespace that this process opens its
/// sockets in? Before Linux 5.14, which cannot tell, it is taken to.
pub fn is_of_this_namespace(socket: BorrowedFd<'_>) -> bool {
    let Ok((ours, _)) = std::os::unix::net::UnixStream::pair() else {
        return true;
    };
    cookie(socket) == cookie(ours.as_fd())
}

/// SO_NETNS_COOKIE, see socket(7); 0 is none.
fn cookie(socket: BorrowedFd<'_>) -> u64 {
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as socklen_t;
    // SAFETY: `cookie` is `length` bytes of writable memory, and the kernel writes no
    // more than that.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if got == 0 { cookie } else { 0 }
}

/// # Safety
/// `T` must be what `name` takes at SOL_SOCKET, and any pointer in it valid.
unsafe fn set<T>(socket: BorrowedFd<'_>, name: c_int, value: &T) -> Result<(), Errno> {
    // SAFETY: `value` is that many readable bytes; the rest is the caller's.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as socklen_t,
        )
    })
    .map(drop)
}

/// One instruction; a jump goes on at once if equal, else skips `skip` more.
fn bpf(code: u32, k: u32, skip: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    use super::*;

    fn accepted_address(server: &str) {
        let Ok(listener) = TcpListener::bind(server) else {
            eprintln!("skipped: cannot bind {server}");
            return;
        };
        listener.set_nonblocking(true).expect("nonblocking");
        let addr = listener.local_addr().expect("address");
        let client = TcpStream::connect(addr).expect("connect");
        let (conn, peer) = accept(listener.as_fd()).expect("accept");
        assert_eq!(peer, Peer::Inet(client.local_addr().expect("address")));
        let fd_flags = fcntl(&conn, FcntlArg::F_GETFD).expect("flags");
        assert!(FdFlag::from_bits_retain(fd_flags).contains(FdFlag::FD_CLOEXEC));
        let flags = fcntl(&conn, FcntlArg::F_GETFL).expect("flags");
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        assert_eq!(accept(listener.as_fd()).expect_err("empty"), Errno::EAGAIN);
    }

    #[test]
    fn accept_names_an_ipv4_client() {
        accepted_address("127.0.0.1:0");
    }

    #[test]
    fn accept_names_an_ipv6_client() {
        accepted_address("[::1]:0");
    }

    #[test]
    fn accept_names_an_ipv4_client_of_both_families_in_ipv4() {
        use nix::sys::socket as s;
        let (kind, flags) = (s::SockType::Stream, s::SockFlag::SOCK_NONBLOCK);
        let Ok(both) = s::socket(s::AddressFamily::Inet6, kind, flags, None) else {
            return eprintln!("skipped: no IPv6");
        };
        s::setsockopt(&both, s::sockopt::Ipv6V6Only, &false).expect("option");
        let any = std::net::SocketAddr::from(([0u16; 8], 0));
        s::bind(both.as_raw_fd(), &s::SockaddrStorage::from(any)).expect("bind");
        listen(both.as_fd(), None).expect("listen");
        let port = TcpListener::from(both.try_clone().expect("copy"));
        let port = port.local_addr().expect("address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let (_conn, peer) = accept(both.as_fd()).expect("accept");
        assert_eq!(peer, Peer::Inet(client.local_addr().expect("address")));
    }

    #[test]
    fn accept_calls_a_unix_client_unix_named_or_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let _unnamed = UnixStream::connect(&path).expect("connect");
        assert_eq!(accept(listener.as_fd()).expect("accept").1, Peer::Unix);

        use nix::sys::socket as s;
        let (kind, flags) = (s::SockType::Stream, s::SockFlag::SOCK_CLOEXEC);
        let named = s::socket(s::AddressFamily::Unix, kind, flags, None).expect("socket");
        let long = dir.path().join("n".repeat(40));
        let own = s::UnixAddr::new(&long).expect("address");
        s::bind(named.as_raw_fd(), &own).expect("bind");
        let server = s::UnixAddr::new(&path).expect("address");
        s::connect(named.as_raw_fd(), &server).expect("connect");
        assert_eq!(accept(listener.as_fd()).expect("accept").1, Peer::Unix);
    }

    #[test]
    fn a_backlog_beyond_the_kernels_is_cut_not_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        for backlog in [None, Some(1), Some(100_000), Some(u32::MAX)] {
            assert_eq!(listen(listener.as_fd(), backlog), Ok(()), "{backlog:?}");
        }
    }
}

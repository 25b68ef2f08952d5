//! Datagrams by the batch: recvmmsg(2) and sendmmsg(2), each datagram with its
//! own control message.
//!
//! nix's wrappers do not serve: one forgets to reset the lengths that the kernel
//! wrote, so control messages vanish after the first call, and the other shares
//! one control message over a whole batch. A reply goes back in the very
//! buffers its datagram came in, its control message turned round: the address
//! that was asked becomes the one it leaves from (ip(7), ipv6(7)). Knows
//! nothing of who may be answered. Allocates in [`Batch::new`] only.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, sockaddr_storage, socklen_t};
use nix::errno::Errno;

use crate::sys::memory::Buffer;

/// The longest datagram that is taken; UDP has none longer than 65,507 bytes over
/// IPv4 and 65,527 over IPv6, a Unix socket may.
pub const LONGEST: usize = 65_536;

/// Datagrams taken at a time.
const BATCH: usize = 32;

/// From one buffer to the next: not a power of two, or the first bytes of all of
/// them would compete for the same few lines of the processor's cache.
const STRIDE: usize = LONGEST + 5 * 64;

/// What to do when nothing has come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Wait {
    /// Wait for one datagram, and take what else is there then.
    ForOne = libc::MSG_WAITFORONE,
    /// Say so.
    Never = libc::MSG_DONTWAIT,
}

/// One datagram of the batch.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Who sent it.
    pub from: Sender,
    /// The bytes of its name, if it is a Unix socket: a path, or an abstract name
    /// after a NUL.
    pub name: &'a [u8],
    /// Where to; `None` for a Unix socket.
    pub to: Option<Asked>,
    /// What it says.
    pub bytes: &'a [u8],
    /// There was more than [`LONGEST`] bytes of it; the rest is lost.
    pub cut: bool,
}

/// Buffers for a batch of datagrams, and the replies among them.
pub struct Batch {
    memory: Buffer,
    // What the headers point into: never grown, so never moved.
    names: Box<[sockaddr_storage]>,
    controls: Box<[Control]>,
    parts: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
    replies: Box<[mmsghdr]>,
    control: usize,
    arrived: usize,
    queued: usize,
}

impl Batch {
    /// Maps the buffers; pages cost nothing until a datagram fills them.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        Batch::of(BATCH)
    }

    /// [`Batch::new`], for so many datagrams at a time.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn of(most: usize) -> Result<Self, Errno> {
        // SAFETY: all of these are integers, arrays of them and pointers, for
        // which all zero bits are a value.
        let (name, part, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut batch = Batch {
            memory: Buffer::new(most * STRIDE)?,
            names: vec![name; most].into(),
            controls: vec![Control::EMPTY; most].into(),
            parts: vec![part; most].into(),
            headers: vec![header; most].into(),
            replies: vec![header; most].into(),
            control: size_of::<Control>(),
            arrived: most,
            queued: 0,
        };
        batch.reset();
        Ok(batch)
    }

    /// For a Unix socket: takes the control message that says whose it is, and no
    /// other.
    pub fn for_unix(mut self) -> Self {
        self.control = CREDENTIALS;
        self.arrived = self.headers.len();
        self.reset();
        self
    }

    /// Gives the headers used last time back their whole room: the kernel wrote
    /// what it used of it, see recvmsg(2).
    fn reset(&mut self) {
        let memory = self.memory.bytes();
        let used = memory.chunks_exact_mut(STRIDE).take(self.arrived);
        for (i, bytes) in used.enumerate() {
            self.parts[i] = iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: LONGEST,
            };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
            header.msg_iov = &raw mut self.parts[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[i]).cast();
            header.msg_controllen = self.control as _;
            header.msg_flags = 0;
        }
        self.arrived = 0;
        self.queued = 0;
    }

    /// Takes what is in the queue, as far as it fits. Returns how many.
    ///
    /// # Errors
    /// recvmmsg(2)'s; EAGAIN if there is nothing and it may not wait.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: Wait) -> Result<usize, Errno> {
        self.reset();
        // SAFETY: so many headers, each pointing to a name, a part and a control
        // buffer of our own with their true lengths; a null timeout is allowed.
        let got = Errno::result(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as c_uint,
                wait as _,
                std::ptr::null_mut(),
            )
        })?;
        self.arrived = usize::try_from(got).unwrap_or(0).min(self.headers.len());
        Ok(self.arrived)
    }

    /// The datagram with this number, from 0, of those received last.
    pub fn get(&mut self, i: usize) -> Arrived<'_> {
        let header = &self.headers[..self.arrived][i];
        let length = (header.msg_len as usize).min(LONGEST);
        let from = sender(&self.names[i], &header.msg_hdr);
        let name = unix_name(&self.names[i], header.msg_hdr.msg_namelen);
        let to = asked(&header.msg_hdr);
        let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let bytes = &self.memory.bytes()[i * STRIDE..][..length];
        Arrived {
            from,
            name,
            to,
            bytes,
            cut,
        }
    }

    /// Queues that datagram to be sent back as it came: from the address that it
    /// was sent to, or (`bound`) from the only one that the socket has, which the
    /// kernel need not be told. Once each.
    pub fn echo(&mut self, i: usize, bound: bool) {
        assert!(self.queued < self.arrived, "a datagram echoed twice");
        let header = &mut self.headers[..self.arrived][i];
        self.parts[i].iov_len = (header.msg_len as usize).min(LONGEST);
        if bound {
            header.msg_hdr.msg_control = std::ptr::null_mut();
            header.msg_hdr.msg_controllen = 0;
        } else {
            turn_round(&mut header.msg_hdr);
        }
        self.replies[self.queued] = *header;
        self.queued += 1;
    }

    /// Puts another answer to that datagram in place of what it said: as much of
    /// `bytes` as fits.
    pub fn replace(&mut self, i: usize, bytes: &[u8]) {
        let header = &mut self.headers[..self.arrived][i];
        let length = bytes.len().min(LONGEST);
        let room = &mut self.memory.bytes()[i * STRIDE..];
        room[..length].copy_from_slice(&bytes[..length]);
        header.msg_len = length as c_uint;
    }

    /// What that datagram's sender is called becomes this path.
    pub fn redirect(&mut self, i: usize, path: &[u8]) {
        let header = &mut self.headers[..self.arrived][i].msg_hdr;
        header.msg_namelen = set_unix_path(&mut self.names[i], path);
    }

    /// Sends that datagram back by itself, as it came, and without waiting for
    /// room. Returns how many bytes that were.
    ///
    /// # Errors
    /// sendmsg(2)'s.
    pub fn send_alone(&mut self, i: usize, socket: BorrowedFd<'_>) -> Result<u64, Errno> {
        debug_assert_eq!(self.queued, 0, "it overtakes others");
        self.echo(i, true);
        let mut failure = None;
        let (_, bytes) = self.send(socket, |errno| failure = Some(errno));
        failure.map_or(Ok(bytes), Err)
    }

    /// Sends what was queued, without waiting for room, and tells of each reply
    /// that could not be sent. Returns how many were, and their bytes.
    pub fn send(&mut self, socket: BorrowedFd<'_>, mut failed: impl FnMut(Errno)) -> (u64, u64) {
        let (mut sent, mut bytes) = (0, 0);
        let mut rest = &mut self.replies[..self.queued];
        while !rest.is_empty() {
            // By its number: musl's function of that name calls sendmsg(2) for each.
            //
            // SAFETY: `rest` holds that many headers, whose pointers are those
            // of `receive` with the lengths it got; they are only read.
            let result = Errno::result(unsafe {
                libc::syscall(
                    libc::SYS_sendmmsg,
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            });
            let done = match result {
                Ok(n) => usize::try_from(n).unwrap_or(0).min(rest.len()),
                Err(Errno::EINTR) => continue,
                Err(_) => 0,
            };
            for reply in &rest[..done] {
                bytes += u64::from(reply.msg_len);
            }
            sent += done as u64;
            rest = &mut rest[done..];
            // The kernel stops at the first that fails and tells why only if it
            // was the first of all, see sendmmsg(2).
            if let Err(errno) = result {
                failed(errno);
                rest = &mut rest[1..];
            }
        }
        self.queued = 0;
        (sent, bytes)
    }
}

// What comes with a datagram beside its bytes: the name of its sender, and the
// control message that tells where it was sent to, which goes back with the reply
// (cmsg(3), ip(7), ipv6(7)).

/// Room for one control message of either family, as aligned as cmsg(3) wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Control {
    const EMPTY: Control = Control([0; 64]);
}

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An Internet address.
    Inet(SocketAddr),
    /// A Unix socket with a name, and the user that sent it, if the kernel noted it.
    Unix(Option<u32>),
    /// A Unix socket without one: nobody can answer it.
    Unnamed,
}

/// Where a datagram was sent to, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its destination address.
    pub address: IpAddr,
    /// Whether that is one machine's address, ours, rather than many machines'.
    pub unicast: bool,
    /// Index of the interface it came by.
    pub interface: u32,
}

fn sender(name: &sockaddr_storage, header: &libc::msghdr) -> Sender {
    let length = header.msg_namelen as usize;
    match c_int::from(name.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: a sockaddr_storage is large and aligned enough for any
            // address; the family and length say that this one is here.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Sender::Inet(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Sender::Inet(SocketAddr::V6(SocketAddrV6::new(
                v6.sin6_addr.s6_addr.into(),
                u16::from_be(v6.sin6_port),
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            )))
        }
        libc::AF_UNIX if length > size_of::<libc::sa_family_t>() => Sender::Unix(user(header)),
        _ => Sender::Unnamed,
    }
}

/// The bytes of a Unix socket's name, a path without its NUL; empty if it has none.
fn unix_name(name: &sockaddr_storage, length: socklen_t) -> &[u8] {
    const FAMILY: usize = size_of::<libc::sa_family_t>();
    let whole = size_of::<sockaddr_storage>();
    // SAFETY: a sockaddr_storage is so many bytes, all of them set: zeroed at first,
    // and written over since by the kernel and by us.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(name).cast(), whole) };
    let unix = c_int::from(name.ss_family) == libc::AF_UNIX;
    match bytes.get(FAMILY..(length as usize).min(whole)) {
        Some([0, ..]) if unix => &bytes[FAMILY..(length as usize).min(whole)],
        Some(path) if unix => path.split(|&byte| byte == 0).next().unwrap_or(path),
        _ => &[],
    }
}

/// Makes that the name of a Unix socket at this path; the length it has now.
fn set_unix_path(name: &mut sockaddr_storage, path: &[u8]) -> socklen_t {
    // SAFETY: a sockaddr_storage is large and aligned enough for any address, and
    // a sockaddr_un is integers only.
    let unix = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_un>() };
    unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = unix.sun_path.len() - 1;
    let path = &path[..path.len().min(room)];
    for (to, &from) in unix.sun_path.iter_mut().zip(path) {
        *to = from as libc::c_char;
    }
    unix.sun_path[path.len()] = 0;
    (std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1) as socklen_t
}

/// What a control message is about.
enum Info {
    /// Where the datagram was sent to.
    V4(*mut libc::in_pktinfo),
    V6(*mut libc::in6_pktinfo),
    /// Whose it is.
    Credentials(*mut libc::ucred),
}

/// Room for the last of these and no more: where there is more, the kernel opens
/// here whatever descriptors a client sends along (SCM_RIGHTS, unix(7)); without,
/// it closes them.
const CREDENTIALS: usize =
    // SAFETY: it only computes a length.
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as c_uint) } as usize;

/// The user that sent it.
fn user(header: &libc::msghdr) -> Option<u32> {
    match info(header)? {
        // SAFETY: `info` has seen that a whole ucred is there.
        Info::Credentials(sender) => Some(unsafe { sender.read_unaligned() }.uid),
        Info::V4(_) | Info::V6(_) => None,
    }
}

fn info(header: &libc::msghdr) -> Option<Info> {
    // SAFETY: the header is one the kernel filled in, or is all ours: its
    // control buffer holds msg_controllen bytes of well-formed messages.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR is null or points to a whole cmsghdr.
    let (level, kind, length) =
        unsafe { ((*first).cmsg_level, (*first).cmsg_type, (*first).cmsg_len) };
    // SAFETY: pointer arithmetic within the control buffer, whose first message
    // is at least a header long.
    let data: *mut c_void = unsafe { libc::CMSG_DATA(first) }.cast();
    // SAFETY: these only compute a length.
    let (v4, v6, credentials) = unsafe {
        (
            libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as c_uint),
            libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as c_uint),
            libc::CMSG_LEN(size_of::<libc::ucred>() as c_uint),
        )
    };
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= v4 as _ => Some(Info::V4(data.cast())),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= v6 as _ => {
            Some(Info::V6(data.cast()))
        }
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= credentials as _ => {
            Some(Info::Credentials(data.cast()))
        }
        _ => None,
    }
}

fn asked(header: &libc::msghdr) -> Option<Asked> {
    match info(header)? {
        Info::V4(info) => {
            // SAFETY: `info` has seen that a whole in_pktinfo is there; read
            // unaligned, for cmsg(3) promises no alignment.
            let info = unsafe { info.read_unaligned() };
            let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
            Some(Asked {
                address: address.into(),
                // For one's own address the kernel gives both alike; what was
                // sent to many it would answer from an address of its own.
                unicast: info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr,
                interface: info.ipi_ifindex.cast_unsigned(),
            })
        }
        Info::V6(info) => {
            // SAFETY: as above, an in6_pktinfo.
            let info = unsafe { info.read_unaligned() };
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            Some(Asked {
                address: address.into(),
                unicast: !address.is_multicast(),
                interface: info.ipi6_ifindex,
            })
        }
        Info::Credentials(_) => None,
    }
}

/// Makes of "it came to this address by that interface" "send it from this
/// address": by any interface, as routes have it, but for an address that means
/// something on one link only.
fn turn_round(header: &mut libc::msghdr) {
    match info(header) {
        Some(Info::V4(info)) => {
            // SAFETY: as in `asked`, and `header` is borrowed mutably.
            unsafe {
                let mut value = info.read_unaligned();
                value.ipi_ifindex = 0;
                info.write_unaligned(value);
            }
        }
        Some(Info::V6(info)) => {
            // SAFETY: as above.
            unsafe {
                let mut value = info.read_unaligned();
                let address = Ipv6Addr::from(value.ipi6_addr.s6_addr);
                if !address.is_unicast_link_local() {
                    value.ipi6_ifindex = 0;
                }
                info.write_unaligned(value);
            }
        }
        Some(Info::Credentials(_)) | None => {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
    }
    header.msg_flags = 0;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    fn udp(address: &str) -> Option<UdpSocket> {
        let Ok(socket) = UdpSocket::bind(address) else {
            eprintln!("skipped: cannot bind {address}");
            return None;
        };
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).expect("timeout");
        Some(socket)
    }

    fn echo_all(batch: &mut Batch, socket: BorrowedFd<'_>) -> (u64, u64) {
        let n = batch.receive(socket, Wait::ForOne).expect("something came");
        (0..n).for_each(|i| batch.echo(i, false));
        batch.send(socket, |errno| panic!("{errno}"))
    }

    /// Every round tells where its datagrams went to: the lengths are reset.
    #[test]
    fn each_datagram_of_each_batch_has_its_own_control_message() {
        let server = udp("0.0.0.0:0").expect("IPv4");
        setsockopt(&server, sockopt::Ipv4PacketInfo, &true).expect("option");
        let port = server.local_addr().expect("address").port();
        let mut batch = Batch::new().expect("mmap");
        let client = udp("127.0.0.1:0").expect("IPv4");
        for round in 0..3 {
            for host in 1..=5 {
                let to = (Ipv4Addr::new(127, 0, round, host), port);
                client.send_to(&[host; 9], to).expect("send");
            }
            assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(5));
            for i in 0..5u8 {
                let got = batch.get(i.into());
                assert_eq!(got.bytes, [i + 1; 9]);
                assert_eq!(
                    got.from,
                    Sender::Inet(client.local_addr().expect("address"))
                );
                let to = got.to.expect("IP_PKTINFO");
                assert_eq!(to.address, Ipv4Addr::new(127, 0, round, i + 1));
                assert!(to.unicast && !got.cut && to.interface == 1);
                batch.echo(i.into(), false);
            }
            assert_eq!(batch.send(server.as_fd(), |e| panic!("{e}")), (5, 45));
            for host in 1..=5 {
                let (n, from) = client.recv_from(&mut [0; 99]).expect("echo");
                let expected = SocketAddr::from(([127, 0, round, host], port));
                assert_eq!((n, from), (9, expected));
            }
        }
        assert_eq!(batch.receive(server.as_fd(), Wait::Never).unwrap_or(0), 0);
    }

    #[test]
    fn ipv6_too() {
        let Some(server) = udp("[::]:0") else { return };
        setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true).expect("option");
        let port = server.local_addr().expect("address").port();
        let mut batch = Batch::new().expect("mmap");
        let Some(client) = udp("[::1]:0") else { return };
        client.send_to(b"six", ("::1", port)).expect("send");
        assert_eq!(echo_all(&mut batch, server.as_fd()), (1, 3));
        let to = batch.get(0).to.expect("IPV6_PKTINFO");
        assert_eq!(to.address, Ipv6Addr::LOCALHOST);
        let (n, from) = client.recv_from(&mut [0; 9]).expect("echo");
        assert_eq!((n, from.ip()), (3, IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }

    #[test]
    fn what_does_not_fit_is_told_and_what_fits_is_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let server = UnixDatagram::bind(&a).expect("bind");
        server.set_nonblocking(true).expect("nonblocking");
        let client = UnixDatagram::bind(&b).expect("bind");
        let unnamed = UnixDatagram::unbound().expect("socket");
        let mut batch = Batch::new().expect("mmap");
        client.send_to(&vec![7; LONGEST + 1], &a).expect("send");
        client.send_to(&vec![8; LONGEST], &a).expect("send");
        client.send_to(b"", &a).expect("send");
        unnamed.send_to(b"who?", &a).expect("send");
        assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(4));
        let seen: Vec<_> = (0..4)
            .map(|i| {
                let got = batch.get(i);
                (got.bytes.len(), got.cut, got.from, got.to)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (LONGEST, true, Sender::Unix(None), None),
                (LONGEST, false, Sender::Unix(None), None),
                (0, false, Sender::Unix(None), None),
                (4, false, Sender::Unnamed, None),
            ]
        );
        batch.echo(1, true);
        batch.echo(2, false);
        assert_eq!(
            batch.send(server.as_fd(), |e| panic!("{e}")),
            (2, LONGEST as u64)
        );
        let mut back = vec![0; LONGEST + 9];
        assert_eq!(client.recv(&mut back).expect("echo"), LONGEST);
        assert!(back[..LONGEST].iter().all(|&byte| byte == 8));
        assert_eq!(client.recv(&mut back).expect("echo"), 0);
    }

    #[test]
    fn a_reply_that_fails_does_not_keep_the_others() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let server = UnixDatagram::bind(path("s")).expect("bind");
        for name in ["gone", "here", "lost"] {
            let client = UnixDatagram::bind(path(name)).expect("bind");
            client.send_to(name.as_bytes(), path("s")).expect("send");
        }
        let _ = std::fs::remove_file(path("here"));
        let here = UnixDatagram::bind(path("here")).expect("bind");
        let mut batch = Batch::new().expect("mmap");
        assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(3));
        (0..3).for_each(|i| batch.echo(i, false));
        let mut failures = Vec::new();
        let sent = batch.send(server.as_fd(), |errno| failures.push(errno));
        assert_eq!(sent, (1, 4));
        assert_eq!(failures, [Errno::ECONNREFUSED; 2]);
        assert_eq!(here.recv(&mut [0; 9]).expect("echo"), 4);
    }
}

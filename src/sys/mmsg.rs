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

use super::shm::Buffer;

/// The longest datagram that is taken; UDP has none longer than 65,507 bytes,
/// a Unix socket may.
pub const LONGEST: usize = 65_536;

/// Datagrams taken at a time.
const BATCH: usize = 32;

/// From one buffer to the next: not a power of two, or the first bytes of all of
/// them would compete for the same few lines of the processor's cache.
const STRIDE: usize = LONGEST + 5 * 64;

/// Room for one control message of either family, as aligned as cmsg(3) wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An Internet address.
    Inet(SocketAddr),
    /// A Unix socket with a name.
    Unix,
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
            controls: vec![Control([0; 64]); most].into(),
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

    /// For a Unix socket: takes no control message. Where there is room for one,
    /// the kernel opens here whatever descriptors a client sends along
    /// (SCM_RIGHTS, unix(7)); without, it closes them.
    pub fn without_control(mut self) -> Self {
        self.control = 0;
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
            header.msg_controllen = self.control;
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
        let from = sender(&self.names[i], header.msg_hdr.msg_namelen);
        let to = asked(&header.msg_hdr);
        let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let bytes = &self.memory.bytes()[i * STRIDE..][..length];
        Arrived {
            from,
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

    /// Queues another answer to that datagram, in place of what it said: as much
    /// of `bytes` as fits. Sent as [`Batch::echo`] says.
    pub fn answer(&mut self, i: usize, bytes: &[u8], bound: bool) {
        let header = &mut self.headers[..self.arrived][i];
        let length = bytes.len().min(LONGEST);
        let room = &mut self.memory.bytes()[i * STRIDE..];
        room[..length].copy_from_slice(&bytes[..length]);
        header.msg_len = length as c_uint;
        self.echo(i, bound);
    }

    /// Sends what was queued, without waiting for room, and tells of each reply
    /// that could not be sent. Returns how many were, and their bytes.
    pub fn send(&mut self, socket: BorrowedFd<'_>, mut failed: impl FnMut(Errno)) -> (u64, u64) {
        let (mut sent, mut bytes) = (0, 0);
        let mut rest = &mut self.replies[..self.queued];
        while !rest.is_empty() {
            // SAFETY: `rest` holds that many headers, whose pointers are those
            // of `receive` with the lengths it got; they are only read.
            let result = Errno::result(unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
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

fn sender(name: &sockaddr_storage, length: socklen_t) -> Sender {
    let length = length as usize;
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
        libc::AF_UNIX if length > size_of::<libc::sa_family_t>() => Sender::Unix,
        _ => Sender::Unnamed,
    }
}

/// The control message that tells where a datagram was sent to.
enum Info {
    V4(*mut libc::in_pktinfo),
    V6(*mut libc::in6_pktinfo),
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
    let (v4, v6) = unsafe {
        (
            libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as c_uint),
            libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as c_uint),
        )
    };
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= v4 as usize => {
            Some(Info::V4(data.cast()))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= v6 as usize => {
            Some(Info::V6(data.cast()))
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
        None => {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
    }
    header.msg_flags = 0;
}

#[cfg(test)]
#[path = "mmsg_tests.rs"]
mod tests;

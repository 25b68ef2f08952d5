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
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_uint, iovec, mmsghdr, sockaddr_storage, socklen_t};
use nix::errno::Errno;

use super::shm::Buffer;

mod control;

pub use control::{Asked, Sender};
use control::{CREDENTIALS, Control, asked, sender, set_unix_path, turn_round, unix_name};

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

#[cfg(test)]
mod tests;

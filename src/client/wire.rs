//! Echoes over one link: whole messages out, whole messages in.
//!
//! A stream has no message boundaries, so there all are of one size. Never
//! waits.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use super::dial::Link;
use crate::error::errno_text;

/// The largest datagram, and what is read of a stream at once.
const LARGEST: usize = 1 << 16;

/// A link for echoes of one size.
pub struct Wire {
    link: Link,
    datagrams: bool,
    size: usize,
    out: VecDeque<u8>,
    partial: Vec<u8>,
}

/// Why a link is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The server ended the connection.
    Closed,
    /// It broke; for datagrams, nobody listens there.
    Broken(Errno),
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gone::Closed => f.write_str("the server closed the connection"),
            Gone::Broken(errno) => f.write_str(&errno_text(*errno)),
        }
    }
}

impl Wire {
    /// Echoes of `size` bytes over `link`.
    pub fn new(link: Link, datagrams: bool, size: usize) -> Self {
        Wire {
            link,
            datagrams,
            size,
            out: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    /// The link.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Bytes that came after the last whole message.
    pub fn rest(&self) -> usize {
        self.partial.len()
    }

    /// What to wait for.
    pub fn events(&self) -> PollFlags {
        match self.out.is_empty() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLIN | PollFlags::POLLOUT,
        }
    }

    /// Sends a message, as much of it as goes now; [`Wire::flush`] the rest.
    ///
    /// # Errors
    /// The link is gone.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Gone> {
        if !self.datagrams {
            self.out.extend(message);
            return self.flush();
        }
        match self.transmit(message) {
            // No room here is a loss like any other.
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(Gone::Broken(errno)),
        }
    }

    /// Sends what is left to send.
    ///
    /// # Errors
    /// The link is gone.
    pub fn flush(&mut self) -> Result<(), Gone> {
        while !self.out.is_empty() {
            match self.transmit(self.out.as_slices().0) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(Gone::Broken(errno)),
            }
        }
        Ok(())
    }

    fn transmit(&self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            match send(self.link.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                sent => return sent,
            }
        }
    }

    /// The next message that came, if a whole one did.
    ///
    /// # Errors
    /// The link is gone.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        let mut buffer = [0; LARGEST];
        loop {
            if !self.datagrams && self.partial.len() >= self.size {
                let rest = self.partial.split_off(self.size);
                return Ok(Some(std::mem::replace(&mut self.partial, rest)));
            }
            match recv(
                self.link.as_fd().as_raw_fd(),
                &mut buffer,
                MsgFlags::empty(),
            ) {
                Ok(len) if self.datagrams => return Ok(Some(buffer[..len].to_vec())),
                Ok(0) => return Err(Gone::Closed),
                Ok(len) => self.partial.extend(&buffer[..len]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(Gone::Broken(errno)),
            }
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

//! Echoes over one link: whole messages out, whole messages in.
//!
//! A stream has no message boundaries, so there all are of one size. Never
//! waits.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::client::dial::Link;
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

// What an echo says: which one it is, and bytes that no other has. Pure.

/// The content of all echoes of one run.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    session: u64,
    size: usize,
}

/// Bytes that tell the number; fewer in an echo that is smaller.
const NUMBER: usize = 4;

impl Payload {
    /// Echoes of `size` bytes, at least 1, unlike those of another `session`.
    pub fn new(session: u64, size: usize) -> Self {
        debug_assert!(size > 0);
        Payload { session, size }
    }

    /// Of each echo.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The echo with this number.
    pub fn bytes(&self, seq: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size + 8);
        bytes.extend(self.numbered(seq));
        let mut state = mix(self.session ^ mix(seq));
        while bytes.len() < self.size {
            bytes.extend(state.to_le_bytes());
            state = mix(state);
        }
        bytes.truncate(self.size);
        bytes
    }

    /// The number of an echo that came back, if it is one of ours and whole.
    /// `newest` was the last sent.
    pub fn number(&self, bytes: &[u8], newest: u64) -> Option<u64> {
        let width = self.size.min(NUMBER);
        let mut low = [0; 8];
        low[..width].copy_from_slice(bytes.get(..width)?);
        let mask = (1 << (8 * width)) - 1;
        let low = (u64::from_le_bytes(low) ^ self.session) & mask;
        let age = newest.wrapping_sub(low) & mask;
        let seq = newest.checked_sub(age)?;
        (self.bytes(seq) == bytes).then_some(seq)
    }

    fn numbered(&self, seq: u64) -> [u8; NUMBER] {
        let number = (seq ^ self.session) as u32;
        number.to_le_bytes()
    }
}

/// The finalizer of splitmix64: every bit of the input moves every bit out.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_again_at_every_size() {
        for size in [1, 2, 3, 4, 5, 8, 56, 1000] {
            let payload = Payload::new(0xfeed_beef_0bad_cafe, size);
            for seq in [1, 2, 255, 256, 70_000, (1 << 32) + 5] {
                let bytes = payload.bytes(seq);
                assert_eq!(bytes.len(), size);
                assert_eq!(payload.number(&bytes, seq + 100), Some(seq), "{size}");
            }
        }
    }

    #[test]
    fn what_is_not_ours_or_not_whole_has_none() {
        let payload = Payload::new(1, 56);
        let good = payload.bytes(7);
        for at in 0..56 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(payload.number(&bad, 9), None, "{at}");
        }
        assert_eq!(payload.number(&good[..55], 9), None);
        assert_eq!(payload.number(&[good.clone(), vec![0]].concat(), 9), None);
        assert_eq!(payload.number(&[], 9), None);
        assert_eq!(payload.number(&good, 6), None, "not sent yet");
        assert_eq!(Payload::new(2, 56).number(&good, 9), None);
    }
}

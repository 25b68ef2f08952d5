//! `--print` of datagrams: each that is answered is copied to standard output as
//! `[peer] data`, by one write(2). Formatted in the sandbox, which is nothing but
//! copying bytes: nothing is allocated.

use std::io::Write;

use nix::errno::Errno;

use crate::addr::Peer;
use crate::net::printer::Printer;
use crate::sys::mmsg::{Arrived, LONGEST, Sender};
use crate::sys::shm::Buffer;

/// Where datagrams are copied to, and memory for one with its prefix.
pub struct Print<'a> {
    to: Printer<'a>,
    line: Buffer,
}

/// Room for `[peer] `; the longest address has a few dozen bytes.
const PREFIX: usize = 96;

impl<'a> Print<'a> {
    /// Maps that memory, which is untouched until the first copy.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(to: Printer<'a>) -> Result<Self, Errno> {
        let line = Buffer::new(PREFIX + LONGEST)?;
        Ok(Print { to, line })
    }

    /// Copies it. What cannot be written there is not worth a client.
    pub fn print(&mut self, datagram: &Arrived<'_>) {
        let peer = match datagram.from {
            Sender::Inet(address) => Peer::Inet(address),
            Sender::Unix(_) | Sender::Unnamed => Peer::Unix,
        };
        let line = self.line.bytes();
        let room = line.len();
        let mut rest = &mut *line;
        let _ = write!(rest, "[{peer}] ");
        let _ = rest.write_all(datagram.bytes);
        let length = room - rest.len();
        self.to.print(&line[..length]);
    }
}

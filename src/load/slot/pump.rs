//! A turn of a connection: bytes go out and come back, each verified, until it
//! must wait.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};

use super::{Io, Phase, READ, Slot, WRITE};
use crate::error::Exit;
use crate::load::fault::{Fault, Outcome};
use crate::load::pattern::Pattern;
use crate::load::plan::Mode;

/// Reads and writes before other connections have their turn.
const TURNS: usize = 16;

/// How far a turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Until the next event.
    Blocked,
    /// Until the others had a turn.
    Busy,
    /// Until a Unix server has room in its queue.
    Full,
    /// It is connected, and there is nothing to send yet.
    Open,
    /// The whole message is back.
    Back,
    /// End of file, where it belongs.
    Ended,
}

impl Slot {
    /// Sends and receives until it must wait.
    ///
    /// # Errors
    /// How the unit failed; the connection is then of no more use.
    pub fn pump(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        if self.phase == Phase::Finish {
            return self.expect_end(io);
        }
        if self.fd.is_none() {
            self.redial(io, Errno::EAGAIN)?;
            if self.fd.is_none() {
                return Ok(Pumped::Full);
            }
        }
        if self.phase == Phase::Open {
            return self.open_up(io);
        }
        let window = match io.plan.mode {
            Mode::Stream => io.plan.window,
            _ => u64::MAX,
        };
        for _ in 0..TURNS {
            let room = self.sent < self.size && self.sent - self.back < window;
            let sends = self.ready.writable && room;
            if sends {
                self.send(io)?;
            }
            let receives = self.ready.readable && (self.back < self.sent || self.ready.hung_up);
            if receives {
                self.receive(io)?;
            }
            if self.back == self.size {
                return Ok(Pumped::Back);
            }
            if !sends && !receives {
                return Ok(Pumped::Blocked);
            }
        }
        Ok(Pumped::Busy)
    }

    fn open_up(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        while self.connecting && self.ready.writable {
            let fd = self.fd.as_ref().expect("it is connecting");
            let errno =
                getsockopt(fd, sockopt::SocketError).map_or_else(|errno| errno, Errno::from_raw);
            match errno {
                Errno::UnknownErrno => (self.connecting, self.fresh) = (false, true),
                errno => self.redial(io, errno)?,
            }
        }
        Ok(match self.connecting {
            true => Pumped::Blocked,
            false => Pumped::Open,
        })
    }

    fn send(&mut self, io: &mut Io) -> Result<(), Fault> {
        let lead = self.sent % 8;
        let most = (*io.plan.size.end()).min(WRITE);
        let len = (self.size - self.sent).min(most);
        let part = &mut io.out[..(lead + len) as usize];
        self.pattern.fill(self.sent - lead, part);
        let part = &part[lead as usize..];
        let fd = self.fd.as_ref().expect("a message is sent on an open one");
        match send(fd.as_raw_fd(), part, MsgFlags::MSG_NOSIGNAL) {
            Ok(done) => {
                // A short write: the buffer is full until epoll says more.
                self.ready.writable = done == part.len();
                self.sent += done as u64;
                io.sent += done as u64;
                self.deadline = io.now + io.plan.timeout;
                if self.connecting {
                    self.connecting = false;
                    self.fresh = true;
                }
            }
            Err(Errno::EAGAIN) => self.ready.writable = false,
            Err(Errno::EINTR) => {}
            Err(errno) if self.connecting => self.redial(io, errno)?,
            Err(errno) => return Err(self.broken("write", io, errno)),
        }
        Ok(())
    }

    fn receive(&mut self, io: &mut Io) -> Result<(), Fault> {
        let len = match self.read(io)? {
            None => return Ok(()),
            Some(0) if !self.datagram => {
                let size = match io.plan.mode {
                    Mode::Stream => self.sent,
                    _ => self.size,
                };
                let hint = format!("end of file after {} of {size} bytes", self.back);
                return Err(self.wrong(io, Outcome::Short, Exit::Io, hint));
            }
            Some(len) => len,
        };
        if self.datagram && self.is_second(len, io) {
            io.duplicates += 1;
            // The answer may stand behind it, and is announced once.
            self.ready.readable = true;
            return Ok(());
        }
        if len as u64 > self.sent - self.back {
            return Err(self.corrupt(io, "more came back than was sent"));
        }
        let got = &io.got[..len];
        if let Some(at) = self.pattern.mismatch(self.back, got, &mut io.want) {
            let size = self.size;
            let hint = match io.plan.mode {
                Mode::Stream => format!("byte {at} differs"),
                _ => format!("byte {at} of {size} differs"),
            };
            return Err(self.corrupt(io, hint));
        }
        if self.datagram && (len as u64) < self.size {
            let hint = format!("a datagram of {len} for {} bytes", self.size);
            return Err(self.wrong(io, Outcome::Short, Exit::Io, hint));
        }
        self.back += len as u64;
        io.received += len as u64;
        self.deadline = io.now + io.plan.timeout;
        Ok(())
    }

    /// Is what came no answer to this message, but one more to another?
    fn is_second(&self, len: usize, io: &mut Io) -> bool {
        let Io { got, want, .. } = io;
        let got = &got[..len];
        let mut is = |pattern: &Pattern, size: u64| {
            len as u64 == size && pattern.mismatch(0, got, want).is_none()
        };
        !is(&self.pattern, self.size)
            && self
                .answered
                .iter()
                .any(|(pattern, size)| is(pattern, *size))
    }

    fn expect_end(&mut self, io: &mut Io) -> Result<Pumped, Fault> {
        if !self.ready.readable {
            return Ok(Pumped::Blocked);
        }
        match self.read(io)? {
            None => Ok(Pumped::Blocked),
            Some(0) => Ok(Pumped::Ended),
            Some(_) => Err(self.corrupt(io, "more came back than was sent")),
        }
    }

    fn read(&mut self, io: &mut Io) -> Result<Option<usize>, Fault> {
        let fd = self.fd.as_ref().expect("only an open one is read");
        match recv(fd.as_raw_fd(), &mut io.got, MsgFlags::empty()) {
            Ok(len) => {
                // What is short was all there was, see epoll(7); end of file
                // may still stand behind it, and is announced once.
                self.ready.readable = (len == READ || self.ready.hung_up) && !self.datagram;
                Ok(Some(len))
            }
            Err(Errno::EAGAIN) => {
                self.ready.readable = false;
                Ok(None)
            }
            Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(self.broken("read", io, errno)),
        }
    }
}

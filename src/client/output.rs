//! Standard output that never blocks the other direction.
//!
//! poll(2) calls a pipe writable when one page fits, and a longer write to it
//! blocks. Its flags belong to everybody who has it open (`open(2)`), so it is
//! opened a second time through /proc, which gives flags of our own. A socket
//! is asked not to wait with each call; a file or a terminal is written as is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;

use crate::error::{Error, Exit, Result};

/// What a writable pipe takes without blocking, `PIPE_BUF` of pipe(7).
const PAGE: usize = 4096;

/// Where the echo goes.
pub struct Output {
    stdout: io::Stdout,
    kind: Kind,
}

enum Kind {
    /// A pipe with flags of our own.
    Pipe(OwnedFd),
    /// A pipe that could not be opened again.
    Paged,
    Socket,
    Plain,
}

impl Output {
    /// Standard output as it is.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let mode = fstat(&stdout).map(|stat| SFlag::from_bits_truncate(stat.st_mode));
        let kind = match mode.unwrap_or(SFlag::empty()) & SFlag::S_IFMT {
            SFlag::S_IFIFO => {
                let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                open("/proc/self/fd/1", flags, Mode::empty()).map_or(Kind::Paged, Kind::Pipe)
            }
            SFlag::S_IFSOCK => Kind::Socket,
            _ => Kind::Plain,
        };
        Output { stdout, kind }
    }

    /// Writes as much as fits now; 0 if nothing does.
    ///
    /// # Errors
    /// Nobody reads it, the disk is full (74).
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        let written = match &self.kind {
            Kind::Pipe(fd) => write(fd, bytes),
            Kind::Paged => write(&self.stdout, &bytes[..bytes.len().min(PAGE)]),
            Kind::Socket => send(self.stdout.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT),
            Kind::Plain => write(&self.stdout, bytes),
        };
        match written {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            written => {
                written.map_err(|errno| Error::os("write", "standard output", errno).exit(Exit::Io))
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Pipe(fd) => fd.as_fd(),
            _ => self.stdout.as_fd(),
        }
    }
}

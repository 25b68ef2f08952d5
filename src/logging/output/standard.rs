//! Standard error or output as a sink, whatever that descriptor is at the moment
//! of the line.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::isatty;

use super::{kind, write_by_kind, write_if_ready};
use crate::sys::fd::stat;

/// Descriptor 1 or 2.
///
/// A terminal is the one thing poll(2) calls writable when a line does not
/// fit (a stopped emulator, a dead ssh), and it shares its O_NONBLOCK with
/// the shell; so it is opened a second time, non-blocking, where /proc and
/// its permissions allow that. The second opening is dropped at the first
/// line that finds the number to be something else.
pub(in crate::logging) struct Standard {
    of: Of,
    terminal: Option<Terminal>,
}

enum Of {
    Output(io::Stdout),
    Error(io::Stderr),
}

struct Terminal {
    /// Device, inode and device number of what the number was.
    was: (u64, u64, u64),
    own: Option<OwnedFd>,
}

impl Standard {
    /// Number 2.
    pub fn error() -> Standard {
        Standard::new(Of::Error(io::stderr()))
    }

    /// Number 1.
    pub fn output() -> Standard {
        Standard::new(Of::Output(io::stdout()))
    }

    /// Looks at what the number is now: while we may still open it, and before a
    /// sandbox.
    fn new(of: Of) -> Standard {
        let mut standard = Standard { of, terminal: None };
        if let Ok(found) = stat(standard.fd()) {
            standard.look(&found);
        }
        standard
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.of {
            Of::Output(output) => output.as_fd(),
            Of::Error(error) => error.as_fd(),
        }
    }

    fn look(&mut self, stat: &FileStat) {
        let is = (stat.st_dev, stat.st_ino, stat.st_rdev);
        if kind(stat) != SFlag::S_IFCHR {
            self.terminal = None;
        } else if self.terminal.as_ref().is_none_or(|t| t.was != is) {
            let own = open_again(self.fd());
            self.terminal = Some(Terminal { was: is, own });
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.look(&stat(self.fd())?);
        let fd = self.fd();
        if self.terminal.is_none() {
            return write_by_kind(fd, bytes);
        }
        match self.terminal.as_ref().and_then(|t| t.own.as_ref()) {
            Some(own) => write_if_ready(own.as_fd(), bytes),
            None => write_if_ready(fd, bytes),
        }
    }

    pub(super) fn keep(&self) -> Vec<RawFd> {
        let own = self.terminal.as_ref().and_then(|t| t.own.as_ref());
        let own = own.map(AsRawFd::as_raw_fd).into_iter();
        own.chain([self.fd().as_raw_fd()]).collect()
    }
}

/// A terminal, opened once more with an O_NONBLOCK of its own.
fn open_again(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    if !isatty(fd).unwrap_or(false) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).ok()
}

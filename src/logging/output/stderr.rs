//! Standard error as a sink, whatever descriptor 2 is at the moment of the line.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::isatty;

use super::{kind, write_by_kind, write_if_ready};
use crate::sys::fd::stat;

/// Descriptor 2, whatever it is at the moment of the line.
///
/// A terminal is the one thing poll(2) calls writable when a line does not
/// fit (a stopped emulator, a dead ssh), and it shares its O_NONBLOCK with
/// the shell; so it is opened a second time, non-blocking, where /proc and
/// its permissions allow that. The second opening is dropped at the first
/// line that finds number 2 to be something else.
pub(in crate::logging) struct Stderr {
    terminal: Option<Terminal>,
}

struct Terminal {
    /// Device, inode and device number of what number 2 was.
    was: (u64, u64, u64),
    own: Option<OwnedFd>,
}

impl Stderr {
    /// Looks at what number 2 is now: while we may still open it, and before a
    /// sandbox.
    pub fn new() -> Stderr {
        let mut stderr = Stderr { terminal: None };
        if let Ok(found) = stat(io::stderr().as_fd()) {
            stderr.look(&found);
        }
        stderr
    }

    fn look(&mut self, stat: &FileStat) {
        let is = (stat.st_dev, stat.st_ino, stat.st_rdev);
        if kind(stat) != SFlag::S_IFCHR {
            self.terminal = None;
        } else if self.terminal.as_ref().is_none_or(|t| t.was != is) {
            let own = open_again(io::stderr().as_fd());
            self.terminal = Some(Terminal { was: is, own });
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let stderr = io::stderr();
        let fd = stderr.as_fd();
        self.look(&stat(fd)?);
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
        own.map(AsRawFd::as_raw_fd).into_iter().chain([2]).collect()
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

//! Where log lines go: standard error or output, a file, syslog. Each takes one write,
//! now or not at all.
//!
//! Promises that no descriptor here is waited for, and that standard error is
//! always number 2 itself, so that a daemon that puts /dev/null there has let
//! go of its terminal. Counts nothing and formats nothing.

#[cfg(test)]
use std::os::fd::{AsFd, OwnedFd};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, SFlag};
use nix::unistd::write;

use crate::error::Error;
use crate::sys::fd::{stat, write_now};

mod file;
mod standard;
mod syslog;

pub(super) use file::LogFile;
pub(super) use standard::Standard;
pub(super) use syslog::{DEV_LOG, Syslog};

pub(super) enum Output {
    Standard(Standard),
    File(LogFile),
    Syslog(Syslog),
    #[cfg(test)]
    Pipe(OwnedFd),
}

impl Output {
    /// One write that does not wait; the bytes taken may be fewer than given.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Output::Standard(standard) => standard.send(bytes),
            Output::File(file) => file.send(bytes),
            Output::Syslog(syslog) => syslog.send(bytes),
            #[cfg(test)]
            Output::Pipe(fd) => write_by_kind(fd.as_fd(), bytes),
        }
    }

    /// We are a forked child now, maybe in a sandbox: nothing is opened or
    /// connected from here on.
    pub fn forked(&mut self) {
        if let Output::Syslog(syslog) = self {
            syslog.forked();
        }
    }

    /// True if it was opened anew; the others have nothing to reopen.
    pub fn reopen(&mut self) -> Result<bool, Error> {
        match self {
            Output::File(file) => file.reopen().map(|()| true),
            _ => Ok(false),
        }
    }

    pub fn keep(&self) -> Vec<RawFd> {
        match self {
            Output::Standard(standard) => standard.keep(),
            Output::File(file) => file.keep(),
            Output::Syslog(syslog) => syslog.keep(),
            #[cfg(test)]
            Output::Pipe(fd) => vec![fd.as_raw_fd()],
        }
    }
}

/// poll(2) with no time to wait.
fn ready(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds[0].revents() {
        Some(events) if events.contains(PollFlags::POLLOUT) => Ok(()),
        _ => Err(Errno::EAGAIN),
    }
}

fn write_if_ready(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    ready(fd).and_then(|()| write(fd, bytes))
}

/// As [`write_if_ready`], for a descriptor shared with other programs, whose
/// O_NONBLOCK is not ours to set. Another writer can fill a pipe or a socket
/// between the poll and the write, so those are told not to wait.
fn write_by_kind(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match kind(&stat(fd)?) {
        SFlag::S_IFSOCK => {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            send(fd.as_raw_fd(), bytes, flags)
        }
        SFlag::S_IFIFO => ready(fd).and_then(|()| write_now(fd, bytes)),
        _ => write_if_ready(fd, bytes),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_kept_as_number_2() {
        assert_eq!(Output::Standard(Standard::error()).keep(), [2]);
    }
}

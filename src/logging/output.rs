//! Where log lines go: standard error, a file, syslog. Each takes one write,
//! now or not at all.
//!
//! Promises that no descriptor here is waited for, and that standard error is
//! always number 2 itself, so that a daemon that puts /dev/null there has let
//! go of its terminal. Counts nothing and formats nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{isatty, write};

use crate::error::{Error, Exit};
use crate::sys::fd::{stat, write_now};

/// Where syslogd listens.
pub(super) const DEV_LOG: &str = "/dev/log";

pub(super) enum Output {
    Stderr(Stderr),
    File(LogFile),
    Syslog(Syslog),
    #[cfg(test)]
    Pipe(OwnedFd),
}

impl Output {
    /// One write that does not wait; the bytes taken may be fewer than given.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Output::Stderr(stderr) => stderr.send(bytes),
            Output::File(file) => write_if_ready(file.fd.as_fd(), bytes),
            Output::Syslog(syslog) => syslog.send(bytes),
            #[cfg(test)]
            Output::Pipe(fd) => write_by_kind(fd.as_fd(), bytes),
        }
    }

    /// We are a forked child now, maybe in a sandbox: nothing is opened or
    /// connected from here on.
    pub fn forked(&mut self) {
        if let Output::Syslog(syslog) = self {
            syslog.reconnects = false;
        }
    }

    pub fn reopen(&mut self) -> Result<(), Error> {
        match self {
            Output::File(file) => file.reopen(),
            _ => Ok(()),
        }
    }

    pub fn keep(&self) -> Vec<RawFd> {
        match self {
            Output::Stderr(stderr) => stderr.keep(),
            Output::File(file) => vec![file.dir.as_raw_fd(), file.fd.as_raw_fd()],
            Output::Syslog(syslog) => vec![syslog.socket.as_raw_fd()],
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

/// Descriptor 2, whatever it is at the moment of the line.
///
/// A terminal is the one thing poll(2) calls writable when a line does not
/// fit (a stopped emulator, a dead ssh), and it shares its O_NONBLOCK with
/// the shell; so it is opened a second time, non-blocking, where /proc and
/// its permissions allow that. The second opening is dropped at the first
/// line that finds number 2 to be something else.
pub(super) struct Stderr {
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

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
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

    fn keep(&self) -> Vec<RawFd> {
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

/// A file appended to, found again by name in a directory held open, which
/// works after chroot(2) and, permissions allowing, as another user.
pub(super) struct LogFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    fd: OwnedFd,
}

impl LogFile {
    pub fn open(path: &Path) -> Result<LogFile, Error> {
        let shown = path.display();
        let path = std::path::absolute(path)
            .map_err(|e| Error::usage(format!("--log-target {shown}"), e))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::usage(
                format!("--log-target {shown}"),
                "this is a directory: name a file in it",
            ));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(parent, flags, Mode::empty()).map_err(|e| refused(parent, e))?;
        let fd = open_in(&dir, name).map_err(|e| refused(&path, e))?;
        Ok(LogFile {
            name: name.to_owned(),
            dir,
            fd,
            path,
        })
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.fd = open_in(&self.dir, &self.name).map_err(|errno| {
            Error::os("reopen", self.path.display(), errno)
                .hint("still writing to the file opened before")
                .exit(Exit::CantCreate)
        })?;
        Ok(())
    }
}

/// An existing file first: after --user the one logrotate(8) made for us may
/// be all we can open. O_NONBLOCK is for a FIFO, whose open(2) would wait.
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o640);
    let file = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => openat(dir, name, flags | OFlag::O_CREAT, mode),
        result => result,
    }?;
    // A second name of a file that is not ours to write, where the kernel lets
    // people make such (fs.protected_hardlinks, proc_sys_fs(5)).
    let found = stat(file.as_fd())?;
    if kind(&found) == SFlag::S_IFREG && found.st_nlink > 1 {
        return Err(Errno::EMLINK);
    }
    Ok(file)
}

fn refused(path: &Path, errno: Errno) -> Error {
    let error = Error::os("open", path.display(), errno);
    match errno {
        Errno::EACCES | Errno::EPERM => error
            .hint("--log-target needs a place this user may write to")
            .exit(Exit::NoPermission),
        Errno::ELOOP => error
            .hint("a symbolic link is not followed: name the file itself in --log-target")
            .exit(Exit::CantCreate),
        Errno::EMLINK => error
            .hint("it has a second name, a hard link: name a file that has one")
            .exit(Exit::CantCreate),
        _ => error
            .hint("--log-target needs a file in an existing directory")
            .exit(Exit::CantCreate),
    }
}

/// syslogd's datagram socket. syslog(3) waits when its reader stops; this
/// does not. After a chroot(2) without a /dev/log a restarted syslogd cannot
/// be found again: lines are counted until we are restarted too. In a worker,
/// whose sandbox has no connect(2), until the worker is replaced.
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    reconnects: bool,
}

impl Syslog {
    pub fn connect(path: impl AsRef<Path>) -> Result<Syslog, Error> {
        let path = path.as_ref();
        let connected = UnixDatagram::unbound().and_then(|s| s.connect(path).map(|()| s));
        let socket = connected.map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
            Error::os("connect", path.display(), errno)
                .hint("no syslog here: name a file by --log-target PATH")
                .exit(Exit::Unavailable)
        })?;
        Ok(Syslog {
            socket,
            path: path.to_owned(),
            reconnects: true,
        })
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        // A datagram needs no newline; it goes whole or not at all.
        let datagram = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let datagram = datagram.strip_prefix(b"\n").unwrap_or(datagram);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = self.socket.as_raw_fd();
        match send(fd, datagram, flags) {
            // The first error after syslogd left, then every one after it.
            Err(gone @ (Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::EDESTADDRREQ))
                if self.reconnects =>
            {
                self.socket.connect(&self.path).map_err(|_| gone)?;
                send(fd, datagram, flags)
            }
            result => result,
        }
        .map(|_| bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_says_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let missing = dir.path().join("no/log");
        let error = LogFile::open(&missing).err().expect("no directory");
        assert_eq!(error.status(), Exit::CantCreate);
        assert!(error.to_string().contains("(ENOENT)"), "{error}");
        let error = LogFile::open("/".as_ref()).err().expect("a directory");
        assert_eq!(error.status(), Exit::Usage);
        let error = Syslog::connect(dir.path().join("log")).err().expect("none");
        assert_eq!(error.status(), Exit::Unavailable);
        assert!(error.to_string().contains("--log-target"), "{error}");
    }

    #[test]
    fn a_fifo_without_a_reader_does_not_hold_us_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
        let error = LogFile::open(&path).err().expect("nobody reads it");
        assert!(error.to_string().contains("(ENXIO)"), "{error}");
    }

    #[test]
    fn standard_error_is_kept_as_number_2() {
        assert_eq!(Output::Stderr(Stderr::new()).keep(), [2]);
    }
}

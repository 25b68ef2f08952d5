//! Where log lines go: standard error or output, a file, syslog; and the [`Sink`] that
//! writes one line there, or counts it.
//!
//! Promises never to wait and never to fail, and that standard error is always number
//! 2 itself, so that a daemon that puts /dev/null there has let go of its terminal. A
//! line is one write of at most [`LONGEST`] bytes, so that lines of several processes
//! do not interleave in a pipe (`pipe(7)`). What was lost is said, first thing, when
//! the output takes lines again. Knows no message but that one.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use log::Level;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, fchown, getegid, geteuid, isatty, write};

use crate::error::{Error, Exit};
use crate::logging::line::{LONGEST, Layout, Line};
use crate::sys::fd::{lost_its_name, nameless, stat, write_now};

/// The end of a line that was too long.
const CUT: &str = "…\n";

/// One line out, or counted: what stands between the log and its reader.
pub(super) struct Sink {
    output: Output,
    layout: Layout,
    /// The process whose losses these are: a forked child's start at none, or
    /// parent and child would both announce the same ones.
    owner: u32,
    /// Lines lost and not yet announced.
    unsaid: u64,
    /// Lines lost in all.
    lost: u64,
    /// The last write was cut short (a disk that filled up): the next one
    /// begins with the newline that line never got.
    torn: bool,
}

impl Sink {
    pub fn new(output: Output, layout: Layout) -> Sink {
        Sink {
            output,
            layout,
            owner: std::process::id(),
            unsaid: 0,
            lost: 0,
            torn: false,
        }
    }

    /// Writes a line that ends in a newline, or counts it.
    pub fn put(&mut self, line: &[u8]) {
        let pid = std::process::id();
        if pid != self.owner {
            (self.owner, self.unsaid, self.lost) = (pid, 0, 0);
            self.output.forked();
        }
        if self.caught_up(pid) && self.write(line).is_ok() {
            return;
        }
        self.unsaid += 1;
        self.lost += 1;
    }

    pub fn reopen(&mut self) -> Result<bool, Error> {
        self.output.reopen()
    }

    pub fn give_to(&mut self, uid: Uid, gid: Gid) {
        if let Output::File(file) = &mut self.output {
            file.give_to(uid, gid);
        }
    }

    pub fn can_reopen(&self) -> Result<(), Error> {
        match &self.output {
            Output::File(file) => file.can_reopen(),
            _ => Ok(()),
        }
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub fn keep(&self) -> Vec<RawFd> {
        self.output.keep()
    }

    /// Announces what was lost, if anything was; false if that is lost too.
    fn caught_up(&mut self, pid: u32) -> bool {
        if self.unsaid == 0 {
            return true;
        }
        let notice = self.layout.render(&Line {
            at: SystemTime::now(),
            pid,
            level: Level::Warn,
            target: "log",
            message: format!("{} log lines lost", self.unsaid),
            fields: vec![("lost".to_owned(), self.unsaid.into())],
        });
        let said = self.write(notice.as_bytes()).is_ok();
        if said {
            self.unsaid = 0;
        }
        said
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Errno> {
        let mut bytes = fitting(line);
        if self.torn {
            let mut whole = vec![b'\n'];
            whole.extend_from_slice(&fitting_in(line, LONGEST - 1));
            bytes = Cow::Owned(whole);
        }
        let written = self.output.send(&bytes)?;
        self.torn = written < bytes.len();
        if self.torn {
            Err(Errno::ENOSPC)
        } else {
            Ok(())
        }
    }
}

fn fitting(line: &[u8]) -> Cow<'_, [u8]> {
    fitting_in(line, LONGEST)
}

/// The line, cut at a character's end if it has more than `room` bytes.
fn fitting_in(line: &[u8], room: usize) -> Cow<'_, [u8]> {
    if line.len() <= room {
        return Cow::Borrowed(line);
    }
    let mut end = room - CUT.len();
    while end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    Cow::Owned([&line[..end], CUT.as_bytes()].concat())
}

/// Where to: each takes one write, now or not at all.
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

// Standard error or output as a sink, whatever that descriptor is at the moment
// of the line.

/// Descriptor 1 or 2.
///
/// A terminal is the one thing poll(2) calls writable when a line does not
/// fit (a stopped emulator, a dead ssh), and it shares its O_NONBLOCK with
/// the shell; so it is opened a second time, non-blocking, where /proc and
/// its permissions allow that. The second opening is dropped at the first
/// line that finds the number to be something else.
pub(super) struct Standard {
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

// A file as a sink: how it is opened, by whom it may be planted, and how it is
// found again after a rotation.

/// A file appended to, found again by name in a directory held open, which
/// works after chroot(2) and, permissions allowing, as another user.
pub(super) struct LogFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    fd: OwnedFd,
    /// It was not there before.
    created: bool,
}

impl LogFile {
    pub fn open(path: &Path) -> Result<LogFile, Error> {
        let (path, dir, name) = place(path)?;
        let (fd, created) = open_in(&dir, &name).map_err(|e| refused(&path, e))?;
        Ok(LogFile {
            path,
            name,
            dir,
            fd,
            created,
        })
    }

    /// Tries what [`LogFile::open`] would do, and makes no file.
    pub fn rehearse(path: &Path) -> Result<(), Error> {
        let (path, dir, name) = place(path)?;
        match open_existing(&dir, &name) {
            Err(Errno::ENOENT) => nameless(&dir),
            result => result,
        }
        .map(drop)
        .map_err(|e| refused(&path, e))
    }

    /// One write that does not wait.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        write_if_ready(self.fd.as_fd(), bytes)
    }

    /// What must stay open.
    pub(super) fn keep(&self) -> Vec<RawFd> {
        vec![self.dir.as_raw_fd(), self.fd.as_raw_fd()]
    }

    /// Opens the file of that name anew.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let (fd, created) = open_in(&self.dir, &self.name).map_err(|errno| {
            let error = Error::os("reopen", self.path.display(), errno).exit(Exit::CantCreate);
            match errno {
                Errno::EACCES | Errno::EPERM => error.hint(format_args!(
                    "still writing to the file opened before: whoever moves the log makes a new \
                     one that {}:{} may write to, as logrotate's create does",
                    geteuid(),
                    getegid()
                )),
                _ => error.hint("still writing to the file opened before"),
            }
        })?;
        (self.fd, self.created) = (fd, created);
        Ok(())
    }

    /// As nginx does for the user of its workers: one we have just created, or one
    /// that our predecessor did, as the user we are. Somebody else's stays theirs, and
    /// so does a device, and a file of whose names this is not the only one: the look
    /// at the name shows that it still is this file's, and link count that it has
    /// no other.
    pub fn give_to(&self, uid: Uid, gid: Gid) {
        let at = fstatat(
            &self.dir,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        let (Ok(file), Ok(named)) = (stat(self.fd.as_fd()), at) else {
            return;
        };
        let same = (file.st_dev, file.st_ino) == (named.st_dev, named.st_ino);
        let alone = kind(&named) == SFlag::S_IFREG && named.st_nlink == 1;
        if same && alone && named.st_uid == geteuid().as_raw() {
            // The group of an older one is who may read it.
            let gid = self.created.then_some(gid);
            // What comes of it, `can_reopen` asks.
            let _ = fchown(self.fd.as_fd(), Some(uid), gid);
        }
    }

    /// Tries it.
    pub fn can_reopen(&self) -> Result<(), Error> {
        if stat(self.fd.as_fd()).is_ok_and(|file| kind(&file) != SFlag::S_IFREG) {
            return Ok(());
        }
        openat(&self.dir, self.name.as_os_str(), FLAGS, Mode::empty())
            .map(drop)
            .map_err(|errno| {
                Error::os("reopen", self.path.display(), errno).hint(format_args!(
                    "it cannot be rotated: {}:{} must be able to open it",
                    geteuid(),
                    getegid()
                ))
            })
    }
}

/// O_NONBLOCK is for a FIFO, whose open(2) would wait.
const FLAGS: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// The path as it counts from `/`, its directory, and its name there.
fn place(path: &Path) -> Result<(PathBuf, OwnedFd, OsString), Error> {
    let shown = path.display();
    let path =
        std::path::absolute(path).map_err(|e| Error::usage(format!("--log-target {shown}"), e))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::usage(
            format!("--log-target {shown}"),
            "this is a directory: name a file in it",
        ));
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(parent, flags, Mode::empty()).map_err(|e| refused(parent, e))?;
    let name = name.to_owned();
    Ok((path, dir, name))
}

/// How often the file may be replaced under our hands.
const ATTEMPTS: usize = 100;

/// An existing file first: after --user the one logrotate(8) made for us may
/// be all we can open. True with one that was created here.
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    let new = FLAGS | OFlag::O_CREAT | OFlag::O_EXCL;
    let mode = Mode::from_bits_truncate(0o640);
    for _ in 0..ATTEMPTS {
        match open_existing(dir, name) {
            Err(Errno::ENOENT) => {}
            // The name led elsewhere by the time we looked at it.
            Err(Errno::ESTALE) => continue,
            result => return Ok((result?, false)),
        }
        match openat(dir, name, new, mode) {
            // Somebody was faster.
            Err(Errno::EEXIST) => {}
            result => return Ok((result?, true)),
        }
    }
    Err(Errno::ESTALE)
}

/// The file of that name, if it is one that we may write to. A second name of a file
/// that is not ours to write can be planted, where the kernel lets people make such
/// (fs.protected_hardlinks, proc_sys_fs(5)), and removed as soon as we have opened it.
/// So one look at the name says that it leads to this file still, and that it is
/// the only one.
fn open_existing(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let file = openat(dir, name, FLAGS, Mode::empty())?;
    let found = stat(file.as_fd())?;
    if kind(&found) != SFlag::S_IFREG {
        return Ok(file);
    }
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(there) if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino) => {
            Err(Errno::ESTALE)
        }
        Ok(there) if there.st_nlink > 1 => Err(Errno::EMLINK),
        Ok(_) if lost_its_name(dir, name, &file) => Err(Errno::ESTALE),
        Ok(_) => Ok(file),
        Err(Errno::ENOENT) => Err(Errno::ESTALE),
        Err(errno) => Err(errno),
    }
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

// syslogd as a sink.

/// Where syslogd listens.
pub(super) const DEV_LOG: &str = "/dev/log";

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

    /// What must stay open.
    pub(super) fn keep(&self) -> Vec<RawFd> {
        vec![self.socket.as_raw_fd()]
    }

    /// We are a forked child now, which may not connect.
    pub(super) fn forked(&mut self) {
        self.reconnects = false;
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
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
    use std::fs;
    use std::io::Read;

    use super::*;
    use crate::config::{Facility, LogFormat};
    use crate::logging::line::Header;

    #[test]
    fn standard_error_is_kept_as_number_2() {
        assert_eq!(Output::Standard(Standard::error()).keep(), [2]);
    }

    #[test]
    fn what_cannot_be_opened_says_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let missing = dir.path().join("no/log");
        let error = LogFile::open(&missing).err().expect("no directory");
        assert_eq!(error.status(), Exit::CantCreate);
        assert!(error.to_string().contains("(ENOENT)"), "{error}");
        let error = LogFile::open("/".as_ref()).err().expect("a directory");
        assert_eq!(error.status(), Exit::Usage);
    }

    #[test]
    fn a_fifo_without_a_reader_does_not_hold_us_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
        let error = LogFile::open(&path).err().expect("nobody reads it");
        assert!(error.to_string().contains("(ENXIO)"), "{error}");
    }

    /// Whoever may write to the directory plants a second name of somebody's file and
    /// takes it away again, over and over.
    #[test]
    fn row_115_a_second_name_that_comes_and_goes_is_never_written_to() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, victim) = (dir.path().join("log"), dir.path().join("victim"));
        fs::write(&victim, "precious\n").expect("write");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    if fs::hard_link(&victim, &path).is_ok() {
                        let _ = fs::remove_file(&path);
                    }
                }
            });
            for _ in 0..3000 {
                if let Ok(log) = LogFile::open(&path) {
                    let _ = log.send(b"a line\n");
                    let _ = fs::remove_file(&path);
                }
            }
            done.store(true, Relaxed);
        });
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious\n");
    }

    #[test]
    fn where_no_syslogd_is_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = Syslog::connect(dir.path().join("log")).err().expect("none");
        assert_eq!(error.status(), Exit::Unavailable);
        assert!(error.to_string().contains("--log-target"), "{error}");
    }

    const TEXT: Layout = Layout {
        format: LogFormat::Text,
        header: Header::Own,
    };

    fn to_file(path: &std::path::Path) -> Sink {
        Sink::new(Output::File(LogFile::open(path).expect("open")), TEXT)
    }

    #[test]
    fn a_full_disk_counts_and_recovers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut sink = to_file("/dev/full".as_ref());
        for _ in 0..3 {
            sink.put(b"lost\n");
        }
        assert_eq!(sink.lost(), 3);
        // The disk has room again.
        sink.output = Output::File(LogFile::open(&path).expect("open"));
        sink.put(b"kept\n");
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(" WARN  echod["), "{text}");
        assert!(lines[0].ends_with(": 3 log lines lost"), "{text}");
        assert_eq!(lines[1], "kept");
        assert_eq!(sink.lost(), 3);
    }

    #[test]
    fn a_child_does_not_announce_its_parents_losses() {
        let mut sink = to_file("/dev/full".as_ref());
        sink.put(b"lost\n");
        sink.owner = 1;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        sink.output = Output::File(LogFile::open(&path).expect("open"));
        sink.put(b"child\n");
        assert_eq!(fs::read_to_string(&path).expect("read"), "child\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_only_counted() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let mut sink = Sink::new(Output::Pipe(writer.into()), TEXT);
        sink.put(b"lost\n");
        sink.put(b"lost\n");
        assert_eq!(sink.lost(), 2);
    }

    #[test]
    fn row_66_a_full_pipe_does_not_delay_the_caller() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let mut sink = Sink::new(Output::Pipe(writer.into()), TEXT);
        let mut kept = 0;
        while sink.lost() == 0 {
            sink.put(b"fill\n");
            kept += 1;
            assert!(kept < 1_000_000, "the pipe never filled");
        }
        sink.put(b"lost\n");
        // Everything in the pipe leaves it; then it takes lines again.
        let mut drained = vec![0; (kept - 1) * 5];
        reader.read_exact(&mut drained).expect("drain");
        sink.put(b"kept\n");
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("rest");
        assert!(rest.ends_with(": 2 log lines lost\nkept\n"), "{rest}");
    }

    #[test]
    fn row_67_a_renamed_file_is_left_at_reopen() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = to_file(&path);
        sink.put(b"one\n");
        fs::rename(&path, &old).expect("rename");
        sink.put(b"two\n");
        sink.reopen().expect("reopen");
        sink.put(b"three\n");
        assert_eq!(fs::read_to_string(&old).expect("old"), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).expect("new"), "three\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_leaves_the_old_one_in_use() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = to_file(&path);
        fs::rename(&path, &old).expect("rename");
        std::os::unix::fs::symlink(&old, &path).expect("symlink");
        let error = sink.reopen().expect_err("a symlink is not followed");
        assert!(error.to_string().contains("still writing to"), "{error}");
        sink.put(b"kept\n");
        assert_eq!(fs::read_to_string(&old).expect("old"), "kept\n");
    }

    #[test]
    fn long_lines_are_cut_and_torn_ones_ended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut sink = to_file(&path);
        sink.put(format!("{}\n", "é".repeat(3000)).as_bytes());
        let text = fs::read_to_string(&path).expect("whole characters");
        assert!(text.len() <= LONGEST && text.ends_with("é…\n"));
        sink.torn = true;
        sink.put(b"next\n");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.ends_with("…\n\nnext\n"));
    }

    #[test]
    fn syslog_reconnects_when_its_reader_returns() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let layout = Layout {
            header: Header::Syslog(Facility::DAEMON),
            ..TEXT
        };
        let reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            layout,
        );
        let mut buf = [0; 256];
        sink.put(b"<30>echod[1]: one\n");
        let n = reader.recv(&mut buf).expect("recv");
        assert_eq!(&buf[..n], b"<30>echod[1]: one");
        drop(reader);
        sink.put(b"<30>echod[1]: lost\n");
        assert_eq!(sink.lost(), 1);
        fs::remove_file(&path).expect("unlink");
        let reader = UnixDatagram::bind(&path).expect("bind again");
        sink.put(b"<30>echod[1]: two\n");
        let n = reader.recv(&mut buf).expect("recv");
        assert!(buf[..n].ends_with(b": 1 log lines lost"));
        let n = reader.recv(&mut buf).expect("recv");
        assert_eq!(&buf[..n], b"<30>echod[1]: two");
    }

    /// Its sandbox would kill it for a connect(2).
    #[test]
    fn row_95_a_worker_does_not_connect_to_a_syslog_that_came_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            TEXT,
        );
        sink.owner = 1; // as after a fork
        let mut buf = [0; 256];
        sink.put(b"<30>echod[1]: one\n");
        reader.recv(&mut buf).expect("recv");
        drop(reader);
        fs::remove_file(&path).expect("unlink");
        let _reader = UnixDatagram::bind(&path).expect("bind again");
        sink.put(b"<30>echod[1]: lost\n");
        sink.put(b"<30>echod[1]: lost too\n");
        assert_eq!(sink.lost(), 2);
    }

    #[test]
    fn a_stopped_syslog_reader_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let _reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            TEXT,
        );
        for _ in 0..10_000 {
            sink.put(b"<30>echod[1]: line\n");
        }
        assert!(sink.lost() > 0);
    }
}

//! Descriptors by number: the few places where a number, not an owner, is all
//! there is. Closing what was inherited, taking over what the command line
//! names, the one write that must not wait, and passing one to another process. And
//! the two waits for them: the supervisor's ([`Wait`]) and a worker's ([`Epoll`]).
//!
//! Promises that nothing below 3 is ever closed, only replaced. The functions
//! that close or take over by number belong at the very start of a program:
//! later a number may be somebody's `OwnedFd`.

use std::ffi::OsStr;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat, readlink, renameat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{UnlinkatFlags, getpid, unlinkat};

use crate::error::Error;
use crate::sys::memory::FixedStack;
use crate::sys::raw;

/// The first number that is not one of the standard three.
const FIRST: RawFd = 3;

/// Whether something is open at this number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of whatever is there and touches no memory.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// Whether what is open at this number was opened for writing.
pub fn is_writable(fd: RawFd) -> bool {
    // SAFETY: F_GETFL reads the flags of whatever is there and touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let writes = matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR);
    flags != -1 && writes && flags & libc::O_PATH == 0
}

/// Whether one of the standard three was closed when the program started: Rust's
/// runtime has by now opened /dev/null there, for reading and writing. A shell's
/// redirection opens it for one of the two.
pub fn was_closed(fd: RawFd) -> bool {
    if !(0..FIRST).contains(&fd) || !is_open(fd) {
        return false;
    }
    // SAFETY: F_GETFL reads the flags of what was just seen open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: nobody closes one of the standard three, and the borrow ends here.
    let found = stat(unsafe { BorrowedFd::borrow_raw(fd) });
    let null = found.is_ok_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
    });
    null && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// The lowest number that is not open: one more than are, where none is in between.
/// `any` is a descriptor to copy.
pub fn lowest_free(any: BorrowedFd<'_>) -> u64 {
    match fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(0)) {
        Ok(number) => {
            // SAFETY: fcntl(2) just made it, for us alone.
            let copy = unsafe { OwnedFd::from_raw_fd(number) };
            u64::from(copy.as_raw_fd().unsigned_abs())
        }
        Err(_) => getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
    }
}

/// Whether [`dev_null`] had to make do without /dev/null.
pub fn is_stand_in(null: BorrowedFd<'_>) -> bool {
    let kind = |stat: FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    stat(null).is_ok_and(|stat| kind(stat) == SFlag::S_IFIFO)
}

/// What is at this path, held and not opened: it does not change hands when the
/// path does. The last name is not followed if it is a link (open(2), O_PATH).
///
/// # Errors
/// open(2)'s.
pub fn locate(path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
}

/// Whether that is a socket, and its owner. By one system call on every C library:
/// it is on the list of a worker's.
///
/// # Errors
/// fstat(2)'s.
pub fn kind_and_owner(found: &OwnedFd) -> Result<(bool, u32), Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes a struct stat, which on the 64-bit machines that
    // there is a sandbox for is the C library's.
    let done = unsafe { libc::syscall(libc::SYS_fstat, found.as_raw_fd(), stat.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: it has.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_mode & libc::S_IFMT == libc::S_IFSOCK, stat.st_uid))
}

/// Opens /dev/null at each of 0, 1 and 2 that is closed, so that no socket
/// can land there and be sent what is meant for a person.
///
/// # Errors
/// [`dev_null`]'s.
pub fn fill_standard() -> Result<(), Error> {
    for fd in 0..FIRST {
        if !is_open(fd) {
            // open(2) takes the lowest number free, which is `fd`; without
            // CLOEXEC, as the standard three are meant to be inherited.
            let null = open_null(OFlag::empty())?.into_raw_fd();
            debug_assert_eq!(null, fd);
        }
    }
    Ok(())
}

/// /dev/null, for reading and writing. Where there is none (a container of one
/// file), a pipe that nobody writes to: reading gives end-of-file as well, and
/// writing fails instead of vanishing.
///
/// # Errors
/// pipe2(2)'s: 71.
pub fn dev_null() -> Result<OwnedFd, Error> {
    open_null(OFlag::O_CLOEXEC)
}

fn open_null(flags: OFlag) -> Result<OwnedFd, Error> {
    open("/dev/null", OFlag::O_RDWR | flags, Mode::empty())
        // Its reading end gets the lowest number free, as a file would: pipe(2).
        .or_else(|_| nix::unistd::pipe2(flags).map(|(reading, _)| reading))
        .map_err(|errno| Error::os("pipe", "in place of /dev/null", errno))
}

/// Closes every descriptor from 3 up but these.
///
/// To be called before this process opens anything: a number closed here that
/// has an owner would be closed again under its next one.
pub fn close_all_but(keep: &[RawFd]) {
    for (first, last) in gaps(keep) {
        // SAFETY: close_range(2) takes three integers; that nothing in these
        // ranges has an owner is the caller's promise above.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if closed != 0 {
            // ENOSYS before Linux 5.9, EPERM from some containers' filters.
            close_each(first, last);
        }
    }
}

/// The ranges from 3 up that hold no number of `keep`, both ends included.
fn gaps(keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter(|&&fd| fd >= FIRST)
        .map(|&fd| fd.unsigned_abs())
        .collect();
    keep.sort_unstable();
    keep.dedup();
    let mut gaps = Vec::with_capacity(keep.len() + 1);
    let mut first = FIRST.unsigned_abs();
    for fd in keep {
        if fd > first {
            gaps.push((first, fd - 1));
        }
        first = fd + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// What close_range(2) does, one close(2) at a time: those /proc lists, or
/// without /proc all that the limit allows, which may be a million.
pub(super) fn close_each(first: u32, last: u32) {
    let close = |fd: u32| {
        // SAFETY: as in close_all_but; the listing's own descriptor, gone by now,
        // fails with EBADF.
        unsafe { libc::close(fd.cast_signed()) };
    };
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = usize::try_from(limit).unwrap_or(1 << 20);
        return (first..=last).take(most).for_each(close);
    };
    let listed = dir
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // All of them before the first close: the listing is one of them.
    let listed: Vec<u32> = listed.filter(|fd| (first..=last).contains(fd)).collect();
    listed.into_iter().for_each(close);
}

/// Makes calls on a descriptor wait, or not. The flag belongs to what is open, and
/// so to whoever shares it.
///
/// # Errors
/// fcntl(2)'s.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop)
}

/// Takes over a descriptor the command line names (`--ready-fd 3`), closed
/// on exec from now on. One of the standard three is moved away, and /dev/null
/// takes its place: a later `close` of ours then lets a reader see its end.
///
/// Once for each number, and right after [`close_all_but`]: anything we opened
/// ourselves must not be named here.
///
/// # Errors
/// 64 when nothing is open there.
pub fn adopt(fd: RawFd) -> Result<OwnedFd, Error> {
    if !is_open(fd) {
        return Err(Error::usage(
            format!("descriptor {fd}"),
            "it is not open; in a shell, open it with a redirection",
        ));
    }
    if fd >= FIRST {
        // SAFETY: sets a flag of a descriptor just seen open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: it is open, and the caller's promise above is that nothing
        // in this process owns it yet.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let null = dev_null()?;
    // SAFETY: two integers in, a new descriptor or -1 out.
    let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST) };
    if moved == -1 {
        return Err(Error::os("dup", format!("descriptor {fd}"), Errno::last()));
    }
    // SAFETY: fcntl(2) just made it, for us alone.
    let moved = unsafe { OwnedFd::from_raw_fd(moved) };
    // SAFETY: dup2(2) works on numbers; 0 to 2 have no owner in Rust that
    // would mind a new file behind them.
    if unsafe { libc::dup2(null.as_raw_fd(), fd) } == -1 {
        return Err(Error::os("dup2", format!("descriptor {fd}"), Errno::last()));
    }
    Ok(moved)
}

/// Is the name by which `file` was opened in `dir` gone? For who has just found a
/// link count of one there: unlink(2) takes a link off the count a moment before the
/// name is gone, so a second name that somebody plants and removes can look like the
/// only one. Nobody unlinks while a name of the directory is renamed, be it to itself,
/// which does nothing (rename(2)); after that the descriptor knows whether its name is
/// still there (proc_pid_fd(5)). Without /proc there is no such look.
pub fn lost_its_name(dir: &OwnedFd, name: &OsStr, file: &OwnedFd) -> bool {
    if renameat(dir, name, dir, name) == Err(Errno::ENOENT) {
        return true;
    }
    let opened_by = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str());
    opened_by.is_ok_and(|path| path.as_bytes().ends_with(b" (deleted)"))
}

/// Tries to make a file in this directory: one without a name, which is gone when it is
/// closed. Where the file system has none of those, it has a name for a moment.
///
/// # Errors
/// open(2)'s.
pub fn nameless(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match openat(dir, ".", flags | OFlag::O_TMPFILE, mode) {
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
            let name = format!(".echod-check-{}", getpid());
            let new = flags | OFlag::O_CREAT | OFlag::O_EXCL;
            let file = openat(dir, name.as_str(), new, mode)?;
            let _ = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Ok(file)
        }
        result => result,
    }
}

/// fstat(2) by its own number. The C library may ask by newfstatat(2) instead,
/// which takes a path too: one call that a sandbox is better without.
///
/// # Errors
/// fstat(2)'s.
pub fn stat(fd: BorrowedFd<'_>) -> Result<FileStat, Errno> {
    let mut stat = std::mem::MaybeUninit::<FileStat>::zeroed();
    // SAFETY: on 64-bit Linux the kernel's struct stat is libc's, which it fills.
    let done = unsafe { libc::syscall(libc::SYS_fstat, fd.as_raw_fd(), stat.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: all zeroes was a value already, and the kernel has written one.
    Ok(unsafe { stat.assume_init() })
}

/// write(2) that gives EAGAIN where it would wait, whatever the descriptor's
/// O_NONBLOCK; a kernel or file that knows no RWF_NOWAIT (a pipe before Linux
/// 6.4) gets a plain write, so poll(2) first.
///
/// # Errors
/// write(2)'s.
pub fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match write_nowait(fd, bytes) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => nix::unistd::write(fd, bytes),
        result => result,
    }
}

fn write_nowait(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: one iovec over a live slice, which the kernel only reads; offset
    // -1 is "as write(2)", see pwritev2(2).
    let written =
        unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    usize::try_from(written).map_err(|_| Errno::last())
}

// Passing an open descriptor to another process: SCM_RIGHTS, `unix(7)`.
//
// One message carries a short note and one descriptor; over SOCK_SEQPACKET
// both arrive whole or not at all. Neither call waits or allocates, so a
// sandboxed worker may receive. Knows nothing of what is passed.

/// Room for the control message with one descriptor, aligned as cmsg(3) wants:
/// CMSG_SPACE(4) is 24 bytes on 64-bit machines and fewer on others.
#[repr(C, align(8))]
struct Control([u8; 32]);

/// A pair that messages travel over; both ends are closed on exec.
///
/// # Errors
/// socketpair(2)'s: EMFILE and the like.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Sends `note` and a copy of `what`; ours stays open.
///
/// # Errors
/// EPIPE or ECONNRESET when nobody will receive it; EAGAIN when messages pile
/// up; ETOOMANYREFS when too many descriptors are on their way, ENOBUFS.
pub fn pass(channel: BorrowedFd<'_>, note: &[u8], what: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut part = libc::iovec {
        iov_base: note.as_ptr().cast_mut().cast(),
        iov_len: note.len(),
    };
    let mut control = Control([0; 32]);
    let message = message(&mut part, &mut control);
    // SAFETY: the control buffer holds one header with one descriptor (see
    // `Control`), so CMSG_FIRSTHDR is in it and CMSG_DATA has room for an int,
    // which may be unaligned. `part`, only read by the kernel, and `control`
    // outlive the call.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(what.as_raw_fd());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(channel.as_raw_fd(), &raw const message, flags)
    };
    Errno::result(sent).map(drop)
}

/// Receives a note and a descriptor, closed on exec; `None` once the other end
/// is closed and all it sent has been received.
///
/// # Errors
/// EAGAIN when there is no message; EMFILE when there was one and its
/// descriptor found no room: it is gone.
pub fn receive(channel: BorrowedFd<'_>, note: &mut [u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut part = libc::iovec {
        iov_base: note.as_mut_ptr().cast(),
        iov_len: note.len(),
    };
    let mut control = Control([0; 32]);
    let mut message = message(&mut part, &mut control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `note` and `control`, both writable, of the
    // lengths it names, and outliving the call.
    let got =
        Errno::result(unsafe { libc::recvmsg(channel.as_raw_fd(), &raw mut message, flags) })?;
    // SAFETY: the kernel has filled in the control buffer and its length, which
    // CMSG_FIRSTHDR checks; SCM_RIGHTS carries ints, at least one.
    let fd = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let found = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS;
        found.then(|| libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
    };
    match (fd, got) {
        // SAFETY: the kernel has just made this descriptor, for us alone.
        (Some(fd), _) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        (None, 0) => Ok(None),
        (None, _) => Err(Errno::EMFILE), // MSG_CTRUNC: it was there, and was dropped
    }
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeroes is a msghdr without name, parts or control data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
    message
}

// Two waits for descriptors. The supervisor's is ppoll(2) over a list kept where
// fork(2) does not copy it; a worker's is epoll(7).
//
// The supervisor's list is made anew for each wait, without allocating: a page of the
// heap that is written between two forks is a page that the next fork makes us copy.

/// Descriptors to wait for.
pub struct Wait(FixedStack<libc::pollfd>);

impl Wait {
    /// Room for `fds` descriptors.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(fds: usize) -> Result<Self, Errno> {
        FixedStack::new(
            fds,
            libc::pollfd {
                fd: -1,
                events: 0,
                revents: 0,
            },
        )
        .map(Wait)
    }

    /// Starts the next list.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a descriptor to wait for, or a place for none.
    pub fn add(&mut self, fd: Option<BorrowedFd<'_>>) {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        self.0.push(libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
    }

    /// Sleeps until a descriptor is readable or the time is up; true in the first
    /// case.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> bool {
        let timeout = timeout.map(|left| libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i32::MAX.into()),
            tv_nsec: left.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let fds = self.0.items();
        // SAFETY: the list and the timeout outlive the call; the kernel
        // writes to the list alone. A number that was closed since it was added
        // is answered with POLLNVAL, which the caller takes for an event.
        let ready = unsafe {
            libc::ppoll(
                fds.as_mut_ptr(),
                fds.len() as libc::nfds_t,
                timeout,
                std::ptr::null(),
            )
        };
        ready > 0
    }

    /// Did something come for the descriptor that was added as number `i`? Asked
    /// after a [`Wait::sleep`] that said so.
    pub fn came(&mut self, i: usize) -> bool {
        self.0.items().get(i).is_some_and(|fd| fd.revents != 0)
    }
}

// epoll(7), as much of it as a worker that waits needs, by the calls of `raw`:
// it is made in a child that was just forked.

/// A list of descriptors to wait for. It is never closed, but with all the rest
/// or by the end of the process.
#[derive(Clone, Copy)]
pub struct Epoll(BorrowedFd<'static>);

const NOTHING: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };

impl Epoll {
    /// An empty one.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub fn new() -> Result<Self, Errno> {
        let fd = raw::epoll_create()?;
        // SAFETY: just made, and no owner will close it: see the type.
        Ok(Epoll(unsafe { BorrowedFd::borrow_raw(fd) }))
    }

    /// Waits for `fd` to become readable, as `number`, which is below 64; if
    /// `alone`, of all epolls that wait for it so, one is woken (EPOLLEXCLUSIVE).
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add(&self, fd: impl AsFd, number: u64, alone: bool) -> Result<(), Errno> {
        let exclusive = if alone { libc::EPOLLEXCLUSIVE } else { 0 };
        let event = libc::epoll_event {
            events: (libc::EPOLLIN | exclusive) as u32,
            u64: number,
        };
        raw::epoll_add(self.0, fd.as_fd(), event)
    }

    /// Waits, for so many milliseconds at most, and says who woke it, of the first
    /// few that did: number n is bit n. Nobody after a signal.
    pub fn wait(&self, limit: Option<u16>) -> u64 {
        let mut events = [NOTHING; 4];
        let came = raw::epoll_wait(self.0, &mut events, limit).unwrap_or(0);
        let numbers = events.iter().take(came).map(|event| event.u64);
        numbers.fold(0, |woken, number| woken | 1 << number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::FdFlag;
    use nix::sys::resource::setrlimit;
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::error::Exit;

    #[test]
    fn the_gaps_between_what_is_kept() {
        const MAX: u32 = u32::MAX;
        for (keep, expected) in [
            (&[][..], &[(3, MAX)][..]),
            (&[0, 1, 2, -1], &[(3, MAX)]),
            (&[3], &[(4, MAX)]),
            (&[7, 5, 7], &[(3, 4), (6, 6), (8, MAX)]),
            (&[3, 4, 9], &[(5, 8), (10, MAX)]),
        ] {
            assert_eq!(gaps(keep), expected, "{keep:?}");
        }
    }

    #[test]
    fn a_number_that_is_not_open_is_a_usage_error() {
        assert!(!is_open(-1));
        assert!(!is_open(9999));
        let error = adopt(9999).expect_err("closed");
        assert_eq!(error.status(), Exit::Usage);
    }

    #[test]
    fn an_adopted_descriptor_is_ours_and_closed_on_exec() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let fd = OwnedFd::from(writer).into_raw_fd();
        // SAFETY: F_SETFD on the descriptor made above.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        let adopted = adopt(fd).expect("open");
        assert_eq!(adopted.as_raw_fd(), fd);
        // SAFETY: F_GETFD on the same.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
        std::fs::File::from(adopted).write_all(b"x").expect("write");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("end of file");
        assert_eq!(text, "x");
    }

    #[test]
    fn a_full_pipe_is_eagain_where_the_kernel_can_say_so() {
        let (_reader, writer) = std::io::pipe().expect("pipe");
        for _ in 0..1_000 {
            match write_nowait(writer.as_fd(), &[0; 4096]) {
                Ok(written) => assert_eq!(written, 4096),
                Err(errno) => {
                    assert!(
                        matches!(errno, Errno::EAGAIN | Errno::EOPNOTSUPP),
                        "{errno}"
                    );
                    return;
                }
            }
        }
        panic!("a pipe of 4 MiB?");
    }

    #[test]
    fn a_descriptor_arrives_with_its_note_and_messages_stay_apart() {
        let (ours, theirs) = pair().unwrap();
        let mut note = [0; 3];
        assert_eq!(
            receive(theirs.as_fd(), &mut note).unwrap_err(),
            Errno::EAGAIN
        );
        let (mut reader, writer) = std::io::pipe().unwrap();
        pass(ours.as_fd(), b"one", writer.as_fd()).unwrap();
        pass(ours.as_fd(), b"two", reader.as_fd()).unwrap();
        drop(writer);
        let got = receive(theirs.as_fd(), &mut note).unwrap().unwrap();
        assert_eq!(&note, b"one");
        let flags = FdFlag::from_bits_retain(fcntl(&got, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        std::fs::File::from(got).write_all(b"through").unwrap();
        let mut text = [0; 7];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"through");

        drop(ours);
        assert!(receive(theirs.as_fd(), &mut note).unwrap().is_some());
        assert_eq!(&note, b"two");
        assert!(receive(theirs.as_fd(), &mut note).unwrap().is_none());
        assert_eq!(pass(theirs.as_fd(), b"", reader.as_fd()), Err(Errno::EPIPE));
    }

    #[test]
    fn a_receiver_without_room_is_told() {
        let (ours, theirs) = pair().unwrap();
        pass(ours.as_fd(), b"one", ours.as_fd()).unwrap();
        let child = crate::sys::process::fork(|| {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, 0, 0);
            i32::from(receive(theirs.as_fd(), &mut [0; 3]).err() == Some(Errno::EMFILE))
        })
        .unwrap();
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 1)));
    }

    #[test]
    fn says_what_is_readable_and_wakes_when_the_time_is_up() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut wait = Wait::new(2).unwrap();
        for _ in 0..2 {
            wait.clear();
            wait.add(None);
            wait.add(Some(theirs.as_fd()));
            assert!(!wait.sleep(Some(Duration::from_millis(1))));
        }
        ours.write_all(b"x").unwrap();
        assert!(wait.sleep(None));
        assert!(!wait.came(0) && wait.came(1) && !wait.came(2));
    }

    #[test]
    fn tells_who_woke_it() {
        let (mut one, one_end) = UnixStream::pair().unwrap();
        let (mut two, two_end) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&one_end, 0, true).unwrap();
        epoll.add(&two_end, 1, false).unwrap();
        assert_eq!(epoll.add(&two_end, 1, false), Err(Errno::EEXIST));
        one.write_all(b"x").unwrap();
        assert_eq!(epoll.wait(None), 0b01);
        two.write_all(b"x").unwrap();
        assert_eq!(epoll.wait(None), 0b11);
    }
}

//! The system calls of a child that was just forked or is locked in, by their
//! numbers: what a sandbox allows is a number, and a C library may make another
//! call than the one it is asked for. nix has the others.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::null_mut;

use libc::{c_long, syscall};
use nix::errno::Errno;

fn done(result: c_long) -> Result<usize, Errno> {
    Errno::result(result).map(|result| result as usize)
}

/// read(2).
///
/// # Errors
/// read(2)'s.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (start, len) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the kernel writes at most `len` bytes to a live buffer.
    done(unsafe { syscall(libc::SYS_read, fd.as_raw_fd(), start, len) })
}

/// write(2).
///
/// # Errors
/// write(2)'s.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let (start, len) = (bytes.as_ptr(), bytes.len());
    // SAFETY: the kernel reads `len` bytes of a live slice.
    done(unsafe { syscall(libc::SYS_write, fd.as_raw_fd(), start, len) })
}

/// accept4(2).
///
/// # Safety
/// `address` must be writable for the `*length` bytes that the call may write.
///
/// # Errors
/// accept4(2)'s.
pub unsafe fn accept4(
    listener: BorrowedFd<'_>,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: i32,
) -> Result<RawFd, Errno> {
    let fd = listener.as_raw_fd();
    // SAFETY: the caller's promise.
    done(unsafe { syscall(libc::SYS_accept4, fd, address, length, flags) }).map(|fd| fd as RawFd)
}

/// epoll_create1(2), closed on exec.
///
/// # Errors
/// epoll_create1(2)'s.
pub fn epoll_create() -> Result<RawFd, Errno> {
    // SAFETY: an integer.
    done(unsafe { syscall(libc::SYS_epoll_create1, libc::EPOLL_CLOEXEC) }).map(|fd| fd as RawFd)
}

/// epoll_ctl(2) with EPOLL_CTL_ADD.
///
/// # Errors
/// epoll_ctl(2)'s.
pub fn epoll_add(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    mut event: libc::epoll_event,
) -> Result<(), Errno> {
    let (epoll, fd, event) = (epoll.as_raw_fd(), fd.as_raw_fd(), &raw mut event);
    // SAFETY: the kernel reads one event of a live local.
    done(unsafe { syscall(libc::SYS_epoll_ctl, epoll, libc::EPOLL_CTL_ADD, fd, event) }).map(drop)
}

/// epoll_pwait(2) without a mask: how many came.
///
/// # Errors
/// epoll_pwait(2)'s.
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    limit: Option<u16>,
) -> Result<usize, Errno> {
    let (epoll, start, most) = (epoll.as_raw_fd(), events.as_mut_ptr(), events.len());
    let (limit, mask) = (limit.map_or(-1, i32::from), null_mut::<u64>());
    // SAFETY: the kernel writes at most `most` events to a live slice.
    done(unsafe {
        syscall(
            libc::SYS_epoll_pwait,
            epoll,
            start,
            most,
            limit,
            mask,
            SIGSET,
        )
    })
}

/// _exit(2), of this thread alone: seccomp's strict mode allows it and not
/// exit_group(2), and in a process of one thread the two are the same.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: exit(2) takes an integer and does not return.
        unsafe { syscall(libc::SYS_exit, status) };
    }
}

/// fork(2) as clone(2) without any flag: 0 in the child.
///
/// # Safety
/// As fork(2): the process must have one thread. The C library does not learn of
/// it; see `process::fork_bare` for what that forbids the child.
///
/// # Errors
/// fork(2)'s.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub unsafe fn fork() -> Result<i32, Errno> {
    // Flags and stack; the order of the others, all null, differs by machine.
    let (flags, none) = (libc::SIGCHLD as usize, null_mut::<u8>());
    // SAFETY: a null stack means a copy of ours; the rest is the caller's.
    done(unsafe { syscall(libc::SYS_clone, flags, none, none, none, none) }).map(|pid| pid as i32)
}

/// Elsewhere, where clone(2) has its arguments in another order, by libc.
///
/// # Safety
/// As above.
///
/// # Errors
/// fork(2)'s.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn fork() -> Result<i32, Errno> {
    // SAFETY: the caller's.
    Errno::result(unsafe { libc::fork() })
}

/// close(2).
///
/// # Safety
/// Nothing in this process may use or own that descriptor afterwards.
pub unsafe fn close(fd: RawFd) {
    // SAFETY: an integer; the rest is the caller's.
    unsafe { syscall(libc::SYS_close, fd) };
}

/// close_range(2), all of them, no flags. Nothing in this process may use or own
/// those descriptors afterwards.
///
/// # Errors
/// ENOSYS or EPERM where kernel or container lack it.
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: integers only; what is closed is the caller's promise.
    done(unsafe { syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT).
///
/// # Errors
/// EINVAL where a filter is installed already, or there is no seccomp.
pub fn enter_strict_mode() -> Result<(), Errno> {
    let (option, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT as usize);
    // SAFETY: integers only.
    done(unsafe { syscall(libc::SYS_prctl, option, mode, 0usize) }).map(drop)
}

/// Bytes of the kernel's signal set, which is smaller than libc's.
const SIGSET: usize = 8;

/// sigaction(2) with SIG_DFL.
pub fn default_signal(signal: i32) {
    // handler (SIG_DFL is 0), flags, restorer, mask: all zero on every Linux.
    let action = [0usize; 4];
    let (new, old) = (action.as_ptr(), null_mut::<usize>());
    // SAFETY: the kernel reads one struct of at most four words; a default
    // action runs no code.
    unsafe { syscall(libc::SYS_rt_sigaction, signal, new, old, SIGSET) };
}

/// sigprocmask(SIG_SETMASK): signal n is bit n - 1.
pub fn set_mask(mask: u64) {
    let (new, old) = (&raw const mask, null_mut::<u64>());
    // SAFETY: the kernel reads eight bytes of a live local.
    unsafe {
        syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            new,
            old,
            SIGSET,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_and_errors_come_through() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(write(ours.as_fd(), b"hello"), Ok(5));
        let mut buffer = [0; 16];
        assert_eq!(read(theirs.as_fd(), &mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"hello");
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(read(theirs.as_fd(), &mut buffer), Err(Errno::EAGAIN));
        let read_only = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(write(read_only.as_fd(), b"x"), Err(Errno::EBADF));
    }
}

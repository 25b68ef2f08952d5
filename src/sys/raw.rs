//! The few system calls of a serving child, made in place.
//!
//! After fork(2) each 64 KiB of program text that the child runs through costs
//! it a page fault, since the kernel does not copy page tables of files, and a
//! dear one (4 us), since it maps what lies around, too. libc's wrappers lie
//! scattered over the binary; these are compiled into the code that calls them.
//!
//! Errors are the kernel's, as [`Errno`]; libc's errno is not touched.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::c_long;
use nix::errno::Errno;

/// A system call of up to six arguments, by number.
///
/// # Safety
/// As the system call: pointers among the arguments must be valid for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn call_long(number: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86-64 system call convention (syscall(2), Notes): number and
    // result in rax; rcx and r11 are lost; the stack is not used.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn call_long(number: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the arm64 system call convention (syscall(2), Notes): number in
    // x8, result in x0; the stack is not used.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number as isize,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// Elsewhere, by libc: slower, the same.
///
/// # Safety
/// As above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call_long(number: c_long, args: [usize; 6]) -> isize {
    // SAFETY: the caller's.
    let result =
        unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if result == -1 {
        -(Errno::last_raw() as isize)
    } else {
        result as isize
    }
}

/// A system call of up to four arguments.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn call(number: c_long, [a, b, c, d]: [usize; 4]) -> isize {
    // SAFETY: the caller's.
    unsafe { call_long(number, [a, b, c, d, 0, 0]) }
}

#[inline(always)]
fn checked(result: isize) -> Result<usize, Errno> {
    // The kernel answers -4095 to -1 for an errno.
    usize::try_from(result).map_err(|_| match -result as i32 {
        // The one that is no trouble, spared the walk through the table of all.
        libc::EAGAIN => Errno::EAGAIN,
        errno => Errno::from_raw(errno),
    })
}

/// read(2).
///
/// # Errors
/// read(2)'s.
#[inline(always)]
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let args = [
        fd.as_raw_fd() as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
        0,
    ];
    // SAFETY: the kernel writes at most `buffer.len()` bytes to a live buffer.
    checked(unsafe { call(libc::SYS_read, args) })
}

/// write(2).
///
/// # Errors
/// write(2)'s.
#[inline(always)]
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let args = [
        fd.as_raw_fd() as usize,
        bytes.as_ptr() as usize,
        bytes.len(),
        0,
    ];
    // SAFETY: the kernel reads `bytes.len()` bytes of a live slice.
    checked(unsafe { call(libc::SYS_write, args) })
}

/// accept4(2).
///
/// # Safety
/// `address` must be writable for the `*length` bytes that the call may write.
///
/// # Errors
/// accept4(2)'s.
#[inline(always)]
pub unsafe fn accept4(
    listener: BorrowedFd<'_>,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: i32,
) -> Result<RawFd, Errno> {
    let args = [
        listener.as_raw_fd() as usize,
        address as usize,
        length as usize,
        flags as usize,
    ];
    // SAFETY: the caller's promise.
    checked(unsafe { call(libc::SYS_accept4, args) }).map(|fd| fd as RawFd)
}

/// epoll_create1(2), closed on exec.
///
/// # Errors
/// epoll_create1(2)'s.
#[inline(always)]
pub fn epoll_create() -> Result<RawFd, Errno> {
    let args = [libc::EPOLL_CLOEXEC as usize, 0, 0, 0];
    // SAFETY: an integer.
    checked(unsafe { call(libc::SYS_epoll_create1, args) }).map(|fd| fd as RawFd)
}

/// epoll_ctl(2) with EPOLL_CTL_ADD.
///
/// # Errors
/// epoll_ctl(2)'s.
#[inline(always)]
pub fn epoll_add(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    mut event: libc::epoll_event,
) -> Result<(), Errno> {
    let args = [
        epoll.as_raw_fd() as usize,
        libc::EPOLL_CTL_ADD as usize,
        fd.as_raw_fd() as usize,
        (&raw mut event) as usize,
    ];
    // SAFETY: the kernel reads one event of a live local.
    checked(unsafe { call(libc::SYS_epoll_ctl, args) }).map(drop)
}

/// epoll_pwait(2) without a limit and without a mask: how many came.
///
/// # Errors
/// epoll_pwait(2)'s.
#[inline(always)]
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    limit: Option<u16>,
) -> Result<usize, Errno> {
    let forever = -1isize as usize;
    let args = [
        epoll.as_raw_fd() as usize,
        events.as_mut_ptr() as usize,
        events.len(),
        limit.map_or(forever, usize::from),
        0,
        SIGSET,
    ];
    // SAFETY: the kernel writes at most `events.len()` events to a live slice.
    checked(unsafe { call_long(libc::SYS_epoll_pwait, args) })
}

/// _exit(2), of this thread alone: seccomp's strict mode allows it and not
/// exit_group(2), and in a process of one thread the two are the same.
#[inline(always)]
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: exit(2) takes an integer and does not return.
        unsafe { call(libc::SYS_exit, [status as usize, 0, 0, 0]) };
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
#[inline(always)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub unsafe fn fork() -> Result<i32, Errno> {
    // Flags and stack; the order of the others, all zero, differs by machine.
    let args = [libc::SIGCHLD as usize, 0, 0, 0];
    // SAFETY: a null stack means a copy of ours; the rest is the caller's.
    checked(unsafe { call(libc::SYS_clone, args) }).map(|pid| pid as i32)
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
#[inline(always)]
pub unsafe fn close(fd: RawFd) {
    // SAFETY: an integer; the rest is the caller's.
    unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0]) };
}

/// close_range(2), all of them, no flags. Nothing in this process may use or own
/// those descriptors afterwards.
///
/// # Errors
/// ENOSYS or EPERM where kernel or container lack it.
#[inline(always)]
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: integers only; what is closed is the caller's promise.
    checked(unsafe { call(libc::SYS_close_range, [first as usize, last as usize, 0, 0]) }).map(drop)
}

/// prctl(PR_SET_NAME): at most 15 bytes and a NUL.
#[inline(always)]
pub fn set_name(name: &[u8; 16]) {
    let args = [libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0];
    // SAFETY: the kernel reads up to 16 bytes of a live array.
    unsafe { call(libc::SYS_prctl, args) };
}

/// prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT).
///
/// # Errors
/// EINVAL where a filter is installed already, or there is no seccomp.
#[inline(always)]
pub fn enter_strict_mode() -> Result<(), Errno> {
    let args = [
        libc::PR_SET_SECCOMP as usize,
        libc::SECCOMP_MODE_STRICT as usize,
        0,
        0,
    ];
    // SAFETY: integers only.
    checked(unsafe { call(libc::SYS_prctl, args) }).map(drop)
}

/// Bytes of the kernel's signal set, which is smaller than libc's.
const SIGSET: usize = 8;

/// sigaction(2) with SIG_DFL.
#[inline(always)]
pub fn default_signal(signal: i32) {
    // handler (SIG_DFL is 0), flags, restorer, mask: all zero on every Linux.
    let action = [0usize; 4];
    let args = [signal as usize, action.as_ptr() as usize, 0, SIGSET];
    // SAFETY: the kernel reads one struct of at most four words; a default
    // action runs no code.
    unsafe { call(libc::SYS_rt_sigaction, args) };
}

/// sigprocmask(SIG_SETMASK): signal n is bit n - 1.
#[inline(always)]
pub fn set_mask(mask: u64) {
    let args = [
        libc::SIG_SETMASK as usize,
        (&raw const mask) as usize,
        0,
        SIGSET,
    ];
    // SAFETY: the kernel reads eight bytes of a live local.
    unsafe { call(libc::SYS_rt_sigprocmask, args) };
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

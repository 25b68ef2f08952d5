//! The few system calls of a serving child, made in place.
//!
//! After fork(2) each 64 KiB of program text that the child runs through costs
//! it a page fault, since the kernel does not copy page tables of files. libc's
//! wrappers lie scattered over the binary; these are compiled into the code that
//! calls them. Measured: five faults of sixteen per connection.
//!
//! Errors are the kernel's, as [`Errno`]; libc's errno is not touched.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::c_long;
use nix::errno::Errno;

/// A system call of up to four arguments, by number.
///
/// # Safety
/// As the system call: pointers among the arguments must be valid for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn call(number: c_long, args: [usize; 4]) -> isize {
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
unsafe fn call(number: c_long, args: [usize; 4]) -> isize {
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
unsafe fn call(number: c_long, args: [usize; 4]) -> isize {
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) };
    if result == -1 {
        -(Errno::last_raw() as isize)
    } else {
        result as isize
    }
}

#[inline(always)]
fn checked(result: isize) -> Result<usize, Errno> {
    // The kernel answers -4095 to -1 for an errno.
    usize::try_from(result).map_err(|_| Errno::from_raw(-result as i32))
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

/// _exit(2), of this thread alone: seccomp's strict mode allows it and not
/// exit_group(2), and in a process of one thread the two are the same.
#[inline(always)]
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: exit(2) takes an integer and does not return.
        unsafe { call(libc::SYS_exit, [status as usize, 0, 0, 0]) };
    }
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

//! Time without the processor's time-stamp counter.
//!
//! Strict mode takes the counter from a process (`disable_TSC` in Linux's
//! kernel/seccomp.c), and the kernel writes CR4 whenever a processor switches
//! between one that may read it and one that may not. A hypervisor that
//! intercepts that write (KVM on AMD does) makes it cost 4 us, four times a
//! connection. A supervisor that may not read it either is spared most of them,
//! since it and its children mostly run in turns, and they are born without it.
//!
//! But clock_gettime(3) reads the counter, in the page of code that the kernel
//! lends (vdso(7)). So the daemon asks the kernel itself: `scripts/build.rs` has
//! the linker put [`__wrap_clock_gettime`] in the place of each call of that name,
//! those of the standard library too.

use std::time::Instant;

use nix::errno::Errno;

use super::{memory, process};

/// clock_gettime(2), by the system call.
///
/// # Safety
/// `time` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    // SAFETY: the caller's; syscall(2) sets errno as the library's function does.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// Gives the counter up, for this process and for every child, program and all, and
/// with it the vdso, which reads it: from then on there is no time but by
/// [`__wrap_clock_gettime`]. Where that is not linked in, as a child finds out first,
/// or the processor has no such thing, nothing changes; tells which.
///
/// # Errors
/// fork(2)'s.
pub fn forgo_counter() -> Result<bool, Errno> {
    let lives = process::survives(|| {
        let forgone = forgo();
        // What else a C library may have from the vdso, and a hash map asks for.
        let mut byte = 0u8;
        // SAFETY: a live byte.
        let random = unsafe { libc::getrandom((&raw mut byte).cast(), 1, 0) };
        let _ = Instant::now();
        forgone && random == 1
    })?;
    Ok(lives && forgo())
}

fn forgo() -> bool {
    let forgone = refuse();
    if forgone {
        memory::unmap_vdso();
    }
    forgone
}

/// PR_SET_TSC: reading the counter is SIGSEGV from now on. Of x86 alone.
fn refuse() -> bool {
    // SAFETY: prctl(2) with this operation reads its arguments and no memory.
    unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_tells_the_librarys_time() {
        let clock = nix::time::ClockId::CLOCK_MONOTONIC;
        let before = clock.now().unwrap();
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a live timespec.
        let done = unsafe { __wrap_clock_gettime(clock.as_raw(), &raw mut now) };
        assert_eq!(done, 0);
        assert!(before <= now.into() && clock.now().unwrap() >= now.into());
        // SAFETY: as above.
        let done = unsafe { __wrap_clock_gettime(-1, &raw mut now) };
        assert_eq!((done, Errno::last()), (-1, Errno::EINVAL));
    }

    /// Tests are linked without it: a child dies of it, and we go on as before.
    #[test]
    fn a_program_that_reads_the_counter_keeps_it() {
        assert_eq!(forgo_counter(), Ok(false));
        let _ = Instant::now();
    }
}

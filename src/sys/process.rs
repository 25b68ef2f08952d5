//! THE fork, once by the C library and once without it, and how a forked process
//! leaves.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::sys::raw;

/// Exit status of a child that was told to stop.
pub const STOPPED: i32 = 75;
/// Exit status of a child whose time was up (`--max-lifetime`).
pub const EXPIRED: i32 = 76;
/// Exit status of a child that panicked (EX_SOFTWARE).
pub const PANICKED: i32 = 70;

/// Forks; the child runs `child` and leaves with the status it returns, without
/// running destructors, exit handlers or stdio flushes of the parent's.
///
/// The caller must be single-threaded and must hold every signal it handles
/// blocked (see `signal(7)`): a signal that reached the child before it reset
/// its dispositions would run the parent's handlers there.
///
/// # Errors
/// fork(2)'s: EAGAIN at a process limit, ENOMEM.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: the caller is single-threaded (the supervisor starts no thread,
    // ever), so no lock can be held by a thread that does not exist in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => exit(child()),
    }
}

/// [`fork`] by the bare system call, for a child that will do nothing but make
/// system calls until it leaves.
///
/// The C library is not told, and so does not run in the child, where glibc's
/// fork(3) writes to three pages of its own and lies apart from the rest of the
/// program: four page faults of thirteen, and 6 to 8 % of the processor time of a
/// connection, whichever design forks. What it does not know there: the child's thread id,
/// and its list of robust mutexes (the kernel starts each process with none). So
/// the child must take no mutex of pthreads', start no thread and not call
/// raise(3). It may fork by [`fork`], which makes all of that good.
///
/// # Errors
/// As for [`fork`].
pub fn fork_bare(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: as for `fork`; the rest is the caller's, above.
    match unsafe { raw::fork() }? {
        0 => exit(child()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Does a child that does this still leave of its own will, and find it true?
///
/// # Errors
/// fork(2)'s.
pub fn survives(this: impl Fn() -> bool) -> Result<bool, Errno> {
    let child = fork(|| i32::from(!this()))?;
    loop {
        match waitpid(child, None) {
            Ok(status) => return Ok(status == WaitStatus::Exited(child, 0)),
            Err(Errno::EINTR) => {}
            // SIGCHLD was ignored by whoever started us: no status to be had.
            Err(_) => return Ok(false),
        }
    }
}

/// Puts a new and empty session keyring in the place of the one that we were started
/// with, which programs we run could read as long as they have it, whoever they are
/// (`session-keyring(7)`). Where keyctl(2) is forbidden or missing, it is so for them
/// too.
///
/// # Errors
/// keyctl(2)'s others: ENOMEM, EDQUOT.
pub fn leave_session_keyring() -> Result<(), Errno> {
    let (join, anonymous) = (libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>());
    // SAFETY: a command, and no name.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, join, anonymous) }) {
        Ok(_) | Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Leaves, without running anything of the parent's.
pub fn exit(status: i32) -> ! {
    raw::exit(status)
}

/// Leaves with every thread of the process: where there are several, [`exit`]
/// would end the calling one alone.
pub fn exit_all(status: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) takes an integer and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// In a child: closes a descriptor of the supervisor's. Its owner, inherited with
/// it, must not be dropped here, and never is: a child ends in [`exit`].
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: nothing in this process uses or closes that number afterwards.
    unsafe { raw::close(fd.as_raw_fd()) };
}

/// In a child: takes over a descriptor that it inherited with its owner, on the
/// same terms.
pub fn inherited(fd: &OwnedFd) -> OwnedFd {
    // SAFETY: open, since `fd` owns it; and no other owner is dropped here.
    unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) }
}

/// Signals our unreaped child `pid`, and never a stranger who was given its
/// number since: where the kernel reaps (SIGCHLD ignored), a pid in our table may
/// be somebody else's by now. A pidfd opened before the child was seen alive can
/// be the child's alone (`pidfd_open(2)`).
pub fn signal_child(pid: Pid, signal: Signal) {
    // SAFETY: two integers in, a new descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } as libc::c_int;
    // SAFETY: just made, for us alone.
    let pidfd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
    // WNOWAIT: a dead child stays for the reaper to find.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if waitid(Id::Pid(pid), flags) != Ok(WaitStatus::StillAlive) {
        return;
    }
    let _ = match &pidfd {
        // SAFETY: a descriptor we own, integers, and no siginfo.
        Some(pidfd) => unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0)
        },
        // No pidfd on this kernel or in this container.
        None => kill(pid, signal).map_or(-1, |()| 0),
    };
}

/// In a process with threads a panic in one ends them all, at once. A thread that
/// vanished alone would leave its client connected to nobody.
pub fn panic_means_exit_all() {
    std::panic::set_hook(Box::new(|_| exit_all(PANICKED)));
}

/// Before the first thread of a process: has the C library do what it does at
/// that one only, so that a sandbox entered afterwards need not allow it. glibc
/// installs a handler, and counts the processors in /sys to know how many heaps
/// it may have: one will do, for threads that hardly allocate.
pub fn prepare_for_threads() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    // Where not even one can be started, the caller will find that out itself.
    let one = std::thread::Builder::new().spawn(|| {});
    let _ = one.map(std::thread::JoinHandle::join);
}

thread_local! {
    /// Lies in the page of thread-local storage, which fork(2) itself makes the
    /// child's own.
    static IS_CHILD: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic in a child ends it at once, silently: it must neither
/// unwind into the supervisor's frames nor write to any descriptor. Elsewhere a
/// panic stays what it was.
pub fn guard_children_against_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if IS_CHILD.get() {
            exit(PANICKED);
        }
        usual(info);
    }));
}

/// This is a child, see [`guard_children_against_panic`].
pub fn become_child() {
    IS_CHILD.set(true);
}

/// The name ps(1) shows, of the supervisor.
pub const SUPERVISOR: &CStr = c"echod";
/// A worker that waits.
pub const IDLE: &CStr = c"echod-idle";
/// A process that serves.
pub const SERVING: &CStr = c"echod-conn";
/// The main thread of a process that serves with threads.
pub const THREADED: &CStr = c"echod-thread";
/// A worker of a datagram socket.
pub const DATAGRAMS: &CStr = c"echod-udp";
/// The helper that runs a command for one that serves.
pub const COMMAND: &CStr = c"echod-cmd";

/// Sets the name ps(1) shows.
pub fn set_name(name: &CStr) {
    let _ = prctl::set_name(name);
}

/// Closes every descriptor but those of `keep`, which must be in rising order.
/// For a child that ends in [`exit`]: the owners of what is closed here never
/// run their drop.
pub fn keep_only<'a>(keep: impl IntoIterator<Item = BorrowedFd<'a>>) {
    let mut first = 0;
    for fd in keep {
        let fd = fd.as_raw_fd().unsigned_abs();
        if first < fd {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

/// As [`keep_only`], by rising numbers.
pub fn keep_numbers(keep: &[RawFd]) {
    // SAFETY: not used but as numbers; one that is not open is as good.
    let borrowed = |&fd: &RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
    keep_only(keep.iter().map(borrowed));
}

/// Copies `fd` to each number below `bound` that is free, so that what is opened
/// from now on gets none of them. Where a limit forbids even that, nothing will be
/// opened either.
pub fn fill_gaps(bound: u32, fd: BorrowedFd<'_>) {
    while let Ok(copy) = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0)) {
        if copy.unsigned_abs() >= bound {
            // SAFETY: made just now, and nobody knows its number.
            unsafe { raw::close(copy) };
            return;
        }
    }
}

/// `close_range(2)`, or one by one where the kernel or a container's filter
/// lacks it. `keep_only` says what becomes of the owners.
fn close_range(first: u32, last: u32) {
    if raw::close_range(first, last).is_err() {
        super::fd::close_each(first, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_child_is_a_process_of_its_own() {
        let mut ours = 1;
        let pid = fork_bare(|| {
            ours += 41;
            ours
        })
        .unwrap();
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 42)));
        assert_eq!(ours, 1);
    }
}

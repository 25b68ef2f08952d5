//! What ties a child to the supervisor's life: PR_SET_PDEATHSIG, and the
//! signal handlers that act on it without leaving the sandbox.
//!
//! The generation pipe is the guarantee (EOF); these are the fast path.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Delivers `signal` to this process when its parent dies, and dies at once if
/// that has happened already: `parent` is who forked us, noted before the fork.
///
/// Must come after every change of credentials, which clears it
/// (`PR_SET_PDEATHSIG(2const)`).
pub fn on_parent_death(signal: Signal, parent: Pid) {
    let _ = nix::sys::prctl::set_pdeathsig(signal);
    if nix::unistd::getppid() != parent {
        // Not raise(3): after a bare fork the C library may take us for another.
        let _ = nix::sys::signal::kill(Pid::this(), signal);
    }
}

/// In a worker that keeps its listeners while it serves: lets go of them the
/// moment the supervisor dies, so that the address is free at once and the
/// client is served on. `null` (open on /dev/null) takes their place, so every
/// descriptor stays valid and owned. A SIGPWR that somebody sends does the same.
///
/// # Errors
/// The signal registry's.
pub fn release_on_parent_death(
    listeners: &[BorrowedFd<'_>],
    null: BorrowedFd<'_>,
    parent: Pid,
) -> Result<(), Errno> {
    let fds: Vec<_> = listeners.iter().map(AsRawFd::as_raw_fd).collect();
    let null = null.as_raw_fd();
    let release = move || {
        for &fd in &fds {
            // SAFETY: dup3(2) is async-signal-safe; both descriptors are open for
            // the worker's life, and replacing `fd` keeps it owned and open.
            unsafe { libc::dup3(null, fd, libc::O_CLOEXEC) };
        }
    };
    // SAFETY: the handler makes one async-signal-safe call per listener, takes
    // no lock and allocates nothing.
    unsafe { signal_hook::low_level::register(libc::SIGPWR, release) }
        .map_err(|e| e.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
    on_parent_death(Signal::SIGPWR, parent);
    Ok(())
}

/// In a double-forked child, which has no parent to die: any event on the
/// `channel` raises SIGIO, and its handler reads what happened. A byte is the
/// order to stop; the end of the stream means that the supervisor is gone,
/// which ends the child only if `with_supervisor`. read(2), exit(2) and
/// sigreturn(2) are what seccomp's strict mode allows.
///
/// # Errors
/// fcntl(2)'s.
pub fn obey_channel(channel: BorrowedFd<'_>, with_supervisor: bool) -> Result<(), Errno> {
    let fd = channel.as_raw_fd();
    let obey = move || {
        let mut order = 0u8;
        // SAFETY: one byte into a live local; read(2) is async-signal-safe.
        let got = unsafe { libc::read(fd, (&raw mut order).cast(), 1) };
        if got == 1 || (got == 0 && with_supervisor) {
            crate::sys::process::exit(crate::sys::process::STOPPED);
        }
    };
    // SAFETY: the handler makes two async-signal-safe calls, takes no lock and
    // allocates nothing.
    unsafe { signal_hook::low_level::register(libc::SIGIO, obey) }
        .map_err(|e| e.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
    // SAFETY: F_SETOWN takes a pid by value.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) })?;
    fcntl(
        channel,
        FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK),
    )?;
    // What came before the flag was set raised nothing.
    obey();
    Ok(())
}

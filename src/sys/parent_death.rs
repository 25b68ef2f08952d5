//! What ties a child to the supervisor's life: PR_SET_PDEATHSIG, and the
//! signal handlers that act on it without leaving the sandbox.
//!
//! The generation pipe is the guarantee (EOF); these are the fast path. What a
//! handler obeys is who sent the signal, and not that it came: see si_pid and
//! si_code in sigaction(2).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use super::signal;

/// Kills this process when its parent dies, and at once if that has happened
/// already: `parent` is who forked us, noted before the fork. KILL, because a
/// worker hears nothing else.
///
/// Must come after every change of credentials, which clears it
/// (`PR_SET_PDEATHSIG(2const)`).
pub fn die_with_parent(parent: Pid) {
    if is_orphaned(Signal::SIGKILL, parent) {
        // Not raise(3): after a bare fork the C library may take us for another.
        let _ = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
    }
}

/// Asks for `signal` when the parent dies; has it already?
fn is_orphaned(signal: Signal, parent: Pid) -> bool {
    let _ = nix::sys::prctl::set_pdeathsig(signal);
    nix::unistd::getppid() != parent
}

/// What to let go of, and on whose word. One a process.
struct Listeners {
    fds: Vec<RawFd>,
    null: RawFd,
    parent: Pid,
}

static LISTENERS: OnceLock<Listeners> = OnceLock::new();

/// In a worker that keeps its listeners while it serves: lets go of them the
/// moment the supervisor dies, or says so by a SIGPWR, so that the address is free
/// at once and the client is served on. `null` (open on /dev/null) takes their
/// place, so every descriptor stays valid and owned. A SIGPWR of anybody else's
/// does nothing.
///
/// # Errors
/// sigaction(2)'s.
pub fn release_on_parent_death(
    listeners: &[BorrowedFd<'_>],
    null: BorrowedFd<'_>,
    parent: Pid,
) -> Result<(), Errno> {
    let listeners = LISTENERS.get_or_init(|| Listeners {
        fds: listeners.iter().map(AsRawFd::as_raw_fd).collect(),
        null: null.as_raw_fd(),
        parent,
    });
    // SAFETY: the handler reads what was written above, takes no lock, allocates
    // nothing, makes one async-signal-safe call per listener and keeps errno.
    unsafe { signal::handle(Signal::SIGPWR, heard_of_parent) }?;
    if is_orphaned(Signal::SIGPWR, parent) {
        listeners.release();
    }
    Ok(())
}

/// The kernel sends a PDEATHSIG in the name of the parent that dies, as if by
/// kill(2); another process can use neither that pid nor this code.
extern "C" fn heard_of_parent(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo to a handler with SA_SIGINFO, and one
    // of SI_USER has a pid.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    if let Some(listeners) = LISTENERS.get()
        && code == libc::SI_USER
        && sender == listeners.parent.as_raw()
    {
        let errno = Errno::last();
        listeners.release();
        errno.set();
    }
}

impl Listeners {
    fn release(&self) {
        for &fd in &self.fds {
            // SAFETY: dup3(2) is async-signal-safe; both descriptors are open for
            // the worker's life, and replacing `fd` keeps it owned and open.
            unsafe { libc::dup3(self.null, fd, libc::O_CLOEXEC) };
        }
    }
}

/// In a double-forked child, which has no parent to die: any event on the
/// `channel` raises SIGIO, and its handler reads what happened. A byte is the
/// order to stop; the end of the stream means that the supervisor is gone,
/// which ends the child only if `with_supervisor`. A SIGIO that somebody sends
/// finds nothing there. read(2), exit(2) and sigreturn(2) are what seccomp's
/// strict mode allows.
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
    SigSet::from(Signal::SIGIO).thread_unblock()?;
    // What came before the flag was set raised nothing.
    obey();
    Ok(())
}

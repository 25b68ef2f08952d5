//! Signals: blocked everywhere but in ppoll(2), handled by setting a flag.
//!
//! The supervisor blocks every signal it handles for life and opens them only
//! inside its wait, so none can come between looking at a flag and sleeping,
//! and none can reach a child before it has reset its dispositions: the child
//! is born with them blocked (`signal(7)`, `ppoll(2)`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::raw;

/// What the supervisor takes orders by, most urgent stop first.
pub const ORDERS: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
];

/// What a worker never hears: a key press or a `pkill` meant for the supervisor.
const DEAF: u64 = bit(libc::SIGINT)
    | bit(libc::SIGQUIT)
    | bit(libc::SIGHUP)
    | bit(libc::SIGUSR1)
    | bit(libc::SIGUSR2)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The supervisor's handlers: one flag a signal.
pub struct Signals {
    flags: [(Signal, Arc<AtomicBool>); ORDERS.len()],
}

impl Signals {
    /// Blocks the signals of [`ORDERS`], then installs a handler for each. From
    /// here on a TERM is an orderly stop.
    ///
    /// # Errors
    /// sigaction(2)'s.
    pub fn install() -> Result<Self, Errno> {
        sigprocmask(
            SigmaskHow::SIG_BLOCK,
            Some(&ORDERS.into_iter().collect()),
            None,
        )?;
        let flags = ORDERS.map(|signal| (signal, Arc::new(AtomicBool::new(false))));
        for (signal, flag) in &flags {
            signal_hook::flag::register(*signal as i32, Arc::clone(flag))
                .map_err(|e| e.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
        }
        Ok(Signals { flags })
    }

    /// The mask for ppoll(2): everything open.
    pub fn open_mask(&self) -> SigSet {
        SigSet::empty()
    }

    /// Was `signal` received since this was last asked? Clears first, so that
    /// one that comes while we act on it is seen next time.
    pub fn take(&self, signal: Signal) -> bool {
        self.flags
            .iter()
            .any(|(s, flag)| *s == signal && flag.swap(false, Ordering::Relaxed))
    }
}

/// Asks the kernel to reap children itself. SIGCHLD still comes (Linux), and
/// waitpid(2) answers ECHILD for a child that is gone.
///
/// # Errors
/// sigaction(2)'s.
pub fn let_kernel_reap() -> Result<(), Errno> {
    // SAFETY: an all-zero sigaction is a valid value for the kernel to fill.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only reads the present one into `action`.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut action) })?;
    action.sa_flags |= libc::SA_NOCLDWAIT;
    // SAFETY: `action` is the handler that signal-hook installed (it stays
    // registered for life) with one more flag.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// In a process that starts another and will not wait for it: the kernel reaps
/// it, at once. A child that is to wait for children of its own undoes this.
///
/// # Errors
/// sigaction(2)'s.
pub fn let_kernel_discard_children() -> Result<(), Errno> {
    // SAFETY: all zeroes is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: `action` runs no code; the old one is not asked for.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// The child arm's first act: TERM and CHLD get their default back and are
/// opened; the rest of our handlers stay in place but blocked for ever, so
/// they cannot run here.
pub fn become_worker() {
    raw::default_signal(libc::SIGTERM);
    raw::default_signal(libc::SIGCHLD);
    raw::set_mask(DEAF);
}

/// Arms a one-shot timer whose SIGALRM ends the process (`setitimer(2)`; not
/// inherited by fork). Zero disarms it.
pub fn alarm(after: std::time::Duration) {
    let value = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: after.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: after.subsec_micros().into(),
        },
    };
    // SAFETY: `value` lives across the call; a null old value is allowed.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &value, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a forked child, because masks and handlers belong to the process.
    #[test]
    fn a_signal_is_a_flag_until_a_worker_is_born() {
        let pid = crate::sys::process::fork(|| {
            let Ok(signals) = Signals::install() else {
                return 1;
            };
            let _ = nix::sys::signal::raise(Signal::SIGTERM);
            if signals.take(Signal::SIGTERM) {
                return 2; // blocked: the handler has not run
            }
            let mut fds = [];
            let _ = nix::poll::ppoll(
                &mut fds,
                Some(nix::sys::time::TimeSpec::new(5, 0)),
                Some(signals.open_mask()),
            );
            if !signals.take(Signal::SIGTERM) || signals.take(Signal::SIGTERM) {
                return 3;
            }
            become_worker();
            let _ = nix::sys::signal::raise(Signal::SIGINT); // deaf
            let _ = nix::sys::signal::raise(Signal::SIGTERM); // dies here
            4
        })
        .unwrap();
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        assert!(
            matches!(
                status,
                nix::sys::wait::WaitStatus::Signaled(_, Signal::SIGTERM, _)
            ),
            "{status:?}"
        );
    }
}

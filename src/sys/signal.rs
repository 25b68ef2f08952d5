//! Signals: blocked for life, and read from a descriptor.
//!
//! The supervisor blocks every signal it takes orders by and reads them from a
//! signalfd(2) beside its other descriptors. So none is lost between a look and
//! the wait, and it has no handler that a child could inherit: a child is
//! born with them blocked and at their defaults, and only opens them.
//!
//! Not opened inside ppoll(2): that answers with a descriptor that is ready
//! before it lets a signal in, so under steady load none would ever come, the
//! dead would be reaped seldom and TERM heard late. And a handler's frame (2.7
//! KiB where the processor has AVX-512) dirtied a page of the stack that the next
//! fork had to copy again.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

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

/// What the supervisor hears.
pub struct Signals {
    fd: SignalFd,
    /// Signal n, heard and not yet taken, is bit n - 1.
    heard: u64,
}

/// Bytes of a signalfd_siginfo; its first four are the signal's number.
const SIGINFO: usize = 128;

impl Signals {
    /// Blocks the signals of [`ORDERS`] and opens a descriptor to hear them by.
    /// From here on a TERM is an orderly stop.
    ///
    /// # Errors
    /// signalfd(2)'s.
    pub fn install() -> Result<Self, Errno> {
        let orders: SigSet = ORDERS.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&orders), None)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            fd: SignalFd::with_flags(&orders, flags)?,
            heard: 0,
        })
    }

    /// Readable when a signal has come.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Notes what has come.
    pub fn hear(&mut self) {
        let mut news = [0; 2 * SIGINFO];
        while let Ok(n) = raw::read(self.fd.as_fd(), &mut news) {
            for info in news[..n].chunks_exact(SIGINFO) {
                let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                self.heard |= bit(number);
            }
            if n < news.len() {
                return;
            }
        }
    }

    /// Was `signal` heard since this was last asked?
    pub fn take(&mut self, signal: Signal) -> bool {
        let taken = self.heard & bit(signal as i32);
        self.heard ^= taken;
        taken != 0
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
    // SAFETY: `action` is the disposition of now, which runs no code of ours, with
    // one more flag.
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

/// The child arm's first act: opens all but what a worker never hears. They are
/// at their defaults, since the supervisor has no handlers.
#[inline(always)]
pub fn become_worker() {
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
    use crate::sys::wait::Wait;

    /// In a forked child, because masks and handlers belong to the process.
    #[test]
    fn a_signal_is_heard_once_and_a_worker_dies_of_term() {
        let pid = crate::sys::process::fork(|| {
            let Ok(mut signals) = Signals::install() else {
                return 1;
            };
            for signal in ORDERS {
                let _ = nix::sys::signal::raise(signal);
            }
            if signals.take(Signal::SIGTERM) {
                return 2; // not heard yet
            }
            signals.hear();
            // Also those that do nothing, or stop a process, by default.
            if !ORDERS.into_iter().all(|signal| signals.take(signal)) {
                return 3;
            }
            signals.hear();
            if ORDERS.into_iter().any(|signal| signals.take(signal)) {
                return 4;
            }
            // A descriptor that is always ready does not keep it from being heard.
            let (Ok(mut wait), Ok((read, write))) = (Wait::new(2), nix::unistd::pipe()) else {
                return 5;
            };
            let _ = nix::unistd::write(&write, b"x");
            let _ = nix::sys::signal::raise(Signal::SIGTERM);
            wait.add(Some(read.as_fd()));
            wait.add(Some(signals.bell()));
            if !wait.sleep(None) || !wait.came(0) || !wait.came(1) {
                return 6;
            }
            signals.hear();
            become_worker();
            let _ = nix::sys::signal::raise(Signal::SIGINT); // deaf
            let _ = nix::sys::signal::raise(Signal::SIGTERM); // dies here
            7
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

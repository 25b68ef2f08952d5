//! Signal dispositions, all at once: what a program resets when it starts,
//! and a forked child before it unblocks a signal.
//!
//! Rust's runtime installs SIGSEGV and SIGBUS handlers to report a stack
//! overflow; they go too, so that a child dies of those signals by name. What
//! a signal means to echod is not known here.

use libc::c_int;
use nix::errno::Errno;

use super::raw;

/// Every signal at its default, whoever changed it; SIGPIPE is ignored, so
/// that a client that left is an EPIPE, and SIGXFSZ, so that a file that may not
/// grow (RLIMIT_FSIZE) is an EFBIG.
pub fn reset_all() {
    for signal in 1..=libc::SIGRTMAX() {
        match signal {
            libc::SIGKILL | libc::SIGSTOP => {}
            libc::SIGPIPE | libc::SIGXFSZ => set(signal, libc::SIG_IGN),
            _ => set(signal, libc::SIG_DFL),
        }
    }
}

/// Every signal at its default, SIGPIPE too: what a program that is not ours may
/// expect. To be called before execve(2), which resets handlers and leaves what
/// is ignored ignored. Also of 32 and 33, by a call of our own: whoever started
/// us may have left them ignored.
pub fn default_all() {
    for signal in 1..=libc::SIGRTMAX() {
        raw::default_signal(signal);
    }
}

/// 32 and 33 belong to glibc (thread cancellation, setuid of all threads), which
/// answers EINVAL: left alone.
fn set(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeroes is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the new action is a valid one that runs no code of ours, the
    // old one is not asked for.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    debug_assert!(
        done == 0 || Errno::last() == Errno::EINVAL,
        "signal {signal}"
    );
}

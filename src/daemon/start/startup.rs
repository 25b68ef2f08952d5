//! The first thing in `main`: a known state, whoever started us.
//!
//! Descriptors, dispositions, the signal mask, timers and pending signals are
//! inherited, from a shell, cron, an init or a program with leaks; see daemon(7)
//! and execve(2). Knows nothing of what
//! echod will do.

use std::os::fd::RawFd;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::error::Error;
use crate::sys::{fd, signal};

/// Opens 0 to 2 on /dev/null where they are closed, closes every other
/// descriptor but those in `keep` (what the command line names by number),
/// disarms the timers of setitimer(2) and alarm(2), sets every signal to its
/// default (SIGPIPE stays ignored, and SIGXFSZ is) and empties the signal mask.
///
/// To be called once, before the program opens anything. Reading the command
/// line opens nothing, so it may come first.
///
/// # Errors
/// 71 when nothing can be opened in place of a closed one, or the mask cannot be
/// set.
pub fn sanitize(keep: &[RawFd]) -> Result<(), Error> {
    fd::fill_standard()?;
    fd::close_all_but(keep);
    signal::disarm_inherited();
    signal::reset_all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| Error::os("sigprocmask", "", errno))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::rerun;

    /// Runs as the process of its own that the next test starts.
    #[test]
    fn sanitize_role() {
        if rerun::role().is_none() {
            return;
        }
        let kept = fs::File::open("/dev/zero").expect("open").as_raw_fd();
        // The File is closed: its number is free, and is what we take next.
        let kept_file = std::mem::ManuallyDrop::new(fs::File::open("/dev/zero").expect("open"));
        assert_eq!(kept_file.as_raw_fd(), kept);
        for _ in 0..3 {
            std::mem::forget(fs::File::open("/dev/zero").expect("open"));
        }
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).expect("mask");
        sanitize(&[kept]).expect("sanitize");
        let mut open: Vec<i32> = (0..64).filter(|&n| fd::is_open(n)).collect();
        open.retain(|&n| n != kept);
        rerun::say(format!("open={open:?}"));
        rerun::say(format!("kept={}", fd::is_open(kept)));
        let status = fs::read_to_string("/proc/thread-self/status").expect("status");
        for key in ["SigBlk:", "SigIgn:", "SigCgt:"] {
            let line = status.lines().find(|l| l.starts_with(key)).expect(key);
            let mask = u64::from_str_radix(line[key.len()..].trim(), 16).expect("a mask");
            // 32 and 33 are glibc's own: it neither uses them in a program
            // without threads nor lets us reset them.
            rerun::say(format!("{key} {:x}", mask & !(0b11 << 31)));
        }
    }

    #[test]
    fn row_22_a_program_starts_from_a_known_state() {
        let mut child = rerun::start("daemon::start::startup::tests::sanitize_role", "go");
        let said: Vec<_> = (0..5).map(|_| child.hear()).collect();
        // SIGPIPE is 13, so bit 12; SIGXFSZ is 25.
        assert_eq!(
            said,
            [
                "open=[0, 1, 2]",
                "kept=true",
                "SigBlk: 0",
                "SigIgn: 1001000",
                "SigCgt: 0",
            ]
        );
        child.end();
    }
}

//! Waiting: poll with a deadline, and the signals that may end it.
//!
//! [`Signals`] are blocked except inside the wait, so that none can come
//! between looking at its flag and sleeping; see ppoll(2). Whoever has no
//! `Signals` is not interrupted, and a signal has its default effect.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor has an event.
    Ready,
    /// The time came.
    Late,
    /// A signal of [`Signals`] was handled.
    Signal,
}

/// Who may interrupt a wait.
pub struct Waiter {
    signals: Option<Signals>,
}

impl Waiter {
    /// Waits that nothing interrupts.
    pub fn steady() -> Self {
        Waiter { signals: None }
    }

    /// Waits that INT, TERM and QUIT interrupt, from here on to the end of the
    /// program.
    ///
    /// # Errors
    /// The system refuses a handler (71).
    pub fn interruptible() -> Result<Self> {
        let signals = Signals::install().map_err(|errno| Error::os("sigaction", "", errno))?;
        Ok(Waiter {
            signals: Some(signals),
        })
    }

    /// The signals that came, if anybody listens.
    pub fn signals(&self) -> Option<&Signals> {
        self.signals.as_ref()
    }

    /// Waits for an event of `fds`, `until` then if that is given.
    ///
    /// # Errors
    /// poll(2)'s (71).
    pub fn wait(&self, fds: &mut [PollFd], until: Option<Instant>) -> Result<Woken> {
        let mask = self.signals.as_ref().map(|_| SigSet::empty());
        loop {
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            match ppoll(fds, left.map(timespec), mask) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) => return Ok(Woken::Ready),
                Err(Errno::EINTR) if self.signals.is_some() => return Ok(Woken::Signal),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::os("poll", "", errno)),
            }
        }
    }

    /// Waits for `events` on one descriptor.
    ///
    /// # Errors
    /// As [`Waiter::wait`].
    pub fn one(
        &self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        until: Option<Instant>,
    ) -> Result<Woken> {
        self.wait(&mut [PollFd::new(fd, events)], until)
    }

    /// Waits, for nothing but the time.
    ///
    /// # Errors
    /// As [`Waiter::wait`].
    pub fn pause(&self, time: Duration) -> Result<Woken> {
        self.wait(&mut [], Some(Instant::now() + time))
    }
}

fn timespec(time: Duration) -> TimeSpec {
    // Years ahead is as good as for ever; a timespec may hold fewer seconds.
    TimeSpec::from_duration(time.min(Duration::from_secs(1 << 30)))
}

/// INT, TERM and QUIT as flags.
pub struct Signals {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
}

impl Signals {
    fn install() -> Result<Self, Errno> {
        let signals = Signals {
            stop: Arc::default(),
            report: Arc::default(),
        };
        for (signal, flag) in [
            (Signal::SIGINT, &signals.stop),
            (Signal::SIGTERM, &signals.stop),
            (Signal::SIGQUIT, &signals.report),
        ] {
            sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(signal)), None)?;
            signal_hook::flag::register(signal as i32, Arc::clone(flag))
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
        }
        Ok(signals)
    }

    /// Was the program asked to end?
    pub fn stop(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Was a line asked for since this was last asked?
    pub fn report(&self) -> bool {
        self.report.swap(false, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_wait_ends_with_the_event_or_with_its_time() {
        let waiter = Waiter::steady();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(1));
        let reading = PollFlags::POLLIN;
        assert_eq!(waiter.one(ours.as_fd(), reading, soon), Ok(Woken::Late));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(waiter.one(ours.as_fd(), reading, None), Ok(Woken::Ready));
        assert_eq!(waiter.pause(Duration::from_millis(1)), Ok(Woken::Late));
    }
}

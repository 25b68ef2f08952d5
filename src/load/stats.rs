//! What happened: outcomes counted by kind, latencies in a histogram. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use nix::errno::Errno;

use crate::error::{Error, Exit};

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All came back, and nothing else.
    Complete,
    /// Nobody listens there, or no way leads there.
    Refused,
    /// The server broke the connection.
    Reset,
    /// A connect, read or write took longer than `--timeout`.
    Timeout,
    /// The server closed before all was back.
    Short,
    /// Something came back that was not sent.
    Corrupt,
}

impl Outcome {
    /// Every kind, in the order of the report.
    pub const ALL: [Outcome; 6] = [
        Outcome::Complete,
        Outcome::Refused,
        Outcome::Reset,
        Outcome::Timeout,
        Outcome::Short,
        Outcome::Corrupt,
    ];

    /// The word the report uses.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Refused => "refused",
            Outcome::Reset => "reset",
            Outcome::Timeout => "timeout",
            Outcome::Short => "short",
            Outcome::Corrupt => "corrupt",
        }
    }

    /// What an errno of connect, read, write or shutdown says of the server;
    /// `None` if it says something of this side (descriptors, ports, memory).
    pub fn of(errno: Errno) -> Option<Outcome> {
        match errno {
            Errno::ECONNREFUSED
            | Errno::ENOENT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN => Some(Outcome::Refused),
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED | Errno::ENOTCONN => {
                Some(Outcome::Reset)
            }
            // SO_SNDTIMEO makes connect(2) end in EINPROGRESS, or EAGAIN on a
            // Unix socket whose queue is full; see socket(7).
            Errno::ETIMEDOUT | Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY => {
                Some(Outcome::Timeout)
            }
            _ => None,
        }
    }
}

/// An attempt that did not complete.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the server did; `None` if this side could not go on.
    pub outcome: Option<Outcome>,
    /// The same for people.
    pub error: Error,
}

/// What one thread, or all of them, saw.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: [u64; Outcome::ALL.len()],
    /// Connections made.
    pub connected: u64,
    /// Payload bytes that came back and were verified, of complete messages.
    pub bytes: u64,
    /// Microseconds of complete attempts.
    pub latency: Histogram<u64>,
    /// The first fault that says something of the server.
    pub first: Option<Error>,
    /// The first fault of this side: the run ended early.
    pub local: Option<Error>,
}

/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;
/// Microseconds above which a latency is not told from another: 12 days.
const LONGEST: u64 = 1 << 40;

impl Default for Tally {
    fn default() -> Self {
        Tally {
            counts: [0; Outcome::ALL.len()],
            connected: 0,
            bytes: 0,
            latency: Histogram::new(DIGITS).expect("3 digits are in its range"),
            first: None,
            local: None,
        }
    }
}

impl Tally {
    /// One attempt completed: `bytes` verified, after `took`.
    pub fn complete(&mut self, bytes: u64, took: Duration) {
        self.counts[Outcome::Complete as usize] += 1;
        self.bytes += bytes;
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        // Not saturating_record: that clamps to what was seen so far.
        self.latency
            .record(micros.clamp(1, LONGEST))
            .expect("it grows, and LONGEST is in its range");
    }

    /// One attempt failed.
    pub fn fault(&mut self, fault: Fault) {
        match fault.outcome {
            Some(outcome) => {
                self.counts[outcome as usize] += 1;
                self.first.get_or_insert(fault.error);
            }
            None => {
                self.local.get_or_insert(fault.error);
            }
        }
    }

    /// Attempts that ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Adds what another thread saw.
    pub fn merge(&mut self, other: Tally) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.connected += other.connected;
        self.bytes += other.bytes;
        self.latency
            .add(&other.latency)
            .expect("both grow without bound");
        self.first = self.first.take().or(other.first);
        self.local = self.local.take().or(other.local);
    }

    /// How the program ends: 0 only if all was verified and nothing failed.
    pub fn status(&self) -> Exit {
        let failed = Outcome::ALL[1..].iter().any(|kind| self.count(*kind) > 0);
        if self.count(Outcome::Corrupt) > 0 {
            Exit::Mismatch
        } else if let Some(error) = &self.local {
            error.status()
        } else if self.connected == 0 {
            Exit::Unavailable
        } else if failed {
            Exit::Io
        } else {
            Exit::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(outcome: Option<Outcome>) -> Fault {
        let error = Error::os("read", "tcp:h:1", Errno::EIO);
        Fault { outcome, error }
    }

    fn tally(connected: u64, complete: u64, faults: &[Option<Outcome>]) -> Tally {
        let mut tally = Tally {
            connected,
            ..Tally::default()
        };
        for _ in 0..complete {
            tally.complete(64, Duration::from_micros(100));
        }
        for outcome in faults {
            tally.fault(fault(*outcome));
        }
        tally
    }

    #[test]
    fn the_status_says_the_worst_that_happened() {
        use Outcome::*;
        for (connected, complete, faults, status) in [
            (1, 5, &[][..], Exit::Ok),
            (1, 5, &[Some(Corrupt), None], Exit::Mismatch),
            (1, 5, &[None, Some(Reset)], Exit::Os),
            (0, 0, &[Some(Refused)], Exit::Unavailable),
            (0, 0, &[Some(Timeout)], Exit::Unavailable),
            (1, 5, &[Some(Refused)], Exit::Io),
            (1, 5, &[Some(Reset)], Exit::Io),
            (1, 5, &[Some(Timeout)], Exit::Io),
            (1, 5, &[Some(Short)], Exit::Io),
        ] {
            let tally = tally(connected, complete, faults);
            assert_eq!(tally.status(), status, "{faults:?}");
        }
    }

    #[test]
    fn an_errno_is_the_servers_doing_or_ours() {
        for (errno, outcome) in [
            (Errno::ECONNREFUSED, Some(Outcome::Refused)),
            (Errno::ENOENT, Some(Outcome::Refused)),
            (Errno::ECONNRESET, Some(Outcome::Reset)),
            (Errno::EPIPE, Some(Outcome::Reset)),
            (Errno::EAGAIN, Some(Outcome::Timeout)),
            (Errno::EINPROGRESS, Some(Outcome::Timeout)),
            (Errno::EMFILE, None),
            (Errno::EADDRNOTAVAIL, None),
            (Errno::EACCES, None),
        ] {
            assert_eq!(Outcome::of(errno), outcome, "{errno}");
        }
    }

    #[test]
    fn merged_threads_count_as_one() {
        let mut all = tally(1, 2, &[Some(Outcome::Short)]);
        let mut slow = tally(3, 0, &[Some(Outcome::Short)]);
        slow.complete(64, Duration::from_secs(7200));
        all.merge(slow);
        assert_eq!(all.connected, 4);
        assert_eq!(all.bytes, 192);
        assert_eq!(all.count(Outcome::Complete), 3);
        assert_eq!(all.count(Outcome::Short), 2);
        assert_eq!(all.latency.len(), 3);
        assert_eq!(all.latency.value_at_quantile(0.5), 100);
        assert!(all.latency.max() >= 7_200_000_000);
    }
}

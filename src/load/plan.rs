//! What a run is meant to be: checked once, then only read.

use std::time::Duration;

use crate::load::target::Target;

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Request and response, again and again, on connections that are kept.
    Rr(Bound),
    /// A connection for each request: connect, echo, half-close, EOF, close.
    Crr(Bound),
    /// Open all, keep all, echo on all again, close.
    Hold,
}

/// When a run of requests ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// After this long; each connection tries at least once.
    Time(Duration),
    /// After this many attempts, by all connections together.
    Count(u64),
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// What each connection does, and for how long.
    pub mode: Mode,
    /// Connections at once, at least 1.
    pub connections: u64,
    /// Bytes in a message, at least 1.
    pub size: u64,
    /// The longest any connect, read or write may take; at least 1 ms.
    pub timeout: Duration,
}

/// What a comparison needs beside a [`Plan`] of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// The server to compare with.
    pub other: Target,
    /// Rounds of each of the two.
    pub pairs: u64,
}

impl Mode {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Rr(_) => "rr",
            Mode::Crr(_) => "crr",
            Mode::Hold => "hold",
        }
    }
}

/// Threads that share the connections of [`Mode::Hold`].
const HOLD_THREADS: u64 = 16;

impl Plan {
    /// Threads to run: one for each connection that waits for its own answer.
    pub fn threads(&self) -> u64 {
        match self.mode {
            Mode::Rr(Bound::Count(count)) | Mode::Crr(Bound::Count(count)) => {
                self.connections.min(count)
            }
            Mode::Rr(_) | Mode::Crr(_) => self.connections,
            Mode::Hold => self.connections.min(HOLD_THREADS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_never_more_than_there_is_work() {
        let count = Bound::Count(5);
        let time = Bound::Time(Duration::from_secs(1));
        for (mode, connections, threads) in [
            (Mode::Rr(time), 100, 100),
            (Mode::Rr(count), 100, 5),
            (Mode::Crr(count), 3, 3),
            (Mode::Hold, 3, 3),
            (Mode::Hold, 5000, 16),
        ] {
            let plan = Plan {
                target: "unix:@x".parse().unwrap(),
                mode,
                connections,
                size: 64,
                timeout: Duration::from_secs(5),
            };
            assert_eq!(plan.threads(), threads);
        }
    }
}

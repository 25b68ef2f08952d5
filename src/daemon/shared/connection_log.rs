//! How a connection ended, and the one line that says so.
//!
//! The verdict is pure: the kernel's word on the process, then the child's own.
//! The line (log target `conn`, at debug) is part of the contract:
//! echod(8), LOGGING.

use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::daemon::shared::entry::Report;
use crate::net::connection::End;
use crate::sys::process;

/// What the kernel says of a process that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It left with this status.
    Exited(i32),
    /// It was killed.
    Killed(Signal),
    /// Nobody was told (`--reap ignore` and `double-fork`).
    Untold,
}

/// A finished connection.
pub struct Ended<'a> {
    /// The process that served it; `None` where the supervisor never knew it.
    pub pid: Option<Pid>,
    /// What it said of the connection.
    pub report: Report,
    /// The listener's name.
    pub listener: &'a str,
    /// How long the connection lasted.
    pub lasted: Duration,
    /// How it ended.
    pub end: End,
}

/// Why the connection of a dead process ended. `told` is whether we had told it
/// to stop.
pub fn verdict(
    gone: Gone,
    said: Option<End>,
    told: bool,
    lifetime: Option<Duration>,
    lasted: Duration,
) -> End {
    match gone {
        // Killed by us: what it had done by then, it had done.
        Gone::Killed(Signal::SIGKILL) if told => said.unwrap_or(End::Stop),
        Gone::Killed(signal) => End::Killed(signal),
        Gone::Exited(process::STOPPED) => End::Stop,
        Gone::Exited(process::EXPIRED) if lifetime.is_some() => End::MaxLifetime,
        Gone::Exited(_) | Gone::Untold => match said {
            Some(end) => end,
            None if told => End::Stop,
            None if lifetime.is_some_and(|lifetime| lasted >= lifetime) => End::MaxLifetime,
            None => End::Lost,
        },
    }
}

/// The time, if anybody will read the line that needs it.
pub fn start_of_conn() -> Option<Instant> {
    log_enabled!(target: "conn", Level::Debug).then(Instant::now)
}

/// What a death by this signal says beyond its name: a filter kills by SIGSYS, for
/// a call that its list does not have.
pub fn hint(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGSYS => ": the sandbox forbids a call it made; --sandbox off permits all",
        _ => "",
    }
}

/// Writes the connection line.
pub fn log_conn(ended: &Ended<'_>) {
    debug!(
        target: "conn",
        pid = ended.pid.map_or(ended.report.pid, |pid| pid.as_raw().unsigned_abs().into()),
        peer:% = ended.report.peer,
        listener = ended.listener,
        "in" = ended.report.received,
        out = ended.report.sent,
        dur_s = ended.lasted.as_secs_f64(),
        end:% = ended.end;
        "conn"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let hour = Some(Duration::from_secs(3600));
        let short = Duration::from_secs(1);
        let long = Duration::from_secs(4000);
        use Gone::*;
        for (gone, said, told, lifetime, lasted, expected) in [
            (Exited(0), Some(End::Eof), false, None, short, End::Eof),
            (Exited(0), Some(End::Reset), true, None, short, End::Reset),
            (
                Untold,
                Some(End::IdleTimeout),
                false,
                hour,
                long,
                End::IdleTimeout,
            ),
            (
                Killed(Signal::SIGKILL),
                None,
                false,
                None,
                short,
                End::Killed(Signal::SIGKILL),
            ),
            // killed between its last word and its exit: the kernel's word counts
            (
                Killed(Signal::SIGSEGV),
                Some(End::Eof),
                false,
                None,
                short,
                End::Killed(Signal::SIGSEGV),
            ),
            (Killed(Signal::SIGKILL), None, true, None, short, End::Stop),
            (
                Killed(Signal::SIGKILL),
                Some(End::Eof),
                true,
                None,
                short,
                End::Eof,
            ),
            (
                Killed(Signal::SIGTERM),
                None,
                true,
                None,
                short,
                End::Killed(Signal::SIGTERM),
            ),
            (
                Exited(process::EXPIRED),
                None,
                false,
                hour,
                long,
                End::MaxLifetime,
            ),
            (Exited(process::EXPIRED), None, false, None, long, End::Lost),
            (Exited(process::STOPPED), None, true, None, short, End::Stop),
            (Untold, None, true, None, short, End::Stop),
            (Untold, None, false, hour, long, End::MaxLifetime),
            (Untold, None, false, hour, short, End::Lost),
            (Exited(70), None, false, None, short, End::Lost),
        ] {
            let got = verdict(gone, said, told, lifetime, lasted);
            assert_eq!(got, expected, "{gone:?} {said:?} told={told}");
        }
    }
}

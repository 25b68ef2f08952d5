//! What is known of a connection: what whoever serves it says, in an entry of shared
//! memory; how it ended; and the one line that the log has of it.
//!
//! An entry has one writer and is a line of eight words, which the scoreboard and the
//! seats have alike; it is gossip to its reader. The verdict is pure: the kernel's word on the process, then the child's own.
//! The line (log target `conn`, at debug) is part of the contract:
//! echod(8), LOGGING.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::addr::Peer;
use crate::net::connection::{End, Meter};
use crate::sys::process;

/// The words of a line.
pub type Words = [AtomicU64; 8];

/// What its writer does; how it is counted is for each board to say.
pub(super) const STATE: usize = 0;
const END: usize = 1;
const RECEIVED: usize = 2;
const SENT: usize = 3;
const ADDR_HIGH: usize = 4;
const ADDR_LOW: usize = 5;
const WHERE: usize = 6;
/// A word that each board has for itself.
pub(super) const OWN: usize = 7;

/// What a child says of the connection it serves, or served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where its client came from.
    pub peer: Peer,
    /// By which listener.
    pub listener: usize,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// How it ended; `None` if the child did not live to say.
    pub end: Option<End>,
    /// Who serves it: for the log, where the kernel does not tell us.
    pub pid: u64,
}

/// What a process says of one connection.
#[derive(Clone, Copy)]
pub struct Entry<'a>(&'a Words);

impl<'a> Entry<'a> {
    /// In the words of this line.
    pub fn new(line: &'a Words) -> Self {
        Entry(line)
    }

    /// A connection of `peer` by this listener begins. The state is the caller's to
    /// store, after this and with release ordering.
    pub fn begin(&self, peer: Peer, listener: usize) {
        let (high, low, port) = pack(peer);
        let words = [
            (RECEIVED, 0),
            (SENT, 0),
            (END, 0),
            (ADDR_HIGH, high),
            (ADDR_LOW, low),
            (WHERE, (listener as u64) << 32 | port),
        ];
        for (word, value) in words {
            self.0[word].store(value, Ordering::Relaxed);
        }
    }

    /// How the connection ended.
    pub fn end(&self, end: End) {
        self.0[END].store(end.encode(), Ordering::Relaxed);
    }

    /// The counters, for the one writer.
    pub fn meter(&self) -> Meter<'a> {
        Meter {
            received: &self.0[RECEIVED],
            sent: &self.0[SENT],
        }
    }

    /// What is said there; nothing of a pid.
    pub fn report(&self) -> Report {
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        Report {
            peer: unpack(word(ADDR_HIGH), word(ADDR_LOW), word(WHERE) & 0xffff_ffff),
            listener: (word(WHERE) >> 32) as usize,
            received: word(RECEIVED),
            sent: word(SENT),
            end: End::decode(word(END)),
            pid: 0,
        }
    }
}

/// Address as an IPv6 number, port and family: bit 16 of the last for IPv4,
/// bit 17 for IPv6, neither for Unix.
pub(in crate::daemon) fn pack(peer: Peer) -> (u64, u64, u64) {
    let Peer::Inet(addr) = peer else {
        return (0, 0, 0);
    };
    let (ip, family) = match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 1 << 16),
        IpAddr::V6(ip) => (ip, 1 << 17),
    };
    let bits = ip.to_bits();
    (
        (bits >> 64) as u64,
        bits as u64,
        u64::from(addr.port()) | family,
    )
}

pub(in crate::daemon) fn unpack(high: u64, low: u64, port: u64) -> Peer {
    let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    let ip = match port >> 16 {
        1 => IpAddr::V4(
            ip.to_ipv4_mapped()
                .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
        ),
        2 => IpAddr::V6(ip),
        _ => return Peer::Unix,
    };
    Peer::Inet(SocketAddr::new(ip, port as u16))
}

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

//! echoc: talk to an echo server, measure it, check it.
//!
//! Three modes, each with one poll loop and no thread: a conversation
//! ([`session`], which keeps it going over [`pipe`] or [`datagram`]),
//! [`ping`] and [`check`]. [`dial`] makes every connection, [`ledger`]
//! verifies a stream, [`payload`] an echo. What is decided is pure and apart:
//! [`retry`], [`ledger`], [`payload`], [`stats`], [`outage`], [`probes`].
//!
//! Knows sockets, not the daemon: nothing here imports `daemon` or `service`.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

mod buffer;
pub mod check;
pub mod datagram;
pub mod dial;
pub mod ledger;
mod lines;
pub mod outage;
pub mod output;
pub mod payload;
pub mod ping;
pub mod pipe;
pub mod probes;
pub mod retry;
pub mod server;
pub mod session;
pub mod stats;
pub mod wait;
pub mod wire;

pub use retry::Retry;
pub use server::Server;

/// How a conversation is held.
#[derive(Clone, Debug)]
pub struct Talk {
    /// With whom.
    pub server: Server,
    /// How often, and how soon, to try again.
    pub retry: Retry,
    /// The answer to a datagram, and the server's last end of file.
    pub timeout: Duration,
    /// How long a stream on which something is out may be silent; `None` is for
    /// ever.
    pub silence: Option<Duration>,
    /// Connecting to one address.
    pub connect_timeout: Duration,
    /// Compare what comes back.
    pub verify: bool,
    /// Say nothing but errors.
    pub quiet: bool,
    /// A person types: never give up for a wrong byte.
    pub terminal: bool,
    /// Ask for each line.
    pub prompt: bool,
}

impl Talk {
    /// Says something that is not an error, unless asked to be quiet.
    pub fn say(&self, what: impl fmt::Display) {
        if !self.quiet {
            notice(what);
        }
    }
}

/// One line on standard error. That it cannot be written stops nothing.
pub fn notice(what: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "echoc: {what}");
}

/// `1 byte`, `2 bytes`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A number that other runs do not have.
fn session_number() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos() as u64);
    nanos ^ u64::from(std::process::id()) << 32
}

//! echoc: talk to an echo server, measure it, check it.
//!
//! Three modes, each with one poll loop and no thread: a conversation
//! ([`session`], or [`datagram`]), [`ping`] and [`check`]. [`dial`] makes every
//! connection and says when to try again, [`wire`] verifies an echo. What is decided
//! is pure and apart: [`dial::Attempts`], [`wire::Payload`], what a session has out,
//! which echoes of a ping are lost.
//!
//! Knows sockets, not the daemon: nothing here imports `daemon` or `service`.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use crate::addr::Target;
use crate::client::dial::{Attempts, Dialer, Link};
use crate::client::wait::Waiter;
use crate::error::{Exit, Result};

pub mod check;
pub mod datagram;
pub mod dial;
pub mod ping;
pub mod session;
pub mod wait;
pub mod wire;

pub use dial::Retry;

/// How a conversation is held.
#[derive(Clone, Debug)]
pub struct Talk {
    /// With whom.
    pub server: Target,
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

    /// Connects, as often as it may.
    ///
    /// # Errors
    /// The server cannot be reached (69), or this side cannot go on (71).
    fn connect(
        &self,
        dialer: &mut Dialer<'_>,
        attempts: &mut Attempts,
        waiter: &Waiter,
    ) -> Result<Link> {
        loop {
            let error = match dialer.dial(self.connect_timeout, None) {
                Ok(link) => return Ok(link),
                Err(error) if error.status() != Exit::Unavailable => return Err(error),
                Err(error) => error,
            };
            let Some(again) = attempts.failed() else {
                return Err(error);
            };
            self.say(format_args!("{error}: {again}"));
            waiter.pause(again.pause)?;
        }
    }
}

/// One line on standard error. That it cannot be written stops nothing.
pub fn notice(what: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "echoc: {what}");
}

/// `1 byte`, `2 bytes`.
fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A number that other runs do not have.
fn session_number() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos() as u64);
    nanos ^ u64::from(std::process::id()) << 32
}

//! What a ping prints: lines as they come, and the summary.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use super::Ping;
use crate::error::{Error, Exit, Result};

impl Ping<'_> {
    /// A line, unless only the summary is asked for.
    pub(super) fn print(&self, line: impl fmt::Display, always: bool) -> Result<()> {
        if self.plan.quiet && !always {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let stamp = match (self.plan.timestamps, now) {
            (true, Ok(now)) => format!("[{}.{:06}] ", now.as_secs(), now.subsec_micros()),
            _ => String::new(),
        };
        put(format_args!("{stamp}{line}\n"))
    }

    /// SIGQUIT: the figures so far, on standard error.
    pub(super) fn interim(&self) {
        let tally = &self.tally;
        let times = match tally.rtt.is_empty() {
            true => String::new(),
            false => format!(", min/avg/max/mdev = {} ms", tally.rtt.range()),
        };
        let _ = writeln!(io::stderr(), "{tally}{times}");
    }

    /// What it all came to.
    pub(super) fn summary(&self) -> Result<()> {
        let (server, tally) = (&self.plan.server, &self.tally);
        let end = self.now();
        put(format_args!(
            "--- {server} ping statistics ---\n{tally}, time {}ms\n",
            end.as_millis()
        ))?;
        for (name, times) in [("connect", &tally.connect), ("rtt", &tally.rtt)] {
            if !times.is_empty() {
                put(times.lines(name))?;
            }
        }
        put(self.outages.lines(self.wall, end))
    }
}

/// A time as ping(8) writes it.
pub(super) struct Millis(pub(super) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

fn put(text: impl fmt::Display) -> Result<()> {
    write!(io::stdout(), "{text}").map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        Error::os("write", "standard output", errno).exit(Exit::Io)
    })
}

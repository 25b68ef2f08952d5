//! What echoc was typed: its options, and the values that only it reads.

use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser};

use crate::cli::{Unparsed, command, explain};
use crate::error::{Error, Result};
use crate::values;

/// Talk to an echo server, measure it, check it.
///
/// The server is tcp:HOST:PORT, udp:HOST:PORT, unix:PATH, unixgram:PATH or
/// HOST:PORT; or a HOST and a PORT; without an operand tcp:127.0.0.1:7777.
#[derive(Debug, Parser)]
#[command(
    name = "echoc",
    version,
    override_usage = "echoc [OPTIONS] [ADDR | HOST PORT]"
)]
pub(super) struct Args {
    /// The server
    #[arg(value_name = "ADDR", hide = true, num_args = 0..=4)]
    pub(super) server: Vec<String>,

    /// Send an echo each -i, and measure how long it takes
    #[arg(long, help_heading = "Ping")]
    pub(super) ping: bool,

    /// Echoes to send; with -w, echoes to be answered
    #[arg(short, long, value_name = "N", help_heading = "Ping")]
    pub(super) count: Option<String>,

    /// From one echo to the next; 0: as soon as the last is settled
    #[arg(short, long, value_name = "DURATION", help_heading = "Ping",
          default_value = "1s", value_parser = pause)]
    pub(super) interval: Duration,

    /// Bytes in an echo
    #[arg(short, long, value_name = "BYTES", help_heading = "Ping",
          default_value = "56", value_parser = size)]
    pub(super) size: usize,

    /// Stop after this time
    #[arg(short = 'w', long, value_name = "DURATION", help_heading = "Ping")]
    pub(super) deadline: Option<String>,

    /// The time before each line
    #[arg(short = 'D', long, help_heading = "Ping")]
    pub(super) timestamps: bool,

    /// A connection for each echo, measured separately
    #[arg(long, help_heading = "Ping")]
    pub(super) connect: bool,

    /// Send one echo, and print one line for a monitoring system
    #[arg(long, help_heading = "Check")]
    pub(super) check: bool,

    /// With --check also -w: say WARNING above this round trip time
    #[arg(long, value_name = "MS", help_heading = "Check")]
    pub(super) warning: Option<String>,

    /// With --check also -c: say CRITICAL above this round trip time
    #[arg(long, value_name = "MS", help_heading = "Check")]
    pub(super) critical: Option<String>,

    /// How long to wait for an answer (1s), for a stream that is silent (for
    /// ever), or for all of --check (2s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = span)]
    pub(super) timeout: Option<Duration>,

    /// Say less
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// How often to try again: in a terminal 5 times, else not
    #[arg(long, value_name = "N|forever", value_parser = tries)]
    pub(super) retry: Option<Tries>,

    /// How long to wait before trying again
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = pause
    )]
    pub(super) retry_interval: Duration,

    /// Copy without comparing
    #[arg(long)]
    pub(super) no_verify: bool,
}

/// What was typed, and which of it was typed rather than a default.
pub(super) struct Typed {
    pub(super) args: Args,
    matches: ArgMatches,
    long: Vec<String>,
}

impl Typed {
    /// # Errors
    /// Help to print, or a usage error.
    pub(super) fn parse(argv: &[String]) -> std::result::Result<Self, Unparsed> {
        let matches = command::<Args>()
            .try_get_matches_from(argv)
            .map_err(|error| explain(&error))?;
        let args = Args::from_arg_matches(&matches).map_err(|error| explain(&error))?;
        let options = argv.iter().take_while(|arg| *arg != "--");
        let name = |arg: &String| arg.split('=').next().unwrap_or_default().to_owned();
        Ok(Typed {
            args,
            matches,
            long: options.map(name).collect(),
        })
    }

    /// Was the option with this long name given?
    pub(super) fn given(&self, long: &str) -> bool {
        let id = long.replace('-', "_");
        self.matches.value_source(&id) == Some(ValueSource::CommandLine)
    }

    /// Was it given by that name?
    pub(super) fn spelled(&self, long: &str) -> bool {
        self.long
            .iter()
            .any(|arg| arg.strip_prefix("--") == Some(long))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    Times(u32),
    Forever,
}

/// The largest datagram of UDP over IPv4.
const LARGEST: usize = 65_507;

fn tries(text: &str) -> std::result::Result<Tries, String> {
    match text {
        "forever" => Ok(Tries::Forever),
        _ => text
            .parse()
            .map(Tries::Times)
            .map_err(|_| format!("0 to {}, or forever", u32::MAX)),
    }
}

/// A time to wait, of which none would be no wait at all.
pub(super) fn span(text: &str) -> Result<Duration> {
    between(text, Duration::from_millis(1), "1ms to 365d")
}

/// A time between two things, or none.
fn pause(text: &str) -> Result<Duration> {
    between(text, Duration::ZERO, "at most 365d")
}

/// A round trip time above which a monitor is told: milliseconds, or with a
/// unit.
pub(super) fn threshold(text: &str) -> Result<Duration> {
    let range = "at most 365d, in ms or with a unit";
    let millis = text.parse::<f64>().map(|millis| millis / 1e3);
    let seconds = millis.map_or_else(|_| text.to_owned(), |seconds| seconds.to_string());
    between(&seconds, Duration::ZERO, range)
        .map_err(|_| Error::usage(format_args!("'{text}'"), range))
}

/// Longer than a year is a typing error.
fn between(text: &str, least: Duration, range: &'static str) -> Result<Duration> {
    const MOST: Duration = Duration::from_secs(365 * 24 * 3600);
    values::span(least..=MOST, range)(text)
}

fn size(text: &str) -> std::result::Result<usize, String> {
    let bytes = values::bytes(text).and_then(|bytes| usize::try_from(bytes).ok());
    bytes
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| format!("1 to {LARGEST} bytes, as in 56 or 16K"))
}

//! What echoc was typed: its options, and the values that only it reads.

use std::time::Duration;

use clap::Parser;

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
pub(super) struct Cli {
    /// The server
    #[arg(value_name = "ADDR", hide = true, num_args = 0..=4)]
    pub(super) server: Vec<String>,

    /// Send an echo each -i, and measure how long it takes
    #[arg(long, help_heading = "Ping", conflicts_with = "check")]
    pub(super) ping: bool,

    /// Echoes to send; with -w, echoes to be answered
    #[arg(short, long, value_name = "N", help_heading = "Ping", requires = "ping",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,

    /// From one echo to the next; 0: as soon as the last is settled
    #[arg(short, long, value_name = "DURATION", help_heading = "Ping", requires = "ping",
          default_value = "1s", value_parser = values::duration)]
    pub(super) interval: Duration,

    /// Bytes in an echo
    #[arg(short, long, value_name = "BYTES", help_heading = "Ping", requires = "ping",
          default_value = "56", value_parser = size)]
    pub(super) size: usize,

    /// Stop after this time
    #[arg(short = 'w', long, value_name = "DURATION", help_heading = "Ping",
          requires = "ping", value_parser = span)]
    pub(super) deadline: Option<Duration>,

    /// The time before each line
    #[arg(short = 'D', long, help_heading = "Ping", requires = "ping")]
    pub(super) timestamps: bool,

    /// A connection for each echo, measured separately
    #[arg(long, help_heading = "Ping", requires = "ping")]
    pub(super) connect: bool,

    /// Send one echo, and print one line for a monitoring system
    #[arg(long, help_heading = "Check")]
    pub(super) check: bool,

    /// How long to wait for an answer (1s), or for all of --check (2s)
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
        value_parser = values::duration
    )]
    pub(super) retry_interval: Duration,

    /// Copy without comparing
    #[arg(long, conflicts_with_all = ["ping", "check"])]
    pub(super) no_verify: bool,
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
            .map_err(|_| "a number, or forever".to_owned()),
    }
}

/// A time to wait, of which none would be no wait at all.
fn span(text: &str) -> Result<Duration> {
    let span = values::duration(text)?;
    match span >= Duration::from_millis(1) {
        true => Ok(span),
        false => Err(Error::usage(format!("'{text}'"), "at least 1ms")),
    }
}

fn size(text: &str) -> std::result::Result<usize, String> {
    let bytes = values::bytes(text).and_then(|bytes| usize::try_from(bytes).ok());
    bytes
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| format!("1 to {LARGEST} bytes, as in 56 or 16K"))
}

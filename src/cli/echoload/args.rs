//! What echoload was typed: its options, and the values that only it reads.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser, ValueEnum};

use crate::addr::Addr;
use crate::cli::{Unparsed, command, explain, whole};
use crate::values;

/// Load an echo server, and verify every byte that comes back.
///
/// Exit status: 0 all verified and nothing failed, 64 usage, 69 never
/// connected, 74 something failed, 75 the rate was not reached, 76 something
/// else came back than was sent.
#[derive(Debug, Parser)]
#[command(
    name = "echoload",
    version,
    override_usage = "echoload [OPTIONS] [rr|crr|stream|hold|sweep] ADDR [ADDR2]"
)]
pub(super) struct Args {
    /// What each connection does (default rr), the server, and one to compare
    /// it with: HOST:PORT, tcp:HOST:PORT, udp:HOST:PORT, unix:PATH, unix:@NAME,
    /// unixgram:PATH
    #[arg(value_names = ["MODE", "ADDR"], num_args = 0..=3)]
    pub(super) what: Vec<String>,

    /// Connections at once
    #[arg(short = 'c', long, value_name = "N", default_value = "16",
          value_parser = whole(1..=1_000_000))]
    pub(super) connections: u64,

    /// Bytes in a message, or a range as in 64-1500; in a stream, bytes in one
    /// write; 64 unless given, 64K in a stream; K, M and G are 1024-based
    #[arg(short = 's', long, value_name = "BYTES", value_parser = sizes)]
    pub(super) size: Option<RangeInclusive<u64>>,

    /// End each message in a newline, for a server that echoes lines
    #[arg(long)]
    pub(super) lines: bool,

    /// How long to go on, 10s unless given, not with -n; for hold how long to
    /// keep all open, 0 unless given
    #[arg(short = 'd', short_alias = 'z', long, value_name = "DURATION", value_parser = duration)]
    pub(super) duration: Option<Duration>,

    /// How many requests (rr), connections (crr) or messages (stream) in all,
    /// instead of -d
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "duration",
          value_parser = whole(1..=u64::MAX))]
    pub(super) count: Option<u64>,

    /// Threads that share the connections
    #[arg(short = 't', long, value_name = "N", default_value = "1",
          value_parser = whole(1..=1024))]
    pub(super) threads: u64,

    /// An open loop of so many requests (rr) or connections (crr) a second
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate)]
    pub(super) rate: Option<f64>,

    /// Look for the highest rate that is held, from FROM to TO: -R, again and
    /// again, for -d each (1s unless given)
    #[arg(long, value_name = "FROM:TO", value_parser = rates)]
    pub(super) sweep: Option<(f64, f64)>,

    /// With a sweep, what p99 must not pass: 5ms unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) p99: Option<Duration>,

    /// Load before the figures begin
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    pub(super) warmup: Duration,

    /// Before the warm-up, let connections, or the rate of -R, grow for so long
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    pub(super) ramp_up: Duration,

    /// From an answer to the next request on its connection, without -R
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    pub(super) think: Duration,

    /// The longest any connect, read or write may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) timeout: Duration,

    /// Rounds of each server, with ADDR2, instead of as many as fill -d well
    #[arg(long, value_name = "N", value_parser = whole(1..=100_000))]
    pub(super) rounds: Option<u64>,

    /// With ADDR2, exit 75 when ADDR is surely slower than this by ADDR2
    #[arg(long, value_name = "RATIO", value_parser = share)]
    pub(super) fail_below: Option<f64>,

    /// Bytes of a stream that may be on their way at once
    #[arg(long, value_name = "BYTES", default_value = "256K", value_parser = size)]
    pub(super) window: u64,

    /// Addresses, from 127.0.0.1 up, to call an IPv4 server on loopback from
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = whole(1..=250))]
    pub(super) sources: u64,

    /// The server's process, for its CPU time, instead of who has its socket
    #[arg(long, value_name = "PID", value_parser = whole(1..=i32::MAX as u64))]
    pub(super) server_pid: Option<u64>,

    /// Print one JSON object instead of the report, or write it to FILE beside
    /// the report
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(super) json: Option<PathBuf>,

    /// The percentiles to report, as in 50,99,99.9
    #[arg(long, value_name = "LIST", value_parser = percentiles)]
    pub(super) percentiles: Option<Percentiles>,

    /// Write the latencies as HdrHistogram's percentile text
    #[arg(long, value_name = "FILE")]
    pub(super) hdr: Option<PathBuf>,

    /// Write a line for each request or connection that did not complete
    #[arg(long, value_name = "FILE")]
    pub(super) outcomes: Option<PathBuf>,

    /// Tell on standard error how it goes, this often; on a terminal every 1s
    /// unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) interval: Option<Duration>,
}

/// What was typed, and which of it was typed rather than a default.
pub(super) struct Typed {
    pub(super) args: Args,
    matches: ArgMatches,
}

impl Typed {
    /// # Errors
    /// Help to print, or a usage error.
    pub(super) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Self, Unparsed> {
        let matches = command::<Args>()
            .try_get_matches_from(argv)
            .map_err(|error| explain(&error))?;
        let mut args = Args::from_arg_matches(&matches).map_err(|error| explain(&error))?;
        // "--json h:1": an address is no file, and a mode is none.
        let taken = args.json.as_ref().and_then(|file| file.to_str());
        if let Some(word) = taken.filter(|word| is_operand(word)).map(str::to_owned)
            && matches.value_source("json") == Some(ValueSource::CommandLine)
        {
            let place = |id: &str| matches.indices_of(id).into_iter().flatten();
            let json = place("json").next().unwrap_or(0);
            let before = place("what").filter(|at| *at < json).count();
            args.what.insert(before, word);
            args.json = Some("-".into());
        }
        Ok(Typed { args, matches })
    }

    /// Was the option with this long name given?
    pub(super) fn given(&self, long: &str) -> bool {
        let id = long.replace('-', "_");
        self.matches.value_source(&id) == Some(ValueSource::CommandLine)
    }
}

fn is_operand(word: &str) -> bool {
    Word::from_str(word, false).is_ok() || (word != "-" && Addr::of_server(word).is_ok())
}

/// What `--percentiles` lists.
#[derive(Clone, Debug)]
pub(super) struct Percentiles(pub(super) Vec<f64>);

fn percentiles(text: &str) -> Result<Percentiles, String> {
    let one = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let percent = text.parse::<f64>().ok().filter(|_| digits);
        percent.filter(|percent| (0.0..=100.0).contains(percent))
    };
    let list: Option<Vec<f64>> = text.split(',').map(one).collect();
    list.map(Percentiles)
        .ok_or_else(|| "0 to 100, with commas between, as in 50,99,99.9".to_owned())
}

/// The word before the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Word {
    Rr,
    Crr,
    Stream,
    Hold,
    Sweep,
}

/// Shorter would measure nothing.
const SHORTEST: Duration = Duration::from_millis(1);

/// Longer is a typing error.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const LARGEST: u64 = 1 << 30;

/// More in a second is a typing error.
const FASTEST: f64 = 1e8;

fn size(text: &str) -> Result<u64, String> {
    values::bytes(text)
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| "1 to 1G bytes, as in 64, 16K, 1M".to_owned())
}

/// `64`, or `64-1500`.
fn sizes(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let (min, max) = (size(min)?, size(max)?);
    match min <= max {
        true => Ok(min..=max),
        false => Err("the smaller size comes first".to_owned()),
    }
}

/// A number, with `k` or `M` for thousands or millions of it.
fn number(text: &str) -> Option<f64> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let plain = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b'.' || b == b'e');
    digits
        .parse::<f64>()
        .ok()
        .filter(|_| plain)
        .map(|number| number * unit)
}

/// `1k:50k`.
fn rates(text: &str) -> Result<(f64, f64), String> {
    let ends = text
        .split_once(':')
        .map(|(from, to)| (rate(from), rate(to)));
    match ends {
        Some((Ok(from), Ok(to))) if from <= to => Ok((from, to)),
        Some((Err(why), _) | (_, Err(why))) => Err(why),
        _ => Err("two rates, the lower first, as in 1k:50k".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = number(text);
    rate.filter(|rate| (1e-3..=FASTEST).contains(rate))
        .ok_or_else(|| "0.001 to 100000000 a second, as in 1000, 5k or 0.5".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok();
    share
        .filter(|share| (0.01..=1.0).contains(share))
        .ok_or_else(|| "0.01 to 1, as in 0.95".to_owned())
}

/// As [`duration`], and 0.
fn span(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => duration(text),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let span = values::duration(text).ok();
    span.filter(|span| (SHORTEST..=LONGEST).contains(span))
        .ok_or_else(|| "1ms to 365d, as in 200ms, 1.5, 30s, 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_everywhere() {
        for (text, millis) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("200ms", 200),
            ("1.5", 1500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "inf", "NaN", "1e300", "-3"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for (text, bytes) in [("64", 64), ("1K", 1024), ("3M", 3 << 20), ("1G", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
    }
}

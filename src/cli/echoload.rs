//! echoload's command line: what was typed, made into a [`Plan`].
//!
//! The only part of echoload that prints. Knows no socket.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::error::{Error, Exit, Result};
use crate::load::report::{Report, Versus};
use crate::load::run::Run;
use crate::load::{self, Bound, Mode, Plan, Rounds, Target, json, ratio};

/// Load an echo server, and verify every byte that comes back.
///
/// Exit status: 0 all verified and nothing failed, 64 usage, 69 never
/// connected, 74 something failed, 76 something else came back than was sent.
#[derive(Debug, Parser)]
#[command(
    name = "echoload",
    version,
    override_usage = "echoload [OPTIONS] [rr|crr|hold] ADDR [ADDR2]"
)]
struct Cli {
    /// What each connection does (default rr), the server, and one to compare
    /// it with: HOST:PORT, tcp:HOST:PORT, unix:PATH or unix:@NAME
    #[arg(value_names = ["MODE", "ADDR"], num_args = 1..=3, required = true)]
    what: Vec<String>,

    /// Connections at once
    #[arg(short = 'c', long, value_name = "N", default_value = "16",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,

    /// Bytes in a message; K, M and G are 1024-based
    #[arg(short = 's', long, value_name = "BYTES", default_value = "64", value_parser = size)]
    size: u64,

    /// How long to go on; not with -n, nor for hold [default: 10s]
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// How many requests (rr) or connections (crr) in all, instead of -d
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "duration",
          value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Rounds of each server, with ADDR2, instead of as many as fill -d well
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rounds: Option<u64>,

    /// Print one JSON object instead of the report
    #[arg(long)]
    json: bool,

    /// The longest any connect, read or write may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// The word before the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Rr,
    Crr,
    Hold,
}

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// Shorter would round to "no timeout" in a timeval, or measure nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longer is a typing error.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const LARGEST: u64 = 1 << 30;

/// The program: parses, runs, prints, and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            let _ = error.print();
            return status.into();
        }
    };
    let done = plan(&cli).and_then(|(plan, rounds)| run(&cli, &plan, rounds.as_ref()));
    match done {
        Ok(status) => status.into(),
        Err(error) => {
            complain(&error);
            error.status().into()
        }
    }
}

fn run(cli: &Cli, plan: &Plan, rounds: Option<&Rounds>) -> Result<Exit> {
    let Some(rounds) = rounds else {
        let run = load::run(plan)?;
        print(&match cli.json {
            true => format!("{}\n", json::run(plan, &run)),
            false => Report { plan, run: &run }.to_string(),
        })?;
        failures(&run);
        return Ok(run.status(plan));
    };
    let done = load::compare(plan, rounds)?;
    print(&match cli.json {
        true => format!("{}\n", json::comparison(plan, &rounds.other, &done)),
        false => Versus {
            plan,
            rounds,
            done: &done,
        }
        .to_string(),
    })?;
    failures(&done.a);
    failures(&done.b);
    Ok(done.status(plan))
}

fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::usage("write the report", error).exit(Exit::Io)),
    }
}

fn failures(run: &Run) {
    for error in run.tally.first.iter().chain(&run.tally.local) {
        complain(error);
    }
}

fn complain(error: &Error) {
    let _ = writeln!(io::stderr(), "echoload: {error}");
}

fn plan(cli: &Cli) -> Result<(Plan, Option<Rounds>)> {
    let is_word = |text: &String| Word::from_str(text, false).is_ok();
    let (word, addrs) = match cli.what.split_first() {
        Some((word, addrs)) if is_word(word) || addrs.len() == 2 => (word.as_str(), addrs),
        _ => ("rr", cli.what.as_slice()),
    };
    let word = Word::from_str(word, false)
        .map_err(|_| Error::usage(word, "not a mode: rr, crr or hold"))?;
    let (addr, other) = match addrs {
        [addr] => (addr, None),
        [addr, other] => (addr, Some(other)),
        _ => return Err(Error::usage(cli.what.join(" "), "an address is missing")),
    };
    let time = cli.duration.unwrap_or(DEFAULT_DURATION);
    let (pairs, round) = ratio::rounds(time, cli.rounds);
    let bound = match (cli.count, other) {
        (Some(count), _) => Bound::Count(count),
        (None, None) => Bound::Time(time),
        (None, Some(_)) => Bound::Time(round),
    };
    let rounds = match other {
        Some(_) if word == Word::Hold => {
            return Err(Error::usage(
                "hold",
                "has no rate to compare: give one ADDR",
            ));
        }
        Some(other) => Some(Rounds {
            other: other.parse()?,
            pairs,
        }),
        None if cli.rounds.is_some() => {
            return Err(Error::usage("--rounds", "is for two servers: give ADDR2"));
        }
        None => None,
    };
    let mode = match word {
        Word::Rr => Mode::Rr(bound),
        Word::Crr => Mode::Crr(bound),
        Word::Hold if cli.count.is_some() => {
            return Err(Error::usage(
                "-n",
                "hold echoes twice on each of -c connections",
            ));
        }
        Word::Hold if cli.duration.is_some() => {
            return Err(Error::usage(
                "-d",
                "hold ends when all connections echoed again",
            ));
        }
        Word::Hold => Mode::Hold,
    };
    let target: Target = addr.parse()?;
    let plan = Plan {
        target,
        mode,
        connections: cli.connections,
        size: cli.size,
        timeout: cli.timeout,
    };
    Ok((plan, rounds))
}

fn size(text: &str) -> std::result::Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| "1 to 1G bytes, as in 64, 16K, 1M".to_owned())
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
    let span = seconds(text).or_else(|| humantime::parse_duration(text).ok());
    span.filter(|span| (SHORTEST..=LONGEST).contains(span))
        .ok_or_else(|| "at least 1ms, as in 200ms, 1.5, 30s, 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("echoload").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let both = plan(&cli).map_err(|error| error.to_string())?;
        Ok(both.0)
    }

    #[test]
    fn the_defaults_are_the_pages() {
        let plan = typed("127.0.0.1:7").unwrap();
        assert_eq!(plan.mode, Mode::Rr(Bound::Time(Duration::from_secs(10))));
        assert_eq!(plan.target.to_string(), "tcp:127.0.0.1:7");
        assert_eq!((plan.connections, plan.size), (16, 64));
        assert_eq!(plan.timeout, Duration::from_secs(5));
    }

    #[test]
    fn every_option_reaches_the_plan() {
        let plan = typed("crr unix:@e -c 3 -s 2K -n 9 --timeout 200ms").unwrap();
        assert_eq!(plan.mode, Mode::Crr(Bound::Count(9)));
        assert_eq!(plan.target.to_string(), "unix:@e");
        assert_eq!((plan.connections, plan.size), (3, 2048));
        assert_eq!(plan.timeout, Duration::from_millis(200));
        assert_eq!(typed("hold h:1").unwrap().mode, Mode::Hold);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "crr",
            "stream h:1",
            "rr h:1 h:2 h:3",
            "x h:1 h:2",
            "h:1 --rounds 3",
            "hold h:1 h:2",
            "h:1 -c 0",
            "h:1 -s 0",
            "h:1 -s 2G",
            "h:1 -s K",
            "h:1 -d 0",
            "h:1 -d -1",
            "h:1 -d 5 -n 5",
            "h:1 -n 0",
            "h:1 --timeout 1us",
            "hold h:1 -d 5",
            "hold h:1 -n 5",
            "nowhere",
        ] {
            assert!(typed(line).is_err(), "{line}");
        }
    }

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

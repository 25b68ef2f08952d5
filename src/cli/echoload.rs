//! echoload's command line: what was typed, made into a [`Plan`].
//!
//! The only part of echoload that prints. Knows no socket.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::errno::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Exit, Result};
use crate::load::outcomes::Outcomes;
use crate::load::report::{self, Report, Versus};
use crate::load::run::Run;
use crate::load::server::Server;
use crate::load::stats::Progress;
use crate::load::{self, Around, Bound, Mode, Plan, Rounds, Target, hgrm, json, ratio};

/// Load an echo server, and verify every byte that comes back.
///
/// Exit status: 0 all verified and nothing failed, 64 usage, 69 never
/// connected, 74 something failed, 75 the rate was not reached, 76 something
/// else came back than was sent.
#[derive(Debug, Parser)]
#[command(
    name = "echoload",
    version,
    override_usage = "echoload [OPTIONS] [rr|crr|stream|hold] ADDR [ADDR2]"
)]
struct Cli {
    /// What each connection does (default rr), the server, and one to compare
    /// it with: HOST:PORT, tcp:HOST:PORT, udp:HOST:PORT, unix:PATH, unix:@NAME,
    /// unixgram:PATH
    #[arg(value_names = ["MODE", "ADDR"], num_args = 1..=3, required = true)]
    what: Vec<String>,

    /// Connections at once
    #[arg(short = 'c', long, value_name = "N", default_value = "16",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,

    /// Bytes in a message, or a range as in 64-1500; in a stream, bytes in one
    /// write; 64 unless given, 64K in a stream; K, M and G are 1024-based
    #[arg(short = 's', long, value_name = "BYTES", value_parser = sizes)]
    size: Option<RangeInclusive<u64>>,

    /// End each message in a newline, for a server that echoes lines
    #[arg(long)]
    lines: bool,

    /// How long to go on, 10s unless given, not with -n; for hold how long to
    /// keep all open, 0 unless given
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// How many requests (rr), connections (crr) or messages (stream) in all,
    /// instead of -d
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "duration",
          value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Threads that share the connections
    #[arg(short = 't', long, value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,

    /// An open loop of so many requests (rr) or connections (crr) a second
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,

    /// Load before the figures begin
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    warmup: Duration,

    /// The longest any connect, read or write may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,

    /// Rounds of each server, with ADDR2, instead of as many as fill -d well
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rounds: Option<u64>,

    /// Bytes of a stream that may be on their way at once
    #[arg(long, value_name = "BYTES", default_value = "256K", value_parser = size)]
    window: u64,

    /// Addresses, from 127.0.0.1 up, to call an IPv4 server on loopback from
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u64).range(1..=250))]
    sources: u64,

    /// The server's process, for its CPU time, instead of who has its socket
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    server_pid: Option<i32>,

    /// Print one JSON object instead of the report
    #[arg(long)]
    json: bool,

    /// Write the latencies as HdrHistogram's percentile text
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Write a line for each request or connection that did not complete
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,

    /// Tell on standard error how it goes, this often; on a terminal every 1s
    /// unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    interval: Option<Duration>,
}

/// The word before the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Rr,
    Crr,
    Stream,
    Hold,
}

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// Bytes in a message.
const DEFAULT_SIZE: u64 = 64;
/// Bytes in one write of a stream.
const DEFAULT_STREAM: u64 = 64 << 10;
/// How often a terminal is told.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Shorter would measure nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longer is a typing error.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const LARGEST: u64 = 1 << 30;
/// More in a second is a typing error.
const FASTEST: f64 = 1e8;

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
    match plan(&cli).and_then(|(plan, rounds)| run(&cli, &plan, rounds.as_ref())) {
        Ok(status) => status.into(),
        Err(error) => {
            complain(&error);
            error.status().into()
        }
    }
}

fn run(cli: &Cli, plan: &Plan, rounds: Option<&Rounds>) -> Result<Exit> {
    let outcomes = cli.outcomes.as_deref().map(Outcomes::create).transpose()?;
    let hdr = cli.hdr.as_deref().map(create).transpose()?;
    let terminal = io::stderr().is_terminal();
    let every = match cli.interval {
        None if terminal && !cli.json && rounds.is_none() => Some(DEFAULT_INTERVAL),
        given => given,
    };
    let tell = |plan: &Plan, at, news| watch(plan, at, every.unwrap_or_default(), &news, terminal);
    let around = Around {
        outcomes: outcomes.as_ref(),
        watcher: every.map(|every| (every, &tell as _)),
        stop: stop_flag()?,
        servers: servers(cli, plan, rounds)?,
    };
    let status = match rounds {
        None => one(cli, plan, &around, hdr)?,
        Some(rounds) => two(cli, plan, rounds, &around)?,
    };
    outcomes.map_or(Ok(()), Outcomes::close)?;
    Ok(status)
}

fn one(cli: &Cli, plan: &Plan, around: &Around, hdr: Option<File>) -> Result<Exit> {
    let run = load::run(plan, around)?;
    unwatch(around);
    print(&match cli.json {
        true => format!("{}\n", json::run(plan, &run)),
        false => Report {
            plan,
            run: &run,
            block: Some(block()),
        }
        .to_string(),
    })?;
    if let Some(mut file) = hdr {
        file.write_all(hgrm::text(&run.tally.latency).as_bytes())
            .map_err(|error| Error::usage("write --hdr", error).exit(Exit::Io))?;
    }
    failures(&run);
    Ok(run.status(plan))
}

fn two(cli: &Cli, plan: &Plan, rounds: &Rounds, around: &Around) -> Result<Exit> {
    let done = load::compare(plan, rounds, around)?;
    unwatch(around);
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

/// A flag that the first INT or TERM sets: the report is then of what was done.
/// The second has its default effect.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Error::usage("sigaction", error).exit(Exit::Os))?;
    }
    Ok(stop)
}

/// Whose processor time can be told.
fn servers(cli: &Cli, plan: &Plan, rounds: Option<&Rounds>) -> Result<Vec<(Target, Server)>> {
    let mut servers = Vec::new();
    if let Some(pid) = cli.server_pid {
        servers.push((plan.target.clone(), Server::of_pid(pid)?));
    }
    for target in [Some(&plan.target), rounds.map(|rounds| &rounds.other)]
        .into_iter()
        .flatten()
    {
        if let Some(server) = Server::of_target(target) {
            servers.push((target.clone(), server));
        }
    }
    Ok(servers)
}

/// How it goes: a line for each interval, and below them, on a terminal, a bar.
fn watch(plan: &Plan, at: Duration, every: Duration, news: &Progress, terminal: bool) {
    let line = report::interval(plan, at, every, news);
    let text = match terminal {
        true => format!("{CLEAR}{line}\n{}", report::bar(plan, at)),
        false => format!("{line}\n"),
    };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Removes the bar.
fn unwatch(around: &Around) {
    if around.watcher.is_some() && io::stderr().is_terminal() {
        let _ = io::stderr().write_all(CLEAR.as_bytes());
    }
}

/// To the start of the line, and nothing in it.
const CLEAR: &str = "\r\x1b[K";

/// What bars are made of: the locale says whether others are understood.
fn block() -> char {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let locale = locale.unwrap_or_default().to_ascii_uppercase();
    match locale.contains("UTF-8") || locale.contains("UTF8") {
        true => '\u{2588}',
        false => '#',
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        Error::os("create", path.display(), errno).exit(Exit::CantCreate)
    })
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
        .map_err(|_| Error::usage(word, "not a mode: rr, crr, stream or hold"))?;
    let mode = match word {
        Word::Rr => Mode::Rr,
        Word::Crr => Mode::Crr,
        Word::Stream => Mode::Stream,
        Word::Hold => Mode::Hold,
    };
    let (addr, other) = match addrs {
        [addr] => (addr, None),
        [addr, other] => (addr, Some(other)),
        _ => return Err(Error::usage(cli.what.join(" "), "an address is missing")),
    };
    refuse(cli, mode, other.is_some())?;
    let time = cli.duration.unwrap_or(match mode {
        Mode::Hold => Duration::ZERO,
        _ => DEFAULT_DURATION,
    });
    let (pairs, round) = ratio::rounds(time, cli.rounds);
    let bound = match (cli.count, other) {
        (Some(count), _) => Bound::Count(count),
        (None, None) => Bound::Time(time),
        (None, Some(_)) => Bound::Time(round),
    };
    let target: Target = addr.parse()?;
    let other: Option<Target> = other.map(|other| other.parse()).transpose()?;
    let plan = Plan {
        target,
        mode,
        bound,
        connections: cli.connections,
        size: cli.size.clone().unwrap_or(match mode {
            Mode::Stream => DEFAULT_STREAM..=DEFAULT_STREAM,
            _ => DEFAULT_SIZE..=DEFAULT_SIZE,
        }),
        lines: cli.lines,
        threads: cli.threads,
        rate: cli.rate,
        warmup: cli.warmup,
        timeout: cli.timeout,
        sources: cli.sources,
        window: cli.window,
    };
    for target in [Some(&plan.target), other.as_ref()].into_iter().flatten() {
        fits(&plan, target)?;
    }
    Ok((plan, other.map(|other| Rounds { other, pairs })))
}

/// Options that the mode cannot use.
fn refuse(cli: &Cli, mode: Mode, two: bool) -> Result<()> {
    let streams = matches!(mode, Mode::Stream | Mode::Hold);
    let sizes = cli.size.as_ref();
    let many = sizes.is_some_and(|size| size.start() != size.end());
    for (wrong, option, why) in [
        (
            mode == Mode::Hold && cli.count.is_some(),
            "-n",
            "hold echoes twice on each of -c connections",
        ),
        (
            mode == Mode::Hold && two,
            "hold",
            "has no rate to compare: give one ADDR",
        ),
        (
            mode == Mode::Hold && !cli.warmup.is_zero(),
            "--warmup",
            "hold has nothing to warm up",
        ),
        (streams && cli.rate.is_some(), "-R", "is for rr and crr"),
        (
            mode == Mode::Stream && cli.lines,
            "--lines",
            "a stream is one message without an end",
        ),
        (
            mode == Mode::Stream && many,
            "-s",
            "a stream has one size, of each write",
        ),
        (
            cli.rounds.is_some() && !two,
            "--rounds",
            "is for two servers: give ADDR2",
        ),
        (cli.hdr.is_some() && two, "--hdr", "is for one server"),
        (
            cli.hdr.is_some() && mode == Mode::Stream,
            "--hdr",
            "a stream has no latencies",
        ),
        (
            cli.server_pid.is_some() && two,
            "--server-pid",
            "is for one server",
        ),
    ] {
        if wrong {
            return Err(Error::usage(option, why));
        }
    }
    Ok(())
}

/// Datagrams have no connection to hold, and no stream.
fn fits(plan: &Plan, target: &Target) -> Result<()> {
    if target.is_datagram() && matches!(plan.mode, Mode::Stream | Mode::Hold) {
        let why = format!("{} needs a stream: tcp: or unix:", plan.mode.name());
        return Err(Error::usage(target, why));
    }
    match target.longest() {
        Some(longest) if *plan.size.end() > longest => Err(Error::usage(
            format!("-s {}", plan.size.end()),
            format!("no datagram of {target} is longer than {longest} bytes"),
        )),
        _ => Ok(()),
    }
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

/// `64`, or `64-1500`.
fn sizes(text: &str) -> std::result::Result<RangeInclusive<u64>, String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let (min, max) = (size(min)?, size(max)?);
    match min <= max {
        true => Ok(min..=max),
        false => Err("the smaller size comes first".to_owned()),
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| (1e-3..=FASTEST).contains(rate))
        .ok_or_else(|| "a number a second, as in 1000 or 0.5".to_owned())
}

/// As [`duration`], and 0.
fn span(text: &str) -> std::result::Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => duration(text),
    }
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
        assert_eq!(
            (plan.mode, plan.bound),
            (Mode::Rr, Bound::Time(DEFAULT_DURATION))
        );
        assert_eq!(plan.target.to_string(), "tcp:127.0.0.1:7");
        assert_eq!((plan.connections, plan.size), (16, 64..=64));
        assert_eq!(
            (plan.threads, plan.rate, plan.warmup),
            (1, None, Duration::ZERO)
        );
        assert_eq!((plan.sources, plan.window), (8, 256 << 10));
        assert_eq!(typed("stream h:1").unwrap().size, 65_536..=65_536);
        assert_eq!(plan.timeout, Duration::from_secs(5));
    }

    #[test]
    fn every_option_reaches_the_plan() {
        let plan = typed("crr unix:@e -c 3 -s 2K-3K -n 9 --timeout 200ms -t 2 -R 50 --warmup 1 --sources 3 --window 9K --lines").unwrap();
        assert_eq!((plan.mode, plan.bound), (Mode::Crr, Bound::Count(9)));
        assert_eq!((plan.threads, plan.rate), (2, Some(50.0)));
        assert!(plan.lines && !typed("h:1").unwrap().lines);
        assert_eq!(
            (plan.warmup, plan.sources, plan.window),
            (Duration::from_secs(1), 3, 9216)
        );
        assert_eq!(plan.target.to_string(), "unix:@e");
        assert_eq!((plan.connections, plan.size), (3, 2048..=3072));
        assert_eq!(plan.timeout, Duration::from_millis(200));
        assert_eq!(typed("hold h:1").unwrap().mode, Mode::Hold);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "crr",
            "bulk h:1",
            "stream udp:h:1",
            "hold udp:h:1",
            "udp:h:1 -s 65508",
            "stream h:1 -R 5",
            "stream h:1 --lines",
            "hold h:1 -R 5",
            "stream h:1 -s 1-2",
            "h:1 -s 9-8",
            "h:1 -R 0",
            "h:1 -t 0",
            "h:1 h:2 --server-pid 1",
            "h:1 h:2 --hdr x",
            "h:1 --sources 0",
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

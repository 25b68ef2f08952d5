//! echoload: what was typed, made into a [`Plan`] and what is done with it, run
//! and reported.
//!
//! The only part of echoload that prints. Knows no socket.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser, ValueEnum};
use nix::errno::Errno;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::addr::{Addr, Target};
use crate::cli::{Unparsed, explain, host_and_port, whole};
use crate::error::{Error, Exit, Result};
use crate::load::board::{self, Progress, Stage};
use crate::load::report::{Report, Versus};
use crate::load::run::{Outcomes, PERCENTILES, Run};
use crate::load::server::Server;
use crate::load::sweep::Knee;
use crate::load::{self, Around, Bound, Mode, Plan, Rounds, Sweep, compare, json};
use crate::values;

/// How often a terminal is told.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The program: parses, runs, prints, and says how it went.
pub fn main() -> ExitCode {
    let done = match typed(std::env::args_os()) {
        Ok((args, plan, job)) => run(&args, &plan, &job),
        Err(Ok(help)) => print(&help).map(|()| Exit::Ok),
        Err(Err(error)) => Err(error),
    };
    match done {
        Ok(status) => status.into(),
        Err(error) => {
            complain(&error);
            error.status().into()
        }
    }
}

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    super::command::<Args>()
}

/// Command line to plan; `Err(Ok(text))` is help to print.
///
/// # Errors
/// The text of --help or --version, or one usage error.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> std::result::Result<Plan, Unparsed> {
    typed(argv).map(|(_, plan, _)| plan)
}

fn typed(
    argv: impl IntoIterator<Item = OsString>,
) -> std::result::Result<(Args, Plan, Job), Unparsed> {
    let typed = Typed::parse(argv)?;
    let (plan, job) = plan(&typed).map_err(Err)?;
    Ok((typed.args, plan, job))
}

fn run(args: &Args, plan: &Plan, job: &Job) -> Result<Exit> {
    let outcomes = args.outcomes.as_deref().map(Outcomes::create).transpose()?;
    let hdr = args.hdr.as_deref().map(create).transpose()?;
    let terminal = io::stderr().is_terminal();
    let instead = json_instead(args);
    let every = match args.interval {
        None if terminal && !instead => Some(DEFAULT_INTERVAL),
        given => given,
    };
    let tell = |plan: &Plan, stage, news| {
        let every = every.unwrap_or_default();
        match instead {
            true => {
                let line = board::json_line(plan, stage, every, &news);
                let _ = writeln!(io::stderr(), "{line}");
            }
            false => watch(plan, stage, every, &news, terminal),
        }
    };
    let around = Around {
        outcomes: outcomes.as_ref(),
        watcher: every.map(|every| (every, &tell as _)),
        next: Cell::default(),
        rounds: Cell::default(),
        interrupt: Arc::default(),
        servers: servers(args, plan, job)?,
    };
    catch(&around.interrupt)?;
    let status = match job {
        Job::Run => one(args, plan, &around, hdr)?,
        Job::Compare(rounds) => two(args, plan, rounds, &around)?,
        Job::Sweep(sweep) => many(args, plan, sweep, &around)?,
    };
    let signal = i32::try_from(around.interrupt.load(Relaxed));
    outcomes.map_or(Ok(()), Outcomes::close)?;
    if let Ok(signal @ 1..) = signal {
        // A shell's loop goes on after a program that merely says 130.
        let _ = low_level::emulate_default_handler(signal);
    }
    Ok(status)
}

fn one(args: &Args, plan: &Plan, around: &Around, hdr: Option<File>) -> Result<Exit> {
    let run = load::run(plan, around)?;
    unwatch(around);
    let report = Report {
        plan,
        run: &run,
        block: Some(block()),
    };
    tell_of(args, &report, || json::run(plan, &run))?;
    if let Some(mut file) = hdr {
        file.write_all(json::hgrm(&run.tally.latency).as_bytes())
            .map_err(|error| Error::usage("write --hdr", error).exit(Exit::Io))?;
    }
    failures(&run);
    Ok(run.status(plan))
}

fn two(args: &Args, plan: &Plan, rounds: &Rounds, around: &Around) -> Result<Exit> {
    let done = load::compare(plan, rounds, around)?;
    unwatch(around);
    let report = Versus {
        plan,
        rounds,
        done: &done,
    };
    tell_of(args, &report, || {
        json::comparison(plan, &rounds.other, &done)
    })?;
    failures(&done.a);
    failures(&done.b);
    if let (Some(least), Some((figure, ratio))) = (done.fail_below, done.slower(plan)) {
        let (low, high) = ratio.interval.unwrap_or_default();
        complain(&Error::usage(
            format!("--fail-below {least}"),
            format!(
                "{} is slower: the ratio of {} lies within {low:.3} to {high:.3}",
                plan.target,
                figure.name()
            ),
        ));
    }
    Ok(done.status(plan))
}

fn many(args: &Args, plan: &Plan, sweep: &Sweep, around: &Around) -> Result<Exit> {
    let swept = &load::sweep(plan, sweep, around)?;
    unwatch(around);
    let report = Knee {
        plan,
        sweep,
        swept,
        block: block(),
    };
    tell_of(args, &report, || json::swept(plan, sweep, swept))?;
    let first = swept.steps.iter().map(|step| &step.run);
    let first = first.max_by_key(|run| run.tally.local.is_some() || run.tally.connected == 0);
    if let (Some(run), true) = (first, swept.status() != Exit::Ok) {
        failures(run);
    }
    Ok(swept.status())
}

/// The first INT or TERM sets `interrupt`: the report is then of what was done,
/// and the program ends by that signal. The second has its default effect.
fn catch(interrupt: &Arc<AtomicUsize>) -> Result<()> {
    let caught = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&caught))
            .and_then(|_| {
                let number = signal.unsigned_abs() as usize;
                flag::register_usize(signal, Arc::clone(interrupt), number)
            })
            .and_then(|_| flag::register(signal, Arc::clone(&caught)))
            .map_err(|error| Error::usage("sigaction", error).exit(Exit::Os))?;
    }
    Ok(())
}

/// Whose processor time can be told.
fn servers(args: &Args, plan: &Plan, job: &Job) -> Result<Vec<(Target, Server)>> {
    let mut servers = Vec::new();
    if let Some(pid) = args.server_pid.and_then(|pid| i32::try_from(pid).ok()) {
        servers.push((plan.target.clone(), Server::of_pid(pid)?));
    }
    let other = match job {
        Job::Compare(rounds) => Some(&rounds.other),
        Job::Run | Job::Sweep(_) => None,
    };
    for target in std::iter::once(&plan.target).chain(other) {
        if let Some(server) = Server::of_target(target) {
            servers.push((target.clone(), server));
        }
    }
    Ok(servers)
}

/// How it goes: a line for each interval, and below them, on a terminal, a bar.
fn watch(plan: &Plan, stage: Stage, every: Duration, news: &Progress, terminal: bool) {
    let line = board::interval(plan, stage, every, news);
    let text = match terminal {
        true => format!("{CLEAR}{line}\n{}", board::bar(plan, stage)),
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

/// Is JSON what goes to standard output?
fn json_instead(args: &Args) -> bool {
    args.json.as_deref() == Some(Path::new("-"))
}

/// The report, or JSON instead, or JSON beside it.
fn tell_of(args: &Args, report: &impl Display, json: impl Fn() -> Value) -> Result<()> {
    if json_instead(args) {
        return print(&format!("{}\n", json()));
    }
    if let Some(path) = &args.json {
        let text = format!("{}\n", json());
        let written = create(path)?.write_all(text.as_bytes());
        written.map_err(|error| Error::usage("write --json", error).exit(Exit::Io))?;
    }
    let colours =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    match colours {
        true => print(&coloured(&report.to_string())),
        false => print(&report.to_string()),
    }
}

/// What must be seen, in red; what was looked for, bold.
fn coloured(report: &str) -> String {
    let mut text = String::new();
    for line in report.lines() {
        let bad = line.starts_with("WARNING")
            || line.contains(": RATE NOT REACHED")
            || line.contains(": INTERRUPTED");
        let good = line.starts_with("holds ") || line.starts_with("ratio of ");
        text += &match (bad, good) {
            (true, _) => format!("\x1b[1;31m{line}\x1b[0m\n"),
            (false, true) => format!("\x1b[1m{line}\x1b[0m\n"),
            (false, false) => format!("{line}\n"),
        };
    }
    text
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

// What can be typed: the options, and the values that only echoload reads.

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
struct Args {
    /// What each connection does (default rr), the server, and one to compare
    /// it with: HOST:PORT, tcp:HOST:PORT, udp:HOST:PORT, unix:PATH, unix:@NAME,
    /// unixgram:PATH
    #[arg(value_names = ["MODE", "ADDR"], num_args = 0..=3)]
    what: Vec<String>,

    /// Connections at once
    #[arg(short = 'c', long, value_name = "N", default_value = "16",
          value_parser = whole(1..=1_000_000))]
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
    #[arg(short = 'd', short_alias = 'z', long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// How many requests (rr), connections (crr) or messages (stream) in all,
    /// instead of -d
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "duration",
          value_parser = whole(1..=u64::MAX))]
    count: Option<u64>,

    /// Threads that share the connections
    #[arg(short = 't', long, value_name = "N", default_value = "1",
          value_parser = whole(1..=1024))]
    threads: u64,

    /// An open loop of so many requests (rr) or connections (crr) a second
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,

    /// Look for the highest rate that is held, from FROM to TO: -R, again and
    /// again, for -d each (1s unless given)
    #[arg(long, value_name = "FROM:TO", value_parser = rates)]
    sweep: Option<(f64, f64)>,

    /// With a sweep, what p99 must not pass: 5ms unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    p99: Option<Duration>,

    /// Load before the figures begin
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    warmup: Duration,

    /// Before the warm-up, let connections, or the rate of -R, grow for so long
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    ramp_up: Duration,

    /// From an answer to the next request on its connection, without -R
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = span)]
    think: Duration,

    /// The longest any connect, read or write may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,

    /// Rounds of each server, with ADDR2, instead of as many as fill -d well
    #[arg(long, value_name = "N", value_parser = whole(1..=100_000))]
    rounds: Option<u64>,

    /// With ADDR2, exit 75 when ADDR is surely slower than this by ADDR2
    #[arg(long, value_name = "RATIO", value_parser = share)]
    fail_below: Option<f64>,

    /// Bytes of a stream that may be on their way at once
    #[arg(long, value_name = "BYTES", default_value = "256K", value_parser = size)]
    window: u64,

    /// Addresses, from 127.0.0.1 up, to call an IPv4 server on loopback from
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = whole(1..=250))]
    sources: u64,

    /// The server's process, for its CPU time, instead of who has its socket
    #[arg(long, value_name = "PID", value_parser = whole(1..=i32::MAX as u64))]
    server_pid: Option<u64>,

    /// Print one JSON object instead of the report, or write it to FILE beside
    /// the report
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,

    /// The percentiles to report, as in 50,99,99.9
    #[arg(long, value_name = "LIST", value_parser = percentiles)]
    percentiles: Option<Percentiles>,

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

/// What was typed, and which of it was typed rather than a default.
struct Typed {
    args: Args,
    matches: ArgMatches,
}

impl Typed {
    /// # Errors
    /// Help to print, or a usage error.
    fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Self, Unparsed> {
        let matches = super::command::<Args>()
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
    fn given(&self, long: &str) -> bool {
        let id = long.replace('-', "_");
        self.matches.value_source(&id) == Some(ValueSource::CommandLine)
    }
}

fn is_operand(word: &str) -> bool {
    Word::from_str(word, false).is_ok() || (word != "-" && Addr::of_server(word).is_ok())
}

/// What `--percentiles` lists.
#[derive(Clone, Debug)]
struct Percentiles(Vec<f64>);

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
enum Word {
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

// What it means: a [`Plan`], and what is done with it.

const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// One rate of a sweep.
const DEFAULT_STEP: Duration = Duration::from_secs(1);

const DEFAULT_P99: Duration = Duration::from_millis(5);

/// Where a sweep begins, and between what it ends, unless it is told.
const FIRST: f64 = 1000.0;
const ANY: (f64, f64) = (1.0, 1e7);

/// What is done with a plan.
#[derive(Debug, PartialEq)]
enum Job {
    Run,
    Compare(Rounds),
    Sweep(Sweep),
}

/// Bytes in a message.
const DEFAULT_SIZE: u64 = 64;

/// Bytes in one write of a stream.
const DEFAULT_STREAM: u64 = 64 << 10;

/// # Errors
/// What cannot be meant, by the name of the option (64).
fn plan(typed: &Typed) -> Result<(Plan, Job)> {
    let args = &typed.args;
    let is_word = |text: &String| Word::from_str(text, false).is_ok();
    let (word, addrs) = match args.what.split_first() {
        Some((word, addrs)) if is_word(word) || addrs.len() == 2 => (word.as_str(), addrs),
        _ => ("rr", args.what.as_slice()),
    };
    let word = Word::from_str(word, false)
        .map_err(|_| Error::usage(word, "not a mode: rr, crr, stream, hold or sweep"))?;
    let mode = match word {
        Word::Rr | Word::Sweep => Mode::Rr,
        Word::Crr => Mode::Crr,
        Word::Stream => Mode::Stream,
        Word::Hold => Mode::Hold,
    };
    let port = |text: &str| !text.contains(':');
    let (addr, other) = match addrs {
        [addr] => (addr.clone(), None),
        [host, digits] if port(digits) => (host_and_port(host, digits), None),
        [addr, other] => (addr.clone(), Some(other)),
        _ => {
            let example = "which server? As in: echoload 127.0.0.1:7777, or echoload crr h 7 -d 5s";
            return Err(Error::usage(args.what.join(" "), example));
        }
    };
    refuse(typed, mode, other.is_some())?;
    let sweep = (word == Word::Sweep || args.sweep.is_some()).then(|| sweep(args));
    sweeps(typed, mode, other.is_some(), sweep.is_some())?;
    let time = args.duration.unwrap_or(match mode {
        Mode::Hold => Duration::ZERO,
        _ if sweep.is_some() => DEFAULT_STEP,
        _ => DEFAULT_DURATION,
    });
    let (pairs, round) = compare::rounds(time, args.rounds);
    let bound = match (args.count, other) {
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
        connections: args.connections,
        size: args.size.clone().unwrap_or(match mode {
            Mode::Stream => DEFAULT_STREAM..=DEFAULT_STREAM,
            _ => DEFAULT_SIZE..=DEFAULT_SIZE,
        }),
        lines: args.lines,
        threads: args.threads,
        rate: args.rate,
        warmup: match sweep.is_some() && !typed.given("warmup") {
            true => (time / 5).min(DEFAULT_STEP / 5),
            false => args.warmup,
        },
        ramp_up: args.ramp_up,
        think: args.think,
        timeout: args.timeout,
        sources: args.sources,
        window: args.window,
        percentiles: match &args.percentiles {
            Some(list) => list.0.clone(),
            None => PERCENTILES.to_vec(),
        },
    };
    let targets: Vec<&Target> = std::iter::once(&plan.target).chain(&other).collect();
    for target in &targets {
        fits(&plan, target)?;
    }
    spread(typed, &targets)?;
    let job = match (other, sweep) {
        (Some(other), _) => Job::Compare(Rounds {
            other,
            pairs,
            fail_below: args.fail_below,
        }),
        (None, Some(sweep)) => Job::Sweep(sweep),
        (None, None) => Job::Run,
    };
    Ok((plan, job))
}

fn sweep(args: &Args) -> Sweep {
    Sweep {
        first: args.sweep.map_or(FIRST, |(from, _)| from),
        range: args.sweep.unwrap_or(ANY),
        p99: args.p99.unwrap_or(DEFAULT_P99),
    }
}

/// Options that a sweep cannot use, or only a sweep can.
fn sweeps(typed: &Typed, mode: Mode, two: bool, sweeps: bool) -> Result<()> {
    let given = |option| typed.given(option);
    if !sweeps {
        return match given("p99") {
            true => Err(Error::usage("--p99 without --sweep", "it is for a sweep")),
            false => Ok(()),
        };
    }
    let conflicts = [
        "rate",
        "think",
        "ramp-up",
        "count",
        "rounds",
        "hdr",
        "fail-below",
    ];
    let conflicts = conflicts.into_iter().find(|option| given(option));
    let conflicts = conflicts.map(|option| format!("--{option}"));
    let mode = matches!(mode, Mode::Stream | Mode::Hold).then(|| mode.name().to_owned());
    match conflicts.or(mode).or(two.then(|| "ADDR2".to_owned())) {
        Some(what) => Err(Error::usage(
            format!("{what} with a sweep"),
            "it steps the rate of rr or crr, of one server",
        )),
        None => Ok(()),
    }
}

/// Options that the mode, or the other options, cannot use.
fn refuse(typed: &Typed, mode: Mode, two: bool) -> Result<()> {
    let args = &typed.args;
    let given = |option| typed.given(option);
    let streams = matches!(mode, Mode::Stream | Mode::Hold);
    let sizes = args.size.as_ref();
    let many = sizes.is_some_and(|size| size.start() != size.end());
    let (hold, stream) = (mode == Mode::Hold, mode == Mode::Stream);
    let name = mode.name();
    for (wrong, option, with, why) in [
        (
            hold && args.count.is_some(),
            "-n",
            name,
            "hold echoes twice on each of -c connections",
        ),
        (
            hold && two,
            "hold",
            "ADDR2",
            "it has no rate to compare: give one ADDR",
        ),
        (
            hold && given("warmup"),
            "--warmup",
            name,
            "hold has nothing to warm up",
        ),
        (
            streams && args.rate.is_some(),
            "-R",
            name,
            "it is for rr and crr",
        ),
        (
            stream && args.lines,
            "--lines",
            name,
            "a stream is one message without an end",
        ),
        (
            stream && many,
            "a range of -s",
            name,
            "a stream has one size, of each write",
        ),
        (
            !stream && given("window"),
            "--window",
            name,
            "it is for stream",
        ),
        (
            args.rounds.is_some() && !two,
            "--rounds",
            "one ADDR",
            "it is for two servers",
        ),
        (
            streams && given("think"),
            "--think",
            name,
            "it is for rr and crr",
        ),
        (
            given("think") && args.rate.is_some(),
            "--think",
            "-R",
            "an open loop does not wait for answers",
        ),
        (
            hold && given("ramp-up"),
            "--ramp-up",
            name,
            "hold opens 64 at once on their way",
        ),
        (
            two && given("ramp-up"),
            "--ramp-up",
            "ADDR2",
            "rounds are too short for it",
        ),
        (
            args.fail_below.is_some() && !two,
            "--fail-below",
            "one ADDR",
            "it is for two servers",
        ),
        (
            args.fail_below.is_some() && args.rounds.is_some_and(|pairs| pairs < compare::FEWEST),
            "--fail-below",
            "--rounds below 6",
            "there is no interval of so few",
        ),
        (
            args.hdr.is_some() && two,
            "--hdr",
            "ADDR2",
            "it is for one server",
        ),
        (
            args.hdr.is_some() && stream,
            "--hdr",
            name,
            "a stream has no latencies",
        ),
        (
            stream && args.percentiles.is_some(),
            "--percentiles",
            name,
            "a stream has no latencies",
        ),
        (
            args.server_pid.is_some() && two,
            "--server-pid",
            "ADDR2",
            "it is for one server",
        ),
    ] {
        if wrong {
            return Err(Error::usage(format!("{option} with {with}"), why));
        }
    }
    Ok(())
}

/// Source addresses are for servers that are called over IP.
fn spread(typed: &Typed, targets: &[&Target]) -> Result<()> {
    let local = |target: &&&Target| matches!(target.addr(), Addr::Unix(_) | Addr::UnixGram(_));
    match targets.iter().find(local) {
        Some(target) if typed.given("sources") => Err(Error::usage(
            format!("--sources with {target}"),
            "a Unix socket is called from no address",
        )),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests;

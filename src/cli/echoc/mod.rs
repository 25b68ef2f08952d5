//! echoc: what was typed, made into a conversation, a ping or a check of a server,
//! and what each of them ends with.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser};

use crate::addr::Target;
use crate::cli::{Unparsed, explain, host_and_port, whole};
use crate::client::ping::{self, Outcome};
use crate::client::{Retry, Talk, check, notice, session};
use crate::error::{Error, Exit, Result};
use crate::values;

/// Exit statuses of ping(8) and of the monitoring plugins.
const PING_ERROR: u8 = 2;
const CHECK_WARNING: u8 = 1;
const CHECK_CRITICAL: u8 = 2;
const CHECK_UNKNOWN: u8 = 3;

/// The program: parses, runs, prints, and says how it went.
pub fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match parse(&argv, io::stdin().is_terminal()) {
        Ok(Mode::Talk(mut talk)) => {
            // Not into a file that takes the echo.
            talk.prompt &= io::stdout().is_terminal();
            talked(session::run(&talk))
        }
        Ok(Mode::Ping(plan)) => pinged(ping::run(&plan)),
        Ok(Mode::Check {
            plan,
            limits,
            quiet,
        }) => {
            let (line, status) = checked(check::run(&plan), limits, plan.timeout);
            if !quiet {
                let _ = writeln!(io::stdout(), "ECHO {line}");
            }
            status.into()
        }
        Err(Ok(text)) => shown(&text),
        Err(Err(error)) => misused(&error, &argv),
    }
}

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    super::command::<Args>()
}

/// Command line to what was asked for, by somebody at a `terminal` or not;
/// `Err(Ok(text))` is help to print.
///
/// # Errors
/// The text of --help or --version, or one usage error.
pub fn parse(argv: &[String], terminal: bool) -> std::result::Result<Mode, Unparsed> {
    let typed = Typed::parse(argv)?;
    mode(&typed, terminal).map_err(Err)
}

fn shown(help: &str) -> ExitCode {
    let _ = write!(io::stdout(), "{help}");
    ExitCode::SUCCESS
}

/// A command line that cannot be meant ends as its mode has it, also when it
/// cannot be parsed.
fn misused(error: &Error, argv: &[String]) -> ExitCode {
    let typed = |option: &str| argv.iter().any(|arg| arg == option);
    if typed("--check") {
        if !typed("-q") && !typed("--quiet") {
            let _ = writeln!(io::stdout(), "ECHO UNKNOWN - {error}");
        }
        return CHECK_UNKNOWN.into();
    }
    notice(error);
    match typed("--ping") {
        true => PING_ERROR.into(),
        false => error.status().into(),
    }
}

fn talked(result: Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            notice(&error);
            error.status().into()
        }
    }
}

fn pinged(result: Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Alive) => ExitCode::SUCCESS,
        Ok(Outcome::Silent) => ExitCode::from(1),
        Err(error) => {
            notice(&error);
            PING_ERROR.into()
        }
    }
}

/// The line for the monitor, and the status that says the same.
fn checked(result: Result<Duration>, limits: Limits, most: Duration) -> (String, u8) {
    let rtt = match result {
        Ok(rtt) => rtt,
        Err(error) => return (format!("CRITICAL - {error}"), CHECK_CRITICAL),
    };
    let above = |limit: Option<Duration>| limit.filter(|limit| rtt > *limit);
    let (word, over, status) = match (above(limits.critical), above(limits.warning)) {
        (Some(limit), _) => ("CRITICAL", Some(limit), CHECK_CRITICAL),
        (None, Some(limit)) => ("WARNING", Some(limit), CHECK_WARNING),
        (None, None) => ("OK", None, 0),
    };
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let mut line = format!("{word} - {:.2} ms", millis(rtt));
    if let Some(limit) = over {
        line += &format!(", more than {} ms", millis(limit));
    }
    // The label, the value with its unit, the limits, and what it can be.
    let seconds = |time: Duration| format!("{:.6}", time.as_secs_f64());
    let limit = |limit: Option<Duration>| limit.map_or(String::new(), seconds);
    line += &format!(
        " | rtt={}s;{};{};{};{}",
        seconds(rtt),
        limit(limits.warning),
        limit(limits.critical),
        seconds(Duration::ZERO),
        seconds(most)
    );
    (line, status)
}

// What can be typed: the options, and the values that only echoc reads.

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
struct Args {
    /// The server
    #[arg(value_name = "ADDR", hide = true, num_args = 0..=4)]
    server: Vec<String>,

    /// Send an echo each -i, and measure how long it takes
    #[arg(long, help_heading = "Ping")]
    ping: bool,

    /// Echoes to send; with -w, echoes to be answered
    #[arg(short, long, value_name = "N", help_heading = "Ping")]
    count: Option<String>,

    /// From one echo to the next; 0: as soon as the last is settled
    #[arg(short, long, value_name = "DURATION", help_heading = "Ping",
          default_value = "1s", value_parser = pause)]
    interval: Duration,

    /// Bytes in an echo
    #[arg(short, long, value_name = "BYTES", help_heading = "Ping",
          default_value = "56", value_parser = size)]
    size: usize,

    /// Stop after this time
    #[arg(short = 'w', long, value_name = "DURATION", help_heading = "Ping")]
    deadline: Option<String>,

    /// The time before each line
    #[arg(short = 'D', long, help_heading = "Ping")]
    timestamps: bool,

    /// A connection for each echo, measured separately
    #[arg(long, help_heading = "Ping")]
    connect: bool,

    /// Send one echo, and print one line for a monitoring system
    #[arg(long, help_heading = "Check")]
    check: bool,

    /// With --check also -w: say WARNING above this round trip time
    #[arg(long, value_name = "MS", help_heading = "Check")]
    warning: Option<String>,

    /// With --check also -c: say CRITICAL above this round trip time
    #[arg(long, value_name = "MS", help_heading = "Check")]
    critical: Option<String>,

    /// How long to wait for an answer (1s), for a stream that is silent (for
    /// ever), or for all of --check (2s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = span)]
    timeout: Option<Duration>,

    /// Say less
    #[arg(short, long)]
    quiet: bool,

    /// How often to try again: in a terminal 5 times, else not
    #[arg(long, value_name = "N|forever", value_parser = tries)]
    retry: Option<Tries>,

    /// How long to wait before trying again
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = pause
    )]
    retry_interval: Duration,

    /// Copy without comparing
    #[arg(long)]
    no_verify: bool,
}

/// What was typed, and which of it was typed rather than a default.
struct Typed {
    args: Args,
    matches: ArgMatches,
    long: Vec<String>,
}

impl Typed {
    /// # Errors
    /// Help to print, or a usage error.
    fn parse(argv: &[String]) -> std::result::Result<Self, Unparsed> {
        let matches = super::command::<Args>()
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
    fn given(&self, long: &str) -> bool {
        let id = long.replace('-', "_");
        self.matches.value_source(&id) == Some(ValueSource::CommandLine)
    }

    /// Was it given by that name?
    fn spelled(&self, long: &str) -> bool {
        self.long
            .iter()
            .any(|arg| arg.strip_prefix("--") == Some(long))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tries {
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
fn span(text: &str) -> Result<Duration> {
    between(text, Duration::from_millis(1), "1ms to 365d")
}

/// A time between two things, or none.
fn pause(text: &str) -> Result<Duration> {
    between(text, Duration::ZERO, "at most 365d")
}

/// A round trip time above which a monitor is told: milliseconds, or with a
/// unit.
fn threshold(text: &str) -> Result<Duration> {
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

// What it means: a conversation, a ping or a check, and with which server.

/// What was asked for.
#[derive(Debug)]
pub enum Mode {
    /// What is typed, or piped, there and back.
    Talk(Talk),
    /// Echoes that are measured.
    Ping(ping::Plan),
    /// One echo, and a line for a monitor unless `quiet`.
    #[allow(missing_docs)]
    Check {
        plan: check::Plan,
        limits: Limits,
        quiet: bool,
    },
}

/// Round trip times above which a monitor is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Above this it is slow.
    pub warning: Option<Duration>,
    /// Above this it is as good as down.
    pub critical: Option<Duration>,
}

/// Where echod serves unless told otherwise.
const DEFAULT: &str = "tcp:127.0.0.1:7777";

/// As often as the tutorials' clients try.
const TERMINAL_RETRIES: u32 = 5;

const ANSWER: Duration = Duration::from_secs(1);

const CHECK: Duration = Duration::from_secs(2);

const CONNECT: Duration = Duration::from_secs(5);

/// What is asked for, where standard input is a terminal or not.
///
/// # Errors
/// What cannot be meant (64).
fn mode(typed: &Typed, terminal: bool) -> Result<Mode> {
    let args = &typed.args;
    let balancer = args.server.len() == 4;
    let server = server(&args.server)?;
    let kind = match (args.ping, args.check) {
        (true, true) => return Err(Error::usage("--ping with --check", "one of them")),
        (true, false) if balancer => {
            return Err(Error::usage("--ping", "one server: ADDR, or HOST PORT"));
        }
        (true, false) => Kind::Ping,
        (false, true) => Kind::Check,
        (false, false) if balancer => Kind::Check,
        (false, false) => Kind::Talk,
    };
    usable(typed, kind)?;
    let talking = kind == Kind::Talk;
    let usual = match talking && terminal {
        true => TERMINAL_RETRIES,
        false => 0,
    };
    let retry = Retry {
        limit: match args.retry {
            Some(Tries::Forever) => None,
            Some(Tries::Times(times)) => Some(times),
            None => Some(usual),
        },
        interval: args.retry_interval,
    };
    if typed.given("retry-interval") && args.retry.is_none() && usual == 0 {
        let why = "nothing is tried again unless --retry says so";
        return Err(Error::usage("--retry-interval without --retry", why));
    }
    match kind {
        Kind::Talk => Ok(Mode::Talk(Talk {
            server,
            retry,
            timeout: args.timeout.unwrap_or(ANSWER),
            silence: args.timeout,
            connect_timeout: args.timeout.unwrap_or(CONNECT),
            verify: !args.no_verify,
            quiet: args.quiet,
            terminal,
            prompt: terminal && !args.quiet,
        })),
        Kind::Ping => ping_plan(args, server, retry).map(Mode::Ping),
        Kind::Check => {
            let timeout = args.timeout.unwrap_or(CHECK);
            let plan = check::Plan {
                server,
                retry,
                timeout,
            };
            let quiet = args.quiet || balancer;
            let limits = limits(args)?;
            Ok(Mode::Check {
                plan,
                limits,
                quiet,
            })
        }
    }
}

/// What is done, whatever the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Talk,
    Ping,
    Check,
}

/// Options that only some modes can use.
const ONLY: [(&str, &[Kind]); 9] = [
    ("count", &[Kind::Ping]),
    ("deadline", &[Kind::Ping]),
    ("interval", &[Kind::Ping]),
    ("size", &[Kind::Ping]),
    ("timestamps", &[Kind::Ping]),
    ("connect", &[Kind::Ping]),
    ("warning", &[Kind::Check]),
    ("critical", &[Kind::Check]),
    ("no-verify", &[Kind::Talk]),
];

/// Refuses an option that nothing would use.
fn usable(typed: &Typed, kind: Kind) -> Result<()> {
    // -c and -w are others with --check, as the monitoring plugins have them.
    let plugins = |option: &str| {
        kind == Kind::Check && matches!(option, "count" | "deadline") && !typed.spelled(option)
    };
    let unused = ONLY
        .iter()
        .find(|(option, kinds)| typed.given(option) && !kinds.contains(&kind) && !plugins(option));
    let Some((option, kinds)) = unused else {
        return Ok(());
    };
    let subject = match (kind, kinds[0]) {
        (Kind::Ping, _) => format!("--{option} with --ping"),
        (Kind::Check, _) => format!("--{option} with --check"),
        (Kind::Talk, Kind::Check) => format!("--{option} without --check"),
        (Kind::Talk, _) => format!("--{option} without --ping"),
    };
    Err(Error::usage(subject, "nothing would use it"))
}

/// The round trip times from which a monitor is told.
fn limits(args: &Args) -> Result<Limits> {
    let limit = |name: &str, short: &Option<String>, long: &Option<String>| {
        if short.is_some() && long.is_some() {
            let why = "they are one: a round trip time";
            return Err(Error::usage(format!("-{} with --{name}", &name[..1]), why));
        }
        let given = short.as_deref().or(long.as_deref());
        let named = |error: Error| Error::usage(format!("--{name}"), error);
        given.map(threshold).transpose().map_err(named)
    };
    let limits = Limits {
        warning: limit("warning", &args.deadline, &args.warning)?,
        critical: limit("critical", &args.count, &args.critical)?,
    };
    match (limits.warning, limits.critical) {
        (Some(warning), Some(critical)) if warning > critical => Err(Error::usage(
            format!("-w {warning:?} with -c {critical:?}"),
            "a warning comes before it is critical",
        )),
        _ => Ok(limits),
    }
}

fn ping_plan(args: &Args, server: Target, retry: Retry) -> Result<ping::Plan> {
    if args.connect && server.is_datagram() {
        let subject = format!("--connect with {server}");
        return Err(Error::usage(subject, "datagrams have no connections"));
    }
    let count = args.count.as_deref().map(|text| {
        let bad = |why| Error::usage(format!("-c {text}"), why);
        whole(1..=u64::MAX)(text).map_err(bad)
    });
    let deadline = args.deadline.as_deref().map(span).transpose();
    Ok(ping::Plan {
        server,
        retry,
        count: count.transpose()?,
        interval: args.interval,
        size: args.size,
        deadline: deadline.map_err(|error| Error::usage("--deadline", error))?,
        timeout: args.timeout.unwrap_or(ANSWER),
        quiet: args.quiet,
        timestamps: args.timestamps,
        connect: args.connect,
    })
}

/// None, an address, a host and a port, or the four words of HAProxy's
/// external check, of which the last two name the server.
fn server(words: &[String]) -> Result<Target> {
    match words {
        [] => DEFAULT.parse(),
        [addr] => addr.parse(),
        [host, port] => host_and_port(host, port).parse(),
        [_, _, path, _] if path.starts_with('/') => {
            format!("unix:{}", path.replace(',', "\\,")).parse()
        }
        [_, _, host, port] => host_and_port(host, port).parse(),
        _ => Err(Error::usage(
            words.join(" "),
            "one server: ADDR, or HOST PORT",
        )),
    }
}

#[cfg(test)]
mod tests;

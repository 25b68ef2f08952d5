//! echoc's command line: what was typed, made into a conversation, a ping or a
//! check, and what each of them ends with.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use super::explain;
use crate::client::ping::Outcome;
use crate::client::{Retry, Server, Talk, check, notice, ping, session};
use crate::error::{Error, Exit, Result};
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
struct Cli {
    /// The server
    #[arg(value_name = "ADDR", hide = true, num_args = 0..=4)]
    server: Vec<String>,

    /// Send an echo each -i, and measure how long it takes
    #[arg(long, help_heading = "Ping", conflicts_with = "check")]
    ping: bool,

    /// Echoes to send; with -w, echoes to be answered
    #[arg(short, long, value_name = "N", help_heading = "Ping", requires = "ping",
          value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// From one echo to the next; 0: as soon as the last is settled
    #[arg(short, long, value_name = "DURATION", help_heading = "Ping", requires = "ping",
          default_value = "1s", value_parser = values::duration)]
    interval: Duration,

    /// Bytes in an echo
    #[arg(short, long, value_name = "BYTES", help_heading = "Ping", requires = "ping",
          default_value = "56", value_parser = size)]
    size: usize,

    /// Stop after this time
    #[arg(short = 'w', long, value_name = "DURATION", help_heading = "Ping",
          requires = "ping", value_parser = span)]
    deadline: Option<Duration>,

    /// The time before each line
    #[arg(short = 'D', long, help_heading = "Ping", requires = "ping")]
    timestamps: bool,

    /// A connection for each echo, measured separately
    #[arg(long, help_heading = "Ping", requires = "ping")]
    connect: bool,

    /// Send one echo, and print one line for a monitoring system
    #[arg(long, help_heading = "Check")]
    check: bool,

    /// How long to wait for an answer (1s), or for all of --check (2s)
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
        value_parser = values::duration
    )]
    retry_interval: Duration,

    /// Copy without comparing
    #[arg(long, conflicts_with_all = ["ping", "check"])]
    no_verify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tries {
    Times(u32),
    Forever,
}

/// What was asked for.
#[derive(Debug)]
pub enum Mode {
    /// What is typed, or piped, there and back.
    Talk(Talk),
    /// Echoes that are measured.
    Ping(ping::Plan),
    /// One echo, and a line for a monitor unless `quiet`.
    #[allow(missing_docs)]
    Check { plan: check::Plan, quiet: bool },
}

/// Where echod serves unless told otherwise.
const DEFAULT: &str = "tcp:127.0.0.1:7777";
/// As often as the tutorials' clients try.
const TERMINAL_RETRIES: u32 = 5;
const ANSWER: Duration = Duration::from_secs(1);
const CHECK: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(5);
/// The largest datagram of UDP over IPv4.
const LARGEST: usize = 65_507;
/// Exit statuses of ping(8) and of the monitoring plugins.
const PING_ERROR: u8 = 2;
const CHECK_CRITICAL: u8 = 2;
const CHECK_UNKNOWN: u8 = 3;

/// The program: parses, runs, prints, and says how it went.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match parse(&args, io::stdin().is_terminal()) {
        Ok(Mode::Talk(mut talk)) => {
            // Not into a file that takes the echo.
            talk.prompt &= io::stdout().is_terminal();
            talked(session::run(&talk))
        }
        Ok(Mode::Ping(plan)) => pinged(ping::run(&plan)),
        Ok(Mode::Check { plan, quiet }) => checked(check::run(&plan), quiet),
        Err(Ok(text)) => shown(&text),
        Err(Err(error)) => misused(&error, &args),
    }
}

/// Command line to what was asked for, by somebody at a `terminal` or not;
/// `Err(Ok(text))` is help to print.
///
/// # Errors
/// The text of --help or --version, or one usage error.
pub fn parse(
    args: &[String],
    terminal: bool,
) -> std::result::Result<Mode, std::result::Result<String, Error>> {
    let cli = Cli::try_parse_from(args).map_err(|error| explain(&error))?;
    mode(&cli, terminal).map_err(Err)
}

fn shown(help: &str) -> ExitCode {
    let _ = write!(io::stdout(), "{help}");
    ExitCode::SUCCESS
}

/// A command line that cannot be meant ends as its mode has it, also when it
/// cannot be parsed.
fn misused(error: &Error, args: &[String]) -> ExitCode {
    let typed = |option: &str| args.iter().any(|arg| arg == option);
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

fn checked(result: Result<Duration>, quiet: bool) -> ExitCode {
    let (line, status) = match result {
        Ok(rtt) => {
            let seconds = rtt.as_secs_f64();
            let millis = seconds * 1e3;
            (format!("OK - {millis:.2} ms | rtt={seconds:.6}s"), 0)
        }
        Err(error) => (format!("CRITICAL - {error}"), CHECK_CRITICAL),
    };
    if !quiet {
        let _ = writeln!(io::stdout(), "ECHO {line}");
    }
    status.into()
}

fn mode(cli: &Cli, terminal: bool) -> Result<Mode> {
    let balancer = cli.server.len() == 4;
    let server = server(&cli.server)?;
    if balancer && cli.ping {
        return Err(Error::usage("--ping", "one server: ADDR, or HOST PORT"));
    }
    let talking = !cli.ping && !cli.check && !balancer;
    let usual = match talking && terminal {
        true => TERMINAL_RETRIES,
        false => 0,
    };
    let retry = Retry {
        limit: match cli.retry {
            Some(Tries::Forever) => None,
            Some(Tries::Times(times)) => Some(times),
            None => Some(usual),
        },
        interval: cli.retry_interval,
    };
    if talking {
        return Ok(Mode::Talk(Talk {
            server,
            retry,
            timeout: cli.timeout.unwrap_or(ANSWER),
            connect_timeout: cli.timeout.unwrap_or(CONNECT),
            verify: !cli.no_verify,
            quiet: cli.quiet,
            terminal,
            prompt: terminal && !cli.quiet,
        }));
    }
    if cli.ping {
        return ping_plan(cli, server, retry).map(Mode::Ping);
    }
    let timeout = cli.timeout.unwrap_or(CHECK);
    let plan = check::Plan {
        server,
        retry,
        timeout,
    };
    let quiet = cli.quiet || balancer;
    Ok(Mode::Check { plan, quiet })
}

fn ping_plan(cli: &Cli, server: Server, retry: Retry) -> Result<ping::Plan> {
    if cli.connect && server.datagrams() {
        let why = format!("{server} has no connections");
        return Err(Error::usage("--connect", why));
    }
    Ok(ping::Plan {
        server,
        retry,
        count: cli.count,
        interval: cli.interval,
        size: cli.size,
        deadline: cli.deadline,
        timeout: cli.timeout.unwrap_or(ANSWER),
        quiet: cli.quiet,
        timestamps: cli.timestamps,
        connect: cli.connect,
    })
}

/// None, an address, a host and a port, or the four words of HAProxy's
/// external check, of which the last two name the server.
fn server(words: &[String]) -> Result<Server> {
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

fn host_and_port(host: &str, port: &str) -> String {
    let bare = host.split('%').next().unwrap_or(host);
    match bare.parse::<std::net::Ipv6Addr>() {
        Ok(_) => format!("[{host}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

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
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let number = digits.parse::<usize>().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| (1..=LARGEST).contains(bytes))
        .ok_or_else(|| format!("1 to {LARGEST} bytes, as in 56 or 16K"))
}

#[cfg(test)]
#[path = "echoc_tests.rs"]
mod tests;

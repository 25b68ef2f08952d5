//! echoc: what was typed (`args`), made into a conversation, a ping or a check
//! (`validate`), and what each of them ends with.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Unparsed;
use crate::cli::echoc::args::Typed;
use crate::cli::echoc::validate::{Limits, Mode, mode};
use crate::client::ping::{self, Outcome};
use crate::client::{check, notice, session};
use crate::error::{Error, Exit, Result};

mod args;
mod validate;

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
    super::command::<args::Args>()
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

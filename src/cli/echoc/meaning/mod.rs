//! What echoc's command line means: a conversation, a ping or a check, and with
//! which server.

use std::time::Duration;

use super::typed::{Cli, Tries, Typed, span, threshold};
use crate::addr::target::Target;
use crate::cli::{host_and_port, whole};
use crate::client::{Retry, Talk, check, ping};
use crate::error::{Error, Result};

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
pub(super) fn mode(typed: &Typed, terminal: bool) -> Result<Mode> {
    let cli = &typed.cli;
    let balancer = cli.server.len() == 4;
    let server = server(&cli.server)?;
    let kind = match (cli.ping, cli.check) {
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
        limit: match cli.retry {
            Some(Tries::Forever) => None,
            Some(Tries::Times(times)) => Some(times),
            None => Some(usual),
        },
        interval: cli.retry_interval,
    };
    if typed.given("retry-interval") && cli.retry.is_none() && usual == 0 {
        let why = "nothing is tried again unless --retry says so";
        return Err(Error::usage("--retry-interval without --retry", why));
    }
    match kind {
        Kind::Talk => Ok(Mode::Talk(Talk {
            server,
            retry,
            timeout: cli.timeout.unwrap_or(ANSWER),
            silence: cli.timeout,
            connect_timeout: cli.timeout.unwrap_or(CONNECT),
            verify: !cli.no_verify,
            quiet: cli.quiet,
            terminal,
            prompt: terminal && !cli.quiet,
        })),
        Kind::Ping => ping_plan(cli, server, retry).map(Mode::Ping),
        Kind::Check => {
            let timeout = cli.timeout.unwrap_or(CHECK);
            let plan = check::Plan {
                server,
                retry,
                timeout,
            };
            let quiet = cli.quiet || balancer;
            let limits = limits(cli)?;
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
fn limits(cli: &Cli) -> Result<Limits> {
    let limit = |name: &str, short: &Option<String>, long: &Option<String>| {
        if short.is_some() && long.is_some() {
            let why = "they are one: a round trip time";
            return Err(Error::usage(format!("-{} with --{name}", &name[..1]), why));
        }
        let given = short.as_deref().or(long.as_deref());
        given.map(threshold).transpose()
    };
    let limits = Limits {
        warning: limit("warning", &cli.deadline, &cli.warning)?,
        critical: limit("critical", &cli.count, &cli.critical)?,
    };
    match (limits.warning, limits.critical) {
        (Some(warning), Some(critical)) if warning > critical => Err(Error::usage(
            format!("-w {warning:?} with -c {critical:?}"),
            "a warning comes before it is critical",
        )),
        _ => Ok(limits),
    }
}

fn ping_plan(cli: &Cli, server: Target, retry: Retry) -> Result<ping::Plan> {
    if cli.connect && server.is_datagram() {
        let subject = format!("--connect with {server}");
        return Err(Error::usage(subject, "datagrams have no connections"));
    }
    let count = cli.count.as_deref().map(|text| {
        let bad = |why| Error::usage(format!("-c {text}"), why);
        whole(1..=u64::MAX)(text).map_err(bad)
    });
    Ok(ping::Plan {
        server,
        retry,
        count: count.transpose()?,
        interval: cli.interval,
        size: cli.size,
        deadline: cli.deadline.as_deref().map(span).transpose()?,
        timeout: cli.timeout.unwrap_or(ANSWER),
        quiet: cli.quiet,
        timestamps: cli.timestamps,
        connect: cli.connect,
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

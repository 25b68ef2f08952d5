//! What echoc's command line means: a conversation, a ping or a check, and with
//! which server.

use std::time::Duration;

use super::typed::{Cli, Tries};
use crate::client::{Retry, Server, Talk, check, ping};
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
    Check { plan: check::Plan, quiet: bool },
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
pub(super) fn mode(cli: &Cli, terminal: bool) -> Result<Mode> {
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

#[cfg(test)]
mod tests;

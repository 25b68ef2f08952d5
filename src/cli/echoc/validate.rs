//! What echoc's command line means: a conversation, a ping or a check, and with
//! which server.

use std::time::Duration;

use crate::addr::Target;
use crate::cli::echoc::args::{Args, Tries, Typed, span, threshold};
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
mod tests {
    use super::*;

    fn typed(line: &str, terminal: bool) -> Result<Mode, String> {
        let words = std::iter::once("echoc").chain(line.split_whitespace());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let typed = Typed::parse(&words).map_err(|error| error.unwrap_err().to_string())?;
        mode(&typed, terminal).map_err(|error| error.to_string())
    }

    fn talk(line: &str, terminal: bool) -> Talk {
        match typed(line, terminal) {
            Ok(Mode::Talk(talk)) => talk,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_server_is_named_as_with_nc_or_by_an_address() {
        for (line, server) in [
            ("", "tcp:127.0.0.1:7777"),
            ("h:1", "tcp:h:1"),
            ("h 1", "tcp:h:1"),
            ("::1 7", "tcp:[::1]:7"),
            ("fe80::1%lo 7", "tcp:[fe80::1%lo]:7"),
            ("udp:h:1", "udp:h:1"),
            ("unix:@x", "unix:@x"),
        ] {
            assert_eq!(talk(line, false).server.to_string(), server, "{line}");
        }
    }

    #[test]
    fn a_terminal_tries_five_times_and_a_pipe_does_not() {
        assert_eq!(talk("", true).retry.limit, Some(5));
        assert_eq!(talk("", false).retry.limit, Some(0));
        assert_eq!(talk("--retry 2", false).retry.limit, Some(2));
        assert_eq!(talk("--retry forever", true).retry.limit, None);
        let Ok(Mode::Ping(plan)) = typed("--ping", true) else {
            panic!("a ping");
        };
        assert_eq!(plan.retry.limit, Some(0));
        assert_eq!(talk("", true).timeout, ANSWER);
        assert_eq!(talk("", true).connect_timeout, CONNECT);
        assert_eq!(talk("-W 3", true).connect_timeout, Duration::from_secs(3));
    }

    #[test]
    fn every_option_of_ping_reaches_the_plan() {
        let line = "--ping -c 3 -i 200ms -s 1K -w 9 -W 2 -q -D --connect h 1";
        let Ok(Mode::Ping(plan)) = typed(line, false) else {
            panic!("a ping");
        };
        assert_eq!((plan.count, plan.size), (Some(3), 1024));
        assert_eq!(plan.interval, Duration::from_millis(200));
        assert_eq!(plan.deadline, Some(Duration::from_secs(9)));
        assert_eq!(plan.timeout, Duration::from_secs(2));
        assert!(plan.quiet && plan.timestamps && plan.connect);
    }

    #[test]
    fn a_balancers_four_words_are_a_quiet_check_of_the_last_two() {
        for (line, server) in [
            ("10.0.0.1 80 h 7", "tcp:h:7"),
            ("NOT_USED NOT_USED ::1 7", "tcp:[::1]:7"),
            ("NOT_USED NOT_USED /run/e.sock NOT_USED", "unix:/run/e.sock"),
        ] {
            let Ok(Mode::Check {
                plan, quiet: true, ..
            }) = typed(line, true)
            else {
                panic!("{line}");
            };
            assert_eq!(plan.server.to_string(), server);
            assert_eq!(plan.timeout, CHECK);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "a b c",
            "a b c d e",
            "--ping a b c d",
            "--ping --check",
            "-c 3",
            "-i 3",
            "-s 3",
            "-w 3",
            "-D",
            "--connect",
            "--ping -c 0",
            "--ping -s 0",
            "--ping -s 64K",
            "--ping -w 0",
            "-W 0",
            "--ping --connect udp:h:1",
            "--check --no-verify",
            "--ping --no-verify",
            "--retry often",
            "--retry -1",
            "--check -c x",
            "--check -w -5",
            "--check -w 200 -c 100",
            "--check -w 1 --warning 1",
            "nowhere",
            "*:7",
        ] {
            assert!(typed(line, false).is_err(), "{line}");
        }
    }

    #[test]
    fn a_monitors_limits_are_milliseconds() {
        let ms = Duration::from_millis;
        for (line, warning, critical) in [
            ("--check", None, None),
            ("--check -w 100 -c 200", Some(ms(100)), Some(ms(200))),
            ("--check -qc5", None, Some(ms(5))),
            (
                "--check --warning 1.5 h:1",
                Some(Duration::from_micros(1500)),
                None,
            ),
            ("--check --critical=2s h 1", None, Some(ms(2000))),
            ("-w 3 a b h 7", Some(ms(3)), None),
        ] {
            let Ok(Mode::Check { limits, .. }) = typed(line, false) else {
                panic!("{line}");
            };
            assert_eq!(
                (limits.warning, limits.critical),
                (warning, critical),
                "{line}"
            );
        }
    }

    #[test]
    fn an_option_that_a_mode_cannot_use_is_refused_by_both_names() {
        for (line, option, with) in [
            ("-c 3", "--count", "--ping"),
            ("-i 3", "--interval", "--ping"),
            ("-w 3", "--deadline", "--ping"),
            ("-D", "--timestamps", "--ping"),
            ("--connect", "--connect", "--ping"),
            ("--critical 3", "--critical", "--check"),
            ("--check -i 3", "--interval", "--check"),
            ("--check -s 56", "--size", "--check"),
            ("--check --connect", "--connect", "--check"),
            ("--check -D", "--timestamps", "--check"),
            ("--check --count 3", "--count", "--check"),
            ("--check --deadline=3", "--deadline", "--check"),
            ("--check --no-verify", "--no-verify", "--check"),
            ("-i 3 a b h 7", "--interval", "--check"),
            ("--ping --no-verify", "--no-verify", "--ping"),
            ("--ping --warning 3", "--warning", "--ping"),
            ("--ping --check", "--ping", "--check"),
            ("--ping --connect udp:h:1", "--connect", "udp:h:1"),
            ("--retry-interval 1", "--retry-interval", "--retry"),
            ("--ping --retry-interval 1", "--retry-interval", "--retry"),
        ] {
            let error = typed(line, false).unwrap_err();
            assert!(
                error.contains(option) && error.contains(with),
                "{line}: {error}"
            );
        }
        assert!(
            typed("--retry-interval 1", true).is_ok(),
            "a terminal retries"
        );
    }

    /// Values at the edge of their type are usage errors that say what works.
    #[test]
    fn row_106_the_largest_that_works_is_named() {
        let most = u64::MAX;
        for (line, largest) in [
            ("--ping -i", "365d"),
            ("--ping -w", "365d"),
            ("--ping -W", "365d"),
            ("-W", "365d"),
            ("--check -w", "365d"),
            ("--check --critical", "365d"),
            ("--retry 1 --retry-interval", "365d"),
            ("--retry", "4294967295"),
            ("--ping -s", "65507"),
        ] {
            for value in [format!("{}", most >> 1), "400000000".to_owned()] {
                let value = match line {
                    "--retry" | "--ping -s" => format!("{most}"),
                    "--check -w" | "--check --critical" => format!("{value}000"),
                    _ => value,
                };
                let error = typed(&format!("{line} {value}"), false).unwrap_err();
                assert!(error.contains(largest), "{line} {value}: {error}");
                let typed = format!("'{value}'");
                assert!(!error.contains('\'') || error.contains(&typed), "{error}");
            }
            let beyond = typed(&format!("{line} {most}0"), false);
            assert!(beyond.is_err(), "{line}");
        }
        let error = typed(&format!("--ping -c {most}0"), false).unwrap_err();
        assert!(error.contains(&most.to_string()), "{error}");
        assert!(typed(&format!("--ping -c {most}"), false).is_ok());
    }
}

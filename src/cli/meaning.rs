//! From what was typed to what it means: every rule between options is here.

use log::LevelFilter;

use super::echod::{
    AcceptName, FormatName, ModelName, OrphansName, OverflowName, ReapName, SandboxName,
    ServiceName, Typed,
};
use crate::addr::{Addr, ListenSpec};
use crate::config::{
    Accept, Config, Identity, LogConfig, LogFormat, LogTarget, Model, Orphans, Overflow,
    PoolLimits, Reap, SandboxPolicy, ServiceKind, StopTimes, ThreadAccept, Timeouts, UdpLimits,
};
use crate::error::{Error, Result};

/// Options that only `prefork` can use, and all but the last of them `prethread`.
const ONLY_PREFORK: [&str; 5] = [
    "accept",
    "start-servers",
    "min-spare-servers",
    "max-spare-servers",
    "max-connections-per-child",
];

/// Checks the options against one another.
///
/// # Errors
/// A usage error that names the options that do not go together.
pub fn config(typed: Typed) -> Result<Config> {
    refuse_unusable(&typed)?;
    super::access::check(&typed)?;
    let model = model(&typed)?;
    super::commands::check(&typed, model)?;
    let access = super::access::policy(&typed.args);
    let (args, handed) = (typed.args, typed.handed);
    let iterative = model == Model::Iterative;
    Ok(Config {
        listen: args.listen,
        handed,
        service: match args.service {
            ServiceName::Echo => ServiceKind::Echo,
            ServiceName::Command => ServiceKind::Command,
        },
        commands: args.allow_command,
        model,
        max_clients: if iterative { 1 } else { args.max_clients },
        backlog: args.backlog,
        overflow: match args.overflow {
            OverflowName::Queue => Overflow::Queue,
            OverflowName::Close => Overflow::Close,
            OverflowName::Reset => Overflow::Reset,
        },
        timeouts: Timeouts {
            idle: args.idle_timeout,
            write: args.write_timeout,
            lifetime: args.max_lifetime,
        },
        access,
        udp: UdpLimits {
            rate: args.udp_rate,
            global_rate: args.udp_global_rate,
            refuse_ports: args.udp_refuse_port,
        },
        identity: Identity {
            user: args.user,
            chroot: args.chroot,
            allow_root: args.allow_root,
        },
        sandbox: match args.sandbox {
            SandboxName::Strict => SandboxPolicy::Strict,
            SandboxName::BestEffort => SandboxPolicy::BestEffort,
            SandboxName::Off => SandboxPolicy::Off,
        },
        pidfile: args.pidfile,
        inetd: args.inetd,
        stop: StopTimes {
            graceful: args.graceful_timeout,
            delay: args.shutdown_delay,
            settle: args.stop_settle,
        },
        orphans: match args.orphans {
            OrphansName::Finish => Orphans::Finish,
            OrphansName::Terminate => Orphans::Terminate,
        },
        print: args.print,
        log: LogConfig {
            assumed: args.daemon && args.log_target == "stderr",
            target: match args.log_target.as_str() {
                "stderr" if args.daemon => LogTarget::Syslog,
                "stderr" => LogTarget::Stderr,
                "syslog" => LogTarget::Syslog,
                path => LogTarget::File(path.into()),
            },
            format: match args.log_format {
                FormatName::Text => LogFormat::Text,
                FormatName::Json => LogFormat::Json,
            },
            level: level(args.verbose, args.quiet),
        },
        ready_fd: args.ready_fd,
        check: args.check,
        daemon: args.daemon,
    })
}

/// Options that only datagrams over UDP can use.
const ONLY_UDP: [&str; 3] = ["udp-rate", "udp-global-rate", "udp-refuse-port"];

fn refuse_unusable(typed: &Typed) -> Result<()> {
    let args = &typed.args;
    let model = match args.model {
        ModelName::Prefork => "prefork",
        ModelName::Fork => "fork",
        ModelName::Iterative => "iterative",
        ModelName::Thread => "thread",
        ModelName::Prethread => "prethread",
    };
    let refuse = |option: &str| {
        Err(Error::usage(
            format!("--{option}"),
            format!("not used by --model {model}"),
        ))
    };
    if typed.given("reap") && args.model != ModelName::Fork {
        return refuse("reap");
    }
    let unusable = match args.model {
        ModelName::Prefork => &[],
        ModelName::Prethread => &ONLY_PREFORK[4..],
        _ => &ONLY_PREFORK[..],
    };
    if let Some(option) = unusable.iter().find(|option| typed.given(option)) {
        return refuse(option);
    }
    if args.model == ModelName::Iterative && typed.given("max-clients") {
        return Err(Error::usage(
            "--max-clients",
            "--model iterative serves one at a time",
        ));
    }
    let is_udp = |spec: &ListenSpec| matches!(spec.addr, Addr::Udp { .. });
    if !args.listen.iter().any(is_udp)
        && let Some(option) = ONLY_UDP.into_iter().find(|option| typed.given(option))
    {
        return Err(Error::usage(
            format!("--{option} without --listen udp:ADDR"),
            "there are no datagrams to limit",
        ));
    }
    let together = |a: &str, b: &str, why: &str| {
        Err(Error::usage(format!("--{a} with --{b}"), why.to_owned()))
    };
    if args.daemon && typed.given("log-target") && args.log_target == "stderr" {
        return together(
            "daemon",
            "log-target stderr",
            "a daemon has no standard error: syslog or a path",
        );
    }
    if args.daemon && args.print {
        return together("daemon", "print", "a daemon has no standard output");
    }
    if args.print && (args.ready_fd == Some(1)) {
        return together("print", "ready-fd 1", "standard output cannot be both");
    }
    if args.inetd {
        let unusable = [
            "listen",
            "model",
            "reap",
            "max-clients",
            "backlog",
            "overflow",
            "max-per-source",
            "connection-rate",
            "exempt",
            "daemon",
            "pidfile",
            "ready-fd",
            "print",
            "log-target",
            "log-format",
            "verbose",
            "quiet",
        ];
        let unusable = unusable.into_iter().chain(ONLY_PREFORK);
        if let Some(option) = unusable.into_iter().find(|option| typed.given(option)) {
            return together("inetd", option, "there is one connection, already accepted");
        }
    }
    Ok(())
}

fn model(typed: &Typed) -> Result<Model> {
    let args = &typed.args;
    at_least_one("max-clients", args.max_clients)?;
    if args.max_clients > MAX_SLOTS {
        return Err(Error::usage(
            format!("--max-clients {}", args.max_clients),
            format!("at most {MAX_SLOTS}"),
        ));
    }
    Ok(match args.model {
        ModelName::Iterative => Model::Iterative,
        ModelName::Fork => Model::Fork(match args.reap {
            ReapName::Wait => Reap::Wait,
            ReapName::Ignore => Reap::Ignore,
            ReapName::DoubleFork => Reap::DoubleFork,
        }),
        ModelName::Prefork => Model::Prefork {
            pool: pool(typed)?,
            per_child: Some(args.max_connections_per_child).filter(|&n| n > 0),
            accept: accept(typed)?,
        },
        ModelName::Thread => Model::Thread,
        ModelName::Prethread => Model::Prethread {
            pool: pool(typed)?,
            accept: thread_accept(super::access::accept(typed))?,
        },
    })
}

fn thread_accept(how: AcceptName) -> Result<ThreadAccept> {
    let refuse = |name: &str| {
        Err(Error::usage(
            format!("--accept {name}"),
            "not used by --model prethread",
        ))
    };
    match how {
        AcceptName::Shared => Ok(ThreadAccept::Shared),
        AcceptName::Mutex => Ok(ThreadAccept::Mutex),
        AcceptName::Pass => Ok(ThreadAccept::Pass),
        AcceptName::Fcntl => refuse("fcntl"),
        AcceptName::Reuseport => refuse("reuseport"),
    }
}

fn accept(typed: &Typed) -> Result<Accept> {
    let args = &typed.args;
    Ok(match super::access::accept(typed) {
        AcceptName::Shared => Accept::Shared,
        AcceptName::Fcntl => Accept::Fcntl,
        AcceptName::Mutex => Accept::Mutex,
        AcceptName::Pass => Accept::Pass,
        AcceptName::Reuseport if typed.handed > 0 => {
            return Err(Error::usage(
                "--accept reuseport with LISTEN_FDS",
                "a socket that was handed over is one, and cannot become several",
            ));
        }
        AcceptName::Reuseport => {
            let other = |spec: &&ListenSpec| matches!(spec.addr, Addr::Unix(_));
            if let Some(spec) = args.listen.iter().find(other) {
                return Err(Error::usage(
                    format!("--accept reuseport with --listen {spec}"),
                    "only TCP sockets can share a port",
                ));
            }
            Accept::Reuseport(args.start_servers.min(args.max_clients))
        }
    })
}

/// The kernel's own limit of processes, PID_MAX_LIMIT.
const MAX_SLOTS: usize = 1 << 22;

/// Defaults fit themselves to what was given; what was given must fit together.
fn pool(typed: &Typed) -> Result<PoolLimits> {
    let args = &typed.args;
    for (name, n) in [
        ("start-servers", args.start_servers),
        ("min-spare-servers", args.min_spare_servers),
        ("max-spare-servers", args.max_spare_servers),
    ] {
        if typed.given(name) {
            at_least_one(name, n)?;
            if n > args.max_clients {
                return Err(Error::usage(
                    format!("--{name} {n}"),
                    format!("more than --max-clients {}", args.max_clients),
                ));
            }
        }
    }
    let (given_min, given_max) = (
        typed.given("min-spare-servers"),
        typed.given("max-spare-servers"),
    );
    if given_min && given_max && args.min_spare_servers > args.max_spare_servers {
        return Err(Error::usage(
            format!("--min-spare-servers {}", args.min_spare_servers),
            format!("more than --max-spare-servers {}", args.max_spare_servers),
        ));
    }
    let max = args.max_clients;
    let mut min_spare = args.min_spare_servers.min(max);
    let mut max_spare = args.max_spare_servers.min(max);
    if given_max {
        min_spare = min_spare.min(max_spare);
    } else {
        max_spare = max_spare.max(min_spare);
    }
    Ok(PoolLimits {
        start: args.start_servers.min(max),
        min_spare,
        max_spare,
    })
}

fn at_least_one(name: &str, n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::usage(format!("--{name} 0"), "must be at least 1"));
    }
    Ok(())
}

fn level(verbose: u8, quiet: u8) -> LevelFilter {
    match (verbose, quiet) {
        (_, 2..) => LevelFilter::Error,
        (_, 1) => LevelFilter::Warn,
        (0, _) => LevelFilter::Info,
        (1, _) => LevelFilter::Debug,
        (2.., _) => LevelFilter::Trace,
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::echod::parse;
    use crate::config::{Config, Model, PoolLimits};

    fn parsed(line: &str) -> Result<Config, String> {
        let argv = std::iter::once("echod")
            .chain(line.split_whitespace())
            .map(Into::into);
        parse(argv).map_err(|e| match e {
            Ok(help) => help,
            Err(error) => format!("{}: {error}", error.status() as u8),
        })
    }

    fn pool(line: &str) -> PoolLimits {
        match parsed(line).unwrap().model {
            Model::Prefork { pool, .. } | Model::Prethread { pool, .. } => pool,
            model => panic!("{model:?}"),
        }
    }

    #[test]
    fn what_cannot_be_meant_names_what_was_typed() {
        for (line, expected) in [
            ("--reap wait", "64: --reap: not used by --model prefork"),
            (
                "-m fork --max-spare-servers 3",
                "64: --max-spare-servers: not used by --model fork",
            ),
            (
                "-m prethread --max-connections-per-child 3",
                "64: --max-connections-per-child: not used by --model prethread",
            ),
            (
                "-m prethread --accept fcntl",
                "64: --accept fcntl: not used by --model prethread",
            ),
            (
                "-m thread --accept shared",
                "64: --accept: not used by --model thread",
            ),
            (
                "-m thread --start-servers 4",
                "64: --start-servers: not used by --model thread",
            ),
            (
                "-m iterative -c 2",
                "64: --max-clients: --model iterative serves one at a time",
            ),
            ("--max-clients 0", "64: --max-clients 0: must be at least 1"),
            (
                "--start-servers 0",
                "64: --start-servers 0: must be at least 1",
            ),
            (
                "-c 4 --min-spare-servers 5",
                "64: --min-spare-servers 5: more than --max-clients 4",
            ),
            (
                "--min-spare-servers 9 --max-spare-servers 8",
                "64: --min-spare-servers 9: more than --max-spare-servers 8",
            ),
            (
                "--daemon --print",
                "64: --daemon with --print: a daemon has no standard output",
            ),
            (
                "-l unixgram:/s --udp-rate off",
                "64: --udp-rate without --listen udp:ADDR: there are no datagrams to limit",
            ),
            (
                "--accept reuseport -l tcp:127.0.0.1:0 -l unix:/run/s",
                "64: --accept reuseport with --listen unix:/run/s: only TCP sockets can share a port",
            ),
            (
                "-m fork --accept pass",
                "64: --accept: not used by --model fork",
            ),
            (
                "--inetd -l tcp:127.0.0.1:0",
                "64: --inetd with --listen: there is one connection, already accepted",
            ),
        ] {
            assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
        }
        for line in [
            "--idle-timeout fast",
            "--model threads",
            "--max-clients -1",
            "stray",
            "--graceful-timeout off",
            "--no-such-option",
            "-v -q",
            "--backlog 1.5",
            "-l udp:127.0.0.1:0 --udp-rate 5",
            "-l udp:127.0.0.1:0 --udp-refuse-port 9-3",
        ] {
            let error = parsed(line).unwrap_err();
            assert!(
                error.starts_with("64: ") && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn sockets_handed_over_stand_in_for_the_default() {
        let beside = |line: &str, handed: &[&str]| {
            let argv = std::iter::once("echod").chain(line.split_whitespace());
            let handed = handed.iter().map(|spec| spec.parse().expect("an address"));
            crate::cli::echod::parse_beside(argv.map(Into::into), handed.collect())
                .map_err(|e| e.expect_err("no help").to_string())
        };
        let listen = |line: &str, handed: &[&str]| {
            let config = beside(line, handed).expect("a configuration");
            let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
            (config.handed, listen.join(" "))
        };
        for (line, handed, expected) in [
            ("", &[][..], (0, "tcp:127.0.0.1:7777")),
            ("", &["unix:/s", "udp:[::1]:7"], (2, "unix:/s udp:[::1]:7")),
            ("-l tcp:[::1]:9", &["unix:/s"], (1, "unix:/s tcp:[::1]:9")),
            (
                "--udp-rate off",
                &["udp:127.0.0.1:7"],
                (1, "udp:127.0.0.1:7"),
            ),
        ] {
            let (n, text) = expected;
            assert_eq!(listen(line, handed), (n, text.to_owned()), "{line}");
        }
        for (line, handed, expected) in [
            ("--udp-rate off", "unix:/s", "--udp-rate without"),
            (
                "--accept reuseport",
                "tcp:127.0.0.1:7",
                "--accept reuseport with LISTEN_FDS: ",
            ),
            ("--service command", "unix:/s", "no command is allowed"),
        ] {
            let error = beside(line, &[handed]).expect_err(line);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn defaults_fit_what_was_given() {
        let limits = |start, min_spare, max_spare| PoolLimits {
            start,
            min_spare,
            max_spare,
        };
        assert_eq!(pool(""), limits(8, 8, 32));
        assert_eq!(pool("-c 4"), limits(4, 4, 4));
        assert_eq!(pool("--max-spare-servers 3"), limits(8, 3, 3));
        assert_eq!(pool("--min-spare-servers 64"), limits(8, 64, 64));
        assert_eq!(pool("--start-servers 100"), limits(100, 8, 32));
        assert_eq!(pool("-m prethread --accept pass -c 4"), limits(4, 4, 4));
    }

    #[test]
    fn udp_is_limited_unless_told_otherwise() {
        let udp = parsed("-l udp:127.0.0.1:0").unwrap().udp;
        let rate = udp.rate.unwrap();
        assert_eq!((rate.count, rate.per.as_secs()), (50, 1));
        assert_eq!(udp.global_rate.unwrap().count, 10_000);
        assert_eq!(udp.refuse_ports.unwrap().0, [(0, 1023), (2049, 2049)]);
        let all_off = "-l udp:[::1]:0 --udp-rate off --udp-global-rate off --udp-refuse-port off";
        let udp = parsed(all_off).unwrap().udp;
        assert_eq!(
            (udp.rate, udp.global_rate, udp.refuse_ports),
            (None, None, None)
        );
    }

    #[test]
    fn zero_and_off_turn_limits_off() {
        let config =
            parsed("--idle-timeout 0 --write-timeout off --max-connections-per-child 0").unwrap();
        assert_eq!(config.timeouts.idle, None);
        assert_eq!(config.timeouts.write, None);
        assert!(matches!(
            config.model,
            Model::Prefork {
                per_child: None,
                ..
            }
        ));
        assert_eq!(parsed("-m iterative").unwrap().max_clients, 1);
    }
}

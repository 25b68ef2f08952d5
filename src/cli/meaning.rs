//! From what was typed to what it means. The rules between options are in
//! `unusable`, `model`, `access` and `commands`.

use log::LevelFilter;

use super::echod::Typed;
use super::names::{FormatName, OrphansName, OverflowName, SandboxName, ServiceName};
use crate::config::{
    Config, Identity, LogConfig, LogFormat, LogTarget, Model, Orphans, Overflow, SandboxPolicy,
    ServiceKind, StopTimes, Timeouts, UdpLimits,
};
use crate::error::Result;

/// Checks the options against one another.
///
/// # Errors
/// A usage error that names the options that do not go together.
pub fn config(typed: Typed) -> Result<Config> {
    super::unusable::check(&typed)?;
    super::access::check(&typed)?;
    let model = super::model::model(&typed)?;
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
pub(super) mod tests {
    use crate::cli::echod::parse;
    use crate::config::{Config, Model};

    /// What a command line means, or its status and message.
    pub(in crate::cli) fn parsed(line: &str) -> Result<Config, String> {
        let argv = std::iter::once("echod")
            .chain(line.split_whitespace())
            .map(Into::into);
        parse(argv).map_err(|e| match e {
            Ok(help) => help,
            Err(error) => format!("{}: {error}", error.status() as u8),
        })
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

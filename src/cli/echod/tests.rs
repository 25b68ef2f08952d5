use super::*;
use crate::config::{Accept, Model, PoolLimits, ServiceKind, ThreadAccept};

/// What a command line means, or its status and message.
fn parsed(line: &str) -> Result<Config, String> {
    let argv = std::iter::once("echod").chain(line.split_whitespace());
    parse(argv.map(Into::into)).map_err(|e| match e {
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
        parse_beside(argv.map(Into::into), handed.collect())
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

fn pool(line: &str) -> PoolLimits {
    match parsed(line).unwrap().model {
        Model::Prefork { pool, .. } | Model::Prethread { pool, .. } => pool,
        model => panic!("{model:?}"),
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
fn options_that_exclude_each_other_are_both_named() {
    for (line, begins) in [
        (
            "--max-per-source 5 --accept shared",
            "64: --accept shared with --max-per-source: one process must see all",
        ),
        (
            "--connection-rate 5/1s --accept reuseport",
            "64: --accept reuseport with --connection-rate: one process",
        ),
        (
            "-m prethread --connection-rate 5/1s --accept mutex",
            "64: --accept mutex with --connection-rate: one process",
        ),
        (
            "-m iterative --max-per-source 5",
            "64: --max-per-source with --model iterative: ",
        ),
        (
            "--max-per-source 5 -l unix:/s",
            "64: --max-per-source without --listen tcp:ADDR: ",
        ),
        (
            "--connection-rate 5/1s -l udp:127.0.0.1:0",
            "64: --connection-rate without --listen tcp:ADDR or unix:PATH: ",
        ),
        (
            "--exempt ::1",
            "64: --exempt ::1/128: there is no --max-per",
        ),
        (
            "--exempt ::1 --max-per-source off",
            "64: --exempt ::1/128: there is no --max-per",
        ),
        (
            "--deny 10.0.0.0/8 -l unix:/s",
            "64: --deny 10.0.0.0/8 without --listen tcp:ADDR or udp:ADDR: ",
        ),
        (
            "--allow uid:5",
            "64: --allow uid:5 without --listen unix:PATH: ",
        ),
        (
            "--allow gid:5 -l unix:/s -l unixgram:/t",
            "64: --allow gid:5 with --listen unixgram:/t: ",
        ),
        (
            "--deny 10.0.0.1/8",
            "64: invalid value '10.0.0.1/8' for '--deny",
        ),
        (
            "--inetd --max-per-source 5",
            "64: --inetd with --max-per-source: ",
        ),
        (
            "--inetd --connection-rate 5/1s",
            "64: --inetd with --connection-rate: ",
        ),
    ] {
        let error = parsed(line).unwrap_err();
        assert!(error.starts_with(begins), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn one_process_accepts_where_it_must_see_all() {
    for (line, prefork, prethread) in [
        ("--max-per-source 5", Accept::Pass, ThreadAccept::Pass),
        ("--connection-rate 5/1s", Accept::Pass, ThreadAccept::Pass),
        (
            "--max-per-source 5 --accept pass",
            Accept::Pass,
            ThreadAccept::Pass,
        ),
        ("--deny ::1", Accept::Shared, ThreadAccept::Shared),
        (
            "--max-per-source off --accept mutex",
            Accept::Mutex,
            ThreadAccept::Mutex,
        ),
    ] {
        assert_eq!(parsed(line).unwrap().model.accept(), prefork, "{line}");
        let model = parsed(&format!("-m prethread {line}")).unwrap().model;
        let threads = matches!(model, Model::Prethread { accept, .. } if accept == prethread);
        assert!(threads, "{line}: {model:?}");
    }
    for model in ["fork", "thread"] {
        let line = format!("-m {model} --max-per-source 5 --connection-rate 5/1s");
        assert!(parsed(&line).unwrap().access.counts(), "{line}");
    }
    assert!(parsed("-m iterative --connection-rate 5/1s").is_ok());
    assert!(parsed("--inetd --deny ::1 --allow uid:5").is_ok());
}

#[test]
fn commands_that_cannot_be_run_name_what_was_typed() {
    for (line, expected) in [
        (
            "-l h:1,service=command",
            "64: --listen tcp:h:1,service=command: no command is allowed: \
             add --allow-command NAME=/PATH[,ARG...]",
        ),
        (
            "--allow-command d=/bin/date",
            "64: --allow-command d: nothing serves commands: \
             add --service command, or service=command to a listener",
        ),
        (
            "--service command --allow-command d=/x --allow-command d=/y",
            "64: --allow-command d: is given twice",
        ),
        (
            "-l h:1,service=command --allow-command d=/x -m iterative",
            "64: --listen tcp:h:1,service=command with --model iterative: \
             a process that runs a command serves one connection: prefork or fork",
        ),
        (
            "-l h:1,service=command --allow-command d=/x --max-connections-per-child 0",
            "64: --listen tcp:h:1,service=command with --max-connections-per-child: \
             a process that runs a command serves one connection: leave it at 1",
        ),
    ] {
        assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
    }
    for line in [
        "--service chargen",
        "--service command --allow-command date",
        "--service command --allow-command d=date",
        "--inetd --service command",
        "-l udp:h:1,service=command",
    ] {
        let error = parsed(line).unwrap_err();
        assert!(
            error.starts_with("64: ") && !error.contains('\n'),
            "{line}: {error}"
        );
    }
}

#[test]
fn datagrams_that_name_commands_go_with_every_model() {
    for more in ["", " -m iterative", " -m thread", " -l h:2 -m prethread"] {
        let line = format!("-l udp:h:1,service=command --allow-command d=/x{more}");
        assert!(parsed(&line).unwrap().runs_commands(), "{line}");
    }
    let line = "-l udp:h:1 -l h:1 --service command --allow-command d=/x -m thread";
    let error = parsed(line).unwrap_err();
    assert!(
        error.contains("at --listen tcp:h:1 with --model thread"),
        "{error}"
    );
}

#[test]
fn each_listener_serves_what_it_says_or_the_default() {
    let config = parsed("-l h:1 -l h:2,service=command --allow-command d=/x,a").unwrap();
    assert!(config.runs_commands());
    let served: Vec<_> = config
        .listen
        .iter()
        .map(|spec| config.served(spec.attrs.service.as_deref()))
        .collect();
    assert_eq!(served, [ServiceKind::Echo, ServiceKind::Command]);
    let config =
        parsed("--service command -l h:1,service=echo -l h:2 --allow-command d=/x -m fork");
    assert!(config.unwrap().runs_commands());
    assert!(!parsed("").unwrap().runs_commands());
    assert!(
        !parsed("--service command -l h:1,service=echo")
            .unwrap()
            .runs_commands()
    );
    assert!(
        parsed("--inetd --service command --allow-command d=/x")
            .unwrap()
            .runs_commands()
    );
}

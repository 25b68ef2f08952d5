use super::*;
use crate::config::ServiceKind;

/// What a command line means, or its status and message.
fn parsed(line: &str) -> Result<Config, String> {
    let argv = std::iter::once("echod").chain(line.split_whitespace());
    parse(argv.map(Into::into)).map_err(|e| match e {
        Refused::Text(text) => text,
        Refused::Wrong(errors) => errors
            .iter()
            .map(|error| format!("{}: {error}", error.status() as u8))
            .collect::<Vec<_>>()
            .join("\n"),
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
        ("--max-clients 0", "64: --max-clients 0: at least 1"),
        ("--start-servers 0", "64: --start-servers 0: at least 1"),
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
        parse_beside(argv.map(Into::into), |_| None, handed.collect()).map_err(|e| match e {
            Refused::Text(text) => panic!("{text}"),
            Refused::Wrong(errors) => errors[0].to_string(),
        })
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
    let refused = [(0, 1023), (2049, 2049), (7777, 7777), (11_211, 11_211)];
    assert_eq!(udp.refuse_ports.unwrap().0, refused);
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
        ("--deny 10.0.0.1/8", "64: --deny 10.0.0.1/8: has bits"),
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

/// A file's mistakes, or what comes of it with this command line.
fn with_file(line: &str, env: &[(&str, &str)], file: &str) -> Result<Config, String> {
    let mut path = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut path, file.as_bytes()).expect("written");
    let name = path.path().display().to_string();
    let argv = ["echod", "-f", &name]
        .into_iter()
        .chain(line.split_whitespace());
    let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
    parse_beside(argv.map(Into::into), env, Vec::new()).map_err(|e| match e {
        Refused::Text(text) => text.replace(&name, "FILE"),
        Refused::Wrong(errors) => errors
            .iter()
            .map(|error| format!("{}: {error}", error.status() as u8).replace(&name, "FILE"))
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let file = "max-clients = 5\nlisten = ['unix:/f', 'unix:/g']\nverbose = 2\ndaemon = true\n";
    let env: &[_] = &[("ECHOD_MAX_CLIENTS", "6"), ("ECHOD_DAEMON", "false")];
    for (line, env, clients, listen) in [
        ("", &[][..], 5, "unix:/f unix:/g"),
        ("", env, 6, "unix:/f unix:/g"),
        ("-c 7 -l unix:/h", env, 7, "unix:/h"),
        (
            "-q",
            &[("ECHOD_LISTEN", "unix:/i unix:/j")],
            5,
            "unix:/i unix:/j",
        ),
    ] {
        let config = with_file(line, env, file).expect(line);
        let listens: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(
            (config.max_clients, listens.join(" ").as_str()),
            (clients, listen),
            "{line}"
        );
        assert_eq!(config.daemon, env.len() != 2, "{line}");
        let level = if line == "-q" {
            log::LevelFilter::Warn
        } else {
            log::LevelFilter::Trace
        };
        assert_eq!(config.log.level, level, "{line}");
    }
}

#[test]
fn every_mistake_of_a_file_is_named_with_its_line() {
    for (line, file, expected) in [
        (
            "",
            "\nmax-client = 5\n",
            "78: FILE:2: max-client: unknown key; max-clients?",
        ),
        (
            "",
            "max-clients = 'x'\n# fine\nidle-timeout = \"soon\"\nprint = 3\nlisten = 5.5\nuser = ['a']\n",
            "78: FILE:1: --max-clients x: not a whole number such as 64\n\
             78: FILE:3: --idle-timeout soon: not a duration such as 30s, 5m, 200ms or 1.5\n\
             78: FILE:4: print: true or false\n\
             78: FILE:5: --listen 5.5: expected ",
        ),
        (
            "",
            "[pool]\nmax-clients = 5\n",
            "78: FILE:1: pool: unknown key",
        ),
        (
            "",
            "max-clients = 5\nmax-clients = 6\n",
            "78: FILE:2: duplicate key",
        ),
        ("", "max-clients = \n", "78: FILE:1: "),
        (
            "",
            "check = true\nconfig = 'x'",
            "78: FILE:1: check: unknown key\n78: FILE:2: config: unknown key",
        ),
        (
            "",
            "model = 'fork'\nmax-spare-servers = 3",
            "78: FILE:2: --max-spare-servers: not used by",
        ),
        (
            "-m fork",
            "max-spare-servers = 3",
            "78: FILE:1: --max-spare-servers: not used by",
        ),
        (
            "",
            "verbose = 1\nquiet = 1",
            "78: FILE:1: the argument '--verbose...' cannot be used with",
        ),
        (
            "",
            "user = 2026-01-01",
            "78: FILE:1: user: a string, a number or a boolean",
        ),
        (
            "",
            "user = ['a', 'b']",
            "78: FILE:1: user: takes one value, not a list",
        ),
    ] {
        let error = with_file(line, &[], file).expect_err(file);
        assert!(error.starts_with(expected), "{file}: {error}");
    }
    let error = with_file("", &[("ECHOD_OVERFLOW", "spill")], "").unwrap_err();
    assert!(
        error.starts_with("64: ECHOD_OVERFLOW: invalid value 'spill'"),
        "{error}"
    );
    let error = parsed("-f /nowhere/echod.toml").unwrap_err();
    let expected = "78: open /nowhere/echod.toml: No such file or directory (ENOENT)";
    assert_eq!(error, expected);
}

#[test]
fn a_dump_says_where_each_value_came_from() {
    let file = "max-clients = 5\nallow = ['10.0.0.0/8', '::1']\nidle-timeout = 30\n";
    let text = with_file("-T --print", &[("ECHOD_OVERFLOW", "close")], file).unwrap_err();
    for line in [
        "max-clients = 5  # FILE:1",
        "allow = [\"10.0.0.0/8\", \"::1\"]  # FILE:2",
        "idle-timeout = 30  # FILE:3",
        "overflow = \"close\"  # ECHOD_OVERFLOW",
        "print = true  # command line",
        "# min-spare-servers = 5  # default",
        "# listen = [\"tcp:127.0.0.1:7777\"]  # default",
        "# user =  # not given",
    ] {
        assert!(text.lines().any(|there| there == line), "{line}\n{text}");
    }
}

/// Every key of a file, with values that it can have.
const VALUES: &[(&str, &[&str])] = &[
    (
        "listen",
        &["tcp:[::1]:7", "unix:/run/a b.sock,mode=0600", "udp:*:7"],
    ),
    ("service", &["command", "echo"]),
    (
        "allow-command",
        &["date=/bin/date,-u", "up=/usr/bin/uptime"],
    ),
    ("model", &["fork", "prethread", "iterative", "thread"]),
    ("reap", &["ignore", "double-fork"]),
    ("accept", &["mutex", "pass"]),
    ("start-servers", &["3"]),
    ("min-spare-servers", &["2"]),
    ("max-spare-servers", &["64"]),
    ("max-clients", &["600"]),
    ("max-connections-per-child", &["0", "5"]),
    ("backlog", &["16"]),
    ("overflow", &["close", "reset"]),
    ("idle-timeout", &["off", "1.5", "2m"]),
    ("write-timeout", &["7"]),
    ("max-lifetime", &["1h 30m"]),
    ("keepalive", &["off", "2m/1m/9"]),
    ("allow", &["10.0.0.0/8", "::1"]),
    ("deny", &["192.0.2.1"]),
    ("max-per-source", &["5/24:48"]),
    ("connection-rate", &["5/1s"]),
    ("exempt", &["127.0.0.0/8"]),
    ("udp-rate", &["off", "7/1s"]),
    ("udp-global-rate", &["off"]),
    ("udp-refuse-port", &["off", "0-9,17"]),
    ("user", &["daemon:65534", "1000"]),
    ("chroot", &["/srv/\"echo\"\\\u{fc}"]),
    ("allow-root", &["true"]),
    ("sandbox", &["strict", "off"]),
    ("daemon", &["true"]),
    ("pidfile", &["/run/echod.pid"]),
    ("inetd", &["true"]),
    ("graceful-timeout", &["1s"]),
    ("shutdown-delay", &["2s"]),
    ("stop-settle", &["0"]),
    ("orphans", &["terminate"]),
    ("print", &["true"]),
    ("log-target", &["/var/log/echod"]),
    ("log-format", &["json"]),
    ("verbose", &["1", "2"]),
    ("quiet", &["2"]),
    ("ready-fd", &["3"]),
];

fn without_comments(dump: &str) -> String {
    let lines = dump.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.rsplit_once("  # ").map_or(line, |(line, _)| line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_has_values_to_try() {
    let command = crate::cli::command::<Args>();
    let keys = command.get_arguments().filter_map(clap::Arg::get_long);
    let in_file: Vec<_> = keys
        .filter(|key| !layers::NOT_IN_A_FILE.contains(key))
        .collect();
    let mut tried: Vec<_> = VALUES.iter().map(|(key, _)| *key).collect();
    let mut all = in_file.clone();
    all.sort_unstable();
    tried.sort_unstable();
    assert_eq!(tried, all);
}

proptest::proptest! {
    /// What -T prints is read again, and means the same.
    #[test]
    fn a_dump_is_read_again(picked in proptest::collection::vec((0..VALUES.len(), 0..3usize), 0..5)) {
        let words = picked.iter().map(|&(key, value)| {
            let (key, values) = VALUES[key];
            match values[value % values.len()] {
                "true" => format!("--{key}"),
                times if key == "verbose" || key == "quiet" => {
                    format!("-{}", key[..1].repeat(times.parse().expect("a number")))
                }
                value => format!("--{key}={value}"),
            }
        });
        let argv: Vec<OsString> = std::iter::once("echod".to_owned()).chain(words).map(Into::into).collect();
        let Ok(config) = parse(argv.clone()) else {
            return Ok(()); // they do not go together
        };
        let Err(Refused::Text(dump)) = parse(argv.into_iter().chain(["-T".into()])) else {
            panic!("no dump");
        };
        let again = with_file("", &[], &dump).expect(&dump);
        proptest::prop_assert_eq!(format!("{config:?}"), format!("{again:?}"), "{}", dump);
        let twice = with_file("-T", &[], &dump).expect_err("a text");
        proptest::prop_assert_eq!(without_comments(&dump), without_comments(&twice));
    }
}

#[test]
fn the_sample_has_every_key_with_its_default() {
    let sample = include_str!("../../../scripts/dist/echod.toml");
    let Err(Refused::Text(dump)) = parse(["echod".into(), "-T".into()]) else {
        panic!("no dump");
    };
    let said = dump.lines().map(|line| {
        let (line, _) = line.rsplit_once("  # ").expect("where it came from");
        line.strip_prefix("# ").expect("a default").trim_end()
    });
    let key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let keys = sample.lines().filter(key).map(|line| &line[1..]);
    assert_eq!(keys.collect::<Vec<_>>(), said.collect::<Vec<_>>());
    // As it stands it says nothing, and with the comments taken away the same.
    let plain = format!("{:?}", parse(["echod".into()]).expect("defaults"));
    let with = |text: &str| {
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), text).expect("written");
        let argv = ["echod".into(), "-f".into(), path.path().into()];
        format!("{:?}", parse(argv).map_err(|e| panic!("{e:?}")))
    };
    assert_eq!(with(sample), format!("Ok({plain})"));
}

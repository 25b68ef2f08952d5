//! The command line: what is refused and how, what only looks, and what kind
//! of program this is.

use std::fs;

use crate::common::{
    Builder, DEADLINE, DESIGNS, Daemon, echo_once, need, need_root, proc, skipped,
};
use crate::startup::refused;

fn only<S: AsRef<str>>(words: &[S]) -> Builder {
    Builder::new().bare().args(words)
}

/// Every option that takes a value, with values it cannot take.
#[test]
fn every_option_with_a_wrong_value_is_one_line_that_names_it_and_64() {
    let number = ["x", "-1", "1.5", "", "99999999999999999999"];
    let duration = ["x", "-1", "", "5 parsecs", "inf"];
    let word = ["x", ""];
    let table: [(&str, &[&str]); 30] = [
        (
            "--listen",
            &["", "tcp:127.0.0.1", "127.0.0.1:99999", "tcp:::1:7", "unix:"],
        ),
        (
            "--listen",
            &[
                "udp:127.0.0.1",
                "udp:h:1,backlog=5",
                "unixgram:",
                "foo:1:2",
                "h:1,mode=0660",
            ],
        ),
        (
            "--listen",
            &[
                "unix:/s,mode=9",
                "h:1,backlog=0",
                "h:1,what=1",
                "h:1,service=chargen",
            ],
        ),
        ("--model", &["x", "", "preforked"]),
        ("--reap", &word),
        ("--accept", &["x", "flock"]),
        ("--start-servers", &number),
        ("--min-spare-servers", &number),
        ("--max-spare-servers", &number),
        ("--max-clients", &number),
        ("--max-clients", &["0", "4194305"]),
        ("--max-connections-per-child", &number),
        ("--backlog", &["x", "-1", "1.5", "", "0", "2147483648"]),
        ("--overflow", &word),
        ("--idle-timeout", &duration),
        ("--write-timeout", &duration),
        ("--max-lifetime", &duration),
        ("--udp-rate", &["x", "", "5", "0/1s", "5/0"]),
        ("--udp-global-rate", &["x", "", "5", "0/1s", "5/x"]),
        ("--udp-refuse-port", &["x", "", "9-3", "65536", "1-"]),
        ("--user", &["", ":", ":x", "x:", "4294967295:1"]),
        ("--sandbox", &word),
        ("--pidfile", &["", "/"]),
        ("--ready-fd", &number[..4]),
        ("--orphans", &word),
        ("--graceful-timeout", &["x", "-1", "", "off"]),
        ("--shutdown-delay", &["x", "-1", "", "off"]),
        ("--stop-settle", &["x", "-1", "", "off"]),
        ("--log-target", &["", "/"]),
        ("--log-format", &["x", "xml"]),
    ];
    for (option, values) in table {
        for value in values {
            let word = format!("{option}={value}");
            // Listeners are named by themselves, as the log names them.
            let named = if option == "--listen" && !value.is_empty() {
                value
            } else {
                option
            };
            refused(only(&["-l", "tcp:127.0.0.1:0", &word]), 64, &[named]);
        }
    }
}

/// What people typed, in each program that takes it, and a part of the one line.
#[test]
fn a_mistake_that_people_make_is_one_clear_line_in_each_program() {
    let [echod, echoc, echoload] = [
        env!("CARGO_BIN_EXE_echod"),
        env!("CARGO_BIN_EXE_echoc"),
        env!("CARGO_BIN_EXE_echoload"),
    ];
    let mut table = vec![
        (echod, vec!["--listn", "x"], "did you mean --listen?"),
        (echod, vec!["--model", "preforc"], "did you mean prefork?"),
        (
            echod,
            vec!["-c", "1k"],
            "--max-clients 1k: not a whole number: K, M and G are for sizes",
        ),
        (echod, vec!["-c", "-1"], "--max-clients -1: at least 1"),
        (
            echod,
            vec!["--idle-timeout", "-1"],
            "--idle-timeout -1: not a duration such as 30s",
        ),
        (
            echod,
            vec!["--idle-timeout", "-5s"],
            "--idle-timeout -5s: not a duration such as 30s",
        ),
        (echoc, vec!["--chek"], "did you mean --check?"),
        (echoc, vec!["-W", "-1"], "--timeout -1: not a duration"),
        (echoload, vec!["--lnes", "x:1"], "did you mean --lines?"),
        (echoload, vec!["-d", "-1", "x:1"], "--duration -1: "),
    ];
    for (address, part) in [
        (
            "http://127.0.0.1:7777",
            "unknown scheme; there are tcp: udp:",
        ),
        ("[fe80::1]:7777", "say which, as in [fe80::1%eth0]"),
        ("udp:[fe80::1]:7777", "say which, as in [fe80::1%eth0]"),
        (
            "127.0.0.1:no-such",
            "no tcp service no-such in /etc/services",
        ),
    ] {
        table.push((echod, vec!["-l", address], part));
        table.push((echoc, vec![address], part));
        table.push((echoload, vec![address], part));
    }
    for (program, args, part) in table {
        let output = std::process::Command::new(program)
            .args(&args)
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(part), "{program} {args:?}: {said}");
    }
}

/// services(5), from a file of our own.
#[test]
fn a_port_may_be_a_name_of_a_service_in_each_program() {
    if !need_root() || !need("unshare") {
        return;
    }
    let builder = Builder::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let services = builder.path("services");
    let text = format!("other {}/tcp\nours {port}/tcp mine # ours\n", port ^ 1);
    fs::write(&services, text).expect("write");
    let script = "mount --bind \"$0\" /etc/services && exec \"$@\"";
    let with_services = ["unshare", "-m", "sh", "-c", script, &services];
    let daemon = builder
        .under(with_services)
        .args(["-l", "127.0.0.1:mine"])
        .start();
    assert_eq!(daemon.addr(), format!("tcp:127.0.0.1:{port}"));
    let services = daemon.dir().join("services").display().to_string();
    let with_services = ["-m", "sh", "-c", script, &services];
    for client in [
        vec![
            env!("CARGO_BIN_EXE_echoc"),
            "--ping",
            "-c",
            "1",
            "127.0.0.1:ours",
        ],
        vec![
            env!("CARGO_BIN_EXE_echoc"),
            "--ping",
            "-c",
            "1",
            "127.0.0.1",
            "mine",
        ],
        vec![
            env!("CARGO_BIN_EXE_echoload"),
            "-n",
            "1",
            "-c",
            "1",
            "127.0.0.1:mine",
        ],
    ] {
        let words: Vec<&str> = with_services.iter().copied().chain(client).collect();
        crate::common::must("unshare", &words);
    }
}

#[test]
fn an_unknown_option_or_operand_is_64() {
    for word in ["--no-such", "-x", "operand", "--listen", "--daemon=1"] {
        refused(
            only(&[word]),
            64,
            &[word.split('=').next().expect("a word")],
        );
    }
    refused(only(&["--daemon", "--daemon"]), 64, &["--daemon"]);
    refused(only(&["-v", "-q"]), 64, &["--verbose", "--quiet"]);
}

#[test]
fn an_option_the_model_cannot_use_names_both() {
    let pool = [
        "--accept=shared",
        "--start-servers=1",
        "--min-spare-servers=1",
        "--max-spare-servers=1",
        "--max-connections-per-child=1",
    ];
    let models = ["--model fork", "--model iterative"];
    for model in models {
        for option in pool {
            let name = option.split('=').next().expect("a name");
            let args: Vec<&str> = model.split(' ').chain([option]).collect();
            refused(only(&args), 64, &[name, model]);
        }
    }
    for model in ["prefork", "iterative"] {
        let args = ["--model", model, "--reap", "wait"];
        refused(only(&args), 64, &["--reap", "--model", model]);
    }
    let args = ["-m", "iterative", "-c", "3"];
    refused(only(&args), 64, &["--max-clients", "--model iterative"]);
}

#[test]
fn options_that_exclude_each_other_are_both_named() {
    for (args, parts) in [
        (&["--daemon", "--print"][..], ["--daemon", "print"]),
        (&["--print", "--ready-fd", "1"], ["--print", "ready-fd"]),
        (
            &["--daemon", "--log-target", "stderr"],
            ["--daemon", "log-target"],
        ),
        (
            &["--min-spare-servers=9", "--max-spare-servers=8"],
            ["--min", "--max"],
        ),
        (
            &["-c", "4", "--start-servers", "5"],
            ["--start-servers", "--max-clients"],
        ),
        (&["--inetd", "--daemon"], ["--inetd", "daemon"]),
        (
            &["--inetd", "--listen", "tcp:127.0.0.1:0"],
            ["--inetd", "listen"],
        ),
        (&["--inetd", "--pidfile", "/x"], ["--inetd", "pidfile"]),
        (&["--inetd", "--ready-fd", "1"], ["--inetd", "ready-fd"]),
        (&["--inetd", "--print"], ["--inetd", "print"]),
        (&["--inetd", "--model", "fork"], ["--inetd", "model"]),
    ] {
        refused(only(args), 64, &parts);
    }
}

#[test]
fn check_finds_no_fault_and_makes_nothing() {
    let builder = Builder::new();
    let (sock, pid, log) = (builder.path("s"), builder.path("p"), builder.path("l"));
    let dir = builder.dir().display().to_string();
    let script = "\"$@\"; s=$?; ls \"$0\"; exit $s";
    let finished = builder
        .bare()
        .under(["sh", "-c", script, &dir])
        .args(["--check", "-c", "9", "-l", &format!("unix:{sock}")])
        .args(["--pidfile", &pid, "--log-target", &log])
        .run(DEADLINE);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
    assert_eq!(
        finished.stdout, "stderr\nstdout\n",
        "only the harness's files"
    );
}

#[test]
fn check_exits_78_for_limits_that_are_too_low() {
    if !need("prlimit") {
        return;
    }
    for (limit, parts) in [
        ("--nofile=20:20", ["open files", "20"]),
        ("--nproc=515:515", ["processes", "515"]),
    ] {
        let builder = only(&["--check", "-l", "127.0.0.1:0"]).under(["prlimit", limit]);
        refused(
            builder,
            78,
            &[parts[0], parts[1], "--max-clients", "needed"],
        );
    }
    refused(only(&["-t", "--backlog", "x"]), 64, &["--backlog"]);
}

/// No machine has numbers for four million processes beside its own, nor room
/// for them.
#[test]
fn check_names_each_limit_that_is_too_low_and_by_how_much() {
    let said = refused(
        only(&["-t", "-c", "4194304", "-l", "127.0.0.1:0"]),
        78,
        &["--max-clients 4194304"],
    );
    for limit in ["(kernel.pid_max)", "(kernel.threads-max)", "(MemAvailable)"] {
        let about = said.split("; ").find(|about| about.contains(limit));
        let about = about.unwrap_or_else(|| panic!("{limit} is missing: {said}"));
        let number = |after: &str| -> u64 {
            let at = about
                .find(after)
                .unwrap_or_else(|| panic!("{after}: {about}"));
            let digits = about[at + after.len()..].split(|c: char| !c.is_ascii_digit());
            digits
                .map(str::to_owned)
                .next()
                .and_then(|n| n.parse().ok())
                .expect(about)
        };
        let (have, need) = (number(" is "), number("needed are "));
        let more = about.rsplit(", ").next().expect("a part");
        assert!(more.starts_with(&(need - have).to_string()), "{about}");
    }
}

#[test]
fn check_holds_the_backlog_against_the_kernels_longest_queue() {
    let most = proc::machine("sys/net/core/somaxconn").expect("somaxconn");
    let most: u64 = most.trim().parse().expect("a number");
    let check = |backlog: u64| only(&["-t", "-l", &format!("127.0.0.1:0,backlog={backlog}")]);
    assert_eq!(check(most).run(DEADLINE).status.code(), Some(0));
    let parts = [
        format!(
            "a backlog of {}: queue (net.core.somaxconn) is {most}",
            most + 5
        ),
        format!("needed are {}, 5 more", most + 5),
    ];
    refused(check(most + 5), 78, &[&parts[0], &parts[1]]);
}

/// setrlimit(2): RLIMIT_NPROC binds a user, and not root.
#[test]
fn row_23_a_limit_of_processes_is_the_users() {
    if !need_root() || !need("prlimit") {
        return;
    }
    let check = |words: &[&str]| {
        let at = ["-l", "127.0.0.1:0"];
        only(words).args(at).under(["prlimit", "--nproc=500:500"])
    };
    let line = "too low for --max-clients 512: processes (ulimit -u) is 500, \
                needed are 516, 16 more";
    refused(check(&["-t"]), 78, &[line]);
    refused(check(&["-t"]).uid(65533), 78, &[line]);
    let root = check(&["-t", "--allow-root"]).run(DEADLINE);
    assert!(!root.stderr.contains("ulimit -u"), "{}", root.stderr);
}

#[test]
fn row_23_limits_too_low_are_one_warning_and_echod_serves() {
    if !need("prlimit") {
        return;
    }
    let daemon = Builder::new().under(["prlimit", "--nofile=24:24"]).start();
    assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
    assert_eq!(daemon.log_count(" WARN "), 1, "{}", daemon.log());
    assert_eq!(daemon.log_count("open files (ulimit -n) is 24"), 1);
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    if !need("prlimit") {
        return;
    }
    let low = ["prlimit", "--nofile=24:2000"];
    let daemon = Builder::new().under(low).args(["-c", "9"]).start();
    assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
    assert_eq!(daemon.log_count(" WARN "), 0, "{}", daemon.log());
    assert_eq!(proc::limit(daemon.pid(), "Max open files"), "2000 2000");
    let checked = Builder::new()
        .under(low)
        .args(["--check", "-c", "9"])
        .run(DEADLINE);
    assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
}

/// Whatever the limit is: a start is refused by its number, or one client is served.
#[test]
fn row_120_descriptors_for_nobody_are_a_refusal_and_never_a_start_that_serves_none() {
    if !need("prlimit") {
        return;
    }
    for design in DESIGNS {
        let mut served_from = None;
        for limit in [9, 14, 15, 16, 17, 18, 19, 20, 21, 24] {
            let prlimit = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")];
            let start = |args: &[&str]| {
                let one = Builder::new().under(&prlimit).args(design.args).args(args);
                let small = if design.pooled {
                    &["--start-servers=1", "--min-spare-servers=1"][..]
                } else {
                    &[]
                };
                one.args(small).env("RUST_LOG", "error")
            };
            let mut daemon = start(&[]).spawn();
            if daemon.wait_ready(DEADLINE).is_ok() {
                assert_eq!(
                    echo_once(daemon.addr(), b"one"),
                    b"one",
                    "{} {limit}",
                    design.name
                );
                served_from = served_from.or(Some(limit));
                continue;
            }
            let said = daemon.log();
            assert_eq!(
                daemon.wait_exit(DEADLINE).code(),
                Some(78),
                "{} {limit}: {said}",
                design.name
            );
            let named = format!("open files (ulimit -n) is {limit}, ");
            assert!(said.contains(&named), "{} {limit}: {said}", design.name);
            assert_eq!(served_from, None, "{} {limit}", design.name);
            let checked = start(&["-t"]).bare().run(DEADLINE);
            assert_eq!(checked.status.code(), Some(78), "{}", checked.stderr);
        }
        let from = served_from.expect("24 are enough");
        println!("{}: from {from}", design.name);
    }
}

#[test]
fn version_and_help_go_to_standard_output_and_exit_0() {
    for (flag, part) in [
        ("-V", env!("CARGO_PKG_VERSION")),
        ("--version", env!("CARGO_PKG_VERSION")),
        ("-h", "--max-clients"),
        ("--help", "--max-clients"),
    ] {
        let finished = only(&[flag]).run(DEADLINE);
        assert_eq!(finished.status.code(), Some(0));
        assert!(finished.stdout.starts_with("echod ") || part == "--max-clients");
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn help_into_a_closed_pipe_is_no_crash() {
    let script = "{ \"$@\"; echo $? >&2; } | true";
    let finished = only(&["--help"])
        .under(["sh", "-c", script, "sh"])
        .run(DEADLINE);
    assert_eq!(finished.stderr, "0\n");
}

#[test]
fn the_start_line_says_which_build_this_is() {
    let daemon = Daemon::start::<&str>(&[]);
    let line = daemon.log();
    let version = format!("echod {} (", env!("CARGO_PKG_VERSION"));
    assert!(line.contains(&version), "{line}");
    let linked = if is_static() {
        "(static, "
    } else {
        "(dynamic, "
    };
    assert!(line.contains(linked), "{line}");
}

/// Whether the kernel loads echod without an interpreter: elf(5), an ELF of
/// this machine's word size and byte order.
fn is_static() -> bool {
    const PT_INTERP: u32 = 3;
    let elf = fs::read(env!("CARGO_BIN_EXE_echod")).expect("the program");
    assert!(elf.starts_with(b"\x7fELF"));
    let wide = elf[4] == 2;
    let half = |at: usize| u16::from_ne_bytes([elf[at], elf[at + 1]]);
    let (table, size, count) = if wide {
        let offset = elf[32..40].try_into().expect("8 bytes");
        let offset = usize::try_from(u64::from_ne_bytes(offset)).expect("an offset");
        (offset, half(54), half(56))
    } else {
        let offset = elf[28..32].try_into().expect("4 bytes");
        (u32::from_ne_bytes(offset) as usize, half(42), half(44))
    };
    (0..usize::from(count)).all(|n| {
        let at = table + n * usize::from(size);
        let kind = elf[at..at + 4].try_into().expect("4 bytes");
        u32::from_ne_bytes(kind) != PT_INTERP
    })
}

/// RUSTFLAGS in the environment, even empty, replaces .cargo/config.toml's.
#[test]
fn the_program_is_static() {
    if std::env::var_os("RUSTFLAGS").is_some() {
        skipped("RUSTFLAGS is set, so this build is as it says");
        return;
    }
    assert!(is_static(), "PT_INTERP: it needs a dynamic loader");
}

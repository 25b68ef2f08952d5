//! The command service: a line in, the output of an allowed command out, and
//! nothing that a client sends run, ever.

pub mod datagrams;
pub mod ending;
pub mod injections;
pub mod refusals;

use crate::udp::peer;

use std::io::{Read, Write};

use crate::common::design::{FORK_DOUBLE, FORK_WAIT, PREFORK};
use crate::common::{Builder, Client, DEADLINE, Daemon, need, need_root, poll_until, proc};

/// An echod whose default service is this list of commands.
fn serving(commands: &[&str]) -> Builder {
    let allow = commands.iter().flat_map(|c| ["--allow-command", c]);
    Builder::new().args(["--service", "command"]).args(allow)
}

/// Sends `bytes` and our end of file; the answer. A server that ends before it
/// has read all may reset the connection, after its answer.
fn ask(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(addr);
    let _ = client.write_all(bytes);
    let _ = client.shutdown_write();
    answer(&mut client)
}

fn answer(client: &mut Client) -> Vec<u8> {
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = client.read(&mut piece) {
        got.extend_from_slice(&piece[..n]);
    }
    got
}

#[track_caller]
fn asked(daemon: &Daemon, line: &str) -> String {
    String::from_utf8(ask(daemon.addr(), line.as_bytes())).expect("text")
}

/// Processes with this word among their arguments.
fn running(word: &str) -> Vec<i32> {
    let has = |pid: &i32| proc::cmdline_has(*pid, word);
    let pids = proc::all().into_iter().filter(|p| p.state != 'Z');
    pids.map(|p| p.pid).filter(has).collect()
}

/// The daemon raises its own at start.
#[test]
fn a_command_has_the_soft_limit_of_open_files_that_echod_was_started_with() {
    if !crate::common::need("prlimit") {
        return;
    }
    for (soft, given) in [("40", "40"), ("300", "64")] {
        let limits = format!("--nofile={soft}:2000");
        let daemon = serving(&["files=/bin/sh,-c,ulimit -n"])
            .under(["prlimit", &limits])
            .start();
        assert_eq!(asked(&daemon, "files\n"), format!("{given}\n"));
    }
}

/// Helpers of this daemon that are alive.
fn helpers(daemon: &Daemon) -> usize {
    let mut members = daemon.members();
    members.retain(|p| p.comm == "echod-cmd");
    members.len()
}

/// What a command wrote at once comes at once, and so does what echod says itself.
#[test]
fn row_121_an_answer_comes_in_one_read() {
    for (line, length) in [("zeros\n", 4000), ("what?\n", 32)] {
        let daemon = serving(&["zeros=/usr/bin/printf,%04000d,0"]).start();
        for _ in 0..20 {
            let mut client = Client::connect(daemon.addr());
            client.write_all(line.as_bytes()).expect("send");
            assert_eq!(client.read(&mut [0; 65_536]).expect("its output"), length);
        }
    }
}

#[test]
fn an_allowed_command_answers_with_its_fixed_arguments() {
    let daemon = serving(&[
        "hello=/bin/echo,hello,world",
        "date=/bin/date,-u",
        "both=/bin/sh,-c,echo out; echo err >&2",
        "comma=/bin/echo,a\\,b",
        "quiet=/bin/true",
    ])
    .start();
    assert_eq!(asked(&daemon, "hello\n"), "hello world\n");
    assert_eq!(asked(&daemon, "hello\r\n"), "hello world\n");
    assert_eq!(asked(&daemon, "hello"), "hello world\n");
    assert_eq!(
        asked(&daemon, "hello\nand more\nthat is ignored"),
        "hello world\n"
    );
    assert!(asked(&daemon, "date\n").contains(" UTC "));
    assert_eq!(asked(&daemon, "both\n"), "out\nerr\n");
    assert_eq!(asked(&daemon, "comma\n"), "a,b\n");
    assert_eq!(asked(&daemon, "quiet\n"), "");
    assert_eq!(asked(&daemon, ""), "");
    let unknown = "unknown command; allowed: hello date both comma quiet\n";
    for line in ["nope\n", "\n", "Hello\n", "hello \n", "hell\n", "nope"] {
        assert_eq!(asked(&daemon, line), unknown, "{line:?}");
    }
    // Idle workers have none: it comes with the connection.
    poll_until(DEADLINE, "the helpers are gone", || helpers(&daemon) == 0);
}

#[test]
fn the_line_may_come_in_pieces_and_counts_are_right() {
    let daemon = serving(&["hello=/bin/echo,hello"]).start();
    let mut client = Client::connect(daemon.addr());
    for piece in ["he", "l", "lo", "\n"] {
        client.write_all(piece.as_bytes()).expect("send");
    }
    // Not our end of file: the server's comes by itself.
    assert_eq!(answer(&mut client), b"hello\n");
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!((line.received, line.sent, line.end.as_str()), (6, 6, "eof"));
}

#[test]
fn every_design_that_can_serves_commands_beside_the_echo() {
    for design in [
        &["--model", "prefork"][..],
        &["--model", "fork"],
        &["--model", "fork", "--reap", "ignore"],
        &["--model", "fork", "--reap", "double-fork"],
        &["--model", "fork", "--sandbox", "off"],
        &["--sandbox", "strict"],
        &["--accept", "fcntl"],
        &["--accept", "mutex"],
        &["--accept", "pass"],
    ] {
        let unix = Builder::new();
        let path = format!("unix:{},service=command", unix.path("s"));
        let daemon = unix
            .args(["--allow-command", "hello=/bin/echo,hello"])
            .args([
                "-l",
                "tcp:127.0.0.1:0",
                "-l",
                "tcp:127.0.0.1:0,service=command",
            ])
            .args(["-l", &path])
            .args(design)
            .start();
        let [echo, tcp, unix] = daemon.addrs() else {
            panic!("{:?}", daemon.addrs());
        };
        assert_eq!(
            crate::common::echo_once(echo, b"hello\n"),
            b"hello\n",
            "{design:?}"
        );
        for _ in 0..3 {
            assert_eq!(ask(tcp, b"hello\n"), b"hello\n", "{design:?}");
            assert_eq!(ask(unix, b"hello\n"), b"hello\n", "{design:?}");
        }
        assert!(ask(unix, b"x\n").starts_with(b"unknown command"));
    }
}

#[test]
fn a_command_is_given_nothing_but_what_was_allowed() {
    let daemon = serving(&[
        "env=/usr/bin/env",
        "pwd=/bin/pwd",
        "fds=/bin/ls,/proc/self/fd",
        "status=/bin/cat,/proc/self/status",
        "limits=/bin/cat,/proc/self/limits",
        "session=/bin/cat,/proc/self/stat",
        "stdin=/bin/cat",
        "args=/bin/cat,/proc/self/cmdline",
        "umask=/bin/sh,-c,umask",
    ])
    .env("SECRET", "of the operator")
    .start();
    assert_eq!(asked(&daemon, "env\n"), "");
    assert_eq!(asked(&daemon, "pwd\n"), "/\n");
    // 3 is ls(1)'s own, on the directory.
    assert_eq!(asked(&daemon, "fds\n"), "0\n1\n2\n3\n");
    assert_eq!(asked(&daemon, "stdin\n"), "");
    assert_eq!(asked(&daemon, "args\n"), "/bin/cat\0/proc/self/cmdline\0");
    assert_eq!(asked(&daemon, "umask\n"), "0077\n");
    let status = asked(&daemon, "status\n");
    for line in [
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let uids = status.lines().find(|l| l.starts_with("Uid:")).expect("Uid");
    assert!(!uids.ends_with("\t0"), "{uids}");
    let limits = asked(&daemon, "limits\n");
    let limit = |name: &str| {
        let line = limits.lines().find(|l| l.starts_with(name)).expect(name);
        let values = line[name.len()..].split_whitespace().take(2);
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max cpu time"), ["10", "10"]);
    assert_eq!(limit("Max file size"), ["0", "0"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["64", "64"]);
    assert_eq!(limit("Max address space"), ["536870912", "536870912"]);
    let session = asked(&daemon, "session\n");
    let fields: Vec<_> = session.split_whitespace().collect();
    // pid, group and session are one; there is no terminal.
    assert_eq!(
        (fields[0], fields[0], "0"),
        (fields[4], fields[5], fields[6])
    );
}

#[test]
fn the_worker_is_as_locked_in_as_one_that_echoes() {
    let daemon = serving(&["hello=/bin/echo,hello"])
        .args(["--sandbox", "strict"])
        .start();
    let mut client = Client::connect(daemon.addr());
    client.write_all(b"hel").expect("send");
    poll_until(DEADLINE, "its helper", || helpers(&daemon) == 1);
    let members = daemon.members();
    let named = |name| members.iter().find(|p| p.comm == name).map(|p| p.pid);
    let worker = named("echod-conn").expect("a worker");
    poll_until(DEADLINE, "its sandbox", || {
        matches!(proc::status(worker, "Seccomp").as_deref(), Some("1" | "2"))
    });
    let helper = named("echod-cmd").expect("a helper");
    poll_until(DEADLINE, "the helper holds a socket and /dev/null", || {
        proc::fd_targets(helper).is_none_or(|fds| fds.len() == 2)
    });
    client.write_all(b"lo\n").expect("send");
    assert_eq!(answer(&mut client), b"hello\n");
}

#[test]
fn a_super_servers_connection_can_ask_for_a_command() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut echod = std::process::Command::new(env!("CARGO_BIN_EXE_echod"))
        .args(["--inetd", "--service", "command"])
        .args(["--allow-command", "hello=/bin/echo,hello"])
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .spawn()
        .expect("echod");
    let mut client = Client::Unix(ours);
    client.set_timeouts(DEADLINE);
    client.write_all(b"hello\n").expect("send");
    assert_eq!(answer(&mut client), b"hello\n");
    assert_eq!(echod.wait().expect("wait").code(), Some(0));
}

#[test]
fn no_zombie_is_left_by_many_commands() {
    let daemon = serving(&["true=/bin/true"]).start();
    for _ in 0..100 {
        assert_eq!(asked(&daemon, "true\n"), "");
    }
    poll_until(DEADLINE, "all helpers are reaped", || {
        let group = daemon.group();
        !proc::all()
            .iter()
            .any(|p| p.pgrp == group && p.comm == "echod-cmd")
    });
}

/// What root keeps in its session's keyring, see keyctl(1), is root's.
#[test]
fn row_110_a_command_reads_no_key_of_roots() {
    if !need_root() || !need("keyctl") {
        return;
    }
    let script = r#"keyctl add user echod-row-110 secret @s >/dev/null && exec "$@""#;
    let under = ["keyctl", "session", "-", "sh", "-c", script, "sh"];
    let commands = [
        "keys=/usr/bin/keyctl,show,@s",
        "more=/usr/bin/keyctl,show,@us",
    ];
    let datagrams = ["-l", "udp:127.0.0.1:0,service=command"];
    for more in [&[][..], &["--user", "nobody"]] {
        for design in [PREFORK, FORK_WAIT, FORK_DOUBLE] {
            let builder = serving(&commands).args(design.args).args(more);
            let daemon = builder
                .args(["-l", "tcp:127.0.0.1:0"])
                .args(datagrams)
                .under(under)
                .start();
            let mut shown = asked(&daemon, "keys\n");
            assert!(shown.contains("_ses"), "{}: {shown}", design.name);
            shown += &asked(&daemon, "more\n");
            let has = shown.contains("echod-row-110");
            assert!(!has, "{} {more:?}: {shown}", design.name);
        }
    }
}

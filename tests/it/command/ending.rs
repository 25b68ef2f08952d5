//! How a command ends: by itself, by its limits, by its client, by the daemon's
//! stop. Never does a process of it stay.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{answer, asked, helpers, running, serving};
use crate::common::{Client, DEADLINE, Signal, poll_until, proc};

/// An argument of sleep(1) that no other test's has.
pub fn hours(n: u32) -> String {
    format!("{}.{n}", 10_000 + std::process::id())
}

#[track_caller]
pub fn none_left(word: &str) {
    poll_until(DEADLINE, "no process of the command is left", || {
        running(word).is_empty()
    });
}

#[track_caller]
pub fn started(word: &str, n: usize) {
    poll_until(DEADLINE, "the command runs", || running(word).len() == n);
}

#[test]
fn after_ten_seconds_the_whole_group_is_killed() {
    let time = hours(1);
    // One in the group, one that left it, and one whose parent is gone too.
    let script = format!(
        "sh=/bin/sh,-c,echo first; sleep {time} & setsid sleep {time} & (setsid sleep {time} &) ; wait"
    );
    let daemon = serving(&[&script]).start();
    let mut client = Client::connect(daemon.addr());
    let start = Instant::now();
    client.write_all(b"sh\n").expect("send");
    started(&time, 3);
    let got = String::from_utf8(answer(&mut client)).expect("text");
    assert_eq!(got, "first\n\nstopped after 10s\n");
    assert!(start.elapsed() >= Duration::from_secs(10));
    none_left(&time);
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!((line.sent, line.end.as_str()), (got.len() as u64, "eof"));
}

#[test]
fn a_program_that_leaves_others_behind_has_ended() {
    let time = hours(2);
    let script = format!("sh=/bin/sh,-c,echo out; sleep {time} & setsid sleep {time} & exit 3");
    let daemon = serving(&[&script]).start();
    assert_eq!(asked(&daemon, "sh\n"), "out\n");
    none_left(&time);
}

#[test]
fn output_is_cut_at_its_cap_and_its_writer_killed() {
    let word = hours(3);
    let lines = format!("yes=/usr/bin/yes,{word}");
    let daemon = serving(&[&lines, "exact=/usr/bin/head,-c,1048576,/dev/zero"]).start();
    let got = asked(&daemon, "yes\n");
    let (kept, said) = got.split_at(1 << 20);
    assert!(kept.starts_with(&format!("{word}\n{word}\n")));
    assert_eq!(said.trim_start(), "output cut after 1048576 bytes\n");
    assert!(kept.ends_with('\n') || said.starts_with('\n'));
    none_left(&word);
    assert_eq!(asked(&daemon, "exact\n").len(), 1 << 20);
}

#[test]
fn a_stop_ends_the_command_at_its_deadline() {
    for (signal, graceful) in [(Signal::SIGTERM, "200ms"), (Signal::SIGINT, "8s")] {
        let time = hours(10 + graceful.len() as u32);
        let command = format!("sleep=/bin/sleep,{time}");
        let daemon = serving(&[&command])
            .args(["--graceful-timeout", graceful])
            .start();
        let mut client = Client::connect(daemon.addr());
        client.write_all(b"sleep\n").expect("send");
        started(&time, 1);
        daemon.signal(signal);
        assert_eq!(answer(&mut client), b"");
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        none_left(&time);
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
        poll_until(DEADLINE, "no helper is left", || helpers(&daemon) == 0);
    }
}

#[test]
fn a_graceful_stop_lets_a_command_finish() {
    let daemon = serving(&["slow=/bin/sh,-c,echo one; sleep 1; echo two"]).start();
    let mut client = Client::connect(daemon.addr());
    client.write_all(b"slow\n").expect("send");
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut client, &mut first).expect("its first line");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(answer(&mut client), b"two\n");
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.conn_line(&client.peer_name()).end, "eof");
}

#[test]
fn a_killed_worker_or_helper_takes_the_command_along() {
    let time = hours(4);
    let command = format!("sleep=/bin/sleep,{time}");
    let daemon = serving(&[&command]).start();
    for (victim, end) in [("echod-conn", "killed:KILL"), ("echod-cmd", "eof")] {
        let mut client = Client::connect(daemon.addr());
        client.write_all(b"sleep\n").expect("send");
        started(&time, 1);
        let named = |name: &str| daemon.members().into_iter().find(|p| p.comm == name);
        proc::signal(named(victim).expect(victim).pid, Signal::SIGKILL);
        assert_eq!(answer(&mut client), b"");
        none_left(&time);
        assert_eq!(daemon.conn_line(&client.peer_name()).end, end);
    }
    assert!(asked(&daemon, "x\n").starts_with("unknown"));
}

#[test]
fn the_daemons_timeouts_apply() {
    let time = hours(5);
    let command = format!("sleep=/bin/sleep,{time}");
    let lifetime = serving(&[&command])
        .args(["--max-lifetime", "300ms"])
        .start();
    let mut client = Client::connect(lifetime.addr());
    client.write_all(b"sleep\n").expect("send");
    assert_eq!(answer(&mut client), b"");
    none_left(&time);
    assert_eq!(lifetime.conn_line(&client.peer_name()).end, "max-lifetime");

    let idle = serving(&[&command])
        .args(["--idle-timeout", "200ms"])
        .start();
    let mut client = Client::connect(idle.addr());
    client.write_all(b"slee").expect("send");
    assert_eq!(answer(&mut client), b"");
    assert_eq!(idle.conn_line(&client.peer_name()).end, "idle-timeout");
    poll_until(DEADLINE, "no helper is left", || helpers(&idle) == 0);

    // A Unix socket holds less than the cap, so that its writer has to wait.
    let builder = serving(&["yes=/usr/bin/yes"]);
    let addr = format!("unix:{}", builder.path("s"));
    let unread = builder
        .args(["-l", &addr, "--write-timeout", "200ms"])
        .start();
    let mut client = Client::connect(&addr);
    client.write_all(b"yes\n").expect("send");
    assert_eq!(unread.conn_line("unix").end, "write-timeout");
    poll_until(DEADLINE, "no helper is left", || helpers(&unread) == 0);
}

#[test]
fn a_client_that_resets_ends_its_command() {
    let word = hours(6);
    let command = format!("yes=/bin/sh,-c,while sleep 0.1; do echo {word}; done,{word}");
    let daemon = serving(&[&command]).start();
    let mut client = Client::connect(daemon.addr());
    let peer = client.peer_name();
    client.write_all(b"yes\n").expect("send");
    started(&word, 1);
    client.reset();
    none_left(&word);
    assert_eq!(daemon.conn_line(&peer).end, "reset");
}

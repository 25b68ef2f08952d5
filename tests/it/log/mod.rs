//! The log as people and programs read it: what each line says, whom it is
//! kept from.
//!
//! A log that cannot be written is in `tests/it/log/faults.rs`, one that is moved
//! away in `tests/it/log/rotation.rs`, where it goes in `tests/it/log/targets.rs`.

pub mod faults;
pub mod rotation;
pub mod targets;

use std::collections::HashSet;
use std::io::Write;

use serde_json::Value;

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, Signal, echo_once, many, need, pattern,
    poll_until, signal,
};

#[track_caller]
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

fn objects(log: &str) -> Vec<Value> {
    let parse = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    log.lines().map(parse).collect()
}

/// `2026-11-20T12:00:00.123Z`
fn is_timestamp(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(shape).collect::<String>() == "0000-00-00T00:00:00.000Z"
}

#[test]
fn json_lines_are_objects_with_the_contracts_keys() {
    for design in [&PREFORK, &FORK_WAIT] {
        let builder = Builder::new().args(["--log-format", "json"]);
        let daemon = builder.args(design.args).start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"hello");
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
        daemon.wait_log("\"end\":\"eof\"", DEADLINE);
        stop(&daemon);
        let objects = objects(&daemon.log());
        for object in &objects {
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            assert!(is_timestamp(&text("ts")), "{object}");
            assert!(
                ["info", "debug"].contains(&text("level").as_str()),
                "{object}"
            );
            assert!(
                !text("target").is_empty() && !text("msg").is_empty(),
                "{object}"
            );
            assert!(object["pid"].as_u64().is_some(), "{object}");
        }
        let conn: Vec<_> = objects.iter().filter(|o| o["target"] == "conn").collect();
        assert_eq!(conn.len(), 1);
        let line = conn[0];
        let keys: HashSet<_> = line.as_object().expect("an object").keys().collect();
        let contract = "ts level target msg logger_pid pid peer listener in out dur_s end";
        let contract: Vec<String> = contract.split(' ').map(str::to_owned).collect();
        assert_eq!(keys, contract.iter().collect());
        assert_eq!(line["logger_pid"], daemon.pid());
        assert_ne!(line["pid"], daemon.pid());
        assert_eq!(line["peer"], client.peer_name());
        assert_eq!(line["listener"], daemon.addr());
        assert_eq!(
            (&line["in"], &line["out"]),
            (&Value::from(5), &Value::from(5))
        );
        assert!(
            line["dur_s"]
                .as_f64()
                .is_some_and(|s| (0.0..60.0).contains(&s))
        );
        let order = [
            "\"pid\"",
            "\"peer\"",
            "\"listener\"",
            "\"in\"",
            "\"out\"",
            "\"dur_s\"",
            "\"end\"",
        ];
        let log = daemon.log();
        let text = log
            .lines()
            .find(|line| line.contains("\"conn\""))
            .expect("it");
        let places: Vec<_> = order.iter().map(|key| text.find(key)).collect();
        assert!(places.is_sorted(), "the order is contract: {text}");
    }
}

#[test]
fn text_lines_have_time_level_and_pid() {
    let daemon = Daemon::start::<&str>(&[]);
    assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
    daemon.wait_log("end=eof", DEADLINE);
    stop(&daemon);
    let tag = format!("echod[{}]:", daemon.pid());
    for line in daemon.log().lines() {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        assert!(is_timestamp(words[0]), "{line}");
        assert!(["INFO", "DEBUG"].contains(&words[1]), "{line}");
        assert_eq!(words[2], tag, "{line}");
    }
    for said in ["echod 0", "listening on tcp:", "stopping", "stopped"] {
        assert_eq!(daemon.log_count(said), 1, "{said}");
    }
}

#[test]
fn rust_log_conn_debug_is_an_access_log_and_nothing_else() {
    for design in DESIGNS {
        let builder = Builder::new().env("RUST_LOG", "conn=debug");
        let daemon = builder.args(design.args).start();
        many(daemon.addr(), 10, 2, 100).assert_all_complete();
        poll_until(DEADLINE, "10 lines", || daemon.log().lines().count() >= 10);
        stop(&daemon);
        let log = daemon.log();
        assert_eq!(log.lines().count(), 10, "{}: {log}", design.name);
        assert_eq!(ConnLine::all(&log).len(), 10, "{}: {log}", design.name);
    }
}

#[test]
fn verbose_and_quiet_choose_what_is_logged() {
    for (flags, start, conn) in [
        (&["-v"][..], true, true),
        (&[], true, false),
        (&["-q"], false, false),
        (&["-qq"], false, false),
    ] {
        let daemon = Builder::new().env("RUST_LOG", "").args(flags).start();
        assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
        stop(&daemon);
        let log = daemon.log();
        assert_eq!(log.contains("listening on"), start, "{flags:?}: {log}");
        assert_eq!(log.contains("conn pid="), conn, "{flags:?}: {log}");
    }
}

/// A client that has sent and got back `hello`, twice: a worker counts what it
/// has sent after sending it, so the first is certain to be counted.
fn greeted(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    client.ping(b"hello");
    client.ping(b"hello");
    client
}

#[test]
fn each_end_has_its_word() {
    type Finish = fn(&Daemon, Client);
    let table: [(&str, &[&str], Finish); 7] = [
        ("eof", &[], |_, client| {
            client.shutdown_write().expect("shutdown")
        }),
        ("reset", &[], |_, client| client.reset()),
        (
            "idle-timeout",
            &["--idle-timeout", "100ms"],
            |_, mut client| {
                client.end().expect("an orderly end");
            },
        ),
        (
            "write-timeout",
            &["--write-timeout", "100ms"],
            |_, mut client| {
                let chunk = pattern(0, 1 << 16);
                while client.write_all(&chunk).is_ok() {}
            },
        ),
        (
            "max-lifetime",
            &["--max-lifetime", "100ms"],
            |_, mut client| {
                let _ = client.end();
            },
        ),
        ("stop", &[], |daemon, mut client| {
            daemon.signal(Signal::SIGINT);
            let _ = client.end();
        }),
        ("killed:KILL", &[], |daemon, mut client| {
            let pids = daemon.role("echod-conn");
            assert_eq!(pids.len(), 1);
            signal(pids[0], Signal::SIGKILL);
            let _ = client.end();
        }),
    ];
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT] {
        for (end, args, finish) in &table {
            let daemon = Builder::new().args(design.args).args(*args).start();
            let client = greeted(&daemon);
            let name = client.peer_name();
            finish(&daemon, client);
            let line = daemon.conn_line(&name);
            assert_eq!(&line.end, end, "{}", design.name);
            assert_eq!(line.listener, daemon.addr());
            assert!(line.received >= 5 && line.sent >= 5, "{line:?}");
        }
    }
}

/// strace's injection kills a strict child: no sandbox here.
#[test]
fn an_error_of_the_system_is_in_the_line_by_name() {
    if !need("strace") {
        return;
    }
    for (call, received, sent) in [("read", 5, 5), ("write", 10, 5)] {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let (which, fault) = (
            format!("trace={call}"),
            format!("inject={call}:error=EIO:when=2"),
        );
        let daemon = builder
            .under(["strace", "-f", "-o", &trace, "-e", &which, "-e", &fault])
            .args(["--sandbox", "off", "--model", "fork"])
            .start();
        let mut client = Client::connect(daemon.addr());
        let name = client.peer_name();
        client.ping(b"hello");
        let _ = client.write_all(b"again");
        let _ = client.end();
        let line = daemon.conn_line(&name);
        assert_eq!(line.end, "error:EIO");
        assert_eq!((line.received, line.sent), (received, sent), "{call}");
    }
}

//! Where the log goes and in which shape: the words of `--log-target`, standard
//! output as containers give it, the journal, JSON to the last line, and RUST_LOG.

use std::fs;
use std::io::{Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::sys::stat::fstat;
use serde_json::Value;

use crate::common::design::{PREFORK, PREFORK_PASS, PREFORK_REUSE, THREAD};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Finished, Signal, echo_once, must,
    poll_until,
};
use crate::log::{is_timestamp, objects, stop};

/// Of each kind: a line by the supervisor alone, one by each worker, by threads.
const SOME: [&Design; 4] = [&PREFORK, &PREFORK_REUSE, &PREFORK_PASS, &THREAD];

/// Ends at once, without the harness's `--ready-fd`, which takes standard output.
fn run(args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut builder = Builder::new().bare().args(args);
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    builder.run(DEADLINE)
}

#[track_caller]
fn refused(args: &[&str], env: &[(&str, &str)], parts: &[&str]) {
    let ended = run(args, env);
    let said = &ended.stderr;
    assert_eq!(ended.status.code(), Some(64), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: no {part} in {said}");
    }
}

#[test]
fn a_target_that_is_no_target_makes_no_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let here = dir.path().display().to_string();
    for (word, guess) in [
        ("sylog", "syslog?"),
        ("stdeer", "stderr?"),
        ("access.log", "./access.log"),
        ("syslog:dameon", "syslog:daemon?"),
    ] {
        for more in [&[][..], &["-t"], &["--daemon"]] {
            let builder = Builder::new().bare().under(["env", "-C", &here]);
            let ended = builder
                .args(["--log-target", word])
                .args(more)
                .run(DEADLINE);
            let said = ended.stderr;
            assert_eq!(ended.status.code(), Some(64), "{word}: {said}");
            assert!(
                said.contains("--log-target") && said.contains(guess),
                "{said}"
            );
        }
    }
    assert_eq!(dir.path().read_dir().expect("it").count(), 0);
}

#[test]
fn standard_descriptors_are_for_one_thing_each() {
    for (args, names) in [
        (
            ["--print", "--log-target=stdout"],
            ["--print", "--log-target stdout"],
        ),
        (
            ["--print", "--log-target=-"],
            ["--print", "--log-target stdout"],
        ),
        (
            ["--print", "--log-target=/dev/stdout"],
            ["--print", "--log-target stdout"],
        ),
        (
            ["--daemon", "--log-target=-"],
            ["--daemon", "--log-target stdout"],
        ),
        (
            ["--daemon", "--log-target=/dev/stderr"],
            ["--daemon", "--log-target stderr"],
        ),
        (
            ["--ready-fd=1", "--log-target=-"],
            ["--ready-fd 1", "--log-target stdout"],
        ),
    ] {
        refused(&args, &[], &names);
    }
}

/// Row 125's first part.
#[test]
fn row_125_the_ready_descriptor_is_not_the_logs() {
    for args in [
        &["--ready-fd", "2"][..],
        &["--ready-fd=2", "--log-target", "stderr"],
        &["--ready-fd=2", "--log-target", "/dev/stderr"],
        &["--ready-fd=2", "-t"],
    ] {
        refused(args, &[], &["--ready-fd 2", "--log-target stderr"]);
    }
    for args in [["--ready-fd=999"], ["--ready-fd=99999"]] {
        refused(&args, &[], &["--ready-fd", "not open"]);
    }
    refused(&["--ready-fd=-1"], &[], &["--ready-fd", "at least 0"]);
    refused(&["--ready-fd=0"], &[], &["--ready-fd 0", "for writing"]);
    // Where the log is elsewhere, 2 is as good as any.
    let (mut reader, writer) = pipe().expect("a pipe");
    let builder = Builder::new().stderr(writer);
    let log = builder.path("log");
    let daemon = builder
        .bare()
        .args([
            "-l",
            "tcp:127.0.0.1:0",
            "--ready-fd",
            "2",
            "--log-target",
            &log,
        ])
        .log_at(log.as_ref())
        .spawn();
    let mut addr = String::new();
    reader.read_to_string(&mut addr).expect("the end of it");
    assert_eq!(echo_once(addr.trim(), b"hello"), b"hello");
    stop(&daemon);
}

/// A full file, a pipe that nobody has open, one that nobody reads: said, and served.
#[test]
fn row_125_a_word_that_nobody_hears_is_an_error_line() {
    let full = "exec \"$@\" 9>/dev/full";
    let dead = "(: <\"$0\") & exec 9>\"$0\"; wait; exec \"$@\"";
    let deaf = "exec 9>\"$0\"; dd if=/dev/zero bs=4096 count=16 >&9 2>/dev/null; exec \"$@\"";
    for (script, errno) in [(full, "(ENOSPC)"), (dead, "(EPIPE)"), (deaf, "(EAGAIN)")] {
        for (more, filter) in [(&[][..], "conn=debug"), (&["-qq"], "")] {
            let builder = Builder::new();
            let (fifo, sock) = (builder.path("fifo"), builder.path("sock"));
            let addr = format!("unix:{sock}");
            must("mkfifo", &["-m", "0666", &fifo]);
            let mut options = fs::OpenOptions::new();
            let reader = (script == deaf).then(|| options.read(true).write(true).open(&fifo));
            let daemon = builder
                .bare()
                .under(["sh", "-c", script, &fifo])
                .env("RUST_LOG", filter)
                .args(["-l", &addr, "--ready-fd", "9"])
                .args(more)
                .spawn();
            poll_until(DEADLINE, "it serves", || Client::try_connect(&addr).is_ok());
            assert_eq!(echo_once(&addr, b"hello"), b"hello");
            daemon.wait_log("write to --ready-fd: ", DEADLINE);
            assert_eq!(daemon.log_count(errno), 1, "{}", daemon.log());
            drop(reader);
        }
    }
}

/// A container's log is a pipe, a file, a socket or a terminal, and is named in
/// several ways. A socket cannot be opened by its name.
#[test]
fn standard_output_takes_the_log_whatever_it_is() {
    let swap = "exec \"$@\" 1>&2 2>/dev/null";
    for design in SOME {
        for target in ["stdout", "-", "/dev/stdout", "/proc/self/fd/1"] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let (reader, writer) = pipe().expect("a pipe");
            let terminal = nix::pty::openpty(None, None).expect("a terminal");
            let sinks: [(OwnedFd, Box<dyn Read + Send>); 3] = [
                (theirs.into(), Box::new(ours)),
                (writer.into(), Box::new(reader)),
                (terminal.slave, Box::new(fs::File::from(terminal.master))),
            ];
            for (sink, mut heard) in sinks {
                let builder = Builder::new().stderr(sink).args(design.args);
                let builder = builder.under(["sh", "-c", swap, "sh"]);
                let daemon = builder.args(["--log-target", target]).start();
                let listen = thread::spawn(move || {
                    let mut text = Vec::new();
                    // A terminal ends with an error.
                    let _ = heard.read_to_end(&mut text);
                    String::from_utf8(text).expect("text")
                });
                assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
                daemon.signal(Signal::SIGUSR1);
                daemon.signal(Signal::SIGHUP);
                assert_eq!(echo_once(daemon.addr(), b"two"), b"two");
                stop(&daemon);
                drop(daemon);
                let text = listen.join().expect("a reader");
                assert!(text.contains(": stopped"), "{}: {text}", design.name);
                assert!(!text.contains("reopened"), "{text}");
                assert_eq!(
                    text.matches("end=eof").count(),
                    2,
                    "{}: {text}",
                    design.name
                );
            }
        }
        // A file, as it is for the harness.
        let builder = Builder::new().args(design.args);
        let file = builder.dir().join("stdout");
        let daemon = builder
            .args(["--log-target", "stdout"])
            .log_at(&file)
            .start();
        assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
        daemon.wait_log("end=eof", DEADLINE);
        assert_eq!(fs::read(daemon.dir().join("stderr")).expect("it"), b"");
    }
}

fn journal(of: &impl AsFd) -> String {
    let stat = fstat(of.as_fd()).expect("fstat");
    format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// What a start, a client and a stop leave in a log that is a socket, whose name
/// JOURNAL_STREAM is.
fn journalled(design: &Design, more: &[&str], name: impl Fn(String) -> String) -> String {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = name(journal(&theirs));
    let daemon = Builder::new()
        .stderr(OwnedFd::from(theirs))
        .env("JOURNAL_STREAM", &stream)
        .args(design.args)
        .args(more)
        .start();
    assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
    stop(&daemon);
    drop(daemon);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("the end of it");
    text
}

#[test]
fn the_journal_gets_a_priority_and_the_message() {
    for design in DESIGNS {
        let text = journalled(design, &[], |own| own);
        let mut ends = 0;
        for line in text.lines() {
            let (priority, message) = line.split_at(3);
            assert!(["<6>", "<7>"].contains(&priority), "{line}");
            assert!(!message.contains("echod["), "{line}");
            let word = message.split(' ').next().expect("a word");
            assert!(!is_timestamp(word), "{line}");
            ends += usize::from(line.starts_with("<7>conn pid=") && line.ends_with(" end=eof"));
        }
        assert_eq!(ends, 1, "{}: {text}", design.name);
        assert!(text.contains("<6>stopped; no client was cut\n"), "{text}");
    }
    // Standard output may be the journal as well.
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = journal(&theirs);
    let builder = Builder::new().stderr(OwnedFd::from(theirs));
    let swap = "exec \"$@\" 1>&2 2>/dev/null";
    let builder = builder
        .under(["sh", "-c", swap, "sh"])
        .args(["--log-target", "-"]);
    let daemon = builder.env("JOURNAL_STREAM", &stream).start();
    stop(&daemon);
    drop(daemon);
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("the end of it");
    assert!(text.lines().all(|line| line.starts_with("<6>")), "{text}");
    let text = journalled(&PREFORK, &["--log-format", "json"], |own| own);
    for line in text.lines() {
        let object: Value = serde_json::from_str(&line[3..]).expect("an object");
        let level = object["level"].as_str().expect("a level");
        let priority = if level == "debug" { "<7>" } else { "<6>" };
        assert!(line.starts_with(priority), "{line}");
    }
}

/// The variable is inherited by whoever is started under a service, with another
/// standard error too.
#[test]
fn a_journal_that_is_not_standard_error_changes_nothing() {
    type Name = fn(String) -> String;
    let names: [Name; 6] = [
        |own| format!("{own}1"),
        |own| format!("1{own}"),
        |_| String::new(),
        |own| own.replace(':', " "),
        |own| format!(" {own}"),
        |_| "garbage:more".to_owned(),
    ];
    for name in names {
        let text = journalled(&PREFORK, &[], name);
        for line in text.lines() {
            let word = line.split(' ').next().expect("a word");
            assert!(is_timestamp(word), "{line}");
        }
    }
    // Redirected.
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = journal(&theirs);
    let daemon = Builder::new().env("JOURNAL_STREAM", &stream).start();
    daemon.wait_log(" INFO  echod[", DEADLINE);
    assert_eq!(daemon.log_count("<6>"), 0);
}

#[test]
fn what_is_wrong_with_a_start_goes_to_the_journal_in_the_same_way() {
    let said = |args: &[&str]| {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let stream = journal(&theirs);
        let builder = Builder::new().bare().args(args);
        let ended = builder
            .stderr(OwnedFd::from(theirs))
            .env("JOURNAL_STREAM", &stream)
            .run(DEADLINE);
        assert_ne!(ended.status.code(), Some(0));
        let mut text = String::new();
        ours.read_to_string(&mut text).expect("the end of it");
        text
    };
    for args in [
        &["--no-such"][..],
        &["-l", "tcp:192.0.2.1:1"],
        &["-t", "--backlog", "x"],
        &[
            "--daemon",
            "-l",
            "tcp:192.0.2.1:1",
            "--log-target",
            "/dev/null",
        ],
    ] {
        let text = said(args);
        assert!(text.starts_with("<3>"), "{text}");
        assert!(
            !text.contains("echod:") && text.lines().count() == 1,
            "{text}"
        );
    }
    let text = said(&["--log-format", "json", "--no-such"]);
    assert!(text.starts_with("<3>{\"ts\":"), "{text}");
}

/// It would be misled: its standard error is its client.
#[test]
fn a_command_is_not_told_of_the_journal() {
    let builder = Builder::new();
    let daemon = builder
        .env("JOURNAL_STREAM", "1:2")
        .args([
            "--service",
            "command",
            "--allow-command",
            "env=/usr/bin/env",
        ])
        .start();
    let mut client = Client::connect(daemon.addr());
    std::io::Write::write_all(&mut client, b"env\n").expect("send");
    assert_eq!(String::from_utf8_lossy(&client.rest()), "");
}

#[test]
fn with_json_every_line_is_an_object() {
    let used = Daemon::start(PREFORK.args);
    let here = used.addr().to_owned();
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&file, "log-format = 'json'\n").expect("written");
    let path = file.path().display().to_string();
    let json = "--log-format=json";
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [i32], &'a str);
    let cases: [Case; 12] = [
        (
            &["--log-format", "json", "--no-such"],
            &[],
            &[64],
            "--no-such",
        ),
        (&["--no-such", json], &[], &[64], "--no-such"),
        (&["-c", "0", json], &[], &[64], "--max-clients"),
        (&["-t", "--backlog", "x", json], &[], &[64], "--backlog"),
        (
            &["-t", "--pidfile", "/no/such/dir/pid", json],
            &[],
            &[73, 78],
            "/no/such/dir",
        ),
        (&[json, "-l", &here], &[], &[69], "EADDRINUSE"),
        (&["-f", &path, "-l", &here], &[], &[69], "EADDRINUSE"),
        (
            &["-l", &here],
            &[("ECHOD_LOG_FORMAT", "json")],
            &[69],
            "EADDRINUSE",
        ),
        (&["-x"], &[("ECHOD_LOG_FORMAT", "json")], &[64], "-x"),
        (
            &["--daemon", "--log-target", "/dev/null", json, "-l", &here],
            &[],
            &[69],
            "EADDRINUSE",
        ),
        (&[json], &[("RUST_LOG", "debgu")], &[64], "RUST_LOG"),
        (&[json, "--ready-fd", "2"], &[], &[64], "--ready-fd 2"),
    ];
    for (args, env, codes, part) in cases {
        let ended = run(args, env);
        let code = ended.status.code().expect("an exit");
        assert!(codes.contains(&code), "{args:?}: {code} {}", ended.stderr);
        let lines = objects(&ended.stderr);
        assert!(!lines.is_empty(), "{args:?}");
        for line in &lines {
            for key in ["ts", "level", "pid", "target", "msg"] {
                assert!(!line[key].is_null(), "{args:?}: {line}");
            }
        }
        let wrong: Vec<_> = lines
            .iter()
            .filter(|line| line["level"] == "error")
            .collect();
        assert_eq!(wrong.len(), 1, "{args:?}: {}", ended.stderr);
        let text = wrong[0]["msg"].as_str().expect("text");
        assert!(text.contains(part), "{args:?}: {text}");
    }
    // Text was asked for last, and the variable says less than the option.
    let ended = run(
        &["--log-format=text", "-x"],
        &[("ECHOD_LOG_FORMAT", "json")],
    );
    assert!(ended.stderr.starts_with("echod: "), "{}", ended.stderr);
}

#[test]
fn a_refusal_has_fields() {
    for design in DESIGNS {
        let daemon = Builder::new()
            .args(design.args)
            .args(["--log-format", "json", "--deny", "127.0.0.0/8"])
            .start();
        // It may be reset before it knows its own name.
        let mut client = Client::try_connect(daemon.addr());
        let _ = client.as_mut().map(Client::end);
        daemon.wait_log("refusing", DEADLINE);
        stop(&daemon);
        let lines = objects(&daemon.log());
        let of = |start: &str| {
            let is = |o: &&Value| o["msg"].as_str().is_some_and(|msg| msg.starts_with(start));
            lines
                .iter()
                .find(is)
                .unwrap_or_else(|| panic!("{start}: {lines:?}"))
        };
        let first = of("refusing");
        let peer = first["peer"].as_str().expect("a client");
        let name = client.map_or(peer.to_owned(), |client| client.peer_name());
        assert_eq!(peer, name, "{}", design.name);
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        assert_eq!(first["listener"], daemon.addr(), "{}", design.name);
        assert_eq!(first["reason"], "--deny 127.0.0.0/8");
        let last = of("refused 1 ");
        assert_eq!(last["count"], 1);
        assert_eq!(last["reason"], "--deny 127.0.0.0/8");
        assert!(last["dur_s"].as_f64().is_some_and(|s| s > 0.0), "{last}");
    }
    let daemon = Builder::new()
        .args([
            "-m",
            "fork",
            "-c",
            "1",
            "--overflow",
            "close",
            "--log-format",
            "json",
        ])
        .start();
    let (_held, _) = daemon.connect_served();
    let mut second = Client::connect(daemon.addr());
    let _ = second.end();
    daemon.wait_log("reached", DEADLINE);
    let lines = objects(&daemon.log());
    let line = lines.iter().find(|line| line["reason"] == "--max-clients");
    let line = line.expect("a line with its reason");
    assert_eq!(
        (&line["limit"], &line["overflow"]),
        (&1.into(), &"closed".into())
    );
}

#[test]
fn a_rust_log_that_cannot_be_read_is_a_usage_error() {
    for (filter, guess) in [
        ("debgu", "debug?"),
        ("conn=debgu", "debug?"),
        ("info,,conn==debug", "no level"),
        ("nonsense", "no target"),
        ("a/b/c", "'/'"),
    ] {
        for more in [&[][..], &["-t"], &["--daemon"]] {
            let mut args = vec!["-l", "tcp:127.0.0.1:0"];
            args.extend(more);
            let env = [("RUST_LOG", filter)];
            refused(&args, &env, &[&format!("RUST_LOG={filter}: "), guess]);
        }
    }
}

#[test]
fn v_and_q_given_win_over_rust_log() {
    for (filter, flag, start, conn) in [
        ("error", "-v", true, true),
        ("debgu", "-v", true, true),
        ("trace", "-q", false, false),
        ("conn=debug", "-q", false, false),
        ("off", "-vv", true, true),
    ] {
        let daemon = Builder::new().env("RUST_LOG", filter).args([flag]).start();
        assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
        stop(&daemon);
        let log = daemon.log();
        assert_eq!(
            log.contains("listening on"),
            start,
            "{filter} {flag}: {log}"
        );
        assert_eq!(log.contains("conn pid="), conn, "{filter} {flag}: {log}");
    }
}

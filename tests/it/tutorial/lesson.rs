//! scripts/lesson.sh for each design: it tells the whole story, in time, and
//! leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{DEADLINE, holds_within, need, poll_some, proc, skipped, tool};

/// As scripts/lesson.sh names them.
const DESIGNS: [&str; 12] = [
    "prefork",
    "prefork-reuse",
    "fork-wait",
    "fork-ignore",
    "fork-double",
    "iterative",
    "accept-fcntl",
    "accept-mutex",
    "accept-pass",
    "accept-reuseport",
    "thread",
    "prethread",
];

/// What only this design's lesson shows, in its order.
fn own_words(design: &str) -> &'static [&'static [&'static str]] {
    match design {
        "prefork" => &[&["epoll_wait(listener"], &["woken", "the kernel wakes one"]],
        "prefork-reuse" => &[&["free again"], &["NOT YET REAPED"]],
        "fork-wait" => &[&["a child for this client"], &["zombie"], &["wait4("]],
        "fork-ignore" => &[&["REAPED by the kernel"]],
        "fork-double" => &[&["the second fork"], &["grandchild", "read(connection"]],
        "iterative" => &[&["free again"], &["NOT YET REAPED"]],
        "accept-fcntl" => &[
            &["has the lock"],
            &["accept4("],
            &["F_UNLCK", "= 0"],
            &["has the lock: of the idle"],
            &["in single file"],
        ],
        "accept-mutex" => &[&["accept4("], &["FUTEX_WAKE"]],
        "accept-pass" => &[
            &["it has no listener"],
            &["supervisor", "accept4("],
            &["supervisor", "sendmsg(channel, SCM_RIGHTS: connection)"],
            &["child", "recvmsg(channel, SCM_RIGHTS: connection)"],
            &["supervisor", "close(connection)"],
        ],
        "accept-reuseport" => &[
            &["setsockopt(listener", "SO_REUSEPORT"],
            &["setsockopt(socket", "SO_REUSEPORT"],
            &["a second queue"],
            &["listener    LISTEN"],
            &["listener    LISTEN"],
        ],
        "thread" => &[
            &["clone(CLONE_THREAD)"],
            &["a thread for this client"],
            &["echod-conn", "a thread of"],
            &["thread", "read(connection, \"hello"],
            &["the end of the thread"],
            &["NOT YET REAPED"],
        ],
        "prethread" => &[
            &["a thread, before there is a client"],
            &["thread", "accept4(", "= connection"],
            &["free again"],
        ],
        _ => &[],
    }
}

fn script() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lesson.sh");
    let mut command = Command::new(script);
    command.env("ECHOD", env!("CARGO_BIN_EXE_echod"));
    command
}

fn can_run() -> bool {
    if !["strace", "nc", "ss", "ps"].into_iter().all(need) {
        return false;
    }
    // In some containers strace is installed and may not trace.
    let (allowed, why) = tool("strace", &["-o", "/dev/null", "true"]);
    allowed || skipped(&format!("strace does not work here: {why}"))
}

/// Runs it and returns what it printed. It gives itself 8 s; a machine that
/// runs other tests besides needs more.
fn run(design: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mark = format!("LESSON_TEST={}-{design}", std::process::id());
    let (name, value) = mark.split_once('=').expect("written above");
    let out = dir.path().join("out");
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).expect("mkdir");
    let file = fs::File::create(&out).expect("a file");
    let errors = file.try_clone().expect("dup");
    let mut child = script()
        .arg(design)
        .env(name, value)
        .env("TMPDIR", &scratch)
        .env("LESSON_SECONDS", "60")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .expect("sh starts");
    let text = || fs::read_to_string(&out).expect("its output");
    let status = poll_some(DEADLINE * 4, "the lesson's end", || {
        child.try_wait().expect("our own child")
    });
    assert!(status.success(), "{design}: {status}\n{}", text());
    let left = || {
        proc::all()
            .into_iter()
            .filter(|p| p.state != 'Z' && proc::environ_has(p.pid, &mark))
            .collect::<Vec<_>>()
    };
    assert!(
        holds_within(DEADLINE, || left().is_empty()),
        "{design}: {:?}",
        left()
    );
    let files: Vec<_> = fs::read_dir(&scratch).expect("scratch").collect();
    assert!(files.is_empty(), "{design}: {files:?}");
    text()
}

/// The first line from `at` on that holds all of `words`.
fn after<'a>(lines: &[&'a str], at: &mut usize, words: &[&str]) -> &'a str {
    let found = lines[*at..]
        .iter()
        .position(|line| words.iter().all(|word| line.contains(word)));
    let found =
        found.unwrap_or_else(|| panic!("no {words:?} after line {at} of\n{}", lines.join("\n")));
    *at += found + 1;
    lines[*at - 1]
}

fn teaches(design: &str) {
    let said = run(design);
    let lines: Vec<&str> = said.lines().collect();
    let mut at = 0;
    let server = if design.ends_with("thread") {
        "thread"
    } else {
        "child"
    };
    for words in [
        &["supervisor", "listen(listener"][..],
        &["client", "connect(socket, 127.0.0.1:"],
        &["HANDSHAKE", "SYN-ACK"],
        &["accept4(listener", "= connection"],
        &["client end", "ESTAB"],
        &["read(connection, \"hello\\n\") = 6"],
        &["client", "shutdown(connection, SHUT_WR)"],
        &["FIN 1 of 2"],
        &["server end", "CLOSE-WAIT", "FIN unread"],
        &[server, "read(connection, \"\") = 0"],
        &["FIN 2 of 2"],
        &["client", "read(connection, \"\") = 0"],
        &["client end", "TIME-WAIT"],
        &["REAPED"],
        &["SIGTERM"],
        &["echod ended with status 0"],
    ] {
        after(&lines, &mut at, words);
    }
    let mut at = 0;
    for words in own_words(design) {
        after(&lines, &mut at, words);
    }
    assert!(lines.len() < 200, "{design}: {} lines", lines.len());
    let noise = [
        "0x7f",
        "newfstatat",
        "ERESTART",
        "mmap(",
        "msg_hdr",
        "F_GETFD",
    ];
    let noise = lines
        .iter()
        .find(|line| noise.iter().any(|word| line.contains(word)));
    assert_eq!(noise, None, "{design}");
}

/// One after the other: each starts some hundred short processes.
#[test]
fn a_lesson_for_every_design() {
    if can_run() {
        DESIGNS.into_iter().for_each(teaches);
    }
}

#[test]
fn an_unknown_design_is_a_usage_error_that_names_all() {
    for words in [&[][..], &["nope"], &["prefork", "iterative"]] {
        let out = script().args(words).output().expect("sh runs");
        assert_eq!(out.status.code(), Some(64));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(DESIGNS.iter().all(|name| said.contains(name)), "{said}");
    }
}

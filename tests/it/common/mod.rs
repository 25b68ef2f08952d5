//! The harness: one real echod a test, on a port the kernel picked, watched
//! from outside through its sockets, its signals, its log and /proc.
//!
//! It promises that nothing waits by sleeping for a guessed time (readiness is
//! `--ready-fd`, everything else a condition polled until a deadline), that a
//! daemon is stopped and its last process gone when its [`Daemon`] is dropped,
//! and that a failed test shows the daemon's log. It never calls
//! waitpid(-1): tests are threads of one process and would steal each other's
//! children. It knows nothing of echod's inside.
// Each test binary uses its own part of this module.
#![allow(dead_code, unused_imports)]

pub mod builder;
pub mod client;
pub mod conn;
pub mod daemon;
pub mod design;
pub mod explain;
pub mod load;
pub mod plain;
pub mod proc;
pub mod roles;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub use builder::Builder;
pub use client::{
    Client, ONCE, at_once, echo_once, exact_prefix, pattern, stream, stream_over,
    stream_until_broken,
};
pub use conn::ConnLine;
pub use daemon::{Daemon, Finished};
pub use design::{DESIGNS, Design};
pub use load::{Load, Outcomes, many};
pub use nix::sys::signal::Signal;
pub use plain::PlainServer;
pub use proc::{children, comm, fd_count, rss_kib, signal, state, zombies};

/// How long anything may take before a test calls it stuck: ample, since other
/// tests share the processors.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `done` until it holds; panics with `what` at the deadline.
#[track_caller]
pub fn poll_until(deadline: Duration, what: &str, done: impl FnMut() -> bool) {
    assert!(
        holds_within(deadline, done),
        "not within {deadline:?}: {what}"
    );
}

/// Polls `done` until it holds (true) or the deadline passes (false).
pub fn holds_within(deadline: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > deadline {
            return done();
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Polls `get` until it gives something; panics with `what` at the deadline.
#[track_caller]
pub fn poll_some<T>(deadline: Duration, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let mut got = None;
    poll_until(deadline, what, || {
        got = get();
        got.is_some()
    });
    got.expect("poll_until returns only when there is something")
}

/// Runs what a machine that others use as well may spoil, up to three times: what is
/// broken fails each time.
pub fn in_one_of_three(test: impl Fn()) {
    for _ in 0..2 {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test)).is_ok() {
            return;
        }
    }
    test();
}

/// Whether `tool` can be used; says so and returns false when it is not
/// installed. With `ECHOD_TESTS_NO_SKIP` in the environment it panics instead,
/// so that a skipped test cannot pass for a run one.
#[track_caller]
pub fn need(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(tool));
    places.any(|file| file.is_file()) || skipped(&format!("{tool} is not installed"))
}

/// Whether the tests run as root; says so and returns false when not.
#[track_caller]
pub fn need_root() -> bool {
    is_root() || skipped("needs root")
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Reports a test that cannot run here; false, or a panic where skipping is
/// not allowed.
#[track_caller]
pub fn skipped(why: &str) -> bool {
    assert!(
        std::env::var_os("ECHOD_TESTS_NO_SKIP").is_none(),
        "skipped: {why}"
    );
    println!("skipped: {why}");
    false
}

/// Whether this kernel has IPv6 on its loopback interface.
pub fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

/// Runs a tool to its end and returns whether it succeeded, with what it said.
pub fn tool(program: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text += &String::from_utf8_lossy(&out.stderr);
    (out.status.success(), text)
}

/// [`tool`], for a step the test cannot do without.
#[track_caller]
pub fn must(program: &str, args: &[&str]) -> String {
    let (ok, text) = tool(program, args);
    assert!(ok, "{program} {args:?}: {text}");
    text
}

/// Set in the copy of a test that runs in a network namespace of its own.
const INSIDE: &str = "ECHOD_TEST_INSIDE_NETNS";

/// Whether this is that copy. Else runs the test there, if that can be done, and
/// the caller has nothing more to do.
#[track_caller]
pub fn inside_netns(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !need_root() || !["unshare", "ip"].iter().all(|t| need(t)) {
        return false;
    }
    let this = std::env::current_exe().expect("our own path");
    let out = Command::new("unshare")
        .arg("-n")
        .arg(this)
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}{said}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

//! Clients that make children crash, over and over.

use super::source::serving;
use super::{DEFAULT, HERE, THERE, assert_refused, served, start};
use crate::common::design::{FORK_WAIT, PREFORK_PASS, PREFORK_PASS_REUSE};
use crate::common::{Client, DEADLINE, Daemon, Signal, poll_until, signal, zombies};

/// A client from there, and the process that serves it.
fn with_its_process(daemon: &Daemon, source: &str) -> (Client, i32) {
    serving(daemon, source, &daemon.role("echod-conn"))
}

/// A client from there, whose process dies of this.
fn crash(daemon: &Daemon, source: &str, which: Signal) {
    let (client, pid) = with_its_process(daemon, source);
    signal(pid, which);
    // Reaped, and so counted: the line of its end is written just before that.
    let peer = client.peer_name();
    daemon.conn_line(&peer);
}

/// Row 54: a source that crashes a child again and again has no further child to
/// crash, others are served, and it is an error in the log. A kill is no crash.
#[test]
fn row_54_who_crashes_children_runs_out_of_them() {
    for design in [&DEFAULT, &FORK_WAIT, &PREFORK_PASS, &PREFORK_PASS_REUSE] {
        let daemon = start(design, &["--max-per-source", "3/24:64"]);
        for _ in 0..4 {
            crash(&daemon, HERE, Signal::SIGKILL);
        }
        let crashes = [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS];
        for which in crashes {
            crash(&daemon, HERE, which);
        }
        daemon.wait_log("3 crashes from 127.201.1.0/24 in 10 minutes", DEADLINE);
        for _ in 0..10 {
            assert_refused("127.201.1.9", &daemon);
        }
        let mut other = served(THERE, &daemon);
        crash(&daemon, THERE, Signal::SIGSEGV);
        other.ping(b"unharmed");
        drop(served(THERE, &daemon));
        assert_eq!(daemon.log_count(" crashes from "), 1, "{}", design.name);
        assert_eq!(daemon.log_count(": --max-per-source 3"), 1);
    }
}

/// Row 54, without a count by source: each crash is a log line with its client, and
/// echod serves on.
#[test]
fn row_54_many_crashes_are_logged_with_their_client() {
    let daemon = start(&DEFAULT, &[]);
    for n in 1..=30 {
        let (client, pid) = with_its_process(&daemon, HERE);
        signal(pid, Signal::SIGSEGV);
        let told = format!(
            "process {pid} died of SIGSEGV while serving {}",
            client.peer_name()
        );
        daemon.wait_log(&told, DEADLINE);
        assert_eq!(daemon.log_count("died of SIGSEGV while serving "), n);
    }
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
    drop(served(HERE, &daemon));
}

//! What the clients of one worker share: its death, its stop, its descriptors.

use std::time::Duration;

use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, Design, Load, Signal, echo_once, fd_count,
    holds_within, many, poll_until, proc, signal,
};

/// The present worker, once there is one.
fn worker(daemon: &Daemon) -> i32 {
    poll_until(DEADLINE, "one worker", || {
        daemon.role("echod-thread").len() == 1
    });
    daemon.role("echod-thread")[0]
}

fn threads(pid: i32) -> usize {
    let count = proc::status(pid, "Threads").and_then(|text| text.parse().ok());
    count.unwrap_or(0)
}

fn served(daemon: &Daemon, n: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"served");
    }
    clients
}

fn assert_all_ended(daemon: &Daemon, clients: &mut [Client], by: &str) {
    for client in clients {
        if let Err(error) = client.end() {
            assert!(!crate::common::client::is_timeout(&error), "left open");
        }
        let line = daemon.conn_line(&client.peer_name());
        assert_eq!((line.end.as_str(), line.received, line.sent), (by, 6, 6));
    }
}

/// What is given up against a process for each client.
pub fn a_crash_ends_every_client_of_its_worker(design: &Design) {
    let daemon = Daemon::start(design.args);
    let mut clients = served(&daemon, 2);
    let crashed = worker(&daemon);
    signal(crashed, Signal::SIGSEGV);
    assert_all_ended(&daemon, &mut clients, "killed:SEGV");
    let said = format!("process {crashed} died of SIGSEGV while serving 2 clients");
    daemon.wait_log(&said, DEADLINE);
    assert_eq!(echo_once(daemon.addr(), b"replaced"), b"replaced");
    assert_ne!(worker(&daemon), crashed);
}

/// A panic in one thread ends the process too: the connection of a thread that
/// vanished alone would stay open for ever.
pub fn a_panic_ends_every_client_of_its_worker(design: &Design) {
    if !cfg!(debug_assertions) {
        return;
    }
    let builder = Builder::new().args(design.args);
    let daemon = builder.env("ECHOD_FAULT", "serve:panic").start();
    let first = worker(&daemon);
    let mut client = Client::connect(daemon.addr());
    assert!(!client.try_ping(b"x"));
    daemon.wait_log(
        &format!("process {first} left with status 70 while serving 1 client"),
        DEADLINE,
    );
    assert_ne!(worker(&daemon), first);
}

pub fn workers_killed_under_load_are_replaced(design: &Design) {
    let daemon = Daemon::start(design.args);
    let load = Load::start(daemon.addr(), 8, 300);
    let mut seen = 0;
    for _ in 0..5 {
        poll_until(DEADLINE, "the load runs", || load.done() >= seen + 50);
        seen = load.done();
        for pid in daemon.role("echod-thread") {
            signal(pid, Signal::SIGKILL);
        }
    }
    let outcomes = load.stop();
    assert_eq!(
        (outcomes.corrupt, outcomes.timeout, outcomes.refused),
        (0, 0, 0)
    );
    // At most the clients in progress at each kill.
    assert!(outcomes.lost() <= 5 * 8, "{outcomes:?}");
    many(daemon.addr(), 100, 8, 300).assert_all_complete();
}

pub fn the_worker_stays_the_same_over_1000_connections(design: &Design) {
    let daemon = Daemon::start(design.args);
    let at_rest = |pid: i32| {
        let mut last = (0, None);
        let still = || {
            let now = (threads(pid), fd_count(pid));
            std::mem::replace(&mut last, now) == now
        };
        poll_until(DEADLINE, "the worker at rest", still);
        last
    };
    many(daemon.addr(), 200, 8, 100).assert_all_complete();
    let pid = worker(&daemon);
    let before = at_rest(pid);
    many(daemon.addr(), 1000, 8, 100).assert_all_complete();
    assert_eq!(worker(&daemon), pid);
    // A pool may have grown by who was busy at the wrong moment, up to its limit.
    let most = if design.pooled { 1 + 32 } else { before.0 };
    let flat = || threads(pid) <= most && fd_count(pid) <= before.1;
    let now = || (threads(pid), fd_count(pid));
    assert!(holds_within(DEADLINE, flat), "{before:?}, then {:?}", now());
}

pub fn the_deadline_and_a_second_term_end_clients(design: &Design) {
    let at_deadline = ["--graceful-timeout", "300ms"];
    let daemon = Builder::new().args(design.args).args(at_deadline).start();
    let mut clients = served(&daemon, 3);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_all_ended(&daemon, &mut clients, "stop");
    assert_eq!(daemon.log_count("3 clients were cut"), 1);

    let late = ["--graceful-timeout", "60s"];
    let daemon = Builder::new().args(design.args).args(late).start();
    let mut clients = served(&daemon, 3);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log("3 clients are left to finish", DEADLINE);
    for client in &mut clients {
        client.ping(b"-");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(
        daemon.wait_exit(Duration::from_secs(5)).code(),
        Some(0),
        "at once"
    );
    for client in &clients {
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
    }
}

/// Clients that one worker cannot hold wait in the queue until it can.
pub fn a_worker_without_descriptors_loses_nobody(design: &Design) {
    if !crate::common::need("prlimit") {
        return;
    }
    let builder = Builder::new().under(["prlimit", "--nofile=40"]);
    let daemon = builder.args(design.args).start();
    let outcomes = many(daemon.addr(), 300, 60, 2000);
    outcomes.assert_all_complete();
    let mut held: Vec<Client> = (0..50).map(|_| Client::connect(daemon.addr())).collect();
    poll_until(DEADLINE, "the shortage in the log", || {
        daemon.log_count("EMFILE") == 1
    });
    held.truncate(5);
    assert_eq!(echo_once(daemon.addr(), b"recovered"), b"recovered");
}

/// As many tasks as this user may have: a thread cannot be started, and whom it
/// was for waits. Needs a uid of its own, for the limit counts all its tasks.
pub fn a_worker_without_room_for_threads_loses_nobody(design: &Design) {
    if !(crate::common::need_root() && crate::common::need("prlimit")) {
        return;
    }
    let uid = 61_000 + u32::try_from(design.name.len()).expect("short");
    let builder = Builder::new().uid(uid).under(["prlimit", "--nproc=16"]);
    let daemon = builder.args(design.args).start();
    let mut held: Vec<Client> = (0..30).map(|_| Client::connect(daemon.addr())).collect();
    daemon.wait_log("clone: Try again (EAGAIN)", DEADLINE);
    held.drain(..20);
    for client in &mut held {
        client.ping(b"in its turn");
    }
    drop(held);
    many(daemon.addr(), 50, 4, 100).assert_all_complete();
    let lines = ConnLine::all(&daemon.log());
    assert!(lines.iter().all(|line| line.end == "eof"), "{lines:?}");
}

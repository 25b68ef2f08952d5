//! What is said of clients that wait for a place or for the rate: only that, when
//! it begins and when it is over, with the right numbers.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::design::{
    FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, ITERATIVE, PREFORK, PREFORK_REUSE, PRETHREAD, THREAD,
    side_by_side,
};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Load, Signal, echo_once, many, poll_until,
    proc,
};

/// What begins, and what is over.
const BEGINS: &str = "reached: further clients";
const OVER: &str = "any more, after";

fn limited(design: &Design, n: usize, more: &[&str]) -> Daemon {
    let (args, _) = design.limited_to(n);
    Builder::new().args(args).args(more).start()
}

fn held(daemon: &Daemon, n: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"here");
    }
    clients
}

/// The line that says that it is over, and the seconds in it.
fn over(daemon: &Daemon, nth: usize) -> (String, f64) {
    poll_until(DEADLINE, "a line that it is over", || {
        daemon.log_count(OVER) >= nth
    });
    let log = daemon.log();
    let line = log.lines().filter(|line| line.contains(OVER)).nth(nth - 1);
    let line = line.expect("counted").to_owned();
    let time = line.rsplit(' ').next().expect("a word");
    let seconds = match time.strip_suffix("ms") {
        Some(ms) => ms.parse::<f64>().map(|ms| ms / 1e3),
        None => time.trim_end_matches('s').parse(),
    };
    let seconds = seconds.unwrap_or_else(|error| panic!("{line}: {error}"));
    (line, seconds)
}

/// Everything up to the limit, HUP too, with nobody waiting.
#[test]
fn row_101_the_limit_is_not_reached_while_nobody_waits() {
    side_by_side(&DESIGNS, |design| {
        let daemon = limited(design, 8, &[]);
        let free = if design.one_at_a_time { 0 } else { 6 };
        let mut clients = held(&daemon, free);
        for _ in 0..3 {
            daemon.signal(Signal::SIGHUP);
            for _ in 0..10 {
                assert_eq!(echo_once(daemon.addr(), b"in time"), b"in time");
            }
        }
        many(daemon.addr(), 100, 2 - usize::from(free == 0), 500).assert_all_complete();
        // Every place taken, and nobody beside them.
        if free > 0 {
            clients.extend(held(&daemon, 2));
        }
        for client in &mut clients {
            assert!(client.silent_for(Duration::from_millis(60)));
        }
        assert_eq!(
            daemon.log_count(BEGINS),
            0,
            "{}: {}",
            design.name,
            daemon.log()
        );
    });
}

/// A full house is no reason to stay awake.
#[test]
fn row_101_who_watches_a_full_table_sleeps() {
    side_by_side(&DESIGNS, |design| {
        let daemon = limited(design, 2, &[]);
        let mut clients = held(&daemon, if design.one_at_a_time { 1 } else { 2 });
        // What the last of them has stirred comes to rest.
        assert!(clients[0].silent_for(Duration::from_millis(300)));
        let wakeups = || proc::wakeups(daemon.pid()).expect("alive");
        let before = wakeups();
        assert!(clients[0].silent_for(Duration::from_millis(700)));
        let woken = wakeups() - before;
        assert!(woken <= 3, "{}: {woken} wake-ups", design.name);
    });
}

/// Half of the places held, and a load beside them that the machine is slow to
/// serve: many of its clients are queued for a moment, and a place is there.
#[test]
fn row_101_a_loaded_machine_is_no_limit() {
    let spinning: Vec<_> = (0..4)
        .map(|_| {
            let spin = std::process::Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn();
            spin.expect("sh starts")
        })
        .collect();
    let result = std::panic::catch_unwind(|| {
        side_by_side(&DESIGNS, |design| {
            if design.one_at_a_time {
                return;
            }
            let daemon = limited(design, 16, &[]);
            let clients = held(&daemon, 8);
            many(daemon.addr(), 400, 4, 200).assert_all_complete();
            drop(clients);
            assert_eq!(
                daemon.log_count(BEGINS),
                0,
                "{}: {}",
                design.name,
                daemon.log()
            );
        });
    });
    for mut spin in spinning {
        let _ = spin.kill();
        let _ = spin.wait();
    }
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Four clients at `-c 2`: said, over, and said again another time.
#[test]
fn row_101_who_waits_for_a_place_is_told_of_each_time() {
    side_by_side(&DESIGNS, |design| {
        if design.one_at_a_time {
            return;
        }
        let daemon = limited(design, 2, &[]);
        for nth in 1..=2 {
            let clients = held(&daemon, 2);
            assert_eq!(daemon.log_count(BEGINS), nth - 1, "{}", design.name);
            let mut waiting: Vec<_> = (0..2).map(|_| Client::connect(daemon.addr())).collect();
            let start = Instant::now();
            for client in &mut waiting {
                client.write_all(b"late").expect("the kernel takes it");
            }
            poll_until(DEADLINE, "a line that the limit is reached", || {
                daemon.log_count("--max-clients 2 reached: further clients wait in the queue")
                    == nth
            });
            assert!(waiting[0].silent_for(Duration::from_millis(700)));
            drop(clients);
            for client in &mut waiting {
                let mut got = [0; 4];
                client.read_exact(&mut got).expect("served in its turn");
            }
            let took = start.elapsed().as_secs_f64();
            drop(waiting);
            let (line, lasted) = over(&daemon, nth);
            let name = design.name;
            assert!(
                line.contains("--max-clients 2: no client waits"),
                "{name}: {line}"
            );
            assert!((0.3..=took).contains(&lasted), "{name}: {line}, not {took}");
            assert_eq!(daemon.log_count(BEGINS), nth, "{name}");
        }
    });
}

/// A queue that never empties is one line, and many short waits are the same.
#[test]
fn row_101_a_load_beyond_the_limit_is_one_line() {
    side_by_side(&DESIGNS, |design| {
        if design.one_at_a_time {
            return;
        }
        let daemon = limited(design, 2, &[]);
        let load = Load::start(daemon.addr(), 24, 200);
        daemon.wait_log("--max-clients 2 reached", DEADLINE);
        load.stop().assert_all_complete();
        assert_eq!(daemon.log_count(BEGINS), 1, "{}", design.name);
    });
}

/// So many were turned away, and so many are said to have been.
#[test]
fn row_101_who_is_turned_away_is_counted() {
    side_by_side(&DESIGNS, |design| {
        for (how, fate) in [("close", "closed"), ("reset", "reset")] {
            let daemon = limited(design, 2, &["--overflow", how]);
            let clients = held(&daemon, if design.one_at_a_time { 1 } else { 2 });
            let max = clients.len();
            assert_eq!(daemon.log_count(BEGINS), 0, "{} {how}", design.name);
            for (nth, n) in [(1, 5), (2, 1)] {
                for _ in 0..n {
                    let end = Client::try_connect(daemon.addr()).and_then(|mut c| c.end());
                    assert_eq!(end.is_ok(), how == "close", "{how}: {end:?}");
                }
                let begins = format!("--max-clients {max} reached: further clients are {fate}");
                daemon.wait_log(&begins, DEADLINE);
                let gone = format!(
                    "--max-clients {max}: no client is turned away any more, after {n} client"
                );
                daemon.wait_log(&gone, DEADLINE);
                assert_eq!(daemon.log_count(BEGINS), nth, "{} {how}", design.name);
            }
        }
    });
}

/// A rate that keeps clients waiting is one line, and one when it does no more.
#[test]
fn a_rate_that_keeps_clients_waiting_is_said_once() {
    let paced = [
        &PREFORK,
        &PREFORK_REUSE,
        &FORK_WAIT,
        &FORK_IGNORE,
        &FORK_DOUBLE,
        &ITERATIVE,
        &THREAD,
        &PRETHREAD,
    ];
    side_by_side(&paced, |design| {
        let more = ["--connection-rate", "5/500ms"];
        let daemon = Builder::new().args(design.args).args(more).start();
        for _ in 0..5 {
            assert_eq!(echo_once(daemon.addr(), b"in time"), b"in time");
        }
        assert_eq!(daemon.log_count("--connection-rate"), 0, "{}", design.name);
        for nth in 1..=2 {
            many(daemon.addr(), 15, 5, 10).assert_all_complete();
            let begins = "--connection-rate 5/500ms reached: further clients wait in the queue";
            assert_eq!(
                daemon.log_count(begins),
                nth,
                "{}: {}",
                design.name,
                daemon.log()
            );
            let (line, lasted) = over(&daemon, nth);
            let says = "--connection-rate 5/500ms: no client waits any more, after";
            assert!(line.contains(says), "{}: {line}", design.name);
            assert!((0.3..20.0).contains(&lasted), "{}: {line}", design.name);
        }
    });
}

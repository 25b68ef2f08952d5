//! `--connection-rate`: the excess waits, and nobody is refused.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::{HERE, THERE, served, start};
use crate::common::design::{FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, ITERATIVE, PRETHREAD, THREAD};
use crate::common::design::{PREFORK, PREFORK_REUSE};
use crate::common::{Client, DEADLINE, Design, Signal, many, poll_until, proc, signal};

/// As people type it: no `--accept` is named.
const PACED: [&Design; 8] = [
    &PREFORK,
    &PREFORK_REUSE,
    &FORK_WAIT,
    &FORK_IGNORE,
    &FORK_DOUBLE,
    &ITERATIVE,
    &THREAD,
    &PRETHREAD,
];

#[test]
fn the_excess_waits_in_the_queue_and_all_are_served() {
    for design in PACED {
        // Ten at once, then one each 50 ms: the last of 16 after 300 ms.
        let daemon = start(design, &["--connection-rate", "10/500ms"]);
        let start = Instant::now();
        let mut clients: Vec<_> = (0..16)
            .map(|_| {
                let mut client = Client::connect(daemon.addr());
                client.write_all(b"?").expect("queued");
                client.shutdown_write().expect("shutdown");
                client
            })
            .collect();
        for client in &mut clients {
            assert_eq!(client.rest(), b"?", "{}", design.name);
        }
        let took = start.elapsed();
        let least = Duration::from_millis(300);
        assert!(took >= least, "{}: {took:?}", design.name);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_exit(DEADLINE);
        assert_eq!(daemon.log_count("refus"), 0, "{}", daemon.log());
    }
}

/// The end of each pause is an occasion to be missed, where nothing else
/// happens that would wake whoever accepts: so one client after the other.
#[test]
fn no_pause_is_the_last() {
    for design in PACED {
        let daemon = start(design, &["--connection-rate", "1/400us"]);
        many(daemon.addr(), 300, 1, 10).assert_all_complete();
    }
}

/// A rate that stays where it is when those who keep it are killed.
#[test]
fn killing_whoever_accepts_refills_nothing() {
    for design in [&ITERATIVE, &THREAD, &PRETHREAD] {
        let role = if design.one_at_a_time {
            "echod-idle"
        } else {
            "echod-thread"
        };
        let daemon = start(design, &["--connection-rate", "2/4s"]);
        let start = Instant::now();
        for _ in 0..2 {
            let mut client = Client::connect(daemon.addr());
            client.ping(b"?");
            client.shutdown_write().expect("shutdown");
            assert!(client.rest().is_empty());
        }
        poll_until(DEADLINE, "a worker that waits", || {
            daemon.role(role).len() == 1
        });
        let worker = daemon.role(role)[0];
        signal(worker, Signal::SIGKILL);
        poll_until(DEADLINE, "it is dead", || proc::is_dead(worker));
        let mut third = Client::connect(daemon.addr());
        third.ping(b"?");
        let took = start.elapsed();
        let least = Duration::from_secs(2);
        assert!(took >= least, "{}: {took:?}", design.name);
    }
}

/// Who is refused uses none of it, and neither does who is exempt.
#[test]
fn the_rate_is_for_those_it_is_about() {
    for design in [&PREFORK, &FORK_WAIT, &THREAD, &ITERATIVE] {
        let args = [
            "--connection-rate",
            "1/60s",
            "--exempt",
            "127.201.0.0/16",
            "--deny",
            "127.203.0.0/16",
        ];
        let daemon = start(design, &args);
        for _ in 0..5 {
            super::assert_refused("127.203.1.7", &daemon);
            let mut exempt = served(HERE, &daemon);
            exempt.shutdown_write().expect("shutdown");
            assert!(exempt.rest().is_empty());
        }
        let mut only = served(THERE, &daemon);
        only.shutdown_write().expect("shutdown");
        assert!(only.rest().is_empty());
        let mut next = super::connect_from(THERE, daemon.addr()).expect("queued");
        next.write_all(b"?").expect("queued");
        assert!(
            next.silent_for(Duration::from_millis(200)),
            "beyond the rate"
        );
        // A stop does not wait for the rate.
        daemon.signal(Signal::SIGTERM);
        let mut got = [0];
        next.read_exact(&mut got).expect("served by the stop");
        drop(next);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    }
}

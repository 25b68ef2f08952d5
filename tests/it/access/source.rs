//! `--max-per-source`: exact whoever dies, and fair to the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{COUNTING, HERE, THERE, assert_refused, count_refused, served, served_again, start};
use crate::common::client::tcp_addr;
use crate::common::design::pool;
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, Signal, has_ipv6, poll_until, proc, signal,
};

/// Row 79: clients that say nothing hold the places of their own source and no
/// others.
#[test]
fn row_79_silent_clients_take_only_the_places_of_their_source() {
    for design in COUNTING {
        let daemon = start(design, &["--max-per-source", "3/24:64"]);
        // One process accepts, in the order of the queue: these are in.
        let silent = ["127.201.1.1", "127.201.1.2", "127.201.1.3"];
        let mut silent: Vec<_> = silent
            .iter()
            .map(|source| super::connect_from(source, daemon.addr()).expect("connect"))
            .collect();
        assert_refused("127.201.1.4", &daemon);
        assert_refused("127.201.1.1", &daemon);
        let mut other = served("127.201.2.1", &daemon);
        for client in &mut silent {
            client.ping(b"served all the while");
        }
        drop(silent.pop());
        let again = served_again("127.201.1.200", &daemon);
        assert_refused("127.201.1.4", &daemon);
        other.ping(b"and the other");
        drop(again);
    }
}

/// Row 80: when all slots are full, those of one source were not more than its
/// own, and clients of others wait and are served.
#[test]
fn row_80_a_source_at_its_limit_keeps_slots_for_others() {
    for design in COUNTING {
        let (mut args, most) = design.limited_to(4);
        args.extend(["--max-per-source".to_owned(), "2".to_owned()]);
        let daemon = Daemon::start(&args);
        let greedy = [served(HERE, &daemon), served(HERE, &daemon)];
        for _ in 0..20 {
            assert_refused(HERE, &daemon);
        }
        let others = [served(THERE, &daemon), served(THERE, &daemon)];
        assert_eq!(greedy.len() + others.len(), most);
        let mut waiting = super::connect_from("127.203.1.7", daemon.addr()).expect("connect");
        assert!(waiting.silent_for(Duration::from_millis(100)));
        drop(greedy);
        waiting.ping(b"served once a slot is free");
        daemon.signal(Signal::SIGTERM);
        drop((waiting, others));
        daemon.wait_exit(DEADLINE);
        let log = daemon.log();
        let name = design.name;
        assert!(log.contains(&format!("refusing {HERE}:")), "{name}: {log}");
        let from = format!(" connections from {HERE}/32 in ");
        assert!(log.contains(&from), "{name}: {log}");
        let count = count_refused(&log, ": --max-per-source 2");
        assert_eq!(count, 20, "{name}: {log}");
    }
}

/// Row 88: each source is one, whichever family the listener is of, and an IPv6
/// host with a whole /64 is one source.
#[test]
fn row_88_each_family_has_its_own_sources() {
    if !has_ipv6() {
        return;
    }
    let daemon = Builder::new()
        .args(["-l", "*:0", "--max-per-source", "1"])
        .start();
    let port = tcp_addr(daemon.addr()).port();
    let (four, six) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    let first = super::try_from("127.0.0.1", &four).expect("served");
    let sixth = super::try_from("::1", &six).expect("another source");
    assert!(super::try_from("127.0.0.1", &four).is_err());
    assert!(super::try_from("::1", &six).is_err());
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    assert!(super::try_from("::ffff:127.0.0.1", &mapped).is_err());
    drop(first);
    poll_until(DEADLINE, "the IPv4 place is free", || {
        super::try_from("::ffff:127.0.0.1", &mapped).is_ok()
    });
    drop(sixth);
}

/// The process that serves this client, by a method of its own: one at a time
/// connects, so it is the one that was not there before.
pub fn serving(daemon: &Daemon, source: &str, before: &[i32]) -> (Client, i32) {
    let client = served_again(source, daemon);
    let found = crate::common::poll_some(DEADLINE, "the serving process", || {
        daemon.serving_pid_for(&client).or_else(|| {
            let mut now = daemon.role("echod-conn");
            now.retain(|pid| !before.contains(pid));
            now.extend(daemon.role("echod-thread"));
            (now.len() == 1).then(|| now[0])
        })
    });
    (client, found)
}

/// After each kill -9 of a serving process its place is free, once, and no other
/// is.
#[test]
fn the_count_is_exact_whoever_is_killed() {
    for design in COUNTING {
        let daemon = start(design, &["--max-per-source", "2"]);
        for _ in 0..10 {
            let mut kept = served_again(HERE, &daemon);
            let before = daemon.role("echod-conn");
            let (victim, pid) = serving(&daemon, HERE, &before);
            assert_refused(HERE, &daemon);
            signal(pid, Signal::SIGKILL);
            poll_until(DEADLINE, "the killed process is dead", || {
                proc::is_dead(pid)
            });
            let mut again = served_again(HERE, &daemon);
            again.ping(b"in its place");
            if daemon.role("echod-thread").len() == 1 {
                // The worker had both; the kept one ended with it.
                let second = served_again(HERE, &daemon);
                assert_refused(HERE, &daemon);
                drop(second);
            } else {
                kept.ping(b"unharmed");
                assert_refused(HERE, &daemon);
            }
            drop((kept, victim));
        }
    }
}

/// Clients of one source that come and go as fast as they can: never more than
/// the limit are served, and the places are all used.
#[test]
fn never_more_than_the_limit_at_once() {
    const MOST: usize = 3;
    for design in COUNTING {
        let daemon = start(design, &["--max-per-source", "3"]);
        let (now, high, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let addr = daemon.addr();
        let come_and_go = || {
            for _ in 0..40 {
                let Ok(client) = super::try_from(HERE, addr) else {
                    continue;
                };
                // From its echo to its close it is being served.
                let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                high.fetch_max(at_once, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                drop(client);
            }
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(come_and_go);
            }
        });
        let high = high.load(Ordering::SeqCst);
        assert!(high <= MOST, "{}: {high} at once", design.name);
        assert!(done.load(Ordering::SeqCst) > 0, "{}", design.name);
        // Nothing is left counted.
        let full: Vec<_> = (0..MOST).map(|_| served_again(HERE, &daemon)).collect();
        assert_refused(HERE, &daemon);
        drop(full);
    }
}

/// HUP replaces the workers; who is served by an old one still counts.
#[test]
fn the_count_goes_on_across_a_reload() {
    for design in COUNTING {
        let daemon = start(design, &["--max-per-source", "2"]);
        let mut held = [served(HERE, &daemon), served(HERE, &daemon)];
        daemon.signal(Signal::SIGHUP);
        let (waits, none) = ("generation 2", "no worker waits");
        poll_until(DEADLINE, "the order is obeyed", || {
            daemon.log_count(waits) + daemon.log_count(none) == 1
        });
        // The next generation serves.
        drop(served(THERE, &daemon));
        assert_refused(HERE, &daemon);
        held[0].ping(b"old");
        let [first, second] = held;
        drop(first);
        drop(served_again(HERE, &daemon));
        drop(second);
    }
}

/// What is queued when a stop begins is served within the limit.
#[test]
fn the_limit_holds_while_a_stop_serves_the_queue() {
    for design in COUNTING {
        let (mut args, most) = design.limited_to(4);
        args.extend(["--max-per-source".to_owned(), "2".to_owned()]);
        let daemon = Daemon::start(&args);
        let others = ["127.205.1.1", "127.205.1.1", THERE, THERE];
        assert_eq!(others.len(), most);
        let held: Vec<_> = others.iter().map(|from| served(from, &daemon)).collect();
        // No slot is free: these wait.
        let mut queued: Vec<_> = (0..3)
            .map(|_| super::connect_from(HERE, daemon.addr()).expect("queued"))
            .collect();
        daemon.signal(Signal::SIGTERM);
        daemon.wait_log("are left to finish", DEADLINE);
        drop(held);
        queued[0].ping(b"one");
        queued[1].ping(b"two");
        let end = queued[2].end();
        super::assert_reset(&end.expect_err("one more than the limit"));
        queued[0].ping(b"still");
        drop(queued);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    }
}

#[test]
fn exempt_sources_are_not_counted() {
    let daemon = start(
        &super::DEFAULT,
        &["--max-per-source", "1", "--exempt", "127.201.0.0/16"],
    );
    let many: Vec<_> = (0..5).map(|_| served(HERE, &daemon)).collect();
    let one = served(THERE, &daemon);
    assert_refused(THERE, &daemon);
    drop((many, one));
}

/// More sources at their limit than are counted apart.
#[test]
fn a_crowd_of_sources_is_counted_together() {
    let design: &Design = &super::DEFAULT;
    let mut args = pool(8, 8, 32);
    args.extend(["--max-per-source".to_owned(), "1".to_owned()]);
    let daemon = Builder::new().args(design.args).args(args).start();
    let source = |n: usize| format!("127.204.1.{n}");
    let mut held = Vec::new();
    for n in 1..=40 {
        held.push(served(&source(n), &daemon));
        assert_refused(&source(n), &daemon);
    }
    assert_refused(&source(40), &daemon);
    daemon.signal(Signal::SIGTERM);
    drop(held);
    daemon.wait_exit(DEADLINE);
    let log = daemon.log();
    assert_eq!(count_refused(&log, ": --max-per-source 1"), 41, "{log}");
    let (before, after) = log.split_once("stopping:").expect("a stop");
    if count_refused(before, "") == 0 {
        // None was over before all had come.
        let apart = after.matches("refused 1 connection from 127.204.1.");
        assert_eq!(apart.count(), 32, "{log}");
        let others = "refused 9 connections from other sources in ";
        assert!(after.contains(others), "{log}");
    }
}

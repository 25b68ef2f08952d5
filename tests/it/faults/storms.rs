//! Storms of signals: nothing is lost or locked by ten thousand a second.

use std::time::{Duration, Instant};

use crate::common::design::{PREFORK, PREFORK_REUSE, pool, side_by_side};
use crate::common::{
    Builder, DEADLINE, Daemon, Load, Signal, echo_once, many, poll_until, proc, signal, zombies,
};

/// What the supervisor hears, and what harms nobody.
const HARMLESS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
    Signal::SIGWINCH,
];

/// How long; a soak sets more.
fn duration() -> Duration {
    let asked = std::env::var("ECHOD_TEST_STORM_SECONDS").ok();
    Duration::from_secs(asked.map_or(1, |n| n.parse().expect("a number")))
}

/// CVE-2024-6387 was a handler that called what may not be called there. Ours
/// are none: signals are read from a descriptor (signalfd(2)), and what the
/// kernel shows as caught is the Rust runtime's for a stack that overflows.
#[test]
fn row_30_the_supervisor_has_no_handler() {
    let daemon = Daemon::start(PREFORK.args);
    let caught = proc::status(daemon.pid(), "SigCgt").expect("alive");
    let caught = u64::from_str_radix(&caught, 16).expect("a mask");
    let orders = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
    for which in HARMLESS.into_iter().chain(orders) {
        let bit = 1 << (which as i32 - 1);
        assert_eq!(caught & bit, 0, "{which} has a handler");
    }
    signal(daemon.pid(), Signal::SIGUSR1);
    daemon.wait_log("USR1: ", DEADLINE);
}

/// At the most talkative level: nothing that logs is locked by a handler.
#[test]
fn row_30_a_storm_of_signals_locks_nothing() {
    side_by_side(&[&PREFORK, &PREFORK_REUSE], |design| {
        let daemon = Builder::new()
            .args(design.args)
            .args(pool(4, 4, 8))
            .env("RUST_LOG", "trace")
            .start();
        let load = Load::start(daemon.addr(), 2, 300);
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < duration() {
            for which in HARMLESS {
                signal(daemon.pid(), which);
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(400));
        }
        let outcomes = load.stop();
        println!("{}: {sent} signals, {outcomes:?}", design.name);
        outcomes.assert_all_complete();
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
        poll_until(DEADLINE, "the pool", || {
            (4..=8).contains(&daemon.role("echod-idle").len())
        });
        poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
        let start = Instant::now();
        daemon.signal(Signal::SIGINT);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        println!("{}: stopped in {:?}", design.name, start.elapsed());
    });
}

/// A handler that wakes the loop through a pipe must not wait when that is full.
/// Ours has none: what comes while the supervisor is held up is one flag each.
#[test]
fn row_31_a_flood_while_the_supervisor_is_held_up_fills_nothing() {
    let daemon = Builder::new()
        .args(PREFORK_REUSE.args)
        .args(pool(4, 4, 4))
        .start();
    assert_eq!(echo_once(daemon.addr(), b"warm"), b"warm");
    held_up(&daemon);
    for _ in 0..100_000 / HARMLESS.len() {
        for which in HARMLESS {
            signal(daemon.pid(), which);
        }
    }
    // Their wakeups too.
    many(daemon.addr(), 200, 3, 100).assert_all_complete();
    signal(daemon.pid(), Signal::SIGCONT);
    daemon.wait_log("USR1: ", DEADLINE);
    assert_eq!(echo_once(daemon.addr(), b"on"), b"on");
    let calls = proc::wakeups(daemon.pid()).expect("alive");
    poll_until(DEADLINE, "rest", || {
        let before = proc::wakeups(daemon.pid());
        std::thread::sleep(Duration::from_millis(200));
        proc::wakeups(daemon.pid()) == before
    });
    let calls = proc::wakeups(daemon.pid()).expect("alive") - calls;
    assert!(calls < 1000, "{calls} wake-ups for what had been merged");
}

fn held_up(daemon: &Daemon) {
    daemon.signal(Signal::SIGSTOP);
    poll_until(DEADLINE, "it is stopped", || {
        proc::state(daemon.pid()) == Some('T')
    });
}

/// errno is the thread's, and a handler that changed it would change what a call
/// it interrupted is seen to have said: ppoll(2) says EINTR and nothing else.
#[test]
fn row_31_an_interrupted_wait_is_no_error() {
    let daemon = Daemon::start(PREFORK.args);
    for _ in 0..2000 {
        signal(daemon.pid(), Signal::SIGUSR1);
        signal(daemon.pid(), Signal::SIGCHLD);
    }
    assert_eq!(echo_once(daemon.addr(), b"on"), b"on");
    assert!(daemon.try_exit().is_none());
    assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
}

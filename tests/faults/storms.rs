//! Storms of signals: what a handler may do, and that nothing is lost or locked
//! while it is done ten thousand times a second.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::design::{PREFORK, PREFORK_REUSE, pool, side_by_side};
use crate::common::{
    Builder, DEADLINE, Daemon, Load, Signal, echo_once, many, need, poll_until, proc, signal,
    zombies,
};

/// What the supervisor has handlers for, and what harms nobody.
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
/// sets a flag: strace sees nothing between a signal and the return from it.
#[test]
fn row_30_a_handler_makes_no_system_call() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder.under(["strace", "-o", &trace]).start();
    let handled = || {
        let trace = fs::read_to_string(&trace).expect("a trace");
        let lines: Vec<&str> = trace.lines().collect();
        let mut handled = 0;
        for (n, line) in lines.iter().enumerate() {
            // One that has no handler is shown, too, and no return follows.
            let has_handler = line.starts_with("--- SIG") && !line.contains("SIGWINCH");
            let Some(next) = lines.get(n + 1).filter(|_| has_handler) else {
                continue;
            };
            // A second signal may come before the first handler has begun.
            let fine = next.starts_with("rt_sigreturn") || next.starts_with("--- SIG");
            assert!(fine, "in a handler: {line}\n{next}");
            handled += 1;
        }
        handled
    };
    poll_until(DEADLINE, "many signals", || {
        for which in HARMLESS {
            signal(daemon.pid(), which);
        }
        assert_eq!(echo_once(daemon.addr(), b"on"), b"on");
        handled() >= 100
    });
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
    // Their bells too.
    many(daemon.addr(), 200, 3, 100).assert_all_complete();
    signal(daemon.pid(), Signal::SIGCONT);
    daemon.wait_log("log reopened", DEADLINE);
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

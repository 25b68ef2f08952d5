//! Respawning: children that die before they can serve, every time, and one that is
//! dead before its parent knows its pid.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, pool, side_by_side};
use crate::common::{
    Builder, Client, DEADLINE, Signal, children, echo_once, need, need_root, poll_until, proc,
    signal, zombies,
};

/// The most forks in any second, of a trace whose lines begin with pid and time.
fn most_forks_in_a_second(trace: &str) -> usize {
    let calls = trace.lines().filter(|line| line.contains("clone"));
    let times: Vec<f64> = calls
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect();
    let within = |&from: &f64| {
        let second = times.iter().filter(|&&at| from <= at && at < from + 1.0);
        second.count()
    };
    times.iter().map(within).max().unwrap_or(0)
}

/// Workers of the pool below: with those that replace them before the first has
/// died at birth, and those after 0.1, 0.3 and 0.7 s, fewer than ten a second.
const POOL: usize = 4;

/// Workers that the kernel gives no sandbox, until it does again.
#[test]
fn row_18_a_pool_whose_workers_die_at_birth_is_degraded_and_recovers() {
    if !need_root() || !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .args(PREFORK_REUSE.args)
        .args(pool(POOL, POOL, POOL))
        .args(["--sandbox", "strict"])
        .start();
    let idle = || daemon.role("echod-idle");
    poll_until(DEADLINE, "the pool", || idle().len() == POOL);
    let calls = "trace=fork,clone,clone3,seccomp";
    let fault = "inject=seccomp:error=ENOMEM:when=1+";
    let file = ["-f", "-qq", "-ttt", "-o", &trace];
    let words = [&file[..], &["-e", calls, "-e", fault]].concat();
    let mut strace = proc::strace(daemon.pid(), &words);
    for pid in idle() {
        signal(pid, Signal::SIGKILL);
    }
    daemon.wait_log("degraded", DEADLINE);
    let start = Instant::now();
    poll_until(DEADLINE, "a while of watching", || {
        start.elapsed() > Duration::from_secs(3)
    });
    assert!(idle().is_empty(), "they cannot live");
    let calls = fs::read_to_string(&trace).expect("a trace");
    let most = most_forks_in_a_second(&calls);
    println!(
        "{most} forks in a second at most, {} in all",
        calls.lines().count()
    );
    assert!((3..=10).contains(&most), "{most} forks in a second");
    assert_eq!(daemon.log_count("degraded"), 1, "said once");
    assert_eq!(daemon.log_count("left with status 12"), 1);
    let mut waiting = Client::connect(daemon.addr());
    std::io::Write::write_all(&mut waiting, b"wait").expect("the kernel takes it");
    signal(strace.id().cast_signed(), Signal::SIGTERM);
    strace.wait().expect("strace");
    let mut got = [0; 4];
    std::io::Read::read_exact(&mut waiting, &mut got).expect("served by itself");
    poll_until(DEADLINE, "the pool is full again", || idle().len() >= POOL);
}

/// strace holds the supervisor back in its fork, so that the child is killed
/// before its pid is known to anyone.
#[test]
fn row_28_a_child_dead_before_its_pid_is_noted_is_reaped() {
    if !need("strace") {
        return;
    }
    side_by_side(&[&PREFORK, &FORK_WAIT], |design| {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let (args, _) = design.limited_to(2);
        let daemon = builder
            .under(["strace", "-o", &trace, "-e", "trace=clone", "-e"])
            .under(["inject=?fork,clone,clone3:delay_exit=50000"])
            .args(args)
            .args(["--sandbox", "off"])
            .start();
        let mut shot = BTreeSet::new();
        let start = Instant::now();
        while shot.len() < 12 && start.elapsed() < DEADLINE {
            if design.name == FORK_WAIT.name {
                // A child a client: this one is cut.
                drop(Client::try_connect(daemon.addr()));
            }
            for pid in children(daemon.pid()) {
                if shot.insert(pid) {
                    signal(pid, Signal::SIGKILL);
                }
            }
        }
        assert!(shot.len() >= 3, "{}: only {shot:?}", design.name);
        poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
        // Both slots are free, and no third.
        poll_until(DEADLINE, "it serves", || {
            Client::try_connect(daemon.addr()).is_ok_and(|mut client| client.try_ping(b"?"))
        });
        let (mut first, _) = daemon.connect_served();
        let (mut second, _) = daemon.connect_served();
        let mut third = crate::faults::deaths::send(daemon.addr(), 3);
        assert!(third.silent_for(Duration::from_millis(300)));
        first.ping(b"one");
        second.ping(b"two");
        drop(first);
        crate::faults::deaths::expect_answer(&mut third, 3);
        drop((second, third));
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    });
}

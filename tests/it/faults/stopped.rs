//! Processes that are stopped, not dead: the supervisor, a worker, and one that
//! not even SIGKILL ends.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::common::design::{FORK_DOUBLE, FORK_WAIT, PREFORK, PREFORK_REUSE, pool, side_by_side};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Signal, echo_once, many, need, need_root, poll_until, proc,
    signal, stream_over, zombies,
};
use crate::faults::deaths::{expect_answer, send};

fn stop(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    poll_until(DEADLINE, "it is stopped", || proc::state(pid) == Some('T'));
}

fn wait_idle(daemon: &Daemon, n: usize) {
    poll_until(DEADLINE, "the pool", || {
        daemon.role("echod-idle").len() == n
    });
}

/// The pool serves as many as it has, and nothing waits for the supervisor.
#[test]
fn row_37_a_stopped_supervisor_stops_nobody_else() {
    const N: usize = 20;
    let daemon = Builder::new()
        .args(PREFORK.args)
        .args(pool(N, N, N))
        .start();
    let (busy, _) = daemon.connect_served();
    wait_idle(&daemon, N);
    stop(daemon.pid());
    stream_over(busy, 8 << 20);
    for n in 0..N as u8 {
        let mut client = send(daemon.addr(), n);
        expect_answer(&mut client, n);
    }
    // Those who come now wait in the queue.
    let mut late: Vec<Client> = (0..5).map(|n| send(daemon.addr(), n)).collect();
    assert!(late[0].silent_for(Duration::from_millis(100)));
    signal(daemon.pid(), Signal::SIGCONT);
    for (n, client) in late.iter_mut().enumerate() {
        expect_answer(client, n as u8);
    }
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
    poll_until(DEADLINE, "every death accounted for", || {
        daemon.log_count("conn pid=") == 1 + N
    });
}

/// Connections over a live pool while the supervisor is stopped; a soak sets more.
fn connections() -> u64 {
    let asked = std::env::var("ECHOD_TEST_CONNECTIONS").ok();
    asked.map_or(3000, |n| n.parse().expect("a number"))
}

/// What workers tell never fills anything up: they write to memory, and wake by a
/// pipe that is as good when it is full.
#[test]
fn row_51_workers_that_are_reused_do_not_wait_for_a_stopped_supervisor() {
    let daemon = Builder::new()
        .args(PREFORK_REUSE.args)
        .args(pool(8, 8, 8))
        .start();
    wait_idle(&daemon, 8);
    let pids = daemon.role("echod-idle");
    stop(daemon.pid());
    many(daemon.addr(), connections(), 6, 500).assert_all_complete();
    signal(daemon.pid(), Signal::SIGCONT);
    assert_eq!(echo_once(daemon.addr(), b"on"), b"on");
    poll_until(DEADLINE, "the same workers", || {
        let now = daemon.role("echod-idle");
        pids.iter().filter(|pid| now.contains(pid)).count() >= 7
    });
    assert!(zombies(daemon.pid()).is_empty());
}

/// Nobody is told that it stopped, so nobody takes it for dead: it is one of those
/// who wait, and the others are kept up to the number that should.
#[test]
fn row_38_a_stopped_idle_worker_is_not_taken_for_dead() {
    side_by_side(&[&PREFORK, &PREFORK_REUSE], |design| {
        let daemon = Builder::new()
            .args(design.args)
            .args(pool(6, 6, 12))
            .start();
        wait_idle(&daemon, 6);
        let stopped = daemon.role("echod-idle").split_off(3);
        for &pid in &stopped {
            stop(pid);
        }
        for n in 0..100 {
            assert_eq!(echo_once(daemon.addr(), &[n]), [n], "{}", design.name);
        }
        for &pid in &stopped {
            assert_eq!(proc::state(pid), Some('T'), "{}: {pid}", design.name);
        }
        assert_eq!(daemon.log_count("idle process"), 0);
        for &pid in &stopped {
            signal(pid, Signal::SIGCONT);
        }
    });
}

/// TERM alone would wait for SIGCONT.
#[test]
fn row_38_a_stopped_worker_ends_with_the_stop() {
    side_by_side(
        &[&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &FORK_DOUBLE],
        |design| {
            let daemon = Builder::new()
                .args(design.args)
                .args(["--graceful-timeout", "500ms"])
                .start();
            let (mut client, pid) = daemon.connect_served();
            stop(pid);
            let mut other = Client::connect(daemon.addr());
            other.ping(b"not affected");
            let start = Instant::now();
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(8), "{}: {took:?}", design.name);
            let _ = client.read(&mut [0]);
            daemon.assert_gone(DEADLINE);
        },
    );
}

/// A tracer that sleeps keeps what it traces from being reaped, as a device that
/// does not answer would keep it from dying.
#[test]
fn row_53_a_child_that_will_not_die_is_named_and_left() {
    if !need("strace") || !need_root() {
        return;
    }
    let daemon = Builder::new().args(FORK_WAIT.args).start();
    let (mut client, pid) = daemon.connect_served();
    let mut strace = proc::strace(pid, &["-o", "/dev/null", "-e", "trace=none"]);
    client.ping(b"traced");
    stop(strace.id().cast_signed());
    let start = Instant::now();
    daemon.signal(Signal::SIGINT);
    let status = daemon.wait_exit(DEADLINE);
    let took = start.elapsed();
    // Promised are 5 s at most, after KILL.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(daemon.log_count(&format!("process {pid} will not die")), 1);
    assert_eq!(status.code(), Some(0));
    strace.kill().expect("kill");
    strace.wait().expect("wait");
    daemon.assert_gone(DEADLINE);
}

/// It was told by the pipe of death, which it does not look at.
#[test]
fn row_38_a_stopped_idle_worker_leaves_at_the_stop() {
    side_by_side(&[&PREFORK, &PREFORK_REUSE], |design| {
        let daemon = Builder::new()
            .args(design.args)
            .args(["--graceful-timeout", "500ms"])
            .args(pool(3, 3, 3))
            .start();
        wait_idle(&daemon, 3);
        stop(daemon.role("echod-idle")[1]);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        daemon.assert_gone(DEADLINE);
    });
}

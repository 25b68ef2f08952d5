//! Faults of accept(2), injected by strace(1) into every process of the
//! daemon: strace counts calls by process, so each new worker meets them anew.
//! It injects an error by making the call number -1, which a seccomp filter
//! sees and kills for: so `--sandbox off`.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::design::{
    FORK_WAIT, ITERATIVE, PREFORK, PREFORK_MUTEX, PREFORK_PASS, PREFORK_REUSEPORT, PRETHREAD,
    THREAD, pool, side_by_side,
};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Load, Signal, echo_once, many, need,
    pattern, poll_until, proc, signal, stream_over,
};

/// An echod whose accept4(2) fails as told: `error=EMFILE:when=1..3`.
fn injected(design: &Design, fault: &str, more: &[String]) -> (Daemon, PathBuf) {
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .under(["strace", "-f", "-ttt", "-o", &trace])
        .under(["-e", "trace=accept4"])
        .under(["-e", &format!("inject=accept4:{fault}")])
        .args(design.args)
        .args(["--sandbox", "off"])
        .args(more)
        .start();
    (daemon, trace.into())
}

fn small(design: &Design, n: usize) -> Vec<String> {
    if design.pooled {
        pool(n, n, n)
    } else {
        Vec::new()
    }
}

#[test]
fn row_1_emfile_keeps_the_client_waiting_without_a_spin() {
    if !need("strace") {
        return;
    }
    for design in [&PREFORK, &PREFORK_PASS, &FORK_WAIT, &ITERATIVE, &THREAD] {
        let fault = "error=EMFILE:when=1..3";
        let (daemon, trace) = injected(design, fault, &small(design, 1));
        let start = Instant::now();
        assert_eq!(echo_once(daemon.addr(), b"patient"), b"patient");
        // 100 ms, then 200, then 400: the first alone is beyond any spin.
        assert!(start.elapsed() >= Duration::from_millis(100), "no pause");
        let calls = fs::read_to_string(trace).expect("a trace");
        let failed = calls.matches("EMFILE").count();
        assert!(failed <= 6, "{}: {failed} failures", design.name);
        let told = daemon.log_count("EMFILE");
        assert_eq!(told, 1, "{}: a line an episode", design.name);
        assert_eq!(echo_once(daemon.addr(), b"recovered"), b"recovered");
    }
}

/// The same for what the machine lacks, and not this process.
#[test]
fn row_2_enfile_enobufs_and_enomem_are_waited_out() {
    if !need("strace") {
        return;
    }
    for (errno, design) in [
        ("ENFILE", &PREFORK),
        ("ENOBUFS", &FORK_WAIT),
        ("ENOMEM", &PREFORK_PASS),
        ("ENFILE", &PRETHREAD),
    ] {
        let fault = format!("error={errno}:when=1..2");
        let (daemon, trace) = injected(design, &fault, &small(design, 1));
        let start = Instant::now();
        assert_eq!(echo_once(daemon.addr(), b"patient"), b"patient");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(100), "{errno}: no pause");
        let calls = fs::read_to_string(trace).expect("a trace");
        let failed = calls.matches(errno).count();
        assert!(failed <= 6, "{}: {failed} failures", design.name);
        assert_eq!(daemon.log_count(errno), 1, "a line an episode");
        assert!(daemon.try_exit().is_none());
    }
}

/// Seconds from the first call that failed so to the next one of the same
/// process, which is the one the client waits for; a line is `PID TIME CALL`.
/// Later ones may be of a worker that was told to go meanwhile, and looks once
/// more before it does.
fn pause_after(errno: &str, trace: &str) -> Option<f64> {
    let mut calls = trace.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (pid, time) = (words.next()?, words.next()?.parse::<f64>().ok()?);
        line.contains("accept4").then_some((pid, time, line))
    });
    let (failed, before, _) = calls.find(|(_, _, line)| line.contains(errno))?;
    calls.find_map(|(pid, time, _)| (pid == failed).then_some(time - before))
}

/// A firewall or security module that says no will say so again: a second, and
/// no fraction of it.
#[test]
fn row_6_eperm_is_said_once_and_tried_again_after_a_second() {
    if !need("strace") {
        return;
    }
    side_by_side(&[&PREFORK, &PREFORK_PASS, &FORK_WAIT, &THREAD], denied_once);
}

fn denied_once(design: &Design) {
    let fault = "error=EPERM:when=1..1";
    let (daemon, trace) = injected(design, fault, &small(design, 1));
    assert_eq!(echo_once(daemon.addr(), b"patient"), b"patient");
    let trace = fs::read_to_string(trace).expect("a trace");
    let pause = pause_after("EPERM", &trace).expect("it never failed");
    // A second from when the loop last read the clock, and not the 100 ms of
    // other failures.
    assert!(pause >= 0.5, "{}: again after {pause} s", design.name);
    assert_eq!(daemon.log_count("EPERM"), 1, "a line an episode");
    assert_eq!(echo_once(daemon.addr(), b"recovered"), b"recovered");
}

#[test]
fn row_3_econnaborted_is_passed_over() {
    if !need("strace") {
        return;
    }
    for design in [&PREFORK, &PREFORK_PASS, &FORK_WAIT] {
        let fault = "error=ECONNABORTED:when=1..3";
        let (daemon, _) = injected(design, fault, &small(design, 2));
        many(daemon.addr(), 6, 2, 100).assert_all_complete();
        assert!(daemon.try_exit().is_none());
    }
}

/// The real thing: clients that are gone before anybody accepts them.
#[test]
fn row_3_resets_in_the_queue_harm_nobody() {
    for design in DESIGNS {
        let (args, n) = design.limited_to(2);
        let daemon = Daemon::start(&args);
        let mut held: Vec<_> = (0..n).map(|_| daemon.connect_served().0).collect();
        for _ in 0..20 {
            Client::connect(daemon.addr()).reset();
        }
        for client in &mut held {
            client.ping(b"undisturbed");
        }
        drop(held);
        assert_eq!(echo_once(daemon.addr(), b"good"), b"good", "{design:?}");
    }
}

#[test]
fn row_4_eintr_and_a_lost_race_go_back_to_waiting() {
    if !need("strace") {
        return;
    }
    for errno in ["EINTR", "EAGAIN"] {
        let fault = format!("error={errno}:when=1..2");
        let (daemon, _) = injected(&PREFORK, &fault, &small(&PREFORK, 8));
        many(daemon.addr(), 4, 1, 100).assert_all_complete();
        assert!(daemon.try_exit().is_none());
    }
}

#[test]
fn row_4_one_client_among_64_workers() {
    let daemon = Builder::new().args(small(&PREFORK, 64)).start();
    for _ in 0..20 {
        assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
    }
}

/// accept(2): on Linux these belong to the new socket, not to the listener.
const NETWORK_ERRORS: [&str; 10] = [
    "ENETDOWN",
    "EPROTO",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ETIMEDOUT",
    "ECONNRESET",
];

#[test]
fn row_5_pending_network_errors_are_not_ours() {
    if !need("strace") {
        return;
    }
    for (n, errno) in NETWORK_ERRORS.iter().enumerate() {
        let design = if n % 2 == 0 { &PREFORK } else { &FORK_WAIT };
        let fault = format!("error={errno}:when=1..2");
        let (daemon, _) = injected(design, &fault, &small(design, 2));
        assert_eq!(echo_once(daemon.addr(), b"echo"), b"echo", "{errno}");
        assert!(daemon.try_exit().is_none(), "{errno} ended echod");
    }
}

#[test]
fn row_7_an_unusable_listener_ends_the_daemon_without_a_storm() {
    if !need("strace") {
        return;
    }
    for (errno, design) in [
        ("ENOTSOCK", &PREFORK),
        ("EBADF", &FORK_WAIT),
        ("EINVAL", &PREFORK),
        ("EINVAL", &PREFORK_PASS),
        ("ENOTSOCK", &PREFORK_MUTEX),
        ("ENOTSOCK", &ITERATIVE),
        ("EINVAL", &THREAD),
        ("EBADF", &PRETHREAD),
    ] {
        let fault = format!("error={errno}:when=1+");
        let (daemon, trace) = injected(design, &fault, &small(design, 2));
        // A worker that tries accept(2) before it waits has failed already.
        let client = Client::try_connect(daemon.addr());
        let status = daemon.wait_exit(DEADLINE);
        assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
        assert!(
            daemon.log_count(daemon.addr()) >= 2,
            "it names the listener"
        );
        let calls = fs::read_to_string(trace).expect("a trace");
        let calls = calls.matches(errno).count();
        assert!(calls <= 50, "{}: {calls} tries", design.name);
        drop(client);
    }
}

/// Two listeners on one daemon, of both kinds where the design has both.
fn two_listeners(design: &Design) -> Daemon {
    let builder = Builder::new();
    let unix = format!("unix:{}", builder.path("sock"));
    let second = if design.tcp_only {
        "tcp:127.0.0.1:0"
    } else {
        &unix
    };
    let listen = ["-l", "tcp:127.0.0.1:0", "-l", second];
    builder.args(design.args).args(listen).start()
}

#[test]
fn row_8_a_client_gone_from_one_queue_blocks_no_other() {
    for design in DESIGNS {
        let daemon = two_listeners(design);
        for n in 0..30u64 {
            Client::connect(&daemon.addrs()[0]).reset();
            let sent = pattern(n, 500);
            assert!(echo_once(&daemon.addrs()[1], &sent) == sent);
        }
    }
}

#[test]
fn row_9_a_busy_listener_does_not_starve_another() {
    for design in DESIGNS {
        let daemon = two_listeners(design);
        let load = Load::start(&daemon.addrs()[0], 4, 200);
        for _ in 0..20 {
            let start = Instant::now();
            assert_eq!(echo_once(&daemon.addrs()[1], b"probe"), b"probe");
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "{}: {took:?}", design.name);
        }
        load.stop().assert_all_complete();
    }
}

/// With several listeners a worker may take a client that another was woken for,
/// who then sleeps on: the client of the first must not be forgotten.
#[test]
fn row_9_bursts_at_many_listeners_leave_nobody_beside_idle_workers() {
    for more in [&[][..], &["--max-connections-per-child", "0"]] {
        let daemon = Builder::new()
            .args(PREFORK_REUSEPORT.args)
            .args(more)
            .start();
        for _ in 0..12 {
            many(daemon.addr(), 128, 128, 64).assert_all_complete();
        }
    }
}

/// There is no lock that a dead worker could hold.
#[test]
fn row_14_workers_killed_while_accepting_block_nobody() {
    let daemon = Builder::new().args(small(&PREFORK, 4)).start();
    // Served before the first kill, so that its worker is never among the idle.
    let (client, _) = daemon.connect_served();
    let busy = thread::spawn(move || stream_over(client, 16 << 20));
    for _ in 0..5 {
        let idle = daemon.role("echod-idle");
        for pid in &idle {
            signal(*pid, Signal::SIGKILL);
        }
        // One on its way out may still take a client, and its fate with it.
        poll_until(DEADLINE, "the killed to be dead", || {
            idle.iter().all(|pid| proc::is_dead(*pid))
        });
        let (mut client, pid) = daemon.connect_served();
        client.ping(b"served");
        assert!(!proc::is_dead(pid));
    }
    busy.join().expect("a stream beside them is whole");
}

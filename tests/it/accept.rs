//! What the ways of `--accept` promise beyond the battery of tests/it/models:
//! workers killed where they wait, with clients before them; a generation that
//! goes; workers that serve many; the sockets of `reuseport`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::Duration;

use crate::common::client::tcp_addr;
use crate::common::design::{PREFORK_PASS, PREFORK_PASS_REUSE, pool};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, Design, Load, Signal, echo_once, many, need,
    poll_until, proc, signal,
};

const A_WHILE: Duration = Duration::from_millis(250);

const WAYS: [&str; 5] = ["shared", "fcntl", "mutex", "pass", "reuseport"];

fn start(way: &str, more: &[String]) -> Daemon {
    Builder::new().args(["--accept", way]).args(more).start()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn wait_idle(daemon: &Daemon, n: usize) -> Vec<i32> {
    poll_until(DEADLINE, &format!("{n} idle workers"), || {
        daemon.role("echod-idle").len() == n
    });
    daemon.role("echod-idle")
}

/// Sends, and expects nothing for now.
fn ask(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    client.write_all(b"next").expect("send");
    client
}

fn expect_answer(client: &mut Client) {
    let mut got = [0; 4];
    client.read_exact(&mut got).expect("served");
    assert_eq!(&got, b"next");
}

fn stop_process(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    poll_until(DEADLINE, "it is stopped", || {
        matches!(proc::state(pid), Some('T') | None)
    });
}

/// Where a worker sleeps, where we may look.
fn sleeps_in(pid: i32) -> String {
    proc::file(pid, "wchan").unwrap_or_default()
}

/// Row 14: the lock is the kernel's to free.
#[test]
fn a_killed_holder_frees_the_lock() {
    for way in ["fcntl", "mutex"] {
        let daemon = start(way, &pool(4, 4, 8));
        for _ in 0..10 {
            let idle = wait_idle(&daemon, 4);
            let mut holders = idle.clone();
            poll_until(DEADLINE, "a worker that waits for clients", || {
                let polls = |pid: &i32| sleeps_in(*pid).contains("poll");
                holders = idle.iter().copied().filter(polls).collect();
                let can_look = idle.iter().any(|&pid| sleeps_in(pid).len() > 1);
                holders.len() == 1 || !can_look
            });
            if holders.is_empty() {
                holders = idle;
            }
            for pid in holders {
                signal(pid, Signal::SIGKILL);
            }
            assert_eq!(echo_once(daemon.addr(), b"on"), b"on", "{way}");
        }
    }
}

/// Rows 13 and 14, and the lost wake-up: whatever a dead worker was woken for,
/// had been passed or had in its queue goes to others.
#[test]
fn clients_of_workers_that_are_killed_while_they_wait_are_served() {
    for way in WAYS {
        for per_child in ["1", "0"] {
            let mut args = pool(8, 8, 16);
            args.extend(words(&format!("--max-connections-per-child {per_child}")));
            let daemon = start(way, &args);
            for _ in 0..3 {
                poll_until(DEADLINE, "a pool", || daemon.role("echod-idle").len() >= 8);
                let idle = daemon.role("echod-idle");
                for &pid in &idle {
                    stop_process(pid);
                }
                let mut clients: Vec<_> = (0..30).map(|_| ask(&daemon)).collect();
                for &pid in &idle {
                    signal(pid, Signal::SIGKILL);
                }
                for client in &mut clients {
                    expect_answer(client);
                }
            }
        }
    }
}

/// A worker in the lock learns of it when the one before it has gone.
#[test]
fn idle_workers_go_with_their_generation_whichever_way_they_wait() {
    for way in WAYS {
        let daemon = start(way, &pool(6, 6, 12));
        let old = wait_idle(&daemon, 6);
        daemon.signal(Signal::SIGHUP);
        poll_until(DEADLINE, "the old generation is gone", || {
            old.iter().all(|&pid| proc::is_dead(pid))
        });
        let idle = wait_idle(&daemon, 6);
        daemon.signal(Signal::SIGKILL);
        poll_until(DEADLINE, "idle workers follow the supervisor", || {
            idle.iter().all(|&pid| proc::is_dead(pid))
        });
    }
}

#[test]
fn a_worker_in_the_lock_dies_of_kill_and_is_replaced() {
    for way in ["fcntl", "mutex"] {
        let daemon = start(way, &pool(4, 4, 8));
        let old = wait_idle(&daemon, 4);
        for &pid in &old {
            signal(pid, Signal::SIGKILL);
        }
        poll_until(DEADLINE, "each is dead", || {
            old.iter().all(|&pid| proc::is_dead(pid))
        });
        wait_idle(&daemon, 4);
        assert_eq!(echo_once(daemon.addr(), b"on"), b"on", "{way}");
    }
}

#[test]
fn ttou_and_ttin_reach_workers_in_the_lock() {
    for way in WAYS {
        let daemon = start(way, &pool(4, 4, 4));
        wait_idle(&daemon, 4);
        for n in (1..4).rev() {
            daemon.signal(Signal::SIGTTOU);
            wait_idle(&daemon, n);
        }
        daemon.signal(Signal::SIGTTIN);
        wait_idle(&daemon, 2);
        assert_eq!(echo_once(daemon.addr(), b"on"), b"on", "{way}");
    }
}

#[test]
fn ttou_under_load_loses_nobody_whichever_way_clients_come() {
    for way in WAYS {
        for per_child in ["1", "0"] {
            let mut args = pool(8, 8, 8);
            args.extend(words(&format!("--max-connections-per-child {per_child}")));
            let daemon = start(way, &args);
            let load = Load::start(daemon.addr(), 6, 300);
            for round in 1..=14 {
                poll_until(DEADLINE, "the load runs", || load.done() >= round * 20);
                daemon.signal(if round <= 7 {
                    Signal::SIGTTOU
                } else {
                    Signal::SIGTTIN
                });
            }
            load.stop().assert_all_complete();
        }
    }
}

#[test]
fn a_process_serves_one_client_whichever_way_it_came() {
    for way in WAYS {
        let daemon = start(way, &[]);
        let named = daemon.log_count(&format!("prefork, accept {way}, a process"));
        assert_eq!(named, usize::from(way != "shared"), "the start line");
        many(daemon.addr(), 200, 8, 10).assert_all_complete();
        let mut lines = Vec::new();
        poll_until(DEADLINE, "200 connection lines", || {
            lines = ConnLine::all(&daemon.log());
            lines.len() == 200
        });
        let pids: BTreeSet<_> = lines.iter().map(|line| line.pid).collect();
        assert_eq!(pids.len(), 200, "{way}");
        assert!(lines.iter().all(|line| line.end == "eof"), "{way}");
    }
}

/// Each connection has one line, the last of a worker too.
#[test]
fn workers_that_serve_many_serve_all_and_are_renewed() {
    for way in WAYS {
        for limit in ["0", "3"] {
            let args = format!("--max-connections-per-child {limit} --sandbox strict");
            let daemon = start(way, &words(&args));
            many(daemon.addr(), 300, 8, 1000).assert_all_complete();
            let load = Load::start(daemon.addr(), 8, 300);
            for round in 1..=3 {
                poll_until(DEADLINE, "the load runs", || load.done() >= round * 60);
                daemon.signal(Signal::SIGHUP);
            }
            poll_until(DEADLINE, "the load runs on", || load.done() >= 250);
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0), "{way}");
            let outcomes = load.stop();
            assert_eq!(outcomes.lost(), 0, "{way}: {outcomes:?}");
            let lines = ConnLine::all(&daemon.log());
            let peers: BTreeSet<_> = lines.iter().map(|l| (&l.peer, l.pid)).collect();
            assert_eq!(peers.len(), lines.len(), "{way}: a line each");
            assert!(lines.len() >= 550, "{way}: {} lines", lines.len());
        }
    }
}

#[test]
fn overflow_is_exact_whichever_way_clients_come() {
    for way in WAYS {
        for per_child in ["1", "0"] {
            let mut args = pool(1, 1, 2);
            args.extend(words("--max-clients 2 --overflow close"));
            args.extend(words(&format!("--max-connections-per-child {per_child}")));
            let daemon = start(way, &args);
            for _ in 0..3 {
                let mut held: Vec<_> = (0..2).map(|_| daemon.connect_served().0).collect();
                for _ in 0..5 {
                    let mut next = Client::connect(daemon.addr());
                    next.end().expect("end of file");
                }
                for client in &mut held {
                    client.ping(b"untouched");
                }
                drop(held);
                poll_until(DEADLINE, "both slots are free", || {
                    let mut pair = [(); 2].map(|()| Client::connect(daemon.addr()));
                    pair.iter_mut().all(|client| client.try_ping(b"again"))
                });
                poll_until(DEADLINE, "nobody is served", || {
                    daemon.role("echod-conn").is_empty()
                });
            }
        }
    }
}

#[test]
fn print_copies_whichever_way_clients_come() {
    for way in WAYS {
        let daemon = start(way, &words("--print"));
        assert_eq!(echo_once(daemon.addr(), b"to be seen\n"), b"to be seen\n");
        poll_until(DEADLINE, "a copy on standard output", || {
            daemon.stdout().contains("to be seen")
        });
    }
}

/// Stops the one idle worker and lets a client come: it is passed to that one.
fn passed_to_a_stopped_worker(design: &Design, more: &[&str]) -> (Daemon, Client, i32) {
    let (args, _) = design.limited_to(4);
    let daemon = Builder::new().args(args).args(more).start();
    let idle = wait_idle(&daemon, 1);
    stop_process(idle[0]);
    let mut client = ask(&daemon);
    assert!(client.silent_for(A_WHILE), "its worker is stopped");
    (daemon, client, idle[0])
}

#[test]
fn a_client_whose_worker_dies_before_it_took_it_is_passed_to_another() {
    for design in [&PREFORK_PASS, &PREFORK_PASS_REUSE] {
        let (daemon, mut client, stopped) = passed_to_a_stopped_worker(design, &[]);
        // Its replacement is there, and serves others meanwhile.
        assert_eq!(echo_once(daemon.addr(), b"meanwhile"), b"meanwhile");
        signal(stopped, Signal::SIGKILL);
        expect_answer(&mut client);
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
        let line = daemon.conn_line(&client.peer_name());
        assert_eq!((line.received, line.sent, line.end.as_str()), (4, 4, "eof"));
        assert_ne!(line.pid, stopped);
    }
}

#[test]
fn a_stopped_worker_that_goes_on_serves_the_client_it_was_passed() {
    let (_daemon, mut client, stopped) = passed_to_a_stopped_worker(&PREFORK_PASS, &[]);
    signal(stopped, Signal::SIGCONT);
    expect_answer(&mut client);
}

#[test]
fn a_client_passed_in_vain_is_served_by_a_stop_too() {
    let (daemon, mut client, stopped) = passed_to_a_stopped_worker(&PREFORK_PASS, &[]);
    daemon.signal(Signal::SIGTERM);
    poll_until(DEADLINE, "the listener is closed", || {
        std::net::TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
    });
    signal(stopped, Signal::SIGKILL);
    expect_answer(&mut client);
    drop(client);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.log_count("no client was cut"), 1);
}

#[test]
fn a_client_passed_in_vain_is_cut_at_the_deadline() {
    let short = ["--graceful-timeout", "1s"];
    let (daemon, mut client, _) = passed_to_a_stopped_worker(&PREFORK_PASS, &short);
    daemon.signal(Signal::SIGTERM);
    assert!(client.end().is_err(), "reset");
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.log_count("1 client was cut"), 1);
}

#[test]
fn the_limit_holds_with_clients_passed_in_vain() {
    let (args, n) = PREFORK_PASS.limited_to(3);
    let daemon = Daemon::start(&args);
    let (mut stopped, mut clients) = (Vec::new(), Vec::new());
    for known in 0..n {
        // Stopped, and passed a client, they still look idle from outside.
        let mut idle = wait_idle(&daemon, known + 1);
        idle.retain(|pid| !stopped.contains(pid));
        stop_process(idle[0]);
        stopped.push(idle[0]);
        clients.push(ask(&daemon));
    }
    let mut waiting = ask(&daemon);
    assert!(waiting.silent_for(A_WHILE), "over the limit");
    assert_eq!(proc::children(daemon.pid()).len(), n);
    for pid in stopped {
        signal(pid, Signal::SIGKILL);
    }
    for client in &mut clients {
        expect_answer(client);
    }
    assert!(waiting.silent_for(A_WHILE), "over the limit");
    drop(clients);
    expect_answer(&mut waiting);
}

#[test]
fn a_failed_sendmsg_keeps_the_client_waiting_without_a_spin() {
    if !need("strace") {
        return;
    }
    for errno in ["ENOBUFS", "ETOOMANYREFS", "EAGAIN"] {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let fault = format!("inject=sendmsg:error={errno}:when=1..3");
        let daemon = builder
            .under(["strace", "-f", "-o", &trace, "-e", "trace=sendmsg"])
            .under(["-e", &fault])
            .args(["--accept", "pass", "--sandbox", "off"])
            .start();
        let start = std::time::Instant::now();
        assert_eq!(echo_once(daemon.addr(), b"patient"), b"patient");
        assert!(start.elapsed() >= Duration::from_millis(100), "no pause");
        assert_eq!(daemon.log_count(errno), 1, "a line an episode");
        let calls = std::fs::read_to_string(trace).expect("a trace");
        assert!(calls.matches(errno).count() <= 3, "{calls}");
        assert_eq!(echo_once(daemon.addr(), b"recovered"), b"recovered");
    }
}

/// Listening sockets on a port, by /proc/net/tcp.
fn listening(daemon: &Daemon) -> usize {
    let port = format!(":{:04X}", tcp_addr(daemon.addr()).port());
    let table = proc::file(daemon.pid(), "net/tcp");
    let table = table.expect("a live supervisor");
    let listens = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&port) && fields[3] == "0A"
    };
    table.lines().filter(listens).count()
}

#[test]
fn reuseport_has_a_socket_for_each_start_server_and_one_name() {
    let daemon = start("reuseport", &pool(5, 2, 8));
    assert_eq!(listening(&daemon), 5);
    assert_eq!(daemon.addrs().len(), 1);
    assert_eq!(daemon.log_count("listening on"), 1);
    many(daemon.addr(), 100, 8, 100).assert_all_complete();
    daemon.signal(Signal::SIGHUP);
    many(daemon.addr(), 100, 8, 100).assert_all_complete();
    assert_eq!(listening(&daemon), 5, "the supervisor's for life");
}

/// One worker looks after all sockets when there is only one.
#[test]
fn reuseport_leaves_no_queue_without_a_worker() {
    let args = words("--start-servers 16 --min-spare-servers 1 --max-spare-servers 1");
    let daemon = start("reuseport", &args);
    wait_idle(&daemon, 1);
    assert_eq!(listening(&daemon), 16);
    many(daemon.addr(), 64, 1, 10).assert_all_complete();
    let mut clients: Vec<_> = (0..64).map(|_| ask(&daemon)).collect();
    for client in &mut clients {
        expect_answer(client);
    }
}

/// At the limit clients wait in all queues; each slot that gets free takes one
/// from whichever.
#[test]
fn reuseport_queues_drain_through_the_slots_of_the_dead() {
    let mut args = pool(8, 1, 8);
    args.extend(words("--max-clients 8"));
    let daemon = start("reuseport", &args);
    let held: Vec<_> = (0..8).map(|_| daemon.connect_served()).collect();
    let mut left: Vec<_> = (0..40).map(|_| ask(&daemon)).collect();
    assert!(left[0].silent_for(A_WHILE), "over the limit");
    for &(_, pid) in &held {
        signal(pid, Signal::SIGKILL);
    }
    // Any eight are served; as these go, so are the others.
    poll_until(DEADLINE, "every queued client is served", || {
        left.retain_mut(|client| {
            client.set_timeouts(Duration::from_millis(5));
            let mut got = [0; 4];
            client.read_exact(&mut got).is_err()
        });
        left.is_empty()
    });
}

#[test]
fn a_second_instance_is_refused_where_the_first_shares_its_port() {
    let daemon = start("reuseport", &[]);
    for way in ["reuseport", "shared"] {
        let second = Builder::new()
            .bare()
            .args(["-l", daemon.addr(), "--accept", way])
            .run(DEADLINE);
        assert_eq!(second.status.code(), Some(69), "{way}: {}", second.stderr);
        assert!(second.stderr.contains(daemon.addr()), "{}", second.stderr);
    }
    let first = Daemon::start(&["-l", "tcp:127.0.0.1:0"]);
    let second = Builder::new()
        .bare()
        .args(["-l", first.addr(), "--accept", "reuseport"])
        .run(DEADLINE);
    assert_eq!(second.status.code(), Some(69), "{}", second.stderr);
    assert_eq!(listening(&first), 1, "nothing of the second is left");
}

#[test]
fn of_two_instances_that_start_together_one_at_most_serves() {
    let addr = Daemon::start(&["--stop-settle", "0"]).addr().to_owned();
    for _ in 0..10 {
        let pair = [(); 2].map(|()| {
            let args = ["-l", &addr, "--accept", "reuseport", "--stop-settle", "0"];
            Builder::new().bare().args(args).spawn()
        });
        let serves = |daemon: &Daemon| daemon.log_count("listening on") > 0;
        for daemon in &pair {
            poll_until(DEADLINE, "it serves, or has failed", || {
                serves(daemon) || daemon.try_exit().is_some()
            });
        }
        let serving = pair.iter().filter(|daemon| serves(daemon)).count();
        assert!(serving <= 1, "they share the port");
    }
}

#[test]
fn reuseport_and_a_unix_listener_are_a_usage_error_that_names_both() {
    let refused = Builder::new()
        .bare()
        .args(["--accept", "reuseport", "-l", "unix:@x"])
        .run(DEADLINE);
    assert_eq!(refused.status.code(), Some(64));
    for word in ["--accept reuseport", "--listen unix:@x"] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
}

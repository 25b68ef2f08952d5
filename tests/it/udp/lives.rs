//! The datagram worker comes and goes: killed, reloaded, stopped. No datagram is
//! lost beyond what a process had in hand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::common::design::PREFORK_REUSE;
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, poll_some, poll_until, proc,
};
use crate::udp::peer::{Gram, OFF, Peer, count, end, net};

const QUICK: Duration = Duration::from_millis(300);

/// The one worker there is.
fn worker(daemon: &Daemon) -> i32 {
    poll_some(DEADLINE, "one datagram worker", || {
        match daemon.role("echod-udp")[..] {
            [pid] => Some(pid),
            _ => None,
        }
    })
}

fn other_worker(daemon: &Daemon, than: i32) -> i32 {
    poll_some(DEADLINE, "another datagram worker", || {
        match daemon.role("echod-udp")[..] {
            [pid] if pid != than => Some(pid),
            _ => None,
        }
    })
}

/// Holds a worker still: what comes from now on stays in the socket's queue.
fn stop(pid: i32) {
    proc::signal(pid, Signal::SIGSTOP);
    poll_until(DEADLINE, "stopped", || proc::state(pid) == Some('T'));
}

#[test]
fn a_killed_worker_is_replaced_at_once_in_every_design() {
    for design in DESIGNS {
        let daemon = Builder::new()
            .args(design.args)
            .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
            .start();
        let udp = daemon.addrs()[1].clone();
        for _ in 0..2 {
            Peer::to(&udp).ping(design.name.as_bytes());
            let pid = worker(&daemon);
            proc::signal(pid, Signal::SIGKILL);
            other_worker(&daemon, pid);
            Client::connect(daemon.addr()).ping(b"undisturbed");
        }
        Peer::to(&udp).ping(design.name.as_bytes());
        // The log is told by signal where the kernel tells.
        let died = match design.name {
            "fork_ignore" => "ended while serving udp:",
            _ => "died of SIGKILL while serving udp:",
        };
        assert_eq!(daemon.log_count(died), 2, "{}", design.name);
        let zombies = || crate::common::zombies(daemon.pid()).is_empty();
        poll_until(DEADLINE, "no zombie", zombies);
        let said = end(&daemon);
        // A worker killed at once may not have counted its last one.
        let answered = count(&said, "datagrams");
        assert!((1..=3).contains(&answered), "{}: {said}", design.name);
    }
}

#[test]
fn what_is_queued_survives_its_worker() {
    let daemon = Builder::new()
        .args(["-l", "udp:127.0.0.1:0"])
        .args(OFF)
        .start();
    let peer = Peer::to(daemon.addr());
    peer.ping(b"awake");
    let pid = worker(&daemon);
    stop(pid);
    for n in 0..50u8 {
        peer.send(&[n]);
    }
    proc::signal(pid, Signal::SIGKILL);
    for n in 0..50 {
        assert_eq!(peer.next().expect("a reply").0, [n]);
    }
}

#[test]
fn killing_a_worker_refills_no_bucket() {
    let daemon = Builder::new()
        .args(["-l", "udp:127.0.0.1:0", "--udp-rate", "5/1h"])
        .start();
    let peer = Peer::to(daemon.addr());
    // What this machine says first has no rate; that it repeats it, has.
    for _ in 0..11 {
        peer.ping(b"ping");
    }
    assert!(!peer.answered_within(QUICK, b"ping"));
    let pid = worker(&daemon);
    proc::signal(pid, Signal::SIGKILL);
    let pid = other_worker(&daemon, pid);
    assert!(!peer.answered_within(QUICK, b"ping"));
    daemon.signal(Signal::SIGHUP);
    other_worker(&daemon, pid);
    assert!(!peer.answered_within(QUICK, b"ping"));
}

#[test]
fn workers_that_keep_dying_are_replaced_ever_more_slowly() {
    let daemon = Builder::new().args(["-l", "udp:127.0.0.1:0"]).start();
    let start = std::time::Instant::now();
    let mut killed = 0;
    let mut last = 0;
    while start.elapsed() < Duration::from_secs(2) {
        if let [pid] = daemon.role("echod-udp")[..]
            && pid != last
        {
            proc::signal(pid, Signal::SIGKILL);
            (last, killed) = (pid, killed + 1);
        }
        std::thread::yield_now();
    }
    // Three at once, then after 0.1, 0.2, 0.4, 0.8 and 1.6 s.
    assert!((4..=9).contains(&killed), "{killed} in two seconds");
    Peer::to(daemon.addr()).ping(b"and it serves again");
}

/// Pings from several threads until told; counts them.
fn under_load(daemon: &Daemon, disturb: impl Fn(&AtomicU64)) -> u64 {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let addr = daemon.addr();
    std::thread::scope(|scope| {
        for n in 0..4u64 {
            let (done, stop) = (&done, &stop);
            scope.spawn(move || {
                let peer = Peer::to(addr);
                let mut round = n << 32;
                while !stop.load(Relaxed) {
                    peer.ping(&round.to_be_bytes());
                    round += 1;
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        disturb(&done);
        stop.store(true, Relaxed);
    });
    done.into_inner()
}

#[test]
fn hup_under_load_loses_no_datagram() {
    let daemon = Builder::new()
        .args(["-l", "udp:127.0.0.1:0"])
        .env("RUST_LOG", "debug")
        .args(OFF)
        .start();
    let first = worker(&daemon);
    let answered = under_load(&daemon, |done| {
        for round in 1..=10 {
            poll_until(DEADLINE, "the load runs", || {
                done.load(Relaxed) >= round * 200
            });
            daemon.signal(Signal::SIGHUP);
            poll_until(DEADLINE, "a generation", || {
                daemon.log_count("new workers") as u64 >= round
            });
        }
    });
    other_worker(&daemon, first);
    assert_eq!(daemon.log_count("died"), 0);
    let said = end(&daemon);
    assert_eq!(count(&said, "datagrams"), answered, "{said}");
}

/// In the last the kernel reaps, and tells nobody how a worker left.
const REAPS: [&[&str]; 2] = [&[], &["-m", "fork", "--reap", "ignore"]];

#[test]
fn a_stop_answers_what_is_queued() {
    for reap in REAPS {
        stop_answers(reap);
    }
}

fn stop_answers(reap: &[&str]) {
    let builder = Builder::new();
    let path = format!("unixgram:{}", builder.path("d"));
    let daemon = builder
        .args(["-l", "udp:127.0.0.1:0", "-l", &path])
        .args(reap)
        .env("RUST_LOG", "debug")
        .args(OFF)
        .start();
    let peer = Peer::to(daemon.addr());
    peer.ping(b"awake");
    let gram = Gram::to(&daemon.addrs()[1]);
    gram.ping(b"awake");
    let workers = daemon.role("echod-udp");
    assert_eq!(workers.len(), 2);
    for &pid in &workers {
        stop(pid);
    }
    for n in 0..50u8 {
        peer.send(&[n]);
    }
    for n in 0..5u8 {
        gram.send(&[n]);
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log(": draining", DEADLINE);
    peer.send(b"too late");
    assert!(gram.socket.send(b"too late").is_err(), "it is told");
    assert!(daemon.try_exit().is_none(), "stopped without them");
    for &pid in &workers {
        proc::signal(pid, Signal::SIGCONT);
    }
    for n in 0..50 {
        assert_eq!(peer.next().expect("a reply").0, [n]);
    }
    for n in 0..5 {
        let mut got = [0; 9];
        let len = gram.socket.recv(&mut got).expect("a reply");
        assert_eq!(got[..len], [n]);
    }
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    daemon.assert_gone(DEADLINE);
    assert_eq!(daemon.log_count(" ERROR "), 0, "{reap:?}: {}", daemon.log());
    let successors = daemon.log_count("serves udp:") - 1;
    assert_eq!(successors, 0, "{reap:?}: {}", daemon.log());
    peer.socket.set_nonblocking(true).expect("nonblocking");
    assert!(peer.next().is_none(), "too late is not answered");
}

#[test]
fn a_worker_killed_while_it_stops_has_a_successor_that_answers() {
    for reap in REAPS {
        a_successor_answers(reap);
    }
}

fn a_successor_answers(reap: &[&str]) {
    let daemon = Builder::new()
        .args(["-l", "udp:127.0.0.1:0"])
        .args(reap)
        .env("RUST_LOG", "debug")
        .args(OFF)
        .start();
    let peer = Peer::to(daemon.addr());
    peer.ping(b"awake");
    let pid = worker(&daemon);
    stop(pid);
    for n in 0..50u8 {
        peer.send(&[n]);
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log(": draining", DEADLINE);
    proc::signal(pid, Signal::SIGKILL);
    for n in 0..50 {
        assert_eq!(peer.next().expect("a reply").0, [n]);
    }
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_stop_ends_under_a_load_that_does_not() {
    let daemon = Builder::new()
        .args(["-l", "udp:127.0.0.1:0"])
        .args(OFF)
        .start();
    let to = net(daemon.addr());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
            while !stop.load(Relaxed) {
                let _ = socket.send_to(b"more", to);
            }
        });
        for signal in [Signal::SIGHUP, Signal::SIGHUP, Signal::SIGTERM] {
            Peer::to(daemon.addr()).send(b"one");
            daemon.signal(signal);
        }
        let status = daemon.wait_exit(DEADLINE);
        stop.store(true, Relaxed);
        assert_eq!(status.code(), Some(0));
    });
    assert_eq!(daemon.log_count("died"), 0);
}

#[test]
fn int_stops_a_worker_that_does_not_answer() {
    let daemon = Builder::new().args(["-l", "udp:127.0.0.1:0"]).start();
    stop(worker(&daemon));
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    daemon.assert_gone(DEADLINE);
}

#[test]
fn without_its_supervisor_a_worker_leaves_and_the_port_is_free() {
    for orphans in ["finish", "terminate"] {
        let daemon = Builder::new()
            .args(["-l", "udp:127.0.0.1:0", "--orphans", orphans])
            .start();
        Peer::to(daemon.addr()).ping(b"served");
        daemon.signal(Signal::SIGKILL);
        daemon.wait_exit(DEADLINE);
        daemon.assert_gone(Duration::from_secs(2));
        let successor = Builder::new().args(["-l", daemon.addr()]).start();
        Peer::to(successor.addr()).ping(b"served again");
    }
}

/// A worker that goes on to other clients lives on with what it inherited.
#[test]
fn an_orphan_of_the_pool_does_not_keep_the_port() {
    let daemon = Builder::new()
        .args(PREFORK_REUSE.args)
        .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(DEADLINE);
    poll_until(Duration::from_secs(2), "only its worker is left", || {
        daemon.members().len() == 1
    });
    let successor = Builder::new().args(["-l", &daemon.addrs()[1]]).start();
    Peer::to(successor.addr()).ping(b"served again");
    client.ping(b"and so is the orphan's client");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    daemon.assert_gone(DEADLINE);
}

#[test]
fn datagram_workers_are_no_clients() {
    let daemon = Builder::new()
        .args(["-l", "tcp:127.0.0.1:0", "-c", "1"])
        .args(["-l", "udp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"the one client");
    for udp in &daemon.addrs()[1..] {
        Peer::to(udp).ping(b"no client");
    }
    client.ping(b"undisturbed");
}

#[test]
fn orders_of_strangers_do_not_end_the_service() {
    let daemon = Builder::new().args(["-l", "udp:127.0.0.1:0"]).start();
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        proc::signal(worker(&daemon), signal);
    }
    Peer::to(daemon.addr()).ping(b"deaf to them");
    let pid = worker(&daemon);
    // The word to go counts from the supervisor alone.
    proc::signal(pid, Signal::SIGPWR);
    Peer::to(daemon.addr()).ping(b"not obeyed");
    assert_eq!(worker(&daemon), pid);
}

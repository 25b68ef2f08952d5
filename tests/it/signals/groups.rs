//! What is sent to all of echod's processes at once, by a terminal, timeout(1),
//! an init or a script, and what a stranger sends to one of them: the supervisor
//! alone obeys, whatever the design.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc::{self, c_int};

use crate::common::client::tcp_addr;
use crate::common::design::{FORK_WAIT, ITERATIVE, PREFORK, PREFORK_REUSE, side_by_side};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Signal, echo_once, in_one_of_three, need,
    poll_some, poll_until, proc,
};

/// A group signal that cuts nobody: all but those that stop the supervisor at once
/// (INT), stop or end every program (STOP, TSTP, KILL), or mean a fault.
fn harmless() -> impl Iterator<Item = c_int> {
    const OTHERS: [c_int; 13] = [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGSYS,
    ];
    (1..=64).filter(|signal| !OTHERS.contains(signal))
}

fn kill(pid: i32, signal: c_int) {
    // SAFETY: two integers.
    unsafe { libc::kill(pid, signal) };
}

/// Clients in mid-conversation, as many as the design serves at once.
fn clients(daemon: &Daemon, design: &Design) -> Vec<Client> {
    let n = if design.one_at_a_time { 1 } else { 3 };
    let mut clients: Vec<_> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"before");
    }
    clients
}

/// Served on, to their own end; then the daemon's is in order.
#[track_caller]
fn finish(daemon: &Daemon, clients: Vec<Client>, what: &str) {
    for mut client in clients {
        let peer = client.peer_name();
        client.ping(b"served on");
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty(), "{what}");
        assert_eq!(daemon.conn_line(&peer).end, "eof", "{what}");
    }
    daemon.wait_log("stopped; no client was cut", DEADLINE);
    daemon.assert_gone(DEADLINE);
    assert_eq!(daemon.log_count("ERROR"), 0, "{what}: {}", daemon.log());
}

/// An echod that waits long for its clients.
fn patient(design: &Design) -> Builder {
    Builder::new()
        .args(design.args)
        .args(["--graceful-timeout", "60s"])
}

#[test]
fn row_100_no_group_signal_cuts_anybody() {
    side_by_side(&DESIGNS, |design| {
        let daemon = patient(design).start();
        let mut clients = clients(&daemon, design);
        for signal in harmless() {
            kill(-daemon.group(), signal);
            for client in &mut clients {
                client.ping(b"and on");
            }
            assert!(daemon.try_exit().is_none(), "{}: {signal}", design.name);
        }
        for signal in [libc::SIGQUIT, libc::SIGTERM] {
            kill(-daemon.group(), signal);
            for client in &mut clients {
                client.ping(b"while it stops");
            }
        }
        finish(&daemon, clients, design.name);
    });
}

#[test]
fn row_100_term_to_the_group_counts_whom_it_cuts() {
    side_by_side(&DESIGNS, |design| {
        for (signal, graceful) in [(libc::SIGTERM, "200ms"), (libc::SIGINT, "60s")] {
            let daemon = Builder::new()
                .args(design.args)
                .args(["--graceful-timeout", graceful])
                .start();
            let mut clients = clients(&daemon, design);
            kill(-daemon.group(), signal);
            assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
            let n = clients.len();
            for client in &mut clients {
                let _ = client.end();
                let end = daemon.conn_line(&client.peer_name()).end;
                assert_eq!(end, "stop", "{} {signal}", design.name);
            }
            let said = format!("stopped; {n} clients were cut");
            let said = daemon.log_count(&said) + daemon.log_count("stopped; 1 client was cut");
            assert_eq!(said, 1, "{}: {}", design.name, daemon.log());
            assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
        }
    });
}

/// timeout(1) sends its TERM to echod and then to the group, which is one order.
#[test]
fn row_100_under_timeout_a_stop_is_graceful() {
    if !need("timeout") {
        return;
    }
    for round in 0..6 {
        for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &ITERATIVE] {
            // As long as it sends the two within 100 ms.
            in_one_of_three(|| {
                let daemon = patient(design).under(["timeout", "600"]).start();
                let clients = clients(&daemon, design);
                kill(daemon.group(), libc::SIGTERM);
                finish(&daemon, clients, &format!("{} {round}", design.name));
            });
        }
    }
}

/// The group is sent it, and a script in it hands it on: within 100 ms, which the
/// shell does not keep to on every machine at every time.
#[test]
fn row_100_a_term_that_is_handed_on_is_the_same() {
    let script = "\"$@\" & trap \"kill $!; echo handed on >&2\" TERM; wait; wait";
    let served_on = || {
        let daemon = patient(&PREFORK).under(["sh", "-c", script, "sh"]).start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"before");
        kill(-daemon.group(), libc::SIGTERM);
        daemon.wait_log("handed on", DEADLINE);
        client.silent_for(Duration::from_millis(200)) && client.try_ping(b"served on")
    };
    assert!((0..10).any(|_| served_on()));
}

/// A second order is one, of a process of our group too.
#[test]
fn a_second_term_from_the_group_stops_now() {
    let script = "\"$@\" & trap \"kill $!; sleep 0.3; kill $!\" USR1; wait; wait; wait";
    let daemon = patient(&PREFORK).under(["sh", "-c", script, "sh"]).start();
    let clients = clients(&daemon, &PREFORK);
    kill(daemon.group(), libc::SIGUSR1);
    daemon.wait_log("stopped; 3 clients were cut", DEADLINE);
    for client in &clients {
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
    }
}

/// What a stranger of the same user sends to a worker, idle or busy.
#[test]
fn row_100_a_forged_signal_to_a_worker_is_nothing() {
    side_by_side(&DESIGNS, |design| {
        for orphans in ["finish", "terminate"] {
            let daemon = patient(design)
                .args(["--orphans", orphans, "--max-lifetime", "1h"])
                .start();
            let mut clients = clients(&daemon, design);
            for signal in harmless().chain([libc::SIGTERM, libc::SIGINT, libc::SIGQUIT]) {
                for member in daemon.members() {
                    if member.pid != daemon.pid() {
                        kill(member.pid, signal);
                    }
                }
                for client in &mut clients {
                    client.ping(b"and on");
                }
            }
            if !design.one_at_a_time {
                // Nobody has let go of the listener.
                for n in 0..24 {
                    assert_eq!(echo_once(daemon.addr(), &[n]), [n], "{}", design.name);
                }
            }
            daemon.signal(Signal::SIGQUIT);
            finish(&daemon, clients, design.name);
        }
    });
}

/// Shot as soon as they are seen: they are born deaf.
#[test]
fn row_100_newborn_workers_are_deaf_too() {
    for design in [&PREFORK, &FORK_WAIT] {
        let daemon = patient(design).start();
        let load = crate::common::Load::start(daemon.addr(), 4, 300);
        while load.done() < 300 {
            for pid in proc::quick_children(daemon.pid()) {
                for signal in [libc::SIGALRM, libc::SIGPWR, libc::SIGIO, libc::SIGTERM] {
                    kill(pid, signal);
                }
            }
        }
        load.stop().assert_all_complete();
        assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
    }
}

#[test]
fn row_100_datagrams_are_answered_after_group_signals() {
    let builder = Builder::new();
    let unix = builder.path("datagrams");
    let daemon = builder
        .args(["-l", "udp:127.0.0.1:0", "-l", &format!("unixgram:{unix}")])
        .start();
    let workers = || daemon.role("echod-udp");
    poll_until(DEADLINE, "both workers", || workers().len() == 2);
    let before = workers();
    // HUP replaces them, as ordered.
    for signal in harmless().filter(|&signal| signal != libc::SIGHUP) {
        kill(-daemon.group(), signal);
        for pid in &before {
            kill(*pid, libc::SIGTERM);
            kill(*pid, signal);
        }
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let to = daemon.addr().strip_prefix("udp:").expect("udp");
    socket.send_to(b"still", to).expect("send");
    assert_eq!(socket.recv(&mut [0; 16]).expect("an answer"), 5);
    assert_eq!(workers(), before);
    kill(-daemon.group(), libc::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
}

#[test]
fn row_100_a_detached_daemon_stops_in_order() {
    let builder = Builder::new();
    let pidfile = builder.path("pid");
    let log = builder.path("echod.log");
    let mut daemon = builder
        .log_at(log.as_ref())
        .args(["--daemon", "--pidfile", &pidfile, "--log-target", &log])
        .args(["--graceful-timeout", "60s"])
        .start();
    let pid = std::fs::read_to_string(&pidfile).expect("a pidfile");
    daemon.track(pid.trim().parse().expect("a pid"));
    let clients = clients(&daemon, &PREFORK);
    let group = proc::stat(daemon.pid()).expect("it lives").pgrp;
    kill(-group, libc::SIGALRM);
    kill(-group, libc::SIGTERM);
    finish(&daemon, clients, "--daemon");
}

/// Nobody but its client and its limits ends it.
#[test]
fn row_100_inetd_serves_on() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut child = Command::new(env!("CARGO_BIN_EXE_echod"))
        .args(["--inetd", "--max-lifetime", "1h"])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it starts");
    let mut client = &ours;
    let mut ping = || {
        use std::io::{Read, Write};
        client.write_all(b"on").expect("send");
        client.read_exact(&mut [0; 2]).expect("the echo");
    };
    ping();
    let others = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP];
    for signal in harmless().chain(others) {
        kill(-child.id().cast_signed(), signal);
        ping();
    }
    ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let status = poll_some(DEADLINE, "it ends", || child.try_wait().expect("ours"));
    assert_eq!(status.code(), Some(0));
}

/// A command has a session of its own, and its helper is deaf.
#[test]
fn row_100_a_command_runs_to_its_end() {
    let daemon = Builder::new()
        .args(["--service", "command", "--user", "65534:65534"])
        .args([
            "--allow-command",
            "slow=/bin/sh,-c,echo one; sleep 0.3; echo two",
        ])
        .args(["--max-lifetime", "1h"])
        .start();
    let mut client = Client::connect(daemon.addr());
    use std::io::{Read, Write};
    client.write_all(b"slow\n").expect("send");
    client.read_exact(&mut [0; 4]).expect("its first line");
    for signal in harmless() {
        kill(-daemon.group(), signal);
    }
    kill(-daemon.group(), libc::SIGTERM);
    assert_eq!(client.rest(), b"two\n");
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
    assert!(std::net::TcpListener::bind(tcp_addr(daemon.addr())).is_ok());
    daemon.assert_gone(Duration::from_secs(5));
}

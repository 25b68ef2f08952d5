//! The signal table: a test for each row, and for what no signal may do.
//!
//! Races between signals and the daemon's other doings are in
//! `tests/it/signals/races.rs`.

pub mod groups;
pub mod races;
pub mod terminal;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::client::tcp_addr;
use crate::common::design::pool;
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, Load, Signal, echo_once, poll_until,
    proc, signal,
};

const NONE: &[&str] = &[];

/// Soon enough to show that no longer deadline was waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

fn client_in_conversation(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    client
}

fn leave(mut client: Client) {
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
}

fn wait_idle(daemon: &Daemon, n: usize) -> Vec<i32> {
    poll_until(DEADLINE, &format!("{n} idle workers"), || {
        daemon.role("echod-idle").len() == n
    });
    daemon.role("echod-idle")
}

fn small_pool() -> Vec<String> {
    pool(2, 2, 8)
}

#[test]
fn term_stops_gracefully() {
    let daemon = Daemon::start(NONE);
    let mut client = client_in_conversation(&daemon);
    daemon.signal(Signal::SIGTERM);
    poll_until(DEADLINE, "the listener is closed", || {
        TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
    });
    client.ping(b"served on");
    assert!(daemon.try_exit().is_none());
    let name = client.peer_name();
    leave(client);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.conn_line(&name).end, "eof");
}

#[test]
fn term_ends_clients_at_the_deadline() {
    let daemon = Daemon::start(&["--graceful-timeout", "300ms"]);
    let mut clients: Vec<Client> = (0..3).map(|_| client_in_conversation(&daemon)).collect();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    for client in &mut clients {
        let _ = client.end();
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
    }
}

#[test]
fn a_second_term_stops_now() {
    let daemon = Daemon::start(&["--graceful-timeout", "60s"]);
    let client = client_in_conversation(&daemon);
    daemon.signal(Signal::SIGTERM);
    poll_until(DEADLINE, "the first TERM is obeyed", || {
        TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
    });
    assert!(daemon.try_exit().is_none());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(AT_ONCE).code(), Some(0));
    assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
}

#[test]
fn int_stops_now() {
    let daemon = Daemon::start(&["--graceful-timeout", "60s"]);
    let client = client_in_conversation(&daemon);
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait_exit(AT_ONCE).code(), Some(0));
    assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
}

#[test]
fn quit_waits_beyond_the_deadline() {
    let limit = Duration::from_millis(200);
    let daemon = Daemon::start(&["--graceful-timeout", "200ms"]);
    let mut client = client_in_conversation(&daemon);
    daemon.signal(Signal::SIGQUIT);
    let start = Instant::now();
    while start.elapsed() < limit * 6 {
        client.ping(b"no deadline");
        assert!(!client_is_late(&mut client));
    }
    assert!(daemon.try_exit().is_none());
    leave(client);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

/// Takes up a little time without sleeping: reads nothing for 20 ms.
fn client_is_late(client: &mut Client) -> bool {
    !client.silent_for(Duration::from_millis(20))
}

#[test]
fn hup_brings_a_new_generation_and_cuts_nobody() {
    let daemon = Daemon::start(&small_pool());
    let (mut client, busy) = daemon.connect_served();
    let old = wait_idle(&daemon, 2);
    daemon.signal(Signal::SIGHUP);
    poll_until(DEADLINE, "other idle workers", || {
        let now = daemon.role("echod-idle");
        now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
    });
    client.ping(b"not cut");
    assert!(!proc::is_dead(busy));
    assert_eq!(echo_once(daemon.addr(), b"new"), b"new");
}

#[test]
fn usr1_reopens_the_log() {
    let builder = Builder::new();
    let log = PathBuf::from(builder.path("echod.log"));
    let old = PathBuf::from(builder.path("echod.log.1"));
    let daemon = builder
        .args(["--log-target", &log.display().to_string()])
        .log_at(&log)
        .start();
    let first = client_in_conversation(&daemon);
    let first_name = first.peer_name();
    leave(first);
    daemon.conn_line(&first_name);
    fs::rename(&log, &old).expect("rename");
    daemon.signal(Signal::SIGUSR1);
    poll_until(DEADLINE, "the log is created anew", || log.exists());
    let second = client_in_conversation(&daemon);
    let second_name = second.peer_name();
    leave(second);
    daemon.conn_line(&second_name);
    let kept = ConnLine::all(&fs::read_to_string(&old).expect("the old log"));
    assert!(kept.iter().any(|line| line.peer == first_name));
    assert!(kept.iter().all(|line| line.peer != second_name));
}

#[test]
fn ttin_and_ttou_change_the_pool_by_one() {
    let daemon = Daemon::start(&small_pool());
    wait_idle(&daemon, 2);
    daemon.signal(Signal::SIGTTIN);
    wait_idle(&daemon, 3);
    daemon.signal(Signal::SIGTTIN);
    wait_idle(&daemon, 4);
    daemon.signal(Signal::SIGTTOU);
    wait_idle(&daemon, 3);
    daemon.signal(Signal::SIGTTOU);
    wait_idle(&daemon, 2);
    assert_eq!(echo_once(daemon.addr(), b"serving"), b"serving");
}

/// As often as anybody likes: at the end an order is said once, and none is owed.
#[test]
fn row_105_ttin_and_ttou_stop_at_their_ends() {
    for design in DESIGNS
        .into_iter()
        .filter(|design| design.name.starts_with("prefork"))
    {
        let daemon = Builder::new().args(design.args).args(["-c", "10"]).start();
        let order = |which, idle, n: usize| {
            daemon.signal(which);
            wait_idle(&daemon, idle);
            // It has been taken, and the next will not merge with it.
            let moved = daemon.log_count("wait from now on");
            assert!(moved <= n, "{}: {}", design.name, daemon.log());
        };
        wait_idle(&daemon, 8);
        let ends = [
            "as many workers wait as --max-clients",
            "which is the least",
        ];
        for idle in [9, 10, 10, 10, 10, 10] {
            order(Signal::SIGTTIN, idle, 2);
            echo_once(daemon.addr(), b"taken");
        }
        wait_idle(&daemon, 10);
        for idle in (1..10).rev() {
            order(Signal::SIGTTOU, idle, 12);
        }
        for _ in 0..6 {
            order(Signal::SIGTTOU, 1, 14);
            echo_once(daemon.addr(), b"taken");
        }
        order(Signal::SIGTTIN, 2, 15);
        for end in ends {
            assert_eq!(
                daemon.log_count(end),
                1,
                "{}: {}",
                design.name,
                daemon.log()
            );
        }
    }
}

#[test]
fn signals_without_orders_are_harmless() {
    let daemon = Daemon::start(&small_pool());
    let (mut client, serving) = daemon.connect_served();
    let harmless = [
        Signal::SIGPIPE,
        Signal::SIGCHLD,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ];
    for which in harmless {
        daemon.signal(which);
        signal(serving, which);
        client.ping(b"still served");
        assert_eq!(echo_once(daemon.addr(), b"and"), b"and", "{which}");
    }
    assert!(daemon.try_exit().is_none());
}

/// SIGCONT makes a blocked read or write return EINTR: see signal(7).
#[test]
fn row_82_stop_and_continue_lose_no_byte() {
    let daemon = Daemon::start(NONE);
    let (mut client, serving) = daemon.connect_served();
    for n in 0..50u64 {
        signal(serving, Signal::SIGSTOP);
        signal(serving, Signal::SIGCONT);
        client.ping(&crate::common::pattern(n, 2000));
    }
    leave(client);
}

#[test]
fn shutdown_delay_keeps_accepting_and_a_second_term_skips_it() {
    let daemon = Daemon::start(&["--shutdown-delay", "60s"]);
    daemon.signal(Signal::SIGTERM);
    for _ in 0..20 {
        assert_eq!(echo_once(daemon.addr(), b"late"), b"late");
    }
    assert!(daemon.try_exit().is_none());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

/// What a terminal or `pkill -HUP echod` sends to everything.
const GROUP_SIGNALS: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

#[test]
fn row_36_workers_take_no_group_signal() {
    let daemon = Daemon::start(NONE);
    let mut clients: Vec<Client> = (0..3).map(|_| client_in_conversation(&daemon)).collect();
    let load = Load::start(daemon.addr(), 4, 300);
    for round in 1..=10 {
        poll_until(DEADLINE, "the load runs", || load.done() >= round * 20);
        for pid in proc::children(daemon.pid()) {
            for which in GROUP_SIGNALS {
                signal(pid, which);
            }
        }
    }
    load.stop().assert_all_complete();
    for client in &mut clients {
        client.ping(b"after");
    }
}

#[test]
fn row_36_hup_to_the_group_under_load_loses_nobody() {
    let daemon = Daemon::start(NONE);
    let mut client = client_in_conversation(&daemon);
    let load = Load::start(daemon.addr(), 8, 300);
    for round in 1..=5 {
        poll_until(DEADLINE, "the load runs", || load.done() >= round * 60);
        proc::signal_group(daemon.group(), Signal::SIGHUP);
    }
    load.stop().assert_all_complete();
    client.ping(b"after");
}

/// Ctrl-\ reaches everyone; only the supervisor obeys, and it waits.
#[test]
fn row_36_quit_to_the_group_lets_clients_finish() {
    let daemon = Daemon::start(NONE);
    let mut client = client_in_conversation(&daemon);
    proc::signal_group(daemon.group(), Signal::SIGQUIT);
    poll_until(DEADLINE, "the listener is closed", || {
        TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
    });
    client.ping(b"served on");
    leave(client);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

/// Ctrl-C is INT to the supervisor, who ends its clients in good order: their
/// end is `stop`, no worker dies of the terminal's own INT.
#[test]
fn row_36_int_to_the_group_is_one_orderly_stop() {
    let daemon = Daemon::start(NONE);
    let clients: Vec<Client> = (0..3).map(|_| client_in_conversation(&daemon)).collect();
    proc::signal_group(daemon.group(), Signal::SIGINT);
    assert_eq!(daemon.wait_exit(AT_ONCE).code(), Some(0));
    for client in &clients {
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
    }
}

//! What the supervisor tells its manager, and when.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::common::design::{FORK_WAIT, ITERATIVE, PREFORK, PREFORK_REUSE, THREAD};
use crate::common::{Client, DEADLINE, Daemon, Signal, echo_once, poll_until, proc};
use crate::units::manager::Manager;

fn without_status(words: &[String]) -> Vec<&str> {
    let words = words.iter().map(String::as_str);
    words.filter(|word| !word.starts_with("STATUS=")).collect()
}

#[test]
fn a_life_is_told_word_by_word() {
    for is_path in [true, false] {
        let builder = Daemon::builder();
        let manager = match is_path {
            true => Manager::at_path(&builder),
            false => Manager::abstract_name(),
        };
        let daemon = builder
            .args(["--shutdown-delay", "60s", "--stop-settle", "0"])
            .env("NOTIFY_SOCKET", &manager.name)
            .start();
        assert_eq!(without_status(&manager.until("READY=1")), ["READY=1"]);
        let said = manager.until("STATUS=");
        assert!(
            said[0].starts_with("STATUS=serving, 0 clients, "),
            "{said:?}"
        );

        daemon.signal(Signal::SIGHUP);
        let said = manager.until("READY=1");
        let said = without_status(&said);
        let usec = said[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let usec: u64 = usec.expect("both").parse().expect("a number");
        let uptime = proc::machine("uptime").expect("/proc/uptime");
        let seconds: f64 = uptime.split(' ').next().expect("one").parse().expect("one");
        let now = (seconds * 1e6) as u64;
        // CLOCK_MONOTONIC is at most the time since boot, and we just asked.
        assert!(usec > 0 && usec <= now + 1_000_000, "{usec} {now}");
        assert_eq!(said[1..], ["READY=1"]);

        // At once, and clients still come in.
        daemon.signal(Signal::SIGTERM);
        manager.until("STOPPING=1");
        assert_eq!(echo_once(daemon.addr(), b"late"), b"late");
        assert_eq!(daemon.try_exit(), None);
        // A reload now is none of the manager's business.
        daemon.signal(Signal::SIGHUP);
        daemon.wait_log("generation 3", DEADLINE);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        assert_eq!(without_status(&manager.drain()), [""; 0]);
    }
}

#[test]
fn status_counts_clients_and_comes_once_a_second_at_most() {
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &THREAD] {
        let manager = Manager::abstract_name();
        let daemon = Daemon::builder()
            .args(design.args)
            .env("NOTIFY_SOCKET", &manager.name)
            // Of clients of workers that are reused it hears when it wakes.
            .env("WATCHDOG_USEC", "500000")
            .start();
        let start = Instant::now();
        let held: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Client::connect(daemon.addr());
                client.ping(b"x");
                client
            })
            .collect();
        let mut words = manager.until("STATUS=serving, 3 clients");
        drop(held);
        words.extend(manager.until("STATUS=serving, 0 clients"));
        let status = words.iter().filter(|w| w.starts_with("STATUS="));
        let most = start.elapsed().as_secs() as usize + 2;
        assert!(status.count() <= most, "{}: {words:?}", design.name);
    }
}

#[test]
fn a_daemon_names_its_own_pid() {
    let builder = Daemon::builder();
    let manager = Manager::at_path(&builder);
    let pidfile = builder.path("pid");
    let log = builder.path("log");
    let mut daemon = builder
        .args(["--daemon", "--pidfile", &pidfile, "--log-target", &log])
        .env("NOTIFY_SOCKET", &manager.name)
        .start();
    let pid = fs::read_to_string(&pidfile).expect("a pidfile");
    daemon.track(pid.trim().parse().expect("a pid"));
    let said = manager.until("READY=1");
    let expected = format!("READY=1\nMAINPID={}", pid.trim());
    assert_eq!(without_status(&said), [expected]);
}

#[test]
fn row_52_a_stuck_supervisor_gives_no_sign_of_life_and_clients_go_on() {
    let manager = Manager::abstract_name();
    let daemon = Daemon::builder()
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", "100000")
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    manager.until("WATCHDOG=1");
    daemon.signal(Signal::SIGSTOP);
    poll_until(DEADLINE, "the supervisor stands still", || {
        proc::state(daemon.pid()) == Some('T')
    });
    manager.drain();
    // Ten times as long as one would have come.
    assert_eq!(manager.next(Duration::from_millis(500)), None);
    client.ping(b"meanwhile");
    assert_eq!(echo_once(daemon.addr(), b"new"), b"new", "idle workers");
    daemon.signal(Signal::SIGCONT);
    manager.until("WATCHDOG=1");
    client.ping(b"after");
}

#[test]
fn a_watchdog_of_another_process_is_not_served() {
    let manager = Manager::abstract_name();
    let daemon = Daemon::builder()
        .args(["--stop-settle", "0"])
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", "20000")
        .env("WATCHDOG_PID", "1")
        .start();
    echo_once(daemon.addr(), b"x");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(without_status(&manager.drain()), ["READY=1", "STOPPING=1"]);
}

/// The sockets a process holds.
fn sockets(pid: i32) -> BTreeSet<String> {
    let held = proc::fd_targets(pid).expect("--sandbox off: we may look");
    let held = held.into_iter().map(|(_, target)| target);
    held.filter(|target| target.starts_with("socket:"))
        .collect()
}

#[test]
fn whoever_serves_does_not_hold_the_managers_socket() {
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &ITERATIVE, &THREAD] {
        let manager = Manager::abstract_name();
        let daemon = Daemon::builder()
            .args(design.args)
            .args(["--sandbox", "off"])
            .env("NOTIFY_SOCKET", &manager.name)
            .start();
        manager.until("READY=1");
        let (_client, serving) = daemon.connect_served();
        let own = sockets(daemon.pid());
        assert_eq!(
            own.len(),
            2,
            "{}: a listener and the manager's",
            design.name
        );
        let shared = sockets(serving).intersection(&own).count();
        let listener = usize::from(design.reuses || design.name == "thread");
        assert!(shared <= listener, "{}: {shared}", design.name);
    }
}

/// Who hears nothing must not keep anybody waiting.
#[test]
fn a_manager_that_does_not_listen_delays_nobody() {
    let manager = Manager::abstract_name();
    let filler = UnixDatagram::unbound().expect("socket");
    filler.set_nonblocking(true).expect("nonblocking");
    let name = manager.name.trim_start_matches('@');
    let to = SocketAddr::from_abstract_name(name).expect("a name");
    while filler.send_to_addr(b"full", &to).is_ok() {}
    let daemon = Daemon::builder()
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", "20000")
        .start();
    assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
    // Said later, once there is room.
    manager.until("READY=1");
}

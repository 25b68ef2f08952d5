//! Signals at the wrong moment: between a check and a sleep, in a child that
//! is a millisecond old, before the daemon is ready, many at once.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::SIGTERM;

use crate::common::client::tcp_addr;
use crate::common::design::pool;
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, echo_once, need, poll_until, proc, signal,
};

const NONE: &[&str] = &[];

/// Lets a little time pass without giving the processor away: delays of
/// microseconds are what these tests vary.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn row_29_a_signal_before_the_sleep_is_not_lost() {
    for n in 0..20u32 {
        let (args, which): (&[&str], _) = if n % 2 == 0 {
            (NONE, Signal::SIGINT)
        } else {
            (&["--stop-settle", "0"], Signal::SIGTERM)
        };
        let daemon = Daemon::start(args);
        spin(Duration::from_micros(97) * n);
        daemon.signal(which);
        // A lost wake-up would never end, for nothing else wakes an idle daemon.
        assert_eq!(daemon.wait_exit(Duration::from_secs(3)).code(), Some(0));
    }
}

#[test]
fn row_29_a_signal_in_a_widened_window_is_not_lost() {
    if !need("strace") {
        return;
    }
    let waits = "?poll,?ppoll,?epoll_wait,?epoll_pwait,?select,?pselect6";
    for n in 0..6u32 {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let inject = format!("inject={waits}:delay_enter=20000");
        let daemon = builder
            .under(["strace", "-o", &trace, "-e", &format!("trace={waits}")])
            .under(["-e", &inject])
            .args(["--stop-settle", "0"])
            .start();
        spin(Duration::from_millis(7) * n);
        daemon.signal(Signal::SIGINT);
        assert_eq!(daemon.wait_exit(Duration::from_secs(5)).code(), Some(0));
    }
}

/// The one order that a worker obeys at any age.
#[test]
fn row_32_kill_to_newborn_workers_ends_every_one() {
    let daemon = Daemon::start(&pool(8, 8, 16));
    let mut shot = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) && shot.len() < 500 {
        for pid in proc::children(daemon.pid()) {
            if shot.insert(pid) {
                signal(pid, Signal::SIGKILL);
            }
        }
    }
    assert!(shot.len() >= 8);
    poll_until(DEADLINE, "every one of them is gone", || {
        let left = proc::children(daemon.pid());
        left.iter().all(|pid| !shot.contains(pid))
    });
    assert_eq!(echo_once(daemon.addr(), b"refilled"), b"refilled");
}

#[test]
fn row_33_signals_to_workers_do_not_wake_the_supervisor() {
    let daemon = Daemon::start(&pool(4, 4, 8));
    poll_until(DEADLINE, "the pool", || {
        daemon.role("echod-idle").len() == 4
    });
    let idle = daemon.role("echod-idle");
    let before = proc::wakeups(daemon.pid()).expect("a live supervisor");
    let mut sent = 0;
    for _ in 0..100 {
        for &pid in &idle {
            for which in crate::signals::GROUP_SIGNALS {
                signal(pid, which);
                sent += 1;
            }
        }
    }
    assert_eq!(echo_once(daemon.addr(), b"x"), b"x");
    let woken = proc::wakeups(daemon.pid()).expect("a live supervisor") - before;
    assert!(woken < sent / 20, "{woken} wake-ups for {sent} signals");
    let now = daemon.role("echod-idle");
    let kept = idle.iter().filter(|pid| now.contains(pid)).count();
    assert!(kept >= 3, "one took the client, the others stay");
}

#[test]
fn row_34_a_storm_of_terms_is_a_stop() {
    let daemon = Daemon::start(&["--graceful-timeout", "60s"]);
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    for _ in 0..50 {
        daemon.signal(Signal::SIGTERM);
    }
    let group = proc::children(daemon.pid());
    // Fifty may merge into one, which is graceful; one more cannot.
    poll_until(DEADLINE, "the storm is over", || {
        daemon.signal(Signal::SIGTERM);
        daemon.try_exit().is_some()
    });
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    poll_until(DEADLINE, "its children are gone", || {
        group.iter().all(|&pid| proc::is_dead(pid))
    });
}

#[test]
fn row_34_other_orders_do_not_undo_a_stop() {
    let daemon = Daemon::start(&["--graceful-timeout", "60s"]);
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    daemon.signal(Signal::SIGTERM);
    for which in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGTTIN,
        Signal::SIGCHLD,
    ] {
        daemon.signal(which);
    }
    client.ping(b"served on");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

/// Nobody new is let in, so there is nobody to renew; the log is reopened as ever.
#[test]
fn hup_during_a_stop_brings_no_new_workers() {
    for design in DESIGNS {
        let daemon = Builder::new()
            .args(design.args)
            .args(["--stop-settle", "300ms"])
            .start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"before");
        daemon.signal(Signal::SIGTERM);
        daemon.wait_log("stopping", DEADLINE);
        daemon.signal(Signal::SIGHUP);
        if !design.reuses {
            // Others keep the listener until they are done with their client.
            poll_until(DEADLINE, "the listener is closed", || {
                TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
            });
        }
        daemon.signal(Signal::SIGHUP);
        client.ping(b"served on");
        drop(client);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        assert_eq!(daemon.log_count("new workers"), 0, "{}", daemon.log());
    }
}

/// Exit 0, or death by TERM before there was anything to tidy up; no file and
/// no process either way.
fn assert_nothing_left(daemon: &Daemon, files: &[String], case: &str) {
    let status = daemon.wait_exit(DEADLINE);
    let fine = status.code() == Some(0) || status.signal() == Some(SIGTERM);
    assert!(fine, "{case}: {status:?}\n{}", daemon.log());
    daemon.assert_gone(DEADLINE);
    for file in files {
        assert!(!Path::new(file).exists(), "{case}: {file} is left");
    }
}

/// A daemon with both kinds of file to leave behind.
fn with_files() -> (Builder, [String; 2]) {
    let builder = Builder::new();
    let files = [builder.path("sock"), builder.path("pid")];
    let listen = format!("unix:{}", files[0]);
    let builder = builder.args(["-l", &listen, "--pidfile", &files[1]]);
    (builder, files)
}

#[test]
fn row_35_term_during_start_leaves_nothing() {
    for n in 0..40u32 {
        let (builder, files) = with_files();
        let daemon = builder.spawn();
        spin(Duration::from_micros(180) * n);
        daemon.signal(Signal::SIGTERM);
        assert_nothing_left(&daemon, &files, &format!("after {n} steps"));
    }
}

/// The calls a start is made of, and which of them: TERM comes with that one.
const START_CALLS: &[(&str, &[u32])] = &[
    ("rt_sigprocmask", &[1, 2, 4]),
    ("rt_sigaction", &[1, 5, 9, 14, 20]),
    ("socket", &[1]),
    ("bind", &[1]),
    ("listen", &[1]),
    ("fcntl", &[1, 3]),
    ("openat", &[1, 2, 3]),
    ("pwrite64", &[1]),
    ("mmap", &[3, 6]),
    ("prctl", &[1, 2]),
    ("setresuid", &[1]),
    ("clone", &[1, 2, 5]),
    ("wait4", &[1]),
    ("write", &[1, 2, 3]),
    ("close", &[1, 3]),
];

#[test]
fn row_35_term_at_a_call_of_the_start_leaves_nothing() {
    if !need("strace") {
        return;
    }
    for (call, whens) in START_CALLS {
        for when in *whens {
            let (builder, files) = with_files();
            let trace = builder.path("trace");
            let inject = format!("inject={call}:signal=TERM:when={when}");
            let mut daemon = builder
                .under(["strace", "-o", &trace, "-e", &inject])
                .spawn();
            // A start without that call gets its TERM when it is ready.
            if daemon.wait_ready(DEADLINE).is_ok() {
                daemon.signal(Signal::SIGTERM);
            }
            assert_nothing_left(&daemon, &files, &format!("{call} {when}"));
        }
    }
}

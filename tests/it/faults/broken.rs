//! Children that break from within: a crash, a panic, a start that fails every
//! time. What the supervisor must not do is break with them, or fork for ever.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::client::is_timeout;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, pool};
use crate::common::{
    Builder, Client, DEADLINE, Design, Signal, echo_once, need, poll_until, signal, skipped,
    zombies,
};

/// Debug builds alone have the hook `ECHOD_FAULT`.
pub fn hooked() -> bool {
    cfg!(debug_assertions) || skipped("a release build has no ECHOD_FAULT")
}

#[track_caller]
fn expect_end(client: &mut Client) {
    let late = client.end().is_err_and(|error| is_timeout(&error));
    assert!(!late, "the client is left open");
}

/// A child that dies of a signal is a log line with pid, signal and peer.
pub fn row_40_a_crash_is_named_and_survived(design: &Design) {
    let daemon = Builder::new().args(design.args).sigsys_is_fine().start();
    for (which, name) in [
        (Signal::SIGSEGV, "SEGV"),
        (Signal::SIGABRT, "ABRT"),
        (Signal::SIGBUS, "BUS"),
        (Signal::SIGSYS, "SYS"),
    ] {
        let (mut client, pid) = daemon.connect_served();
        signal(pid, which);
        expect_end(&mut client);
        let peer = client.peer_name();
        let line = daemon.conn_line(&peer);
        if design.exit_status_seen {
            assert_eq!(line.end, format!("killed:{name}"));
            let told = format!("process {pid} died of SIG{name} while serving {peer}");
            daemon.wait_log(&told, DEADLINE);
            assert_eq!(daemon.log_count(&told), 1);
        } else {
            assert_eq!(line.end, "killed:unknown");
        }
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    }
    assert!(daemon.try_exit().is_none());
}

/// The child's own faults, one client after the other.
#[test]
fn row_40_every_child_of_a_broken_build_dies_and_the_supervisor_lives() {
    if !hooked() {
        return;
    }
    for (design, sandbox, fault, told) in [
        (&PREFORK, "off", "serve:segv", "died of SIGSEGV while"),
        (&FORK_WAIT, "off", "serve:segv", "died of SIGSEGV while"),
        (&PREFORK, "off", "serve:panic", "left with status 70 while"),
        (&FORK_WAIT, "best-effort", "serve:9", "left with status 9"),
    ] {
        let daemon = Builder::new()
            .args(design.args)
            .args(["--sandbox", sandbox])
            .env("ECHOD_FAULT", fault)
            .start();
        for n in 1..=20 {
            let mut client = Client::connect(daemon.addr());
            expect_end(&mut client);
            poll_until(DEADLINE, &format!("{fault}: a line each"), || {
                daemon.log_count(told) == n
            });
        }
        assert!(daemon.try_exit().is_none());
        poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
    }
}

/// Workers that never get as far as a client: forked again, but slowly, and
/// said once.
#[test]
fn row_40_children_that_die_at_birth_are_no_fork_storm() {
    if !need("strace") || !hooked() {
        return;
    }
    const WATCHED: Duration = Duration::from_secs(3);
    for (design, fault) in [(&PREFORK, "begin:70"), (&PREFORK_REUSE, "begin:panic")] {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let daemon = builder
            .under(["strace", "-o", &trace, "-e", "trace=fork,clone,clone3"])
            .args(design.args)
            .args(pool(4, 4, 8))
            .env("ECHOD_FAULT", fault)
            .start();
        let start = Instant::now();
        let forks = || {
            let trace = fs::read_to_string(&trace).expect("a trace");
            trace.matches("clone(").count() + trace.matches("clone3(").count()
        };
        poll_until(2 * WATCHED, "a while of watching", || {
            start.elapsed() > WATCHED
        });
        // 100 ms, 200, 400…: five rounds of what the pool lacks in 3 s. A hot
        // loop makes thousands.
        let seen = forks();
        println!("{} {fault}: {seen} forks in {WATCHED:?}", design.name);
        assert!((4..=100).contains(&seen), "{seen} forks in {WATCHED:?}");
        assert_eq!(daemon.log_count("idle process"), 1, "a line an episode");
        assert!(daemon.try_exit().is_none());
    }
}

/// A panic ends the child there: it runs no destructor of the supervisor's,
/// which would take the pidfile and the socket file along.
pub fn row_41_a_panic_stays_in_its_child(design: &Design) {
    if !hooked() {
        return;
    }
    let fault = if design.reuses { "begin" } else { "serve" };
    let builder = Builder::new();
    let (socket, pidfile) = (builder.path("sock"), builder.path("pid"));
    let listen = match design.tcp_only {
        true => "tcp:127.0.0.1:0".to_owned(),
        false => format!("unix:{socket}"),
    };
    let daemon = builder
        .args(design.args)
        .args(["--listen", &listen])
        .args(["--pidfile", &pidfile, "--graceful-timeout", "1s"])
        .env("ECHOD_FAULT", &format!("{fault}:panic"))
        .start();
    for _ in 0..5 {
        let mut client = Client::connect(daemon.addr());
        if !design.reuses {
            expect_end(&mut client);
        }
    }
    if design.exit_status_seen {
        daemon.wait_log("left with status 70", DEADLINE);
    }
    let pid = fs::read_to_string(&pidfile).expect("the pidfile is left alone");
    assert_eq!(pid.trim(), daemon.pid().to_string());
    let there = fs::metadata(&socket).is_ok();
    assert!(there || design.tcp_only, "the socket file is gone");
    // A newborn child has that name too, but not for long.
    poll_until(DEADLINE, "one supervisor and no second", || {
        let members = daemon.members().into_iter();
        let mut named = members.filter(|p| p.comm == "echod");
        named.all(|p| p.pid == daemon.pid())
    });
    assert_eq!(daemon.log_count("listening on"), 1);
    assert_eq!(
        daemon.log_count("panicked at"),
        0,
        "a panic speaks to nobody"
    );
    // A stop still ends it in good order.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(fs::metadata(&socket).is_err(), "{socket} is left");
}

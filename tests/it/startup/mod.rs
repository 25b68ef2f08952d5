//! From the command line to serving: the state echod is started in, how it
//! says that it serves, and every way in which it may refuse to.
//!
//! Addresses and socket files are in `tests/it/startup/addresses.rs`, pidfiles
//! and instances that start together in `tests/it/startup/pidfile.rs`, the
//! command line itself in `tests/it/startup/usage.rs`.

pub mod addresses;
pub mod check;
pub mod configuration;
pub mod pidfile;
pub mod usage;
pub mod values;

use crate::faults::wrapper;

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::libc;

use crate::common::design::{FORK_WAIT, PREFORK};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, Signal, echo_once, is_root, many,
    poll_some, poll_until, proc, tool, zombies,
};

/// Asserts that echod ends with `code` and one line that holds all of `parts`.
#[track_caller]
fn refused(builder: Builder, code: i32, parts: &[&str]) -> String {
    let finished = builder.run(DEADLINE);
    let said = finished.stderr;
    assert_eq!(finished.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("echod: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    said
}

/// Lets /proc/PID/fd be read without privilege.
fn visible() -> &'static [&'static str] {
    if is_root() {
        &[]
    } else {
        &["--sandbox", "off"]
    }
}

/// Someone who is not the owner of what the tests make.
fn as_another_user(builder: Builder) -> Builder {
    if is_root() {
        builder.uid(65533)
    } else {
        builder
    }
}

const EACH_SIGNAL: &str = "CHLD,TERM,INT,QUIT,HUP,USR1,ALRM";

/// Ignored by a shell (nohup, cron) and, where env(1) can, blocked as well.
fn hostile_signals() -> Vec<String> {
    let ignore = format!("trap '' {}; ", EACH_SIGNAL.replace(',', " "));
    let block = format!("--block-signal={EACH_SIGNAL}");
    let exec = if tool("env", &[&block, "true"]).0 {
        format!("exec env {block} \"$@\"")
    } else {
        "exec \"$@\"".to_owned()
    };
    ["sh", "-c", &(ignore + &exec), "sh"]
        .map(str::to_owned)
        .into()
}

#[test]
fn row_21_signals_ignored_and_blocked_by_the_starter_are_set_right() {
    for design in DESIGNS {
        let builder = Builder::new().under(hostile_signals());
        let daemon = builder.args(design.args).start();
        many(daemon.addr(), 30, 3, 100).assert_all_complete();
        poll_until(DEADLINE, "all dead are reaped", || {
            zombies(daemon.pid()).is_empty()
        });
        daemon.signal(Signal::SIGTERM);
        let exit = daemon.wait_exit(DEADLINE);
        assert_eq!(exit.code(), Some(0), "{}", design.name);
    }
}

#[test]
fn row_21_a_blocked_alarm_still_ends_a_connection() {
    let daemon = Builder::new()
        .under(hostile_signals())
        .args(["--max-lifetime", "200ms"])
        .start();
    let mut client = Client::connect(daemon.addr());
    let _ = client.end();
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!(line.end, "max-lifetime");
}

/// The timers that execve(2) keeps, each about to end, and an ALRM that waits.
#[test]
fn role_armed() {
    let Some(mut command) = wrapper::rest() else {
        return;
    };
    nix::sys::signal::SigSet::all()
        .thread_block()
        .expect("mask");
    for (timer, ms) in [
        (libc::ITIMER_REAL, 1000),
        (libc::ITIMER_VIRTUAL, 50),
        (libc::ITIMER_PROF, 50),
    ] {
        let soon = libc::timeval {
            tv_sec: ms / 1000,
            tv_usec: ms % 1000 * 1000,
        };
        let value = libc::itimerval {
            it_interval: soon,
            it_value: soon,
        };
        // SAFETY: `value` lives across the call; nothing is asked back.
        unsafe { libc::setitimer(timer, &value, std::ptr::null_mut()) };
    }
    nix::sys::signal::raise(Signal::SIGALRM).expect("raise");
    panic!("exec: {}", command.exec());
}

#[test]
fn row_119_timers_of_the_starter_end_nobody() {
    for (design, detached) in [(&PREFORK, false), (&FORK_WAIT, false), (&PREFORK, true)] {
        let builder = Builder::new();
        let (pidfile, log) = (builder.path("pid"), builder.path("log"));
        let mut builder = builder
            .under(wrapper::wrapper("startup::role_armed"))
            .args(design.args);
        if detached {
            builder = builder
                .args(["--daemon", "--pidfile", &pidfile, "--log-target", &log])
                .log_at(log.as_ref());
        }
        let mut daemon = builder.start();
        if detached {
            let pid = std::fs::read_to_string(&pidfile).expect("a pidfile");
            daemon.track(pid.trim().parse().expect("a pid"));
        }
        let mut client = Client::connect(daemon.addr());
        client.ping(b"before");
        // Processor time for two of them, and the time of day for the third.
        many(daemon.addr(), 400, 4, 100).assert_all_complete();
        assert!(client.silent_for(Duration::from_millis(1200)));
        client.ping(b"after");
        assert!(!proc::is_dead(daemon.pid()), "{}", daemon.log());
        daemon.signal(Signal::SIGTERM);
        daemon.wait_log("stopped", DEADLINE);
    }
}

/// What descriptors 0 to 2 of every process are, and that of a stray one
/// nothing is left.
fn assert_clean(daemon: &Daemon, null: &[i32]) {
    for process in daemon.members() {
        let fds = proc::fd_targets(process.pid).unwrap_or_default();
        for (number, target) in &fds {
            let at = format!("{} {number} is {target}", process.comm);
            assert!(!target.contains("stray"), "{at}");
            assert!(*number > 2 || !target.starts_with("socket:"), "{at}");
            if null.contains(number) && process.comm != "echod-conn" {
                assert_eq!(target, "/dev/null", "{at}");
            }
        }
        assert!(!fds.is_empty() || process.comm == "echod-conn");
    }
}

#[test]
fn row_22_closed_standard_descriptors_become_dev_null() {
    for design in [&PREFORK, &FORK_WAIT] {
        let daemon = Builder::new()
            .under(["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"])
            .args(design.args)
            .args(visible())
            .start();
        let (mut client, _) = daemon.connect_served();
        assert_clean(&daemon, &[0, 1, 2]);
        client.ping(b"served");
        assert_eq!(echo_once(daemon.addr(), b"so"), b"so");
    }
}

#[test]
fn row_22_stray_descriptors_reach_neither_supervisor_nor_workers() {
    for design in [&PREFORK, &FORK_WAIT] {
        let builder = Builder::new();
        let stray = builder.path("stray");
        let script = "exec \"$@\" 4>\"$0\" 7>\"$0\" 9>\"$0\"";
        let daemon = builder
            .under(["sh", "-c", script, &stray])
            .args(design.args)
            .args(visible())
            .start();
        let (mut client, _) = daemon.connect_served();
        assert_clean(&daemon, &[0]);
        client.ping(b"served");
    }
}

#[test]
fn a_ready_fd_that_is_not_open_is_a_usage_error() {
    for number in ["9", "99999"] {
        let arg = format!("--ready-fd={number}");
        let builder = Builder::new().bare().args(["-l", "tcp:127.0.0.1:0", &arg]);
        refused(builder, 64, &["--ready-fd", number, "not open"]);
    }
}

/// Nothing of echod keeps the pipe, or the substitution would not return.
#[test]
fn a_shell_substitution_returns_once_a_background_echod_serves() {
    let builder = Builder::new().bare().listeners(3);
    let unix = format!("unix:{}", builder.path("sock"));
    let script = "addr=$(\"$@\" &) && printf '%s\\n' \"$addr\" >&3";
    let tcp = "tcp:127.0.0.1:0";
    let daemon = builder
        .under(["sh", "-c", script, "sh"])
        .args(["-l", tcp, "-l", &unix, "-l", tcp, "--ready-fd", "1"])
        .start();
    assert!(daemon.wait_exit(DEADLINE).success());
    assert_eq!(daemon.addrs()[1], unix);
    for addr in daemon.addrs() {
        assert_eq!(echo_once(addr, b"ready"), b"ready", "{addr}");
    }
}

/// The reader of `--ready-fd` is not needed for serving.
#[test]
fn a_ready_fd_without_a_reader_is_no_reason_not_to_serve() {
    let builder = Builder::new().bare().listeners(0);
    let path = builder.path("sock");
    let script = "exec \"$@\" 5>&1 1>/dev/null | exec true";
    let wrapper = ["sh", "-c", script, "sh"];
    let unix = format!("unix:{path}");
    let daemon = builder
        .under(wrapper)
        .args(["-l", &unix, "--ready-fd", "5"])
        .spawn();
    let mut client = poll_some(DEADLINE, "a client is let in", || {
        Client::try_connect(&unix).ok()
    });
    client.ping(b"served");
    drop(client);
    let pid = poll_some(Duration::from_secs(5), "a conn line", || {
        ConnLine::all(&daemon.log()).pop().map(|line| line.pid)
    });
    assert!(pid > 0);
    proc::signal_group(daemon.group(), Signal::SIGTERM);
    daemon.assert_gone(DEADLINE);
}

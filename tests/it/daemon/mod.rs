//! `--daemon`: what its starter gets to know, what has become of the process,
//! and what it leaves behind.
//!
//! Who it is then, `--user` and `--chroot`, is in `tests/it/daemon/identity.rs`,
//! logging without a standard error in `tests/it/daemon/syslog.rs`.

pub mod identity;
pub mod syslog;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, Signal, echo_once, is_root, many,
    poll_some, poll_until, proc,
};

/// Lets /proc/PID/fd be read without privilege.
fn visible() -> &'static [&'static str] {
    if is_root() {
        &[]
    } else {
        &["--sandbox", "off"]
    }
}

fn pid_in(path: &Path) -> i32 {
    let text = fs::read_to_string(path).expect("a pidfile");
    let line = text.strip_suffix('\n').expect("a whole line");
    line.parse().expect("a pid")
}

/// The builder's log and pidfile, in its directory.
fn files(builder: Builder) -> (Builder, PathBuf, PathBuf) {
    let (pid, log) = (builder.path("pid"), builder.path("log"));
    let args = ["--daemon", "--pidfile", &pid, "--log-target", &log];
    let builder = builder.args(args).log_at(log.as_ref());
    (builder, pid.into(), log.into())
}

/// Waits for the starter, which must succeed, and takes the daemon over.
#[track_caller]
fn detached(builder: Builder, pidfile: &Path) -> Daemon {
    let starter = builder.dir().join("stderr");
    let mut daemon = builder.spawn();
    let status = daemon.wait_exit(DEADLINE);
    let said = fs::read_to_string(starter).unwrap_or_default();
    assert_eq!(status.code(), Some(0), "{said}{}", daemon.log());
    daemon.track(pid_in(pidfile));
    daemon.wait_ready(DEADLINE).expect("the listeners' names");
    daemon
}

fn start(builder: Builder) -> Daemon {
    let (builder, pidfile, _) = files(builder);
    detached(builder, &pidfile)
}

/// At least one.
fn idle_workers(daemon: &Daemon) -> Vec<i32> {
    poll_some(DEADLINE, "workers wait", || {
        Some(daemon.role("echod-idle")).filter(|idle| !idle.is_empty())
    })
}

#[track_caller]
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    poll_until(DEADLINE, "the daemon is gone", || {
        proc::is_dead(daemon.pid())
    });
    daemon.assert_gone(DEADLINE);
}

#[test]
fn the_starter_ends_with_0_once_clients_are_served() {
    for design in DESIGNS {
        let daemon = start(Builder::new().args(design.args));
        // No waiting here: the starter has ended.
        assert_eq!(echo_once(daemon.addr(), b"at once"), b"at once");
        many(daemon.addr(), 20, 2, 500).assert_all_complete();
        poll_until(DEADLINE, "conn lines in the log", || {
            ConnLine::all(&daemon.log()).len() == 21
        });
        stop(&daemon);
    }
}

#[test]
fn the_daemon_has_left_terminal_session_directory_and_umask() {
    let builder = Builder::new().under(["sh", "-c", "umask 077; exec \"$@\"", "sh"]);
    let sock = builder.path("sock");
    let unix = format!("unix:{sock}");
    let args = ["-l", "tcp:127.0.0.1:0", "-l", &unix];
    let (builder, pidfile, log) = files(builder.args(visible()).args(args));
    let daemon = detached(builder, &pidfile);
    let pid = daemon.pid();
    let stat = proc::stat(pid).expect("a process");
    let us = proc::stat(std::process::id().cast_signed()).expect("this process");
    assert_ne!(stat.session, us.session);
    assert_ne!(
        stat.session, pid,
        "a session's leader can acquire a terminal"
    );
    assert_ne!(stat.pgrp, daemon.group());
    assert!(stat.ppid != us.pid && stat.ppid != daemon.group());
    let cwd = proc::link(pid, "cwd").expect("readable");
    assert_eq!(cwd, Path::new("/"));
    assert_eq!(proc::status(pid, "Umask").as_deref(), Some("0000"));
    let mode = |path: &Path| fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode(&pidfile), 0o644);
    assert_eq!(mode(&log), 0o640);
    assert_eq!(mode(sock.as_ref()), 0o666);
    for process in idle_workers(&daemon).into_iter().chain([pid]) {
        let fds = proc::fd_targets(process).expect("readable");
        for standard in 0..3 {
            let at = fds.iter().find(|(number, _)| *number == standard);
            assert_eq!(at.expect("open").1, "/dev/null", "{process} {standard}");
        }
    }
}

#[test]
fn the_pidfile_holds_the_daemons_pid_and_its_lock_keeps_a_second_one_out() {
    let (builder, pidfile, _) = files(Builder::new());
    let first = detached(builder, &pidfile);
    assert_eq!(proc::comm(first.pid()), "echod");
    for more in [&["--daemon"][..], &[]] {
        let path = pidfile.display().to_string();
        let second = Builder::new().args(more).args(["--pidfile", &path]);
        let log = second.path("log");
        let finished = second.args(["--log-target", &log]).run(DEADLINE);
        let said = finished.stderr;
        assert_eq!(finished.status.code(), Some(69), "{said}");
        assert!(said.contains(&format!("process {}", first.pid())), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(pid_in(&pidfile), first.pid());
        assert_eq!(echo_once(first.addr(), b"untouched"), b"untouched");
    }
}

/// In the foreground and under --daemon: the same words, the same status.
#[test]
fn a_start_that_fails_gives_the_starter_the_daemons_message_and_status() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let in_use = format!("tcp:{}", taken.local_addr().expect("an address"));
    for (args, code) in [
        (["-l", &in_use], 69),
        (["-l", "unix:/no/such/directory/sock"], 73),
        (["--log-target", "/no/such/directory/log"], 73),
        (["--pidfile", "/no/such/directory/pid"], 73),
        (["--chroot", "/no/such/directory"], 78),
        (["--user", "no-such-user"], 78),
    ] {
        let run = |more: &[&str]| {
            let builder = Builder::new().args(args).args(more);
            let log = builder.path("log");
            let own_log = args[0] != "--log-target";
            let log = own_log.then(|| ["--log-target".to_owned(), log]);
            let finished = builder.args(log.into_iter().flatten()).run(DEADLINE);
            (finished.status.code(), finished.stderr)
        };
        let (status, said) = run(&["--daemon"]);
        assert_eq!(status, Some(code), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let subject = args[1].trim_end_matches("/log").trim_end_matches("/pid");
        assert!(
            said.starts_with("echod: ") && said.contains(subject),
            "{said}"
        );
        assert_eq!((status, said), run(&[]));
    }
}

#[test]
fn pidfile_and_socket_are_gone_after_term() {
    let builder = Builder::new();
    let sock = PathBuf::from(builder.path("sock"));
    let (builder, pidfile, _) = files(builder.args(["-l", &format!("unix:{}", sock.display())]));
    let daemon = detached(builder, &pidfile);
    assert!(sock.exists() && pidfile.exists());
    stop(&daemon);
    assert!(!sock.exists(), "the socket file is left");
    assert!(!pidfile.exists(), "the pidfile is left");
}

/// Root's directory after root is given up, or any that has lost its w bit.
#[test]
fn a_pidfile_that_cannot_be_removed_is_emptied() {
    let builder = Builder::new();
    let closed = builder.dir().join("closed");
    fs::create_dir(&closed).expect("mkdir");
    let pidfile = closed.join("pid");
    let log = builder.path("log");
    let args = ["--daemon", "--log-target", &log, "--pidfile"];
    let builder = builder.args(args).args([pidfile.display().to_string()]);
    let daemon = detached(builder.log_at(log.as_ref()), &pidfile);
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("chmod");
    stop(&daemon);
    assert_eq!(fs::read_to_string(&pidfile).expect("it stays"), "");
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).expect("chmod");
}

/// `addr=$(echod --daemon … --ready-fd 1)`, the substitution of the manual; a
/// pipe on standard error too, which the daemon may not keep either.
#[test]
fn a_shell_substitution_returns_once_the_daemon_serves() {
    let builder = Builder::new().bare().listeners(3);
    let unix = format!("unix:{}", builder.path("sock"));
    let script = "addr=$(\"$@\" 2>&1) && printf '%s\\n' \"$addr\" >&3";
    let tcp = "tcp:127.0.0.1:0";
    let (builder, pidfile, _) = files(builder.under(["sh", "-c", script, "sh"]).args([
        "-l",
        tcp,
        "-l",
        &unix,
        "-l",
        tcp,
        "--ready-fd",
        "1",
    ]));
    let daemon = detached(builder, &pidfile);
    assert_eq!(daemon.addrs()[1], unix);
    for addr in daemon.addrs() {
        assert_eq!(echo_once(addr, b"ready"), b"ready", "{addr}");
    }
}

/// A daemon works in /, but what was typed was typed elsewhere.
#[test]
fn relative_paths_count_from_where_the_starter_stood() {
    for more in [&["--daemon"][..], &[]] {
        let builder = Builder::new();
        let dir = builder.dir();
        let cd = [
            "sh",
            "-c",
            "cd \"$0\" && exec \"$@\"",
            &dir.display().to_string(),
        ];
        let (pidfile, log) = (dir.join("rel.pid"), dir.join("rel.log"));
        let builder = builder
            .under(cd)
            .args(more)
            .args(["--pidfile", "rel.pid", "--log-target", "./rel.log"])
            .args(["-l", "unix:rel.sock"])
            .log_at(&log);
        let daemon = if more.is_empty() {
            builder.start()
        } else {
            detached(builder, &pidfile)
        };
        assert_eq!(pid_in(&pidfile), daemon.pid());
        let addr = format!("unix:{}", dir.join("rel.sock").display());
        assert_eq!(daemon.addrs(), std::slice::from_ref(&addr));
        assert_eq!(echo_once(&addr, b"here"), b"here");
        assert_eq!(daemon.log_count("listening on"), 1);
        stop(&daemon);
        assert!(!pidfile.exists());
    }
}

/// The starter's terminal can go, with HUP and all.
#[test]
fn the_end_of_the_starters_group_does_not_concern_the_daemon() {
    let daemon = start(Builder::new());
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    for which in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        proc::signal_group(daemon.group(), which);
    }
    client.ping(b"after");
    assert_eq!(daemon.log_count("generation 2"), 0);
}

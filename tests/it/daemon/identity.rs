//! Who the processes are, as /proc/PID/status tells: supervisor, idle worker
//! and serving worker alike.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{
    Builder, DEADLINE, Daemon, Signal, echo_once, need, need_root, poll_until, proc,
};
use crate::daemon::{files, idle_workers, start, stop};

/// What every process of the daemon must show for these keys of proc(5).
#[track_caller]
fn assert_status(daemon: &Daemon, expected: &[(&str, &str)]) {
    let (client, serving) = daemon.connect_served();
    for pid in idle_workers(daemon)
        .into_iter()
        .chain([daemon.pid(), serving])
    {
        for (key, wanted) in expected {
            let value = proc::status(pid, key).unwrap_or_default();
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(&value, wanted, "{key} of {pid} {}", proc::comm(pid));
        }
    }
    drop(client);
}

const NO_CAPS: &str = "0000000000000000";

/// No privilege, and no way back to it.
const HARMLESS: [(&str, &str); 5] = [
    ("CapEff", NO_CAPS),
    ("CapPrm", NO_CAPS),
    ("CapInh", NO_CAPS),
    ("CapAmb", NO_CAPS),
    ("NoNewPrivs", "1"),
];

/// What root becomes: these ids, no other group, and nothing to gain by execve(2).
fn ids<'a>(uid: &'a str, gid: &'a str) -> Vec<(&'a str, &'a str)> {
    let own = [
        ("Uid", uid),
        ("Gid", gid),
        ("Groups", ""),
        ("CapBnd", NO_CAPS),
    ];
    own.into_iter().chain(HARMLESS).collect()
}

const NOBODY: &str = "65534 65534 65534 65534";

#[test]
fn root_without_user_becomes_nobody_and_says_so() {
    if !need_root() {
        return;
    }
    for builder in [Builder::new(), files(Builder::new()).0] {
        // Also from more groups and capabilities than root usually has.
        let wrapper = ["setpriv", "--groups=4,20,27", "--inh-caps=+net_raw"];
        if !need("setpriv") {
            return;
        }
        let builder = builder.under(wrapper).under(["--ambient-caps=+net_raw"]);
        let pidfile = builder.dir().join("pid");
        let mut daemon = builder.spawn();
        daemon.wait_ready(DEADLINE).expect("ready");
        if pidfile.exists() {
            daemon.track(crate::daemon::pid_in(&pidfile));
        }
        assert_status(&daemon, &ids(NOBODY, NOBODY));
        assert_eq!(daemon.log_count("now nobody (65534:65534)"), 1);
        assert_eq!(daemon.log_count("--allow-root"), 1);
    }
}

#[test]
fn user_is_who_all_of_it_becomes() {
    if !need_root() {
        return;
    }
    let daemon = start(Builder::new().args(["--user", "65533:65532"]));
    let (uid, gid) = ("65533 65533 65533 65533", "65532 65532 65532 65532");
    assert_status(&daemon, &ids(uid, gid));
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some(bin) = passwd.lines().find(|line| line.starts_with("bin:")) else {
        return;
    };
    let field = |n: usize| {
        let id = bin.split(':').nth(n).expect("a field");
        [id; 4].join(" ")
    };
    let daemon = start(Builder::new().args(["--user", "bin"]));
    let (uid, gid) = (field(2), field(3));
    assert_status(&daemon, &ids(&uid, &gid));
}

#[test]
fn allow_root_keeps_uid_0() {
    if !need_root() {
        return;
    }
    let daemon = start(Builder::new().args(["--allow-root"]));
    assert_status(&daemon, &[("Uid", "0 0 0 0"), ("NoNewPrivs", "1")]);
    assert_eq!(daemon.log_count("--allow-root"), 1);
}

/// Capabilities reach a program that never was root: systemd's
/// AmbientCapabilities, or setcap(8).
#[test]
fn capabilities_without_root_are_given_up_too() {
    if !need_root() || !need("setpriv") {
        return;
    }
    let builder = Builder::new();
    let dir = builder.dir().display().to_string();
    let script = "cp \"$1\" \"$0/echod\" && shift && exec setpriv --reuid=65533 \
                  --regid=65533 --clear-groups --inh-caps=+net_bind_service \
                  --ambient-caps=+net_bind_service \"$0/echod\" \"$@\"";
    let daemon = builder.under(["sh", "-c", script, &dir]).start();
    assert_status(&daemon, &HARMLESS);
    assert_eq!(echo_once(daemon.addr(), b"harmless"), b"harmless");
}

/// A user name space with one id in it: there is nobody else to become.
#[test]
fn a_change_that_is_refused_exits_77_and_names_both_options() {
    if !need("unshare") {
        return;
    }
    for more in [&["--daemon"][..], &[]] {
        let builder = Builder::new().under(["unshare", "-Ur"]).args(more);
        let log = builder.path("log");
        let finished = builder.args(["--log-target", &log]).run(DEADLINE);
        let said = finished.stderr;
        if said.starts_with("unshare:") {
            crate::common::skipped("no user name spaces here");
            return;
        }
        assert_eq!(finished.status.code(), Some(77), "{said}");
        assert!(
            said.contains("--user") && said.contains("--allow-root"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn row_94_each_step_that_fails_ends_the_start_with_77() {
    if !need_root() || !need("strace") {
        return;
    }
    for call in ["setgroups", "setresgid", "setresuid"] {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let inject = format!("inject={call}:error=EAGAIN");
        let finished = builder
            .under(["strace", "-f", "-o", &trace, "-e", &inject])
            .run(DEADLINE);
        let said = finished.stderr;
        assert_eq!(finished.status.code(), Some(77), "{call}: {said}");
        assert!(said.contains(call) && said.contains("EAGAIN"), "{said}");
        assert!(
            said.contains("--user") && said.contains("--allow-root"),
            "{said}"
        );
    }
}

#[test]
fn chroot_is_where_all_of_it_lives_and_its_files_are_still_found() {
    if !need_root() {
        return;
    }
    let builder = Builder::new();
    let jail = builder.dir().join("jail");
    fs::create_dir(&jail).expect("mkdir");
    fs::set_permissions(&jail, Permissions::from_mode(0o555)).expect("chmod");
    let sock = builder.path("sock");
    let args = ["-l", "tcp:127.0.0.1:0", "-l", &format!("unix:{sock}")];
    let builder = builder.args(args);
    let (builder, pidfile, log) = files(builder.args(["--chroot", &jail.display().to_string()]));
    let daemon = crate::daemon::detached(builder, &pidfile);
    let (mut client, serving) = daemon.connect_served();
    for pid in idle_workers(&daemon)
        .into_iter()
        .chain([daemon.pid(), serving])
    {
        let root = proc::link(pid, "root").expect("readable");
        assert_eq!(root, jail);
    }
    client.ping(b"jailed");
    drop(client);
    assert_status(&daemon, &ids(NOBODY, NOBODY));
    fs::rename(&log, log.with_extension("1")).expect("rename");
    daemon.signal(Signal::SIGUSR1);
    poll_until(DEADLINE, "the log is created anew", || log.exists());
    stop(&daemon);
    assert!(!pidfile.exists() && !Path::new(&sock).exists());
}

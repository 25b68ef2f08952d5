//! Rows 96 and 97: what nothing may leave behind, in any process of any design.

use std::fs;

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, is_root, need, need_root, poll_some,
    poll_until, proc, signal, skipped,
};

const NO_CAPS: &str = "0000000000000000";

#[track_caller]
fn assert_harmless(pid: i32, design: &str) {
    let who = format!("{} of {design}", proc::comm(pid));
    let value = |key: &str| proc::status(pid, key).unwrap_or_default();
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(value(key), NO_CAPS, "{key}, {who}");
    }
    assert_eq!(value("NoNewPrivs"), "1", "{who}");
    assert_eq!(value("THP_enabled"), "0", "{who}");
    if is_root() {
        assert_eq!(value("CapBnd"), NO_CAPS, "{who}");
        assert_eq!(value("Groups"), "", "{who}");
        for key in ["Uid", "Gid"] {
            let ids: Vec<_> = value(key).split_whitespace().map(str::to_owned).collect();
            assert_eq!(ids, ["65534"; 4], "{key}, {who}");
        }
    }
    for name in ["Max core file size", "Max locked memory"] {
        assert_eq!(proc::limit(pid, name), "0 0", "{name}, {who}");
    }
}

/// Supervisor, idle, serving, threads, datagrams: read from /proc, whatever the
/// process would say of itself.
#[test]
fn row_96_every_process_of_every_design_is_harmless() {
    for design in DESIGNS {
        let listen = ["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"];
        let mut builder = Builder::new().args(design.args).args(listen);
        if is_root() {
            if !need("setpriv") {
                return;
            }
            // From more than root usually has.
            let more = ["setpriv", "--groups=4,20,27", "--inh-caps=+net_raw,+setuid"];
            builder = builder.under(more).under(["--ambient-caps=+net_raw"]);
        }
        // Without lines of its own, a worker that lives on writes no file.
        let daemon = builder.env("RUST_LOG", "info").start();
        let (client, serving) = daemon.connect_served();
        let everybody = || daemon.members().into_iter().map(|p| p.pid);
        for pid in everybody() {
            // One that is being forked is the supervisor's copy.
            assert_harmless(pid, design.name);
        }
        let threads = design.threaded;
        let datagrams = |pid: i32| proc::comm(pid) == "echod-udp";
        let lives_on = |pid: i32| datagrams(pid) || pid == serving && (design.reuses || threads);
        for pid in everybody().filter(|&pid| lives_on(pid)) {
            let limits = [
                ("Max file size", 0),
                ("Max open files", if threads { 64 + 512 } else { 64 }),
                ("Max processes", 0),
                ("Max address space", 256 << 20),
            ];
            // Threads are processes to the third, and their stacks are of no use
            // to the fourth.
            let of_all = if threads && !datagrams(pid) { 2 } else { 4 };
            for (name, most) in limits.into_iter().take(of_all) {
                let is = proc::limit(pid, name);
                let hard = is.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
                let who = proc::comm(pid);
                assert!(hard.is_some_and(|n| n <= most), "{name} of {who}: {is}");
            }
            assert_eq!(proc::status(pid, "Seccomp").as_deref(), Some("2"));
        }
        let mode = proc::status(serving, "Seccomp").unwrap_or_default();
        let expected = if threads || design.reuses { "2" } else { "1" };
        // 2 as well where the tests run under somebody's filter.
        assert!(mode == expected || mode == "2", "{}: {mode}", design.name);
        drop(client);
    }
}

/// Whatever it is started with, it serves harmless or does not serve.
#[test]
fn row_96_thirty_ways_to_start_with_too_much() {
    if !need_root() || !need("setpriv") {
        return;
    }
    let identities: [(&[&str], Option<i32>); 6] = [
        (&[], None),
        (&["--reuid=4242", "--regid=4242", "--clear-groups"], None),
        // Only root can give up groups: those of a user stay, and are no more
        // than the user has.
        (&["--reuid=4242", "--regid=4242", "--groups=4242"], None),
        // Root to return to, as a real or an effective id.
        (&["--euid=4242", "--regid=4242", "--clear-groups"], Some(77)),
        (&["--ruid=4242", "--regid=4242", "--clear-groups"], None),
        (
            &[
                "--reuid=4242",
                "--rgid=4242",
                "--egid=4343",
                "--clear-groups",
            ],
            Some(77),
        ),
    ];
    let more: [&[&str]; 5] = [
        &[],
        &["--inh-caps=+net_raw,+setuid"],
        &["--inh-caps=+net_raw", "--ambient-caps=+net_raw"],
        &["--bounding-set=-all"],
        &["--no-new-privs"],
    ];
    let mut tried = 0;
    for (identity, refused) in identities {
        for more in more {
            let builder = Builder::new();
            let dir = builder.dir().display().to_string();
            let words = [identity, more].concat().join(" ");
            let script = format!(
                "cp \"$1\" \"$0/echod\" && shift && exec setpriv {words} \"$0/echod\" \"$@\""
            );
            let script = match words.is_empty() {
                true => script.replace("setpriv ", ""),
                false => script,
            };
            let builder = builder.args(["-c", "2", "--stop-settle", "0"]);
            let mut daemon = builder.under(["sh", "-c", &script, &dir]).spawn();
            tried += 1;
            // Root without capabilities cannot become anybody.
            let is_root = identity.is_empty() || identity[0].starts_with("--ruid");
            let powerless = is_root && more.contains(&"--bounding-set=-all");
            match refused.or(powerless.then_some(77)) {
                Some(status) => {
                    let code = daemon.wait_exit(DEADLINE).code();
                    assert_eq!(code, Some(status), "{words}: {}", daemon.log());
                    let why = if powerless { "setgroups" } else { "ids are" };
                    assert!(daemon.log().contains(why), "{}", daemon.log());
                }
                None => {
                    daemon.wait_ready(DEADLINE).expect(&words);
                    assert_no_way_back(&daemon, &words);
                }
            }
        }
    }
    assert_eq!(tried, 30);
}

#[track_caller]
fn assert_no_way_back(daemon: &Daemon, words: &str) {
    // The supervisor, and workers that will serve.
    for pid in daemon.members().iter().map(|member| member.pid) {
        for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let is = proc::status(pid, key).unwrap_or_default();
            assert_eq!(is, NO_CAPS, "{key}, {words}");
        }
        let uids = proc::status(pid, "Uid").unwrap_or_default();
        assert!(
            !uids.split_whitespace().any(|uid| uid == "0"),
            "{words}: {uids}"
        );
        let is = proc::status(pid, "NoNewPrivs");
        assert_eq!(is.as_deref(), Some("1"), "{words}");
    }
}

/// Core files in a directory.
fn cores(dir: &std::path::Path) -> usize {
    let names = fs::read_dir(dir).expect("a directory").flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("core"))
        .count()
}

/// Workers that crash in one round.
const AT_ONCE: usize = 5;

/// A crash writes no core file, a hundred crashes none; where one is asked for by
/// `--sandbox off` and the user's limit, one is written, or this test sees nothing.
#[test]
fn row_97_crashes_leave_no_core_file() {
    if !need("prlimit") {
        return;
    }
    let pattern = proc::machine("sys/kernel/core_pattern").unwrap_or_default();
    let crash = |design: &crate::common::Design, sandbox: &str, n: usize| {
        let builder = Builder::new();
        let dir = builder.dir();
        let daemon = builder
            .under(["prlimit", "--core=unlimited:unlimited", "sh", "-c"])
            .under(["cd \"$0\" && exec \"$@\"", &dir.display().to_string()])
            .args(design.args)
            .args(["--sandbox", sandbox])
            .start();
        for _ in 0..n {
            // All that serve at once: those that wait have another name.
            let mut clients: Vec<_> = (0..AT_ONCE)
                .map(|_| Client::connect(daemon.addr()))
                .collect();
            clients.iter_mut().for_each(|client| client.ping(b"served"));
            let serving = poll_some(DEADLINE, "one worker each", || {
                Some(daemon.role("echod-conn")).filter(|pids| pids.len() == AT_ONCE)
            });
            serving.iter().for_each(|&pid| signal(pid, Signal::SIGSEGV));
            clients.iter_mut().for_each(|client| drop(client.end()));
            poll_until(DEADLINE, "they are dead", || {
                serving.iter().all(|&pid| proc::stat(pid).is_none())
            });
        }
        let expected = if sandbox == "off" { "unlimited" } else { "0 0" };
        let is = proc::limit(daemon.pid(), "Max core file size");
        assert!(is.starts_with(expected), "{is}");
        cores(&dir)
    };
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT] {
        let rounds = if design.name == PREFORK.name { 20 } else { 2 };
        assert_eq!(crash(design, "best-effort", rounds), 0, "{}", design.name);
    }
    if pattern.starts_with(['|', '/']) {
        skipped("core_pattern sends core files elsewhere: no control");
        return;
    }
    assert!(crash(&PREFORK, "off", 1) > 0, "the control");
}

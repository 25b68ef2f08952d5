//! The units in scripts/dist, as far as they can be judged without systemd.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::common::design::DESIGNS;
use crate::common::{
    Client, DEADLINE, Daemon, Signal, is_root, must, need, poll_until, proc, tool,
};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

#[test]
fn the_units_are_valid_and_locked_in() {
    if !need("systemd-analyze") {
        return;
    }
    let script = file("unit-score.sh").display().to_string();
    let (ok, said) = tool(&script, &["--gate"]);
    assert!(ok, "{said}");
    let scores: Vec<f64> = said
        .lines()
        .map(|line| {
            line.split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("a score")
        })
        .collect();
    // Two that open their sockets, and two that are handed them.
    assert_eq!(scores.len(), 4, "{said}");
    let most = [1.1, 1.1, 0.4, 0.4];
    assert!(
        scores.iter().zip(most).all(|(n, most)| *n <= most),
        "{said}"
    );
}

/// The instance's unit is the other one with other places, and what one connection
/// may do is what all may.
#[test]
fn the_services_are_locked_in_alike() {
    let read = |name: &str| fs::read_to_string(file("dist").join(name)).expect("the unit");
    let keys = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty());
        lines.map(str::to_owned).collect()
    };
    let service = read("echod.service");
    let (_, rest) = service.split_once("[Unit]").expect("a section");
    let instance = rest
        .replace("(RFC 862)", "(RFC 862), /etc/echod/%i.toml")
        .replace("/etc/echod.toml", "/etc/echod/%i.toml")
        .replace("default/echod", "default/echod-%i")
        .replace("RuntimeDirectory=echod", "RuntimeDirectory=echod-%i");
    let (_, found) = read("echod@.service")
        .split_once("[Unit]")
        .map(|(head, rest)| (head.to_owned(), keys(rest)))
        .expect("a section");
    assert_eq!(found, keys(&instance));

    let one = keys(&read("echod-inetd@.service"));
    let (_, locks) = service.split_once("\nUser=").expect("a user");
    let (locks, _) = locks.split_once("[Install]").expect("a section");
    let network = ["IPAddressAllow=localhost", "RestrictAddressFamilies="];
    for key in keys(locks).into_iter().skip(1) {
        let other = network.iter().any(|n| key.starts_with(n));
        assert!(other || one.contains(&key), "{key}");
    }
}

#[test]
fn the_services_command_line_is_one() {
    let sample = file("dist/echod.toml").display().to_string();
    for (unit, config) in [
        ("dist/echod.service", "/etc/echod.toml"),
        ("dist/echod@.service", "/etc/echod/%i.toml"),
    ] {
        let unit = fs::read_to_string(file(unit)).expect("the unit");
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let line = line.expect("ExecStart=");
        assert!(line.contains(config), "{line}");
        let line = line.replace(config, &sample);
        let words: Vec<_> = line.split(' ').skip(1).collect();
        let ended = Daemon::builder()
            .bare()
            .args(words)
            .args(["--check", "-l", "tcp:127.0.0.1:0"])
            .run(DEADLINE);
        // 78: the limits of this machine, or no seccomp in it.
        let code = ended.status.code();
        let said = ended.stderr;
        assert!(
            code == Some(0) || code == Some(78) && !said.contains(&sample),
            "{code:?} {said}"
        );
    }
}

/// What would end the next start as well is no reason for one.
#[test]
fn the_service_is_not_started_again_for_what_stays_wrong() {
    let unit = fs::read_to_string(file("dist/echod.service")).expect("the unit");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
    let statuses = value("RestartPreventExitStatus=");
    assert_eq!(statuses, Some("64 69 73 77 78"));
    assert!(value("RestartSec=").is_some());
}

/// A group of calls, with the groups in it.
fn group(name: &str, calls: &mut BTreeSet<String>) {
    for word in must("systemd-analyze", &["syscall-filter", name]).split_whitespace() {
        match word.strip_prefix('@') {
            Some(_) if word != name => group(word, calls),
            Some(_) => {}
            None => drop(calls.insert(word.to_owned())),
        }
    }
}

/// What SystemCallFilter= permits.
fn permitted() -> BTreeSet<String> {
    let unit = fs::read_to_string(file("dist/echod.service")).expect("the unit");
    let mut permitted = BTreeSet::new();
    for line in unit
        .lines()
        .filter_map(|l| l.strip_prefix("SystemCallFilter="))
    {
        let (refuses, words) = match line.strip_prefix('~') {
            Some(words) => (true, words),
            None => (false, line),
        };
        let mut calls = BTreeSet::new();
        for word in words.split(' ') {
            match word.starts_with('@') {
                true => group(word, &mut calls),
                false => drop(calls.insert(word.to_owned())),
            }
        }
        if refuses {
            permitted.retain(|call| !calls.contains(call));
        } else {
            permitted.extend(calls);
        }
    }
    permitted
}

/// No call that any design makes is one that the unit's filter refuses. Run as
/// the unit does: by a user without a capability.
#[test]
fn the_services_filter_permits_what_echod_does() {
    if !need("systemd-analyze") || !need("strace") {
        return;
    }
    let permitted = permitted();
    assert!(permitted.contains("accept4") && !permitted.contains("setuid"));
    for design in DESIGNS {
        let builder = Daemon::builder();
        let trace = builder.path("trace");
        let builder = if is_root() {
            builder.uid(65534)
        } else {
            builder
        };
        let daemon = builder
            .under(["strace", "-f", "-qq", "-o", &trace])
            .args(design.args)
            .args(["--stop-settle", "0"])
            .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
            .env("NOTIFY_SOCKET", "@echod-no-such-manager")
            .start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"traced");
        drop(client);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_log("generation 2", DEADLINE);
        daemon.signal(Signal::SIGTERM);
        poll_until(DEADLINE, "its end", || proc::is_dead(daemon.pid()));
        daemon.wait_exit(DEADLINE);
        let trace = fs::read_to_string(&trace).expect("a trace");
        let call = |line: &str| {
            let (pid, rest) = line.split_once(char::is_whitespace)?;
            pid.parse::<u32>().ok()?;
            let (name, _) = rest.trim_start().split_once('(')?;
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            plain.then(|| name.to_owned())
        };
        let made: BTreeSet<String> = trace.lines().filter_map(call).collect();
        assert!(
            made.contains("accept4") && made.contains("prctl"),
            "{made:?}"
        );
        let mut refused: Vec<_> = made.difference(&permitted).collect();
        // Tried by everybody; who is not root is refused by the kernel too.
        refused.retain(|call| *call != "setgroups");
        // The one that starts echod is systemd's own.
        assert_eq!(refused, [""; 0], "{}: of {made:?}", design.name);
    }
}

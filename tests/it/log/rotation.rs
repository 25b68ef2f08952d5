//! The log file moved away and reopened: by USR1, by HUP, under load, and where
//! it cannot be had again.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::design::side_by_side;
use crate::common::{
    Builder, ConnLine, DEADLINE, DESIGNS, Load, Signal, echo_once, holds_within, must, need,
    need_root, poll_until, tool,
};
use crate::log::{is_timestamp, stop};

/// Logs to a file of the builder's directory.
fn to_file(builder: Builder) -> (Builder, PathBuf) {
    let log = builder.path("log");
    let builder = builder.args(["--log-target", &log]).log_at(log.as_ref());
    (builder, log.into())
}

#[test]
fn row_67_rotation_under_load_tears_and_loses_no_line() {
    let (builder, log) = to_file(Builder::new());
    let daemon = builder.start();
    let load = Load::start(daemon.addr(), 4, 200);
    let mut old = Vec::new();
    for round in 1..=20u64 {
        poll_until(DEADLINE, "the load runs", || load.done() >= round * 10);
        let aside = log.with_extension(round.to_string());
        fs::rename(&log, &aside).expect("rename");
        daemon.signal(Signal::SIGUSR1);
        poll_until(DEADLINE, "the log is created anew", || log.exists());
        old.push(aside);
    }
    let done = load.stop();
    done.assert_all_complete();
    let all = || -> String {
        let parts = old.iter().chain([&log]);
        parts
            .map(|part| fs::read_to_string(part).expect("a log"))
            .collect()
    };
    poll_until(DEADLINE, "a line for each connection", || {
        ConnLine::all(&all()).len() as u64 >= done.complete
    });
    stop(&daemon);
    let tag = format!(" echod[{}]: ", daemon.pid());
    let text = all();
    for line in text.lines() {
        let time = line.split(' ').next().expect("a word");
        assert!(
            is_timestamp(time) && line.matches(&tag).count() == 1,
            "{line}"
        );
    }
    let lines = ConnLine::all(&text);
    assert_eq!(lines.len() as u64, done.complete);
    assert!(
        lines
            .iter()
            .all(|line| line.end == "eof" && line.sent == 200)
    );
    assert_eq!(text.matches("log reopened").count(), 20);
    let used = |part: &&PathBuf| fs::metadata(part).is_ok_and(|meta| meta.len() > 0);
    assert_eq!(
        old.iter().filter(used).count(),
        20,
        "each file was written to"
    );
}

#[test]
fn hup_reopens_the_log_too() {
    let (builder, log) = to_file(Builder::new());
    let daemon = builder.start();
    let aside = log.with_extension("1");
    fs::rename(&log, &aside).expect("rename");
    // As logrotate(8)'s `create` does: an existing file is taken as it is.
    fs::write(&log, "").expect("create");
    fs::set_permissions(&log, Permissions::from_mode(0o666)).expect("chmod");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2", DEADLINE);
    assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
    daemon.wait_log("end=eof", DEADLINE);
    assert!(
        !fs::read_to_string(&aside)
            .expect("the old log")
            .contains("conn pid=")
    );
}

/// Nobody may not create files in root's directory, nor we in one without w.
#[test]
fn a_log_that_cannot_be_reopened_is_kept_and_a_line_says_so() {
    let builder = Builder::new();
    let closed = builder.dir().join("closed");
    fs::create_dir(&closed).expect("mkdir");
    let log = closed.join("log");
    let aside = closed.join("log.1");
    let args = ["--log-target", &log.display().to_string()];
    let daemon = builder.args(args).log_at(&aside).start();
    fs::rename(&log, &aside).expect("rename");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("chmod");
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_log("still writing to the file opened before", DEADLINE);
    assert_eq!(daemon.log_count("EACCES"), 1);
    assert!(daemon.log().contains(&log.display().to_string()));
    assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
    daemon.wait_log("end=eof", DEADLINE);
    assert!(!log.exists());
    fs::set_permissions(&closed, Permissions::from_mode(0o777)).expect("chmod");
    daemon.signal(Signal::SIGUSR1);
    poll_until(DEADLINE, "it can be had again", || Path::new(&log).exists());
}

/// A directory where only root makes files, as /var/log is: `log` in it.
fn like_var_log(builder: Builder) -> (Builder, PathBuf) {
    let dir = builder.dir().join("var-log");
    fs::create_dir(&dir).expect("mkdir");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("chmod");
    let log = dir.join("log");
    let builder = builder
        .args(["--log-target", &log.display().to_string()])
        .log_at(&log);
    (builder, log)
}

/// Moves the log away and makes a new one with the owner and mode of the old, as
/// logrotate(8)'s `create` does.
fn rotate(log: &Path, aside: &Path) {
    let old = fs::metadata(log).expect("a log");
    fs::rename(log, aside).expect("rename");
    fs::write(log, "").expect("create");
    fs::set_permissions(log, Permissions::from_mode(old.mode() & 0o7777)).expect("chmod");
    chown(log, Some(old.uid()), Some(old.gid())).expect("chown");
}

fn conn_lines(file: &Path) -> usize {
    ConnLine::all(&fs::read_to_string(file).unwrap_or_default()).len()
}

#[test]
fn row_123_a_log_made_by_root_is_opened_again_by_who_root_becomes() {
    if !need_root() {
        return;
    }
    side_by_side(&DESIGNS, |design| {
        for (user, ids) in [(&[][..], (65534, 65534)), (&["--user", "7:4"], (7, 4))] {
            let (builder, log) = like_var_log(Builder::new());
            let root = builder.dir().display().to_string();
            let chroot = ["--chroot", &root];
            let builder = builder.args(design.args).args(user);
            let builder = if user.is_empty() {
                builder
            } else {
                builder.args(chroot)
            };
            let daemon = builder.start();
            let made = fs::metadata(&log).expect("a log");
            assert_eq!((made.uid(), made.gid()), ids, "{}", design.name);
            assert_eq!(made.mode() & 0o7777, 0o640, "{}", design.name);
            for (order, number) in [(Signal::SIGUSR1, 1), (Signal::SIGHUP, 2)] {
                let aside = log.with_extension(number.to_string());
                rotate(&log, &aside);
                daemon.signal(order);
                daemon.wait_log("log reopened", DEADLINE);
                // Workers that write lines themselves are replaced.
                if design.reuses || design.threaded {
                    daemon.wait_log("generation", DEADLINE);
                }
                // Who waits may still be of the old generation for a moment.
                poll_until(DEADLINE, "the old file is left", || {
                    let before = (conn_lines(&aside), conn_lines(&log));
                    for _ in 0..3 {
                        echo_once(daemon.addr(), b"hello");
                    }
                    holds_within(Duration::from_millis(200), || {
                        conn_lines(&log) >= before.1 + 3
                    }) && conn_lines(&aside) == before.0
                });
            }
            assert_eq!(daemon.log_count("EACCES"), 0, "{}", daemon.log());
        }
    });
}

/// What stands in the page for logrotate(8), with another log and another pid.
fn stanza_of_the_page(log: &Path, pidfile: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/echod.8");
    let page = fs::read_to_string(page).expect("the page");
    let start = page.find("/var/log/echod.log {").expect("the example");
    let end = page[start..].find(".Ed").expect("its end");
    let text = &page[start..start + end];
    let log = log.display().to_string();
    text.replace("/var/log/echod.log", &log)
        .replace("/run/echod.pid", pidfile)
}

/// With the settings of Debian's /etc/logrotate.conf, and those that people add.
#[test]
fn row_123_logrotate_as_debian_has_it() {
    if !need_root() || !need("logrotate") {
        return;
    }
    for (settings, order) in [
        ("the page", ""),
        ("", "USR1"),
        ("", "HUP"),
        ("compress\ndelaycompress\nnotifempty\nmissingok", "USR1"),
        ("dateext", "USR1"),
        ("create 0640 nobody adm", "HUP"),
        ("sharedscripts\nmaxsize 1", "USR1"),
        ("copytruncate", "WINCH"),
    ] {
        let (builder, log) = like_var_log(Builder::new());
        let (state, conf, pidfile) = (
            builder.path("state"),
            builder.path("conf"),
            builder.path("pid"),
        );
        let daemon = builder.args(["--pidfile", &pidfile]).start();
        let own = format!(
            "weekly\nrotate 4\ncreate\n{} {{\n{settings}\npostrotate\nkill -{order} {}\nendscript\n}}\n",
            log.display(),
            daemon.pid()
        );
        let text = match settings {
            "the page" => stanza_of_the_page(&log, &pidfile),
            _ => own,
        };
        fs::write(&conf, text).expect("a file");
        // A name for each day.
        let rounds = if settings == "dateext" { 1 } else { 3 };
        for round in 1..=rounds {
            assert_eq!(echo_once(daemon.addr(), b"before"), b"before");
            // That of the round before, too.
            let lines = 1 + usize::from(round > 1);
            poll_until(DEADLINE, "its line", || conn_lines(&log) == lines);
            let (ok, said) = tool("logrotate", &["-f", "-s", &state, &conf]);
            assert!(ok, "{settings}: {said}");
            let old = |entry: &fs::DirEntry| entry.path() != log;
            let dir = || fs::read_dir(log.parent().expect("a directory")).expect("it");
            let kept = dir().flatten().filter(old).count();
            assert_eq!(kept, round, "{settings}");
            if settings != "copytruncate" {
                daemon.wait_log("log reopened", DEADLINE);
            }
            assert_eq!(conn_lines(&log), 0, "{settings}");
            assert_eq!(echo_once(daemon.addr(), b"after"), b"after");
            poll_until(DEADLINE, "the new file", || conn_lines(&log) == 1);
        }
        assert_eq!(daemon.log_count("ERROR"), 0, "{}", daemon.log());
    }
}

/// Whatever the filter: nobody may make files there, and logrotate's `nocreate`
/// leaves none.
#[test]
fn row_123_a_failed_reopen_is_an_error_at_any_filter() {
    if !need_root() {
        return;
    }
    for (filter, more) in [
        ("conn=debug", &[][..]),
        ("off", &[]),
        ("hyper=info", &[]),
        ("", &["-q"]),
        ("trace", &["-qq"]),
        ("", &["--log-format", "json"]),
    ] {
        for order in [Signal::SIGUSR1, Signal::SIGHUP] {
            let (builder, log) = like_var_log(Builder::new());
            let stderr = builder.path("stderr");
            let aside = log.with_extension("1");
            let builder = builder.env("RUST_LOG", filter).args(more).log_at(&aside);
            let daemon = builder.start();
            fs::rename(&log, &aside).expect("rename");
            daemon.signal(order);
            daemon.wait_log("still writing to the file opened before", DEADLINE);
            let said = fs::read_to_string(&stderr).expect("stderr");
            for text in [daemon.log(), said] {
                let line = text.lines().find(|line| line.contains("(EACCES)"));
                let line = line.unwrap_or_else(|| panic!("{filter} {more:?}: {text}"));
                assert!(line.contains(&log.display().to_string()), "{line}");
                assert!(line.contains("65534:65534"), "{line}");
            }
            assert_eq!(echo_once(daemon.addr(), b"hello"), b"hello");
            assert!(!log.exists());
        }
    }
}

/// What is another's stays so, and what is a link is not taken; that a rotation
/// will fail is said while somebody is looking.
#[test]
fn row_123_whose_log_is_made_over() {
    if !need_root() {
        return;
    }
    let begin = |ids: (u32, u32), mode: u32| {
        let (builder, log) = like_var_log(Builder::new());
        fs::write(&log, "old\n").expect("a file");
        fs::set_permissions(&log, Permissions::from_mode(mode)).expect("chmod");
        chown(&log, Some(ids.0), Some(ids.1)).expect("chown");
        let daemon = builder.start();
        let found = fs::metadata(&log).expect("a log");
        (daemon, (found.uid(), found.gid()))
    };
    let warning = "it cannot be rotated: 65534:65534";
    // Root's, of an echod before this one: its readers keep it.
    let (daemon, ids) = begin((0, 4), 0o640);
    assert_eq!((ids, daemon.log_count(warning)), ((65534, 4), 0));
    let (daemon, ids) = begin((7, 4), 0o640);
    assert_eq!((ids, daemon.log_count(warning)), ((7, 4), 1));
    let (daemon, ids) = begin((7, 4), 0o666);
    assert_eq!((ids, daemon.log_count(warning)), ((7, 4), 0));
    let (builder, log) = like_var_log(Builder::new());
    let daemon = builder.args(["--allow-root"]).start();
    assert_eq!(fs::metadata(&log).expect("a log").uid(), 0);
    drop(daemon);
    for link in ["-s", "-f"] {
        let (builder, log) = like_var_log(Builder::new());
        let elsewhere = Builder::new();
        let other = elsewhere.path("other");
        fs::write(&other, "").expect("a file");
        must("ln", &[link, &other, &log.display().to_string()]);
        assert_eq!(builder.run(DEADLINE).status.code(), Some(73));
        assert_eq!(fs::metadata(&other).expect("it").uid(), 0);
    }
    // A device is nobody's to give away.
    let daemon = Builder::new().args(["--log-target", "/dev/full"]).start();
    assert_eq!(fs::metadata("/dev/full").expect("it").uid(), 0);
    drop(daemon);
}

#[test]
fn what_is_no_file_is_not_said_to_be_reopened() {
    let daemon = Builder::new().start();
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_log("USR1: this log is no file", DEADLINE);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2", DEADLINE);
    assert_eq!(daemon.log_count("reopened"), 0, "{}", daemon.log());
}

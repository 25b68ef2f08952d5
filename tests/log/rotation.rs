//! The log file moved away and reopened: by USR1, by HUP, under load, and where
//! it cannot be had again.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Builder, ConnLine, DEADLINE, Load, Signal, echo_once, poll_until};
use crate::{is_timestamp, stop};

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

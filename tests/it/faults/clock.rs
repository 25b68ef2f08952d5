//! A clock that jumps. It cannot be set here, on a machine that others use, and
//! a time namespace moves only the clocks that do not jump. So this shows that
//! nobody asks for the time of day but the log, whose lines bear it; and that
//! what waits, waits for a time span: see ppoll(2), setitimer(2), socket(7).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, THREAD};
use crate::common::{Builder, Client, DEADLINE, echo_once, need};

/// Every source file below a directory.
pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn row_76_only_log_lines_know_the_time_of_day() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let asks = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source");
        let words = ["SystemTime", "CLOCK_REALTIME", "UNIX_EPOCH", "gettimeofday"];
        words.iter().any(|word| text.contains(word))
    };
    let mut asking: Vec<_> = sources(&root).into_iter().filter(asks).collect();
    asking.retain(|path| {
        let below = path.strip_prefix(&root).expect("below src");
        // The programs that talk to the daemon are not it.
        let first = below.components().next().expect("a name");
        !["client", "load", "logging", "logging.rs"]
            .map(OsStr::new)
            .contains(&first.as_os_str())
    });
    assert!(
        asking.is_empty(),
        "the time of day is asked for in {asking:?}"
    );
}

/// The calls that wait until a point in time, or could.
const BY_THE_CLOCK: [&str; 6] = [
    "timerfd_create",
    "timerfd_settime",
    "timer_create",
    "timer_settime",
    "clock_nanosleep",
    "clock_settime",
];

#[test]
fn row_76_every_wait_is_for_a_span() {
    if !need("strace") {
        return;
    }
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &THREAD] {
        let builder = Builder::new();
        let trace = builder.path("trace");
        let daemon = builder
            .under(["strace", "-f", "-o", &trace, "--seccomp-bpf", "-e"])
            .under([format!(
                "trace=ppoll,setitimer,futex,{}",
                BY_THE_CLOCK.join(",")
            )])
            .args(design.args)
            .args(["--sandbox", "off", "--idle-timeout", "200ms"])
            .args(["--max-lifetime", "10s", "--graceful-timeout", "300ms"])
            .start();
        assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
        // Both kinds of end, by the socket's timer and by ours.
        let mut silent = Client::connect(daemon.addr());
        silent.end().expect("the idle timeout");
        let mut stays = Client::connect(daemon.addr());
        stays.ping(b"cut at the deadline");
        daemon.signal(crate::common::Signal::SIGTERM);
        daemon.wait_exit(DEADLINE);
        let calls = fs::read_to_string(&trace).expect("a trace");
        assert!(calls.contains("ppoll("), "{}: a trace", design.name);
        for call in calls.lines() {
            let by_clock = BY_THE_CLOCK
                .iter()
                .any(|name| call.contains(&format!(" {name}(")));
            assert!(!by_clock, "{}: {call}", design.name);
            assert!(
                !call.contains("FUTEX_CLOCK_REALTIME, {"),
                "{}: {call}",
                design.name
            );
        }
    }
}

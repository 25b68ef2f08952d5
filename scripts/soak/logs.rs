//! S10: a log that cannot be written, under load. Nobody waits for it.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::{Builder, DEADLINE, Daemon, Signal};
use crate::plan::Plan;
use crate::traffic::{Report, Traffic};

/// How much slower an echo may be than with a log that works: for the noise of
/// two cores, where the promise is that nothing waits.
const SLOWER: f64 = 10.0;

/// Disk full, reader dead, reader asleep, and a rotation every few ms.
pub fn broken_logs(plan: &Plan) -> Vec<Row> {
    let time = (plan.time / 5).clamp(Duration::from_millis(500), Duration::from_secs(20));
    let fine = Builder::new().start();
    let fine = load(&fine, time);
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let (dead_reader, dead) = std::io::pipe().expect("a pipe");
    drop(dead_reader);
    let (mut asleep, stopped) = std::io::pipe().expect("a pipe");
    let rows = vec![
        under(
            "the disk is full",
            Builder::new().stderr(full).start(),
            time,
            &fine,
        ),
        under(
            "its reader is dead",
            Builder::new().stderr(dead).start(),
            time,
            &fine,
        ),
        under(
            "its reader sleeps",
            Builder::new().stderr(stopped).start(),
            time,
            &fine,
        ),
        rotation(plan, time, &fine),
    ];
    // All writers are gone: what fitted in the pipe, and the end.
    let _ = asleep.read_to_end(&mut Vec::new());
    rows
}

fn load(daemon: &Daemon, time: Duration) -> Report {
    let seconds = format!("{:.2}", time.as_secs_f64());
    let traffic = Traffic::start(&["crr", daemon.addr(), "-c", "8", "-d", &seconds]);
    traffic.report(time + DEADLINE)
}

fn under(what: &str, daemon: Daemon, time: Duration, fine: &Report) -> Row {
    let mut row = Row::new("S10", format!("log: {what}"));
    let report = load(&daemon, time);
    row.tried = 1;
    row.survived = u64::from(daemon.try_exit().is_none());
    judge(&mut row, &report, fine);
    row
}

fn judge(row: &mut Row, report: &Report, fine: &Report) {
    report.enter(row, &[]);
    let (now, then) = (report.p99_us, fine.p99_us);
    row.see(format!("p99 {now:.0} us, {then:.0} with a good log"));
    if now > then * SLOWER {
        row.fail("clients wait for the log");
    }
}

/// The log is moved away and reopened again and again: each line is whole, and
/// in one of the files.
fn rotation(plan: &Plan, time: Duration, fine: &Report) -> Row {
    let mut row = Row::new("S10", "log: rotated under load");
    let builder = Builder::new();
    let log = builder.dir().join("log");
    let target = log.display().to_string();
    let daemon = builder.args(["--log-target", &target]).log_at(&log).start();
    let seconds = format!("{:.2}", time.as_secs_f64());
    let mut traffic = Traffic::start(&["crr", daemon.addr(), "-c", "8", "-d", &seconds]);
    let most = if plan.all { 100 } else { 20 };
    let start = Instant::now();
    while traffic.runs() && row.tried < most && start.elapsed() < time {
        row.tried += 1;
        let old = daemon.dir().join(format!("log.{}", row.tried));
        fs::rename(&log, old).expect("rename");
        daemon.signal(Signal::SIGUSR1);
        row.survived += u64::from(crate::common::holds_within(DEADLINE, || log.exists()));
    }
    let report = traffic.report(time + DEADLINE);
    judge(&mut row, &report, fine);
    let written = |text: &str| text.lines().filter(|line| line.contains("end=eof")).count() as u64;
    let mut lines = 0;
    let whole = crate::common::holds_within(DEADLINE, || {
        lines = (1..=row.tried)
            .map(|n| daemon.dir().join(format!("log.{n}")))
            .chain([log.clone()])
            .map(|file| fs::read_to_string(file).unwrap_or_default())
            .map(|text| written(&text))
            .sum();
        lines >= report.complete
    });
    row.see(format!("{lines} lines of {} connections", report.complete));
    if !whole || lines != report.complete {
        row.fail("lines are lost or torn");
    }
    row
}

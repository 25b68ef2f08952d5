//! S7: thousands of clients at once, each with its process, all of them echoed
//! to again at the end.

use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::design::{FORK_WAIT, PREFORK};
use crate::common::{Builder, DEADLINE, Design, holds_within, proc};
use crate::plan::Plan;
use crate::traffic::Traffic;
use crate::watch::{Watch, children};

/// 10,000 connections held on two designs; fewer when time is short.
pub fn held(plan: &Plan) -> Vec<Row> {
    let n = match plan.time.as_secs() {
        0..20 => 1_000,
        _ => 10_000,
    };
    [&PREFORK, &FORK_WAIT].map(|design| hold(design, n)).into()
}

fn hold(design: &Design, n: u64) -> Row {
    let mut row = Row::new("S7", format!("{n} clients held, {}", design.name));
    let limit = (n + 100).to_string();
    let daemon = Builder::new()
        .args(design.args)
        .args(["--max-clients", &limit])
        .env("RUST_LOG", "error")
        .start();
    let count = n.to_string();
    let hold = ["hold", daemon.addr(), "-c", &count, "--timeout", "60"];
    let reaped = || children(daemon.pid()).len() < 100;
    // The first round maps the scoreboard page by page, which is no growth.
    Traffic::start(&hold).report(DEADLINE * 10);
    holds_within(DEADLINE, reaped);
    let watch = Watch::start(&daemon);
    let before = at_rest_kib();
    let start = Instant::now();
    let mut traffic = Traffic::start(&hold);
    let (mut most, mut cost) = (0, 0);
    while traffic.runs() {
        most = most.max(children(daemon.pid()).len() as u64);
        cost = cost.max(before.saturating_sub(available_kib()));
        std::thread::sleep(Duration::from_millis(50));
    }
    let report = traffic.report(DEADLINE);
    row.tried = n;
    row.survived = report.complete;
    row.see(format!(
        "{} KiB each, both ends and the kernel's part; {:.1?} in all",
        cost / most.max(1),
        start.elapsed()
    ));
    report.enter(&mut row, &[]);
    if !holds_within(DEADLINE, reaped) {
        row.fail("children live on");
    }
    watch.finish(&mut row);
    row
}

/// [`available_kib`], once what the dead had has come back: within ten seconds.
fn at_rest_kib() -> u64 {
    let mut before = 0;
    for _ in 0..20 {
        let now = available_kib();
        if now <= before + 1024 {
            return now;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(500));
    }
    before
}

/// What the system could still give away: MemAvailable of proc(5).
fn available_kib() -> u64 {
    let text = proc::machine("meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}

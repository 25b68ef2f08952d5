//! What must hold however long it goes on: nothing grows, nothing is lost,
//! and a stream of 10 GiB comes back as it went.

use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{DEADLINE, DESIGNS, Daemon, Design, Signal, signal};
use crate::kills::warm_up;
use crate::plan::{Dice, Plan};
use crate::traffic::{Traffic, amount, deaths};
use crate::watch::{Watch, children};

/// S0: connections through every design while nobody does any harm, and one
/// long stream.
pub fn undisturbed(plan: &Plan) -> Vec<Row> {
    let each = plan.time / (DESIGNS.len() as u32 + 2);
    let mut rows: Vec<Row> = DESIGNS
        .iter()
        .map(|design| flat(design, plan.all, each))
        .collect();
    rows.push(stream(if plan.all { 640 } else { 64 }));
    rows
}

fn flat(design: &Design, all: bool, time: Duration) -> Row {
    let mut row = Row::new("S0", format!("undisturbed, {}", design.name));
    let daemon = Daemon::builder()
        .args(design.args)
        .env("RUST_LOG", "error")
        .start();
    warm_up(&daemon, design);
    let watch = Watch::start(&daemon);
    let parallel = if design.one_at_a_time { "1" } else { "64" };
    let [how, much] = amount(all, 100_000, time);
    let traffic = Traffic::start(&["crr", daemon.addr(), "-c", parallel, &how, &much]);
    let report = traffic.report(time + DEADLINE * 30);
    if report.refused > 0 {
        row.fail(format!("{} refused", report.refused));
    }
    report.enter(&mut row, &[]);
    watch.finish(&mut row);
    row
}

/// One connection, `messages` times 16 MiB each way.
fn stream(messages: u64) -> Row {
    let mut row = Row::new(
        "S0",
        format!("one connection, {} MiB each way", messages * 16),
    );
    let daemon = Daemon::start(PREFORK.args);
    let count = messages.to_string();
    let traffic = Traffic::start(&["rr", daemon.addr(), "-c", "1", "-s", "16M", "-n", &count]);
    let report = traffic.report(DEADLINE * 30);
    report.enter(&mut row, &[]);
    row.echoed = u64::from(report.complete == messages);
    if report.complete != messages {
        row.fail(format!("{} of {messages} came back", report.complete));
    }
    row
}

/// S14: a load, a kill a second, for as long as there is time: a quarter of an
/// hour a design when the soak is full.
pub fn long(plan: &Plan) -> Vec<Row> {
    let designs = [&PREFORK, &PREFORK_REUSE, &FORK_WAIT];
    let time = if plan.all {
        Duration::from_secs(900)
    } else {
        plan.time / 3
    };
    let one = |design: &&Design| slow_kills(design, time, plan.seed);
    designs.iter().map(one).collect()
}

fn slow_kills(design: &Design, time: Duration, seed: u64) -> Row {
    let mut row = Row::new(
        "S14",
        format!("a kill a second for {time:.0?}, {}", design.name),
    );
    let mut dice = Dice::new(seed);
    let daemon = Daemon::start(design.args);
    warm_up(&daemon, design);
    let watch = Watch::start(&daemon);
    let seconds = format!("{:.2}", time.as_secs_f64().max(1.0));
    let mut traffic = Traffic::start(&[
        "crr",
        daemon.addr(),
        "-c",
        "4",
        "-s",
        "1-64K",
        "-d",
        &seconds,
    ]);
    let mut next = Instant::now();
    while traffic.runs() {
        next += Duration::from_secs(1).min(time / 3);
        while traffic.runs() && Instant::now() < next {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(&pid) = dice.pick(&children(daemon.pid())) {
            signal(pid, Signal::SIGKILL);
            row.tried += 1;
            row.survived += u64::from(daemon.try_exit().is_none());
        }
    }
    let report = traffic.report(DEADLINE);
    watch.finish(&mut row);
    report.enter(&mut row, &deaths(&daemon));
    row
}

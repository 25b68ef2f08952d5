//! S4: a new generation of workers, again and again, under load.

use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_MUTEX, PREFORK_PASS, PREFORK_REUSE};
use crate::common::{DEADLINE, Daemon, Design, Signal, poll_until};
use crate::plan::{Dice, Plan};
use crate::traffic::Traffic;
use crate::watch::Watch;

const CHOSEN: [&Design; 5] = [
    &PREFORK,
    &PREFORK_REUSE,
    &PREFORK_MUTEX,
    &PREFORK_PASS,
    &FORK_WAIT,
];

/// 1,000 HUPs at random moments of a load: nobody is refused, nobody is cut.
pub fn reloads(plan: &Plan) -> Vec<Row> {
    let each = plan.time / CHOSEN.len() as u32;
    CHOSEN
        .iter()
        .map(|design| reload(design, plan, each))
        .collect()
}

fn reload(design: &Design, plan: &Plan, time: Duration) -> Row {
    let mut row = Row::new("S4", format!("reloads (HUP), {}", design.name));
    let wanted = if plan.all {
        1000 / CHOSEN.len() as u64
    } else {
        u64::MAX
    };
    let time = if plan.all {
        Duration::from_secs(60)
    } else {
        time
    };
    let mut dice = Dice::new(plan.seed);
    let daemon = Daemon::start(design.args);
    let watch = Watch::start(&daemon);
    let seconds = format!("{:.2}", time.as_secs_f64().max(0.5));
    let mut traffic = Traffic::start(&["crr", daemon.addr(), "-c", "16", "-d", &seconds]);
    let start = Instant::now();
    while traffic.runs() && row.tried < wanted && start.elapsed() < time {
        daemon.signal(Signal::SIGHUP);
        row.tried += 1;
        row.survived += u64::from(daemon.try_exit().is_none());
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
    }
    let report = traffic.report(time + DEADLINE);
    if report.refused > 0 {
        row.fail(format!("{} refused", report.refused));
    }
    report.enter(&mut row, &[]);
    poll_until(DEADLINE, "nobody is served any more", || {
        daemon.role("echod-conn").is_empty()
    });
    watch.finish(&mut row);
    row
}

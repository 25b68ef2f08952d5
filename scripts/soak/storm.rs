//! S9: every harmless signal, thousands a second, at supervisor and workers.

use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{DEADLINE, Daemon, Design, Signal, signal};
use crate::plan::{Dice, Plan};
use crate::traffic::Traffic;
use crate::watch::children;

/// What nobody may be hurt by, whoever gets it. TTIN and TTOU move the pool,
/// and are balanced by being as likely.
const HARMLESS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGCHLD,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGPIPE,
    Signal::SIGURG,
];

/// What a worker does not hear from anybody but the kernel and its supervisor.
const DEAF: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGPWR,
    Signal::SIGIO,
];

/// A stop must be noticed though the storm has just ended: 10 times what was
/// seen, and `--stop-settle` on top.
const STOP: Duration = Duration::from_secs(3);

/// A storm over each of three designs, with every log line there is.
pub fn signals(plan: &Plan) -> Vec<Row> {
    let designs = [&PREFORK, &PREFORK_REUSE, &FORK_WAIT];
    let time = if plan.all {
        Duration::from_secs(60)
    } else {
        plan.time / 3
    };
    designs
        .iter()
        .map(|design| storm(design, time, plan.seed))
        .collect()
}

fn storm(design: &Design, time: Duration, seed: u64) -> Row {
    let mut row = Row::new(
        "S9",
        format!("signals at random processes, {}", design.name),
    );
    let mut dice = Dice::new(seed);
    let daemon = Daemon::builder()
        .args(design.args)
        .env("RUST_LOG", "trace")
        .start();
    let seconds = format!("{:.2}", time.as_secs_f64().max(0.5));
    let mut traffic = Traffic::start(&["crr", daemon.addr(), "-c", "8", "-d", &seconds]);
    while traffic.runs() {
        let mut targets = children(daemon.pid());
        targets.extend([daemon.pid(); 4]);
        // Looked up again and again: a pid of long ago may be a stranger's.
        for _ in 0..100 {
            let target = *dice.pick(&targets).expect("the supervisor is one");
            let deaf = target != daemon.pid() && dice.below(2) == 0;
            let list = if deaf { &DEAF } else { &HARMLESS };
            let which = *dice.pick(list).expect("a list");
            signal(target, which);
            row.tried += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = traffic.report(time + DEADLINE);
    report.enter(&mut row, &[]);
    if daemon.try_exit().is_none() {
        row.survived = row.tried;
    }
    let start = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_exit(DEADLINE);
    let took = start.elapsed();
    row.see(format!("stopped in {took:.0?}"));
    if took > STOP || status.code() != Some(0) {
        row.fail(format!("{status} after {took:?}"));
    }
    row
}

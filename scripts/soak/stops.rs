//! S3: graceful stops under load, beside what the same clients lose to a
//! server that just closes its listener.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::{Builder, Client, DEADLINE, DESIGNS, Design, PlainServer, Signal};
use crate::peers;
use crate::plan::{Dice, Plan};
use crate::traffic::{LOAD, Report, Traffic};

/// 100 stops over all designs, and 20 plain closes.
pub fn stops(plan: &Plan) -> Vec<Row> {
    let mut row = Row::new("S3", "graceful stops under load, 50 idle and 20 half-sent");
    let (start, mut dice) = (Instant::now(), Dice::new(plan.seed));
    let time = plan.time * 3 / 4;
    for round in 0..100 {
        if !plan.all && round > 0 && start.elapsed() > time {
            break;
        }
        let design = DESIGNS[round % DESIGNS.len()];
        match one_stop(design, &mut dice, &mut row) {
            // The stop came late, on a machine that others use: it shows nothing.
            Ok(false) => continue,
            Ok(true) => row.survived += 1,
            Err(why) => row.fail(format!("{}: {why}", design.name)),
        }
        row.tried += 1;
    }
    let mut rows = vec![row, plain_closes(plan)];
    if plan.peers {
        rows.extend(peers::stops(plan));
    }
    rows
}

/// One stop; false if the load was over before it.
fn one_stop(design: &Design, dice: &mut Dice, row: &mut Row) -> Result<bool, String> {
    let daemon = Builder::new()
        .args(design.args)
        .args(["--graceful-timeout", "2s"])
        .start();
    let addr = daemon.addr();
    let kept = if design.one_at_a_time { 0 } else { 50 };
    let mut idle: Vec<Client> = (0..kept).map(|_| Client::connect(addr)).collect();
    let mut half: Vec<Client> = idle.drain(..kept * 2 / 7).collect();
    for client in &mut idle {
        client.ping(b"to be idle");
    }
    for client in &mut half {
        client.write_all(b"half of").expect("send");
    }
    let words = [&["crr", addr][..], &LOAD].concat();
    let mut traffic = Traffic::start(&words);
    thread::sleep(Duration::from_millis(50 + dice.below(200)));
    let ran = traffic.runs();
    daemon.signal(Signal::SIGTERM);
    for mut client in half {
        client.write_all(b" a message").expect("send");
        client.shutdown_write().expect("shutdown");
        match client.rest() == b"half of a message" {
            true => row.echoed += 1,
            false => row.lost += 1,
        }
    }
    drop(idle);
    let status = daemon.wait_exit(DEADLINE);
    let report = traffic.report(DEADLINE);
    report.enter(row, &[]);
    match status.code() {
        Some(0) => Ok(ran && report.complete > 0),
        _ => Err(format!("{status}")),
    }
}

/// The same load, and a listener that is closed under it.
fn plain_closes(plan: &Plan) -> Row {
    let rounds = if plan.all { 100 } else { 10 };
    let mut row = Row::new("", "beside S3: a plain close of the listener, same load");
    let mut cut = 0;
    for _ in 0..rounds {
        let report = plain_close();
        row.tried += 1;
        row.survived += 1;
        row.echoed += report.complete;
        cut += report.cut().len();
    }
    row.see(format!("{cut} connections were lost, none of them echod's"));
    row
}

/// A server that stops by closing its listener.
fn plain_close() -> Report {
    let server = PlainServer::start();
    let addr = server.addr();
    // What is lost there is never answered.
    let words = [&["crr", &addr, "--timeout", "1"][..], &LOAD].concat();
    let traffic = Traffic::start(&words);
    thread::sleep(Duration::from_millis(200));
    server.close();
    traffic.report(DEADLINE)
}

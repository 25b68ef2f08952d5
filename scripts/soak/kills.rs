//! S1 and S2: workers and supervisors killed with SIGKILL under load.

use std::time::{Duration, Instant};

use crate::card::Row;
use crate::common::design::PREFORK;
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Signal, echo_once, holds_within,
    poll_until, proc, signal,
};
use crate::foster::Foster;
use crate::peers;
use crate::plan::{Dice, Plan};
use crate::traffic::{PAUSE, Traffic, amount, deaths};
use crate::watch::{Watch, children};

/// A second at least is needed to see anything.
const SHORTEST: Duration = Duration::from_secs(1);

/// S1: 100,000 connections of up to 256 KiB through each design, 64 at a time,
/// and a random worker killed every 50 ms. Every loss must be the client of a
/// killed process, whatever came back an exact prefix of what was sent.
pub fn workers(plan: &Plan) -> Vec<Row> {
    let beside = if plan.peers { peers::PEERS.len() } else { 0 };
    let each = plan.time / (DESIGNS.len() + beside + 1) as u32;
    let mut dice = Dice::new(plan.seed);
    let mut rows: Vec<Row> = DESIGNS
        .iter()
        .map(|design| kill_soak(design, plan.all, each.max(SHORTEST), &mut dice))
        .collect();
    rows.push(refill(&PREFORK, plan));
    if plan.peers {
        rows.extend(peers::kill_soaks(plan, each.max(SHORTEST)));
    }
    rows
}

fn kill_soak(design: &Design, all: bool, time: Duration, dice: &mut Dice) -> Row {
    let mut row = Row::new("S1", format!("workers killed, {}", design.name));
    let daemon = Daemon::start(design.args);
    // Nobody's children otherwise, and hard to find in time.
    let foster = (design.name == "fork_double").then(|| Foster::of(&daemon));
    warm_up(&daemon, design);
    let watch = Watch::start(&daemon);
    let (addr, parallel) = (daemon.addr(), if design.one_at_a_time { "4" } else { "64" });
    let [how, much] = amount(all, 100_000, time);
    let args = ["crr", addr, "-c", parallel, "-s", "1-256K", &how, &much];
    let mut traffic = Traffic::start(&args);
    let mut next = Instant::now() + PAUSE;
    while traffic.runs() {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += PAUSE;
        let mut family = match &foster {
            None => children(daemon.pid()),
            Some(foster) => foster.children(),
        };
        family.retain(|&pid| !proc::is_dead(pid));
        let Some(&pid) = dice.pick(&family) else {
            continue;
        };
        // Numbers come round fast at this rate of forks: is it still ours?
        if proc::stat(pid).is_some_and(|p| p.pgrp == daemon.group()) {
            signal(pid, Signal::SIGKILL);
            row.tried += 1;
            row.survived += u64::from(daemon.try_exit().is_none());
        }
    }
    let report = traffic.report(DEADLINE);
    if report.refused > 0 {
        row.fail(format!("{} refused", report.refused));
    }
    watch.finish(&mut row);
    report.enter(&mut row, &deaths(&daemon));
    row
}

/// The pool and the log's buffers come to rest.
pub fn warm_up(daemon: &Daemon, design: &Design) {
    let parallel = if design.one_at_a_time { "1" } else { "64" };
    let args = ["crr", daemon.addr(), "-c", parallel, "-n", "1000"];
    Traffic::start(&args).report(DEADLINE * 3);
    poll_until(DEADLINE, "no client is left", || {
        daemon.role("echod-conn").is_empty()
    });
}

/// How soon another waits in the place of an idle worker that was killed.
fn refill(design: &Design, plan: &Plan) -> Row {
    let mut row = Row::new(
        "S1",
        format!("idle workers killed one by one, {}", design.name),
    );
    let daemon = Builder::new()
        .args(design.args)
        .env("RUST_LOG", "error")
        .start();
    let mut dice = Dice::new(plan.seed);
    let idle = || daemon.role("echod-idle");
    // Nobody on its way out, who would be no loss.
    let at_rest = || {
        let idle = idle().len();
        idle >= 8 && idle == children(daemon.pid()).len()
    };
    poll_until(DEADLINE, "the pool", at_rest);
    let rounds = if plan.all { 1000 } else { 100 };
    let mut took = Vec::new();
    for _ in 0..rounds {
        let before = idle();
        let Some(&victim) = dice.pick(&before) else {
            break;
        };
        row.tried += 1;
        let start = Instant::now();
        signal(victim, Signal::SIGKILL);
        let back = holds_within(DEADLINE, || idle().iter().any(|pid| !before.contains(pid)));
        took.push(start.elapsed());
        row.survived += u64::from(back);
        // Many deaths and no client in between would be a pool that is born sick,
        // and refilled slowly: row 18.
        row.echoed += u64::from(echo_once(daemon.addr(), b"well") == b"well");
        poll_until(DEADLINE, "the pool", at_rest);
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    row.see(format!("refill p50 {:.1?}, p99 {:.1?}", at(50), at(99)));
    if at(99) > Duration::from_millis(100) {
        row.fail("p99 over 100 ms");
    }
    row
}

/// S2: the supervisor killed at a random moment under load, and another started
/// at once on the same address.
pub fn supervisors(plan: &Plan) -> Vec<Row> {
    let half = plan.share(1, 2);
    vec![
        kill_supervisors("finish", &half),
        kill_supervisors("terminate", &half),
    ]
}

fn kill_supervisors(orphans: &'static str, plan: &Plan) -> Row {
    let mut row = Row::new("S2", format!("supervisors killed, --orphans {orphans}"));
    let (start, mut dice) = (Instant::now(), Dice::new(plan.seed));
    let mut slowest = Duration::ZERO;
    let mut refused = 0;
    for round in 0..100 {
        if !plan.all && round > 0 && start.elapsed() > plan.time {
            break;
        }
        let design = DESIGNS[round % DESIGNS.len()];
        row.tried += 1;
        match one_supervisor(design, orphans, &mut dice, &mut row) {
            Ok((free, turned_away)) => {
                row.survived += 1;
                slowest = slowest.max(free);
                refused += turned_away;
            }
            Err(why) => row.fail(format!("{}: {why}", design.name)),
        }
    }
    row.see(format!(
        "address free after {slowest:.1?} at most; {refused} were in the queue or came later"
    ));
    row
}

/// One supervisor's life: how soon the address could be bound again, and how
/// many clients were refused or, with `terminate`, cut.
fn one_supervisor(
    design: &Design,
    orphans: &str,
    dice: &mut Dice,
    row: &mut Row,
) -> Result<(Duration, u64), String> {
    let first = Builder::new()
        .args(design.args)
        .args(["--orphans", orphans])
        .start();
    let addr = first.addr().to_owned();
    // Served already: with finish none of them may break.
    let kept = if design.one_at_a_time { 1 } else { 5 };
    let mut held: Vec<Client> = (0..kept).map(|_| Client::connect(&addr)).collect();
    for client in &mut held {
        client.ping(b"served");
    }
    let traffic = (!design.one_at_a_time)
        .then(|| Traffic::start(&["crr", &addr, "-c", "8", "-d", "0.3", "--timeout", "2"]));
    std::thread::sleep(Duration::from_millis(20 + dice.below(150)));
    signal(first.pid(), Signal::SIGKILL);
    let killed = Instant::now();
    let second = successor(design, &addr)?;
    let free = killed.elapsed();
    for client in &mut held {
        let alive = client.try_ping(b"still here");
        match (orphans, alive) {
            ("finish", true) => row.echoed += 1,
            ("finish", false) => row.lost += 1,
            (_, true) => return Err("a client outlived terminate".to_owned()),
            (_, false) => row.explained += 1,
        }
    }
    drop(held);
    if orphans == "terminate" {
        let left = || first.members().iter().any(|p| !proc::is_dead(p.pid));
        if !holds_within(DEADLINE, || !left()) {
            return Err("children live on".to_owned());
        }
    }
    let report = traffic.map(|traffic| traffic.report(DEADLINE));
    let (cut, complete) = report.map_or((0, 0), |r| (r.losses.len() as u64, r.complete));
    row.echoed += complete;
    if crate::common::echo_once(second.addr(), b"alive") != b"alive" {
        return Err("the second does not serve".to_owned());
    }
    first.assert_gone(DEADLINE);
    Ok((free, cut))
}

/// Another echod on the same address, as soon as it is free.
fn successor(design: &Design, addr: &str) -> Result<Daemon, String> {
    let start = Instant::now();
    loop {
        let mut next = Builder::new().args(design.args).args(["-l", addr]).spawn();
        match next.wait_ready(DEADLINE) {
            Ok(()) => return Ok(next),
            Err(why) if start.elapsed() > DEADLINE => return Err(why),
            Err(_) => {}
        }
    }
}

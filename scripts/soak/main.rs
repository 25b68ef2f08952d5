//! The soak: what takes too long for a test. Every scenario hurts an echod for
//! a while, counts what its clients lost, and adds rows to the report card,
//! which is the last thing printed. Started by `scripts/soak.sh`.
//!
//! Its parts: [`plan`] is what was asked, [`card`] the table, [`watch`] the
//! growth of a supervisor, [`traffic`] the clients (echoload), [`common::explain`]
//! which loss belongs to which kill. A scenario is a file of its own.

mod by_test;
mod card;
#[path = "../../tests/it/common/mod.rs"]
mod common;
mod foster;
mod hold;
mod hostile;
mod kills;
mod logs;
mod long;
mod peers;
mod plan;
mod reloads;
mod squeeze;
mod stops;
mod storm;
mod sweep;
mod traffic;
mod watch;

use std::process::ExitCode;
use std::time::Instant;

use card::{Card, Row};
use plan::Plan;

/// A scenario: its name, what share of the time it gets, and the work.
type Scenario = (&'static str, u32, fn(&Plan) -> Vec<Row>);

const SCENARIOS: &[Scenario] = &[
    ("S0", 10, long::undisturbed),
    ("S1", 40, kills::workers),
    ("S2", 15, kills::supervisors),
    ("S3", 15, stops::stops),
    ("S4", 10, reloads::reloads),
    ("S5", 15, sweep::errors),
    ("S6", 5, squeeze::squeezes),
    ("S7", 5, hold::held),
    ("S8", 5, hostile::crowd),
    ("S9", 5, storm::signals),
    ("S10", 5, logs::broken_logs),
    ("S11", 1, by_test::datagrams),
    ("S12", 1, by_test::contained),
    ("S13", 1, by_test::pid_games),
    ("S14", 5, long::long),
    ("S15", 5, by_test::bad_input),
];

fn main() -> ExitCode {
    let plan = Plan::from_args();
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(|s| plan.wants(s.0)).collect();
    let shares = chosen.iter().map(|scenario| scenario.1).sum();
    let start = Instant::now();
    let mut card = Card::new(&plan);
    for (name, share, work) in chosen {
        let began = Instant::now();
        eprintln!("soak: {name} begins");
        for row in work(&plan.share(*share, shares)) {
            eprintln!("soak: {row}");
            card.add(row);
        }
        eprintln!("soak: {name} took {:.1?}", began.elapsed());
    }
    print!("{card}");
    eprintln!("soak: {:.0?} in all", start.elapsed());
    if card.is_clean() {
        ExitCode::SUCCESS
    } else {
        eprintln!("soak: FAILED: see the rows marked so");
        ExitCode::FAILURE
    }
}

//! Scenarios that are tests already: run at soak's size, counted for the card.

use std::process::Command;

use crate::card::Row;
use crate::plan::Plan;

/// S11: datagrams that would loop, reflect, flood or come from nowhere.
pub fn datagrams(_: &Plan) -> Vec<Row> {
    vec![tests(
        "S11",
        "datagrams: loops, spoofing, floods, sizes",
        "it",
        "udp::",
        &[],
    )]
}

/// S12: what a worker that was taken over could still do, by 70 acts that its
/// sandbox must refuse; then what stands beside it: the score of the systemd unit,
/// and how much of the fault catalogue has a test.
pub fn contained(_: &Plan) -> Vec<Row> {
    let acts = "70 forbidden acts in each kind of worker (a child with one client has 4 calls)";
    let mut score = Row::new("", "systemd-analyze security, of 10");
    score.see(said("scripts/unit-score.sh", &[]));
    let mut rows = Row::new("", "rows of the fault catalogue with a test");
    let words = "test --quiet --test it catalogue -- --nocapture";
    let words: Vec<&str> = words.split(' ').collect();
    let shown = said("cargo", &words);
    let shown = shown.split("; ").find(|line| line.ends_with("are shown"));
    rows.see(shown.unwrap_or("unknown"));
    vec![tests("S12", acts, "forbidden", "", &[]), score, rows]
}

/// What a program printed, in one line.
fn said(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.trim().lines().collect::<Vec<_>>().join("; ")
}

/// S13: pid 1 of a namespace, orphans, strangers' pids.
pub fn pid_games(_: &Plan) -> Vec<Row> {
    let rows = "row_46 row_47 row_48";
    vec![tests(
        "S13",
        "pid games: reuse, late words, PID 1",
        "it",
        rows,
        &[],
    )]
}

/// S15: 10,000 malformed inputs for each parser, a fiftieth of that for the whole
/// program; in a full soak the fuzzer too, a minute a parser.
pub fn bad_input(plan: &Plan) -> Vec<Row> {
    let cases = if plan.time.as_secs() < 10 {
        "1000"
    } else {
        "10000"
    };
    let what = format!("{cases} malformed inputs a parser, a fiftieth of that whole programs");
    let env = [("PROPTEST_CASES", cases)];
    let mut rows = vec![tests("S15", &what, "it", "bad_input::", &env)];
    if plan.all {
        rows.push(fuzz(plan.seed));
    }
    rows
}

/// What scripts/fuzz.sh finds, a line for each parser; nothing where its tool is not
/// there.
fn fuzz(seed: u64) -> Row {
    let mut row = Row::new("S15", "inputs made up by cargo-fuzz, a minute a parser");
    // 0 is "any" to libFuzzer.
    let args = ["--time", "60s", "--seed", &seed.max(1).to_string()];
    let out = match Command::new("scripts/fuzz.sh").args(args).output() {
        Ok(out) => out,
        Err(error) => {
            row.fail(format!("scripts/fuzz.sh: {error}"));
            return row;
        }
    };
    let text = String::from_utf8_lossy(&out.stdout);
    let inputs = |line: &str| {
        line.split_once(" inputs in ")?
            .0
            .rsplit(' ')
            .next()?
            .parse()
            .ok()
    };
    let counts: Vec<u64> = text.lines().filter_map(inputs).collect();
    row.tried = counts.iter().sum();
    row.survived = row.tried;
    match out.status.code() {
        Some(0) => row.see(format!("{} parsers, nothing found", counts.len())),
        Some(77) => row.see("skipped: cargo-fuzz is not installed"),
        _ => row.fail("something was found: scripts/fuzz.sh"),
    }
    row
}

/// One row of the tests of a file whose names hold `filter`.
pub fn tests(id: &'static str, what: &str, file: &str, filter: &str, env: &[(&str, &str)]) -> Row {
    let mut row = Row::new(id, what);
    let out = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["test", "--quiet", "--test", file, "--"])
        .args(filter.split_whitespace())
        .envs(env.iter().copied())
        .output();
    let text = match out {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(error) => {
            row.fail(format!("cargo test: {error}"));
            return row;
        }
    };
    // test result: ok. 24 passed; 1 failed; …
    let counted = |what: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs = words.windows(2).filter(|pair| pair[1] == what);
        pairs.flat_map(|pair| pair[0].parse::<u64>()).sum::<u64>()
    };
    row.survived = counted("passed;");
    row.tried = row.survived + counted("failed;");
    row.see(format!("cargo test --test {file} {filter}"));
    if row.tried == 0 {
        row.fail("no test ran");
    }
    row
}

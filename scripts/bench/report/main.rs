//! The part of `scripts/bench.sh` that a shell cannot do: counters around a run
//! of the load generator, medians and paired ratios, and the report. The shell
//! starts and stops servers; raw results lie between the two, a JSON object a
//! line, so that any figure can be computed again.

mod columns;
mod counters;
#[path = "../../../tests/it/common/design.rs"]
#[allow(dead_code)] // what else tests need to know of one
mod design;
mod measure;
mod page;
mod plot;
mod probe;
mod record;
mod scale;
mod stats;
mod summary;
mod table;
mod targets;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use counters::Source;
use record::Bench;

/// What `scripts/bench.sh` needs beyond a shell.
#[derive(Debug, Parser)]
#[command(name = "bench-report")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add an object of KIND (header, server, note) to the raw results
    Note {
        raw: PathBuf,
        kind: String,
        words: Vec<String>,
    },
    /// Run an `echoload --json` and add its figures to the raw results
    Measure {
        raw: PathBuf,
        /// cgroup:DIR, tree:PID or machine
        cpu: Source,
        words: Vec<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Print the table of servers
    Table { raw: PathBuf },
    /// Print the figures to reach, and which are
    Targets { raw: PathBuf },
    /// Print the ratios that were measured in pairs
    Pairs { raw: PathBuf },
    /// Print one comparison, an `echoload A B --json`, as a line
    Pair {
        json: PathBuf,
        name: String,
        fail_below: f64,
    },
    /// Write bench.csv, bench.json, bench.md and report.html into DIR
    Write { raw: PathBuf, dir: PathBuf },
    /// Print echod's designs: a title, connections that can be kept at once, options
    Designs,
    /// Print a TCP port of loopback that is free
    Port,
    /// Wait until the server at ADDR echoes a line
    Await { addr: SocketAddr },
    /// Connect CLIENTS clients, say so, and keep them until killed
    Hold { addr: SocketAddr, clients: usize },
    /// Wait until the process PARENT has at most MOST children
    Settle { parent: u32, most: usize },
    /// Count wake-ups of idle workers of the supervisor PARENT while a command
    /// runs, some times over
    Wakeups {
        raw: PathBuf,
        parent: u32,
        idle: usize,
        batches: u32,
        /// Connections that the command makes each time
        connections: u32,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<(), String> {
    match verb {
        Verb::Note { raw, kind, words } => measure::note(&raw, &kind, &words),
        Verb::Measure {
            raw,
            cpu,
            words,
            command,
        } => measure::measure(&raw, &cpu, &words, &command),
        Verb::Table { raw } => show(&servers(&read(&raw)?)),
        Verb::Targets { raw } => show(&targets::table(&read(&raw)?).text()),
        Verb::Pairs { raw } => show(&compared(&read(&raw)?)),
        Verb::Pair {
            json,
            name,
            fail_below,
        } => show(&pair(&json, &name, fail_below)?),
        Verb::Write { raw, dir } => write(&read(&raw)?, &dir),
        Verb::Designs => show(&designs()),
        Verb::Port => show(&format!("{}\n", probe::port()?)),
        Verb::Await { addr } => probe::answers(addr),
        Verb::Hold { addr, clients } => probe::hold(addr, clients),
        Verb::Settle { parent, most } => probe::settle(parent, most),
        Verb::Wakeups {
            raw,
            parent,
            idle,
            batches,
            connections,
            command,
        } => {
            let found = probe::wakeups(parent, idle, batches, &command)?;
            let words = [
                "about=wakeups".to_owned(),
                format!("vain={}", found.vain),
                format!("watched={}", found.watched),
                format!("connections={}", connections * batches),
            ];
            measure::note(&raw, "note", &words)
        }
    }
}

/// An iterative server serves one at a time: a second that is kept would wait for the
/// first to end.
fn designs() -> String {
    let line = |title: &str, one: bool, args: &[&str]| {
        format!("{title}|{}|{}\n", if one { 1 } else { 16 }, args.join(" "))
    };
    let all = design::DESIGNS.iter();
    let all = all.map(|d| line(d.title, d.one_at_a_time, d.args));
    let more = design::MEASURED_TOO.iter();
    all.chain(more.map(|(title, args)| line(title, false, args)))
        .collect()
}

/// A comparison as a line: the ratio, its interval, and what it says of the bound.
fn pair(path: &Path, name: &str, fail_below: f64) -> Result<String, String> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| explain(&error))?;
    let done: serde_json::Value = serde_json::from_str(&text).map_err(|error| explain(&error))?;
    let of = |key: &str| done["rate_ratio"][key].as_f64();
    let median = of("median").ok_or_else(|| explain(&"no ratio of rates"))?;
    let pairs = done["rate_ratio"]["pairs"].as_array().map_or(0, Vec::len);
    let (interval, word) = match (of("low"), of("high")) {
        (Some(low), Some(high)) => {
            let word = match () {
                () if high < fail_below => "slower",
                () if low > 1.0 => "faster",
                () if high < 1.0 => "slower, and not by as much as counts",
                () => "no difference was seen",
            };
            (format!("[{low:.3}, {high:.3}]"), word)
        }
        _ => ("[too few]".to_owned(), "nothing is concluded"),
    };
    Ok(format!(
        "{name:<32} {median:>6.3} {interval:<16} {pairs:>3} pairs: {word}\n"
    ))
}

fn read(raw: &Path) -> Result<Bench, String> {
    let text = fs::read_to_string(raw).map_err(|error| format!("{}: {error}", raw.display()))?;
    Bench::parse(&text).map_err(|error| format!("{}: {error}", raw.display()))
}

fn show(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn servers(bench: &Bench) -> String {
    let rows = summary::rows(bench);
    let mut out = columns::servers(&rows).text();
    for row in rows.iter().filter(|row| !row.failed.is_empty()) {
        out += &format!("{}: {}\n", row.server.name, row.failed.join("; "));
    }
    out
}

fn compared(bench: &Bench) -> String {
    let mut pairs = targets::pairs(bench);
    // The configurations are long; the page has them.
    for line in std::iter::once(&mut pairs.head).chain(&mut pairs.rows) {
        line.pop();
    }
    pairs.text() + &page::not_measured(bench).join("\n") + "\n"
}

fn write(bench: &Bench, dir: &Path) -> Result<(), String> {
    let rows = summary::rows(bench);
    for (name, text) in [
        ("bench.csv", columns::servers_csv(&rows).csv()),
        ("bench.json", json(bench, &rows)),
        ("bench.md", markdown(bench, &rows)),
        ("report.html", page::page(bench)),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn json(bench: &Bench, rows: &[summary::Row]) -> String {
    let keyed = |table: table::Table| -> Vec<serde_json::Value> {
        let row = |cells: &Vec<String>| {
            let cell = |text: &String| match text.parse::<f64>() {
                Ok(number) if number.is_finite() => json!(number),
                _ if text.is_empty() => serde_json::Value::Null,
                _ => json!(text),
            };
            let keys = table.head.iter().cloned();
            serde_json::Value::Object(keys.zip(cells.iter().map(cell)).collect())
        };
        table.rows.iter().map(row).collect()
    };
    let header: serde_json::Map<String, serde_json::Value> = columns::header(bench)
        .into_iter()
        .map(|(key, value)| (key, json!(value)))
        .collect();
    let whole = json!({
        "schema": "echod-bench/1",
        "header": header,
        "servers": keyed(columns::servers_csv(rows)),
        "pairs": keyed(targets::pairs(bench)),
        "targets": keyed(targets::table(bench)),
    });
    format!("{whole:#}\n")
}

fn markdown(bench: &Bench, rows: &[summary::Row]) -> String {
    let said: Vec<String> = columns::header(bench)
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let mut out = format!(
        "{}.\n\n{}\n",
        said.join("; "),
        columns::servers(rows).markdown()
    );
    for line in columns::legend(bench) {
        out += &format!("- {line}\n");
    }
    let pairs = targets::pairs(bench);
    if !pairs.rows.is_empty() {
        out += &format!("\n{}", pairs.markdown());
    }
    out
}

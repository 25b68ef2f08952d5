//! Runs the load generator once, between two looks at the counters, and writes
//! what came of it as one line of raw results.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

use crate::counters::{self, Source};

/// Adds an object of `kind` with the `key=value` words to the raw results.
pub fn note(raw: &Path, kind: &str, words: &[String]) -> Result<(), String> {
    append(raw, tagged(kind, words)?)
}

/// Runs `command`, an echoload with `--json`, and adds its run. A run that
/// failed is kept with its reason, which is also the error.
pub fn measure(
    raw: &Path,
    source: &Source,
    words: &[String],
    command: &[String],
) -> Result<(), String> {
    let mut record = tagged("run", words)?;
    let (program, arguments) = command.split_first().ok_or("no command to run")?;
    let before = counters::snapshot(source);
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let used = counters::between(source, before, counters::snapshot(source));
    let result = last_object(&output.stdout);
    let failed = failure(&output, result.as_ref());
    record.extend([
        ("server_cpu_s".to_owned(), json!(used.server_s)),
        ("client_cpu_s".to_owned(), json!(used.client_s)),
        ("switches".to_owned(), json!(used.switches)),
        ("cpu_by".to_owned(), json!(source.name())),
        ("failed".to_owned(), json!(failed)),
        ("result".to_owned(), result.unwrap_or(Value::Null)),
    ]);
    append(raw, record)?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

fn tagged(kind: &str, words: &[String]) -> Result<Map<String, Value>, String> {
    let mut record = Map::from_iter([("kind".to_owned(), json!(kind))]);
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} is not key=value"))?;
        record.insert(key.to_owned(), json!(value));
    }
    Ok(record)
}

fn append(raw: &Path, record: Map<String, Value>) -> Result<(), String> {
    let line = format!("{}\n", Value::Object(record));
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(raw)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| format!("write {}: {error}", raw.display()))
}

/// echoload's object is the last line of its output.
fn last_object(stdout: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(stdout);
    let line = text.lines().rev().find(|line| line.starts_with('{'))?;
    serde_json::from_str(line).ok()
}

/// Empty when all was well; else which outcomes there were beside the good
/// one, or how the program ended.
fn failure(output: &Output, result: Option<&Value>) -> String {
    if output.status.success() && result.is_some() {
        return String::new();
    }
    let kinds = ["refused", "reset", "timeout", "short", "corrupt", "other"];
    let outcomes: Vec<String> = kinds
        .iter()
        .filter_map(|kind| Some((kind, result?.get(kind)?.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if !outcomes.is_empty() {
        return outcomes.join(", ");
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no output");
    format!("{}: {said}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Bench;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_run_becomes_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw.jsonl");
        let words = ["server=x", "load=crr", "phase=rounds", "round=2"].map(str::to_owned);
        note(&raw, "server", &["name=x".to_owned()]).unwrap();
        let good = "echo noise; echo '{\"complete\":4,\"rate_per_s\":2.5}'";
        measure(&raw, &Source::Machine, &words, &sh(good)).unwrap();
        for (script, expect) in [
            (
                "echo '{\"reset\":3,\"short\":0,\"timeout\":1}'; exit 74",
                "3 reset, 1 timeout",
            ),
            ("echo gone >&2; exit 69", "exit status: 69: gone"),
            ("exit 0", "exit status: 0: no output"),
        ] {
            let error = measure(&raw, &Source::Machine, &words, &sh(script)).unwrap_err();
            assert_eq!(error, expect);
        }
        let bench = Bench::parse(&std::fs::read_to_string(&raw).unwrap()).unwrap();
        assert_eq!(bench.runs.len(), 4);
        assert_eq!(bench.runs_of("rounds", "x", "crr").count(), 1);
        assert_eq!((bench.runs[0].rate, bench.runs[0].round), (2.5, 2));
        assert!(tagged("run", &["word".to_owned()]).is_err());
    }
}

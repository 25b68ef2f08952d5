//! The raw results: one JSON object a line, written by `measure` and `note`,
//! read by everything that computes.

use serde_json::{Map, Value};

/// All that a bench wrote down.
#[derive(Debug, Default)]
pub struct Bench {
    /// Kernel, cores, payload and the like, in the order they were noted.
    pub header: Vec<(String, String)>,
    /// Every server that was measured, in the order it was started.
    pub servers: Vec<Server>,
    /// Every run of the load generator.
    pub runs: Vec<Run>,
    /// What was not found, and figures that are no run.
    pub notes: Vec<Map<String, Value>>,
}

/// A server: a design of echod, a baseline or a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its name in tables, unique.
    pub name: String,
    /// `design`, `baseline` or `peer`.
    pub group: String,
    /// `process` (one for each connection), `reuse` or `loop`.
    pub class: String,
    /// Options, or how it was started.
    pub config: String,
}

/// One run of echoload against one server.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Name of the server.
    pub server: String,
    /// `crr`, `rr`, `stream` or `burst`.
    pub load: String,
    /// What the run is for: `rounds`, `pool`, `held` or `pair`.
    pub phase: String,
    /// Number of the round; runs of one round and pair belong together.
    pub round: u64,
    /// Where the phase is `pair`: which pair.
    pub pair: String,
    /// Where the phase is `pool` or `held`: how many workers or clients.
    pub at: f64,
    /// Connections or requests that were complete.
    pub complete: f64,
    /// Of those, in a second.
    pub rate: f64,
    /// Bytes a second that came back.
    pub throughput: f64,
    /// From the first connect to the last echo, seconds.
    pub elapsed_s: f64,
    /// Microseconds: p50, p90, p99, p99.9, max.
    pub latency_us: [Option<f64>; 5],
    /// CPU seconds of the server.
    pub server_cpu_s: Option<f64>,
    /// Context switches of the machine less the client's.
    pub switches: Option<f64>,
    /// Where the CPU seconds were read.
    pub cpu_by: String,
    /// Empty, or why the figures count for nothing.
    pub failed: String,
}

/// The names of [`Run::latency_us`].
pub const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99_9", "max"];

impl Bench {
    /// Reads all lines; the number of one that is no record is in the error.
    pub fn parse(text: &str) -> Result<Bench, String> {
        let mut bench = Bench::default();
        for (number, line) in text.lines().enumerate() {
            let bad = |why: &str| format!("line {}: {why}", number + 1);
            let value: Value = serde_json::from_str(line).map_err(|e| bad(&e.to_string()))?;
            let Value::Object(map) = value else {
                return Err(bad("not an object"));
            };
            bench.add(map).map_err(|why| bad(&why))?;
        }
        Ok(bench)
    }

    fn add(&mut self, map: Map<String, Value>) -> Result<(), String> {
        let kind = text(&map, "kind");
        match kind.as_str() {
            "header" => {
                let said = map.iter().filter(|(key, _)| *key != "kind");
                self.header
                    .extend(said.map(|(key, value)| (key.clone(), plain(value))));
            }
            "server" => {
                let server = Server {
                    name: text(&map, "name"),
                    group: text(&map, "group"),
                    class: text(&map, "class"),
                    config: text(&map, "config"),
                };
                if !self.servers.iter().any(|known| known.name == server.name) {
                    self.servers.push(server);
                }
            }
            "run" => self.runs.push(run(&map)),
            "note" => self.notes.push(map),
            _ => return Err(format!("kind {kind:?} is unknown")),
        }
        Ok(())
    }

    /// The header's word for `key`, or nothing.
    pub fn said(&self, key: &str) -> &str {
        let found = self.header.iter().rev().find(|(known, _)| known == key);
        found.map_or("", |(_, value)| value)
    }

    /// The good runs of a server under a load in a phase.
    pub fn runs_of<'a>(
        &'a self,
        phase: &'a str,
        server: &'a str,
        load: &'a str,
    ) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| {
            run.phase == phase && run.server == server && run.load == load && run.failed.is_empty()
        })
    }
}

fn run(map: &Map<String, Value>) -> Run {
    let result = map.get("result").cloned().unwrap_or(Value::Null);
    let figure = |key: &str| result.get(key).and_then(Value::as_f64);
    let latency = |key: &str| result.get("latency_us")?.get(key)?.as_f64();
    Run {
        server: text(map, "server"),
        load: text(map, "load"),
        phase: text(map, "phase"),
        round: number(map, "round").unwrap_or(0.0) as u64,
        pair: text(map, "pair"),
        at: number(map, "at").unwrap_or(0.0),
        complete: figure("complete").unwrap_or(0.0),
        rate: figure("rate_per_s").unwrap_or(0.0),
        throughput: figure("throughput_bytes_per_s").unwrap_or(0.0),
        elapsed_s: figure("elapsed_s").unwrap_or(0.0),
        latency_us: PERCENTILES.map(latency),
        server_cpu_s: number(map, "server_cpu_s"),
        switches: number(map, "switches"),
        cpu_by: text(map, "cpu_by"),
        failed: text(map, "failed"),
    }
}

impl Run {
    /// What this load is about, more being better: connections, requests or
    /// bytes a second, and for a burst how many such bursts would fit into one.
    pub fn merit(&self) -> f64 {
        match self.load.as_str() {
            "stream" => self.throughput,
            "burst" if self.elapsed_s > 0.0 => 1.0 / self.elapsed_s,
            "burst" => 0.0,
            _ => self.rate,
        }
    }

    /// `total` for each connection or request.
    pub fn each(&self, total: Option<f64>) -> Option<f64> {
        (self.complete > 0.0).then(|| total.map(|total| total / self.complete))?
    }
}

/// A string field, or the empty string.
pub fn text(map: &Map<String, Value>, key: &str) -> String {
    map.get(key).map(plain).unwrap_or_default()
}

/// A number, also one that was written as a string (by a shell script).
pub fn number(map: &Map<String, Value>, key: &str) -> Option<f64> {
    match map.get(key)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const SAMPLE: &str = r#"{"kind":"header","kernel":"Linux 6.1","cores":2}
{"kind":"server","name":"prefork","group":"design","config":"--model prefork"}
{"kind":"server","name":"C fork, glibc","group":"baseline","config":"fork_echo.c"}
{"kind":"run","phase":"rounds","server":"prefork","load":"crr","round":1,"server_cpu_s":0.5,"switches":3000,"cpu_by":"cgroup","result":{"complete":1000,"rate_per_s":5000.0,"elapsed_s":0.2,"throughput_bytes_per_s":1,"latency_us":{"p50":100,"p90":150,"p99":200,"p99_9":null,"max":300}}}
{"kind":"run","phase":"rounds","server":"C fork, glibc","load":"crr","round":"1","result":{"complete":1000,"rate_per_s":4000.0}}
{"kind":"run","phase":"rounds","server":"prefork","load":"burst","round":1,"failed":"3 reset","result":{"elapsed_s":0.25}}
{"kind":"note","about":"missing","what":"inetd"}"#;

    #[test]
    fn lines_become_servers_and_runs() {
        let bench = Bench::parse(SAMPLE).unwrap();
        assert_eq!(bench.said("kernel"), "Linux 6.1");
        assert_eq!(bench.said("cores"), "2");
        assert_eq!(bench.said("nothing"), "");
        assert_eq!(bench.servers.len(), 2);
        let run = bench.runs_of("rounds", "prefork", "crr").next().unwrap();
        assert_eq!((run.rate, run.round, run.complete), (5000.0, 1, 1000.0));
        assert_eq!(
            run.latency_us,
            [Some(100.0), Some(150.0), Some(200.0), None, Some(300.0)]
        );
        assert_eq!(run.each(run.server_cpu_s), Some(0.0005));
        assert_eq!(bench.runs_of("rounds", "prefork", "burst").count(), 0);
        assert_eq!(bench.runs[2].merit(), 4.0);
        assert_eq!(text(&bench.notes[0], "what"), "inetd");
    }

    #[test]
    fn what_is_no_record_is_named_by_its_line() {
        for (text, expect) in [
            ("{\"kind\":\"header\"}\n[]", "line 2: not an object"),
            ("{\"kind\":\"what\"}", "line 1: kind \"what\" is unknown"),
        ] {
            assert_eq!(Bench::parse(text).unwrap_err(), expect);
        }
        assert!(Bench::parse("{").unwrap_err().starts_with("line 1: "));
    }
}

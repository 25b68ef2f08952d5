//! A row per server, computed from its runs. Pure.

use crate::record::{Bench, Run, Server, number, text};
use crate::stats::{self, Ratio};

/// The server that others are compared with.
pub const YARDSTICK: &str = "C fork, glibc";
/// The design whose CPU seconds are those of serving alone (UNP figure 30.1).
pub const BASELINE: &str = "iterative";

/// What the rounds say of one server.
#[derive(Debug)]
pub struct Row {
    /// Whose row it is.
    pub server: Server,
    /// The figures under each load.
    pub crr: Load,
    /// See `crr`; a client at a time for an iterative server.
    pub rr: Load,
    /// See `crr`; its merit is bytes a second.
    pub stream: Load,
    /// Milliseconds until the last of a burst was echoed: median.
    pub burst_ms: Option<f64>,
    /// CPU seconds of the server for 10,000 connections.
    pub cpu: Option<f64>,
    /// The same less that of the iterative server.
    pub cpu_over: Option<f64>,
    /// Context switches for a connection.
    pub switches: Option<f64>,
    /// How many connections each worker served, most first.
    pub per_worker: Vec<f64>,
    /// crr of this server over crr of the C server, round by round.
    pub ratio: Option<Ratio>,
    /// Why runs of it failed, if any did.
    pub failed: Vec<String>,
}

/// The figures of one load.
#[derive(Debug, Default)]
pub struct Load {
    /// One figure a round: connections, requests or bytes a second.
    pub merits: Vec<f64>,
    /// Medians over the rounds, microseconds: p50, p90, p99, p99.9, max.
    pub latency_us: [Option<f64>; 5],
}

impl Load {
    fn of(bench: &Bench, server: &str, load: &str) -> Load {
        let runs: Vec<&Run> = bench.runs_of("rounds", server, load).collect();
        let of_rank = |rank: usize| {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.latency_us[rank]).collect();
            stats::median(&values)
        };
        Load {
            merits: runs.iter().map(|run| run.merit()).collect(),
            latency_us: [0, 1, 2, 3, 4].map(of_rank),
        }
    }

    /// The median over the rounds.
    pub fn median(&self) -> Option<f64> {
        stats::median(&self.merits)
    }
}

/// All rows, in the order in which servers were noted.
pub fn rows(bench: &Bench) -> Vec<Row> {
    let base = cpu(bench, BASELINE);
    let measured = |server: &&Server| {
        let of_it = |run: &Run| run.phase == "rounds" && run.server == server.name;
        bench.runs.iter().any(of_it)
    };
    bench
        .servers
        .iter()
        .filter(measured)
        .map(|server| row(bench, server, base))
        .collect()
}

fn row(bench: &Bench, server: &Server, base: Option<f64>) -> Row {
    let name = server.name.as_str();
    let bursts: Vec<f64> = bench
        .runs_of("rounds", name, "burst")
        .map(|run| run.elapsed_s * 1e3)
        .collect();
    let cpu = cpu(bench, name);
    let mut failed: Vec<String> = bench
        .runs
        .iter()
        .filter(|run| run.phase == "rounds" && run.server == name && !run.failed.is_empty())
        .map(|run| format!("{}: {}", run.load, run.failed))
        .collect();
    failed.dedup();
    Row {
        server: server.clone(),
        crr: Load::of(bench, name, "crr"),
        rr: Load::of(bench, name, "rr"),
        stream: Load::of(bench, name, "stream"),
        burst_ms: stats::median(&bursts),
        cpu,
        cpu_over: cpu.zip(base).map(|(cpu, base)| cpu - base),
        switches: median_each(bench, name, |run| run.switches),
        per_worker: per_worker(bench, name),
        ratio: (name != YARDSTICK).then(|| against(bench, name)).flatten(),
        failed,
    }
}

fn cpu(bench: &Bench, server: &str) -> Option<f64> {
    median_each(bench, server, |run| run.server_cpu_s).map(|s| s * 1e4)
}

fn median_each(bench: &Bench, server: &str, total: fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = bench
        .runs_of("rounds", server, "crr")
        .filter_map(|run| run.each(total(run)))
        .collect();
    stats::median(&values)
}

fn against(bench: &Bench, server: &str) -> Option<Ratio> {
    let theirs = |round| {
        let mut runs = bench.runs_of("rounds", YARDSTICK, "crr");
        runs.find(|run| run.round == round).map(Run::merit)
    };
    let pairs: Vec<(f64, f64)> = bench
        .runs_of("rounds", server, "crr")
        .filter_map(|run| Some((run.merit(), theirs(run.round)?)))
        .collect();
    stats::ratio(&pairs)
}

fn per_worker(bench: &Bench, server: &str) -> Vec<f64> {
    let is_its = |note: &&serde_json::Map<String, serde_json::Value>| {
        text(note, "about") == "per_worker" && text(note, "server") == server
    };
    let counts = bench
        .notes
        .iter()
        .rev()
        .find(is_its)
        .map(|note| text(note, "counts"));
    let mut counts: Vec<f64> = counts
        .unwrap_or_default()
        .split(',')
        .filter_map(|count| count.parse().ok())
        .collect();
    counts.sort_by(|a, b| b.total_cmp(a));
    counts
}

/// One line of a plot: a name and its points.
#[derive(Debug, PartialEq)]
pub struct Series {
    /// Whose line it is.
    pub name: String,
    /// x and the median of what was measured there, in order of x.
    pub points: Vec<(f64, f64)>,
}

/// Per server, `figure` against what the phase varied.
pub fn series(bench: &Bench, phase: &str, figure: fn(&Run) -> Option<f64>) -> Vec<Series> {
    let mut found = Vec::new();
    for server in &bench.servers {
        let runs: Vec<&Run> = bench.runs_of(phase, &server.name, "crr").collect();
        let mut places: Vec<f64> = runs.iter().map(|run| run.at).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let point = |at: &f64| {
            let here = runs.iter().filter(|run| run.at == *at);
            let values: Vec<f64> = here.filter_map(|run| figure(run)).collect();
            Some((*at, stats::median(&values)?))
        };
        let points: Vec<_> = places.iter().filter_map(point).collect();
        if !points.is_empty() {
            let name = server.name.clone();
            found.push(Series { name, points });
        }
    }
    found
}

/// The ratio a / b of a pair that was measured in turns, with the pairs noted
/// as `pair=ID side=a|b`.
pub fn pair(bench: &Bench, id: &str) -> Option<Ratio> {
    let rounds = bench.notes.iter().filter(|note| text(note, "pair") == id);
    let figures: Vec<(f64, f64)> = rounds
        .filter_map(|note| Some((number(note, "a")?, number(note, "b")?)))
        .collect();
    if !figures.is_empty() {
        return stats::ratio(&figures);
    }
    let of = |side: &str, round: u64| {
        let it = |run: &&Run| run.pair == id && run.phase == side && run.round == round;
        bench
            .runs
            .iter()
            .find(it)
            .filter(|run| run.failed.is_empty())
            .map(Run::merit)
    };
    let rounds = bench
        .runs
        .iter()
        .filter(|run| run.pair == id && run.phase == "a");
    let pairs: Vec<(f64, f64)> = rounds
        .filter_map(|run| Some((of("a", run.round)?, of("b", run.round)?)))
        .collect();
    stats::ratio(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::SAMPLE;

    fn bench(more: &str) -> Bench {
        Bench::parse(&format!("{SAMPLE}\n{more}")).unwrap()
    }

    #[test]
    fn a_row_has_medians_and_the_ratio_of_rounds() {
        let bench = bench(
            r#"{"kind":"note","about":"per_worker","server":"prefork","counts":"3,9,5"}
{"kind":"run","phase":"rounds","server":"prefork","load":"crr","round":2,"server_cpu_s":0.7,"result":{"complete":1000,"rate_per_s":7000}}
{"kind":"run","phase":"rounds","server":"iterative","load":"crr","round":1,"server_cpu_s":0.1,"result":{"complete":1000,"rate_per_s":7000}}
{"kind":"server","name":"iterative","group":"design"}
{"kind":"server","name":"unused","group":"design"}"#,
        );
        let rows = rows(&bench);
        assert_eq!(rows.len(), 3);
        let row = &rows[0];
        assert_eq!(row.crr.median(), Some(6000.0));
        assert_eq!(row.crr.latency_us[0], Some(100.0));
        assert!((row.cpu.unwrap() - 6.0).abs() < 1e-9);
        assert!((row.cpu_over.unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(row.switches, Some(3.0));
        assert_eq!(row.per_worker, [9.0, 5.0, 3.0]);
        let ratio = row.ratio.unwrap();
        assert_eq!(
            (ratio.median, ratio.pairs),
            (1.25, 1),
            "round 2 has no pair"
        );
        assert_eq!(row.failed, ["burst: 3 reset"]);
        assert!(rows[1].ratio.is_none(), "the yardstick against itself");
    }

    #[test]
    fn a_series_is_in_order_with_medians() {
        let line = |at: u32, cpu: f64| {
            format!(
                r#"{{"kind":"run","phase":"pool","server":"prefork","load":"crr","at":"{at}","server_cpu_s":{cpu},"result":{{"complete":10}}}}"#
            )
        };
        let lines = [line(30, 1.0), line(15, 2.0), line(30, 3.0)].join("\n");
        let found = series(&bench(&lines), "pool", |run| run.server_cpu_s);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].points, [(15.0, 2.0), (30.0, 2.0)]);
    }

    #[test]
    fn pairs_are_of_one_round() {
        let side = |side: &str, round: u32, rate: u32, failed: &str| {
            format!(
                r#"{{"kind":"run","phase":"{side}","pair":"p","load":"crr","server":"s","round":{round},"failed":"{failed}","result":{{"rate_per_s":{rate}}}}}"#
            )
        };
        let lines = [
            side("a", 1, 20, ""),
            side("b", 1, 10, ""),
            side("b", 2, 10, ""),
            side("a", 2, 40, ""),
            side("a", 3, 90, ""),
            side("b", 3, 10, "1 reset"),
        ];
        let found = pair(&bench(&lines.join("\n")), "p").unwrap();
        assert_eq!((found.median, found.pairs), (3.0, 2));
        let noted = r#"{"kind":"note","pair":"m","a":"6","b":"3"}"#;
        assert_eq!(pair(&bench(noted), "m").unwrap().median, 2.0);
        assert_eq!(pair(&bench(""), "none"), None);
    }
}

//! What stands above and below a table of servers, and its columns. Pure.

use crate::record::Bench;
use crate::stats;
use crate::summary::Row;
use crate::table::{Table, dash, figure, ratio};

/// What the results are of, as `key: value` lines.
pub fn header(bench: &Bench) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    for (key, value) in &bench.header {
        match said.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => old.clone_from(value),
            None => said.push((key.clone(), value.clone())),
        }
    }
    let of_rounds = bench.runs.iter().filter(|run| run.phase == "rounds");
    let rounds = of_rounds.map(|run| run.round).max().unwrap_or(0);
    if rounds > 0 {
        let words = format!("{rounds}, interleaved; figures are medians over them");
        said.push(("rounds".to_owned(), words));
    }
    said
}

/// The table of servers, formatted to be read.
pub fn servers(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "design",
        "conn/s",
        "spread",
        "p50 us",
        "p99 us",
        "CPU s/10k",
        "over iter.",
        "switches",
        "per worker",
        "against C",
        "rr/s",
        "p50 us",
        "p99 us",
        "stream MiB/s",
        "burst ms",
    ]);
    for row in rows {
        table.rows.push(vec![
            row.server.name.clone(),
            figure(row.crr.median(), 0),
            stats::spread(&row.crr.merits).map_or_else(dash, |s| format!("{:.0} %", s * 1e2)),
            figure(row.crr.latency_us[0], 0),
            figure(row.crr.latency_us[2], 0),
            figure(row.cpu, 2),
            signed(row.cpu_over),
            figure(row.switches, 1),
            worker_range(&row.per_worker),
            row.ratio.as_ref().map_or_else(dash, ratio),
            figure(row.rr.median(), 0),
            figure(row.rr.latency_us[0], 0),
            figure(row.rr.latency_us[2], 0),
            figure(
                row.stream.median().map(|bytes| bytes / f64::from(1 << 20)),
                0,
            ),
            figure(row.burst_ms, 0),
        ]);
    }
    table
}

/// The same for programs: a unit in each column's name and nothing rounded.
pub fn servers_csv(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "group",
        "crr_per_s",
        "crr_min_per_s",
        "crr_max_per_s",
        "crr_p50_us",
        "crr_p90_us",
        "crr_p99_us",
        "crr_p99_9_us",
        "crr_max_us",
        "cpu_s_per_10000",
        "cpu_s_over_iterative_per_10000",
        "context_switches_per_connection",
        "ratio_to_c",
        "ratio_low",
        "ratio_high",
        "ratio_pairs",
        "rr_per_s",
        "rr_p50_us",
        "rr_p99_us",
        "stream_bytes_per_s",
        "burst_ms",
        "connections_per_worker",
        "failed",
    ]);
    for row in rows {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let ends = stats::ends(&row.crr.merits);
        let interval = row.ratio.and_then(|ratio| ratio.interval);
        let mut cells = vec![row.server.name.clone(), row.server.group.clone()];
        let figures = [row.crr.median(), ends.map(|e| e.0), ends.map(|e| e.1)]
            .into_iter()
            .chain(row.crr.latency_us)
            .chain([row.cpu, row.cpu_over, row.switches])
            .chain([
                row.ratio.map(|r| r.median),
                interval.map(|i| i.0),
                interval.map(|i| i.1),
            ])
            .chain([row.ratio.map(|r| r.pairs as f64)])
            .chain([row.rr.median(), row.rr.latency_us[0], row.rr.latency_us[2]])
            .chain([row.stream.median(), row.burst_ms]);
        cells.extend(figures.map(number));
        let counts: Vec<String> = row.per_worker.iter().map(f64::to_string).collect();
        cells.extend([counts.join(" "), row.failed.join("; ")]);
        table.rows.push(cells);
    }
    table
}

/// What a reader of [`servers`] has to know.
pub fn legend(bench: &Bench) -> Vec<String> {
    let by = match bench
        .runs
        .iter()
        .map(|run| run.cpu_by.as_str())
        .find(|by| !by.is_empty())
    {
        Some("cgroup") => "of a control group of its own (cpu.stat: living, dead and unwaited for)",
        Some("tree") => {
            "of its processes and the children they waited for (/proc/PID/stat); for designs that \
             never wait, of the whole machine less the client, so keep it quiet"
        }
        Some(_) => "of the whole machine less the client (/proc/stat), so keep it quiet",
        None => "unknown",
    };
    vec![
        "Latencies are of a closed loop: they leave out what a stalled server was not asked."
            .to_owned(),
        format!("CPU s/10k: CPU seconds of the server for 10,000 connections (crr), {by}."),
        "over iter.: the same less that of the iterative server, the cost of control alone (UNP \
         figure 30.1)."
            .to_owned(),
        "switches: context switches of the machine for a connection, less the client's.".to_owned(),
        "per worker: connections that each of a pool of 15 served, least to most (UNP figure 30.2)."
            .to_owned(),
        "against C: crr of the same round over that of the minimal static C fork server; with its \
         95 % interval from 20 pairs on."
            .to_owned(),
        "spread: greatest less least, of the median. burst: until the last of 256 at once is echoed."
            .to_owned(),
    ]
}

fn signed(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| format!("{value:+.2}"))
}

fn worker_range(counts: &[f64]) -> String {
    match counts {
        [] => dash(),
        [one] => one.to_string(),
        [most, .., least] if most == least => most.to_string(),
        [most, .., least] => format!("{least}-{most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::SAMPLE;
    use crate::summary;

    #[test]
    fn workers_are_told_by_the_least_and_the_most() {
        for (counts, text) in [
            (&[][..], "-"),
            (&[1.0], "1"),
            (&[1.0, 1.0, 1.0], "1"),
            (&[9.0, 4.0, 2.0], "2-9"),
        ] {
            assert_eq!(worker_range(counts), text);
        }
    }

    #[test]
    fn tables_have_a_cell_for_each_column() {
        let bench = Bench::parse(SAMPLE).unwrap();
        let rows = summary::rows(&bench);
        for table in [servers(&rows), servers_csv(&rows)] {
            assert_eq!(table.rows.len(), 2);
            assert!(table.rows.iter().all(|row| row.len() == table.head.len()));
        }
        assert_eq!(servers(&rows).rows[0][1], "5000");
        assert!(legend(&bench)[1].contains("control group"));
        assert_eq!(
            header(&bench)[0].1,
            "2",
            "keys are in order, here of the alphabet"
        );
    }
}

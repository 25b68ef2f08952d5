//! Tables as text, Markdown, HTML and CSV. Pure.

use crate::record::Bench;
use crate::stats::Ratio;
use crate::summary::Row;

/// A heading and rows of as many cells; all but the first column are figures.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Cells, already formatted.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no row yet.
    pub fn new(head: &[&str]) -> Table {
        Table {
            head: head.iter().map(|name| (*name).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Aligned for a terminal.
    pub fn text(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|i| {
                self.lines()
                    .map(|line| line[i].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for line in self.lines() {
            let cells = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(i, (cell, width))| {
                    if i == 0 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            out += cells.collect::<Vec<_>>().join("  ").trim_end();
            out.push('\n');
        }
        out
    }

    /// For a README.
    pub fn markdown(&self) -> String {
        let row = |line: &Vec<String>| {
            let cells: Vec<String> = line.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = format!("|---|{}\n", "---:|".repeat(self.head.len() - 1));
        row(&self.head) + &rule + &self.rows.iter().map(row).collect::<String>()
    }

    /// For the report.
    pub fn html(&self) -> String {
        let row = |line: &Vec<String>, tag: &str| {
            let cells = line
                .iter()
                .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let body: String = self.rows.iter().map(|line| row(line, "td")).collect();
        let head = row(&self.head, "th");
        format!(
            "<div class=\"wide\"><table>\n<thead>{head}</thead>\n<tbody>{body}</tbody></table></div>\n"
        )
    }

    /// For a spreadsheet (RFC 4180, but with plain line ends).
    pub fn csv(&self) -> String {
        let quoted = |cell: &String| {
            if cell.contains([',', '"', '\n']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let line = |line: &Vec<String>| line.iter().map(quoted).collect::<Vec<_>>().join(",");
        self.lines().map(|cells| line(cells) + "\n").collect()
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }
}

/// Text that means itself in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

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
    said.push((
        "rounds".to_owned(),
        format!("{rounds}, interleaved; figures are medians over them"),
    ));
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
            crate::stats::spread(&row.crr.merits)
                .map_or_else(dash, |s| format!("{:.0} %", s * 1e2)),
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
        let ends = crate::stats::ends(&row.crr.merits);
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

/// A ratio, with its interval where twenty pairs stand behind it.
pub fn ratio(ratio: &Ratio) -> String {
    match ratio.interval {
        Some((low, high)) if ratio.pairs >= 20 => {
            format!("{} [{}, {}]", short(ratio.median), short(low), short(high))
        }
        _ => short(ratio.median),
    }
}

/// Two decimals for what is about one, none for what is large.
pub fn short(value: f64) -> String {
    let places = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.places$}")
}

/// A figure or a dash.
pub fn figure(value: Option<f64>, places: usize) -> String {
    value.map_or_else(dash, |value| format!("{value:.places$}"))
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

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::SAMPLE;
    use crate::summary;

    fn sample() -> Table {
        let mut table = Table::new(&["name", "n"]);
        table.rows.push(vec!["a, \"b\"".to_owned(), "1".to_owned()]);
        table.rows.push(vec!["<c|d>".to_owned(), "1000".to_owned()]);
        table
    }

    #[test]
    fn each_form_quotes_as_it_must() {
        let table = sample();
        assert_eq!(table.text(), "name       n\na, \"b\"     1\n<c|d>   1000\n");
        assert_eq!(table.csv(), "name,n\n\"a, \"\"b\"\"\",1\n<c|d>,1000\n");
        assert!(table.markdown().contains("|---|---:|\n"));
        assert!(table.markdown().contains("| <c\\|d> | 1000 |\n"));
        assert!(table.html().contains("<td>&lt;c|d&gt;</td>"));
    }

    #[test]
    fn figures_are_as_long_as_they_matter() {
        for (value, text) in [(0.954, "0.95"), (12.34, "12.3"), (512.3, "512")] {
            assert_eq!(short(value), text);
        }
        let few = Ratio {
            median: 1.0,
            interval: Some((0.9, 1.1)),
            pairs: 19,
        };
        assert_eq!(ratio(&few), "1.00");
        assert_eq!(ratio(&Ratio { pairs: 20, ..few }), "1.00 [0.90, 1.10]");
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

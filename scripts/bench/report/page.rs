//! The report as one page that needs nothing else: no network, no script. Pure.

use std::fmt::Write;

use crate::columns;
use crate::plot::{self, Bar};
use crate::record::{Bench, Run};
use crate::summary::{self, BASELINE, Row};
use crate::table::escape;
use crate::targets;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn page(bench: &Bench) -> String {
    let rows = summary::rows(bench);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>echod bench, {}</title>\n<style>\n{STYLE}</style>\n<main>\n\
         <h1>What each design costs</h1>\n",
        escape(bench.said("date"))
    );
    head(&mut out, bench);
    if !rows.is_empty() {
        designs(&mut out, bench, &rows);
    }
    swept(&mut out, bench);
    compared(&mut out, bench);
    missing(&mut out, bench);
    out + "</main>\n</html>\n"
}

fn head(out: &mut String, bench: &Bench) {
    out.push_str("<dl>\n");
    for (key, value) in columns::header(bench) {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escape(&key),
            escape(&value)
        );
    }
    out.push_str("</dl>\n");
}

fn designs(out: &mut String, bench: &Bench, rows: &[Row]) {
    section(out, "All designs", "", &columns::servers(rows).html());
    out.push_str("<ul class=\"legend\">\n");
    for line in columns::legend(bench) {
        let _ = writeln!(out, "<li>{}</li>", escape(&line));
    }
    out.push_str("</ul>\n");
    let said = "Bars are medians over the rounds, whiskers the least and the greatest round.";
    let of = |load: fn(&Row) -> &summary::Load, unit: f64| -> Vec<Bar> {
        rows.iter()
            .filter_map(|row| bar(row, load(row), unit))
            .collect()
    };
    let crr = of(|row| &row.crr, 1.0);
    section(
        out,
        "Connections a second",
        said,
        &plot::bars("connections/s (crr)", &crr),
    );
    section(
        out,
        "CPU seconds for 10,000 connections",
        "What the server used, whoever reaped it. The iterative server forks and locks nothing: \
         what a design needs more than that is the price of its control (UNP figure 30.1).",
        &plot::bars("CPU s for 10,000 connections", &costs(rows)),
    );
    let marks = |load: fn(&Row) -> &summary::Load| -> Vec<_> {
        rows.iter()
            .map(|row| (row.server.name.clone(), load(row).latency_us))
            .collect()
    };
    let key = "<p class=\"key\"><i class=\"p50\"></i>p50 <i class=\"p90\"></i>p90 \
               <i class=\"p99\"></i>p99 <i class=\"p99_9\"></i>p99.9 <i class=\"max\"></i>max, \
               medians over the rounds of a closed loop</p>\n";
    let latencies = plot::ranges("microseconds a connection (crr)", &marks(|row| &row.crr));
    section(
        out,
        "Latency of a connection",
        "",
        &(key.to_owned() + &latencies),
    );
    let latencies = plot::ranges("microseconds a request (rr)", &marks(|row| &row.rr));
    section(
        out,
        "Latency of a request",
        "",
        &(key.to_owned() + &latencies),
    );
    let rr = plot::bars(
        "requests/s on kept connections (rr)",
        &of(|row| &row.rr, 1.0),
    );
    section(out, "Requests a second", said, &rr);
    let stream = of(|row| &row.stream, f64::from(1 << 20));
    section(
        out,
        "Bulk",
        said,
        &plot::bars("MiB/s each way (stream)", &stream),
    );
    let workers: Vec<_> = rows
        .iter()
        .filter(|row| row.per_worker.len() > 1 && row.per_worker[0] > 1.0)
        .map(|row| (row.server.name.clone(), row.per_worker.clone()))
        .collect();
    section(
        out,
        "Who did the work",
        "Connections that each worker of a pool of 15 served, most first (UNP figure 30.2).",
        &plot::workers(&workers),
    );
}

fn bar(row: &Row, load: &summary::Load, unit: f64) -> Option<Bar> {
    let merits: Vec<f64> = load.merits.iter().map(|merit| merit / unit).collect();
    Some(Bar {
        name: row.server.name.clone(),
        value: crate::stats::median(&merits)?,
        ends: crate::stats::ends(&merits).filter(|_| merits.len() > 1),
        class: row.server.group.clone(),
    })
}

fn costs(rows: &[Row]) -> Vec<Bar> {
    let costs = rows.iter().filter_map(|row| {
        let class = if row.server.name == BASELINE {
            "baseline"
        } else {
            &row.server.group
        };
        Some(Bar {
            name: row.server.name.clone(),
            value: row.cpu?,
            ends: None,
            class: class.to_owned(),
        })
    });
    costs.collect()
}

fn swept(out: &mut String, bench: &Bench) {
    let cpu = |run: &Run| run.each(run.server_cpu_s).map(|s| s * 1e4);
    let rate = |run: &Run| Some(run.rate);
    let cost = "CPU s for 10,000 connections";
    let (pool, held) = ("workers in the pool", "clients connected and silent");
    section(
        out,
        "Too many workers?",
        "The same load on pools of 15 to 120, as in the book: what idle workers cost.",
        &(plot::lines(pool, cost, &summary::series(bench, "pool", cpu))
            + &plot::lines(pool, "connections/s", &summary::series(bench, "pool", rate))),
    );
    section(
        out,
        "Many clients at once",
        "The same load beside clients that are connected and say nothing.",
        &(plot::lines(held, cost, &summary::series(bench, "held", cpu))
            + &plot::lines(held, "connections/s", &summary::series(bench, "held", rate))),
    );
}

fn compared(out: &mut String, bench: &Bench) {
    let pairs = targets::pairs(bench);
    if pairs.rows.is_empty() {
        return;
    }
    section(
        out,
        "Against others",
        "Each pair in turns, round by round; the median of the paired ratios with its 95 % \
         interval. Above 1, echod is the faster.",
        &pairs.html(),
    );
    if bench.said("targets") == "yes" {
        section(
            out,
            "The figures to reach",
            "",
            &targets::table(bench).html(),
        );
    }
}

fn missing(out: &mut String, bench: &Bench) {
    let said: Vec<String> = not_measured(bench);
    if !said.is_empty() {
        let lines: String = said
            .iter()
            .map(|line| format!("<li>{}</li>\n", escape(line)))
            .collect();
        section(
            out,
            "Not measured",
            "",
            &format!("<ul class=\"legend\">\n{lines}</ul>\n"),
        );
    }
}

/// What was not found here, a line each.
pub fn not_measured(bench: &Bench) -> Vec<String> {
    let missing = bench
        .notes
        .iter()
        .filter(|note| crate::record::text(note, "about") == "missing");
    let mut lines: Vec<String> = missing
        .map(|note| {
            let text = |key| crate::record::text(note, key);
            format!("{}: {}", text("what"), text("why"))
        })
        .collect();
    lines.dedup();
    lines
}

fn section(out: &mut String, title: &str, said: &str, body: &str) {
    if body.is_empty() {
        return;
    }
    let _ = writeln!(out, "<section>\n<h2>{}</h2>", escape(title));
    if !said.is_empty() {
        let _ = writeln!(out, "<p>{}</p>", escape(said));
    }
    let _ = writeln!(out, "{body}</section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::SAMPLE;

    #[test]
    fn the_page_stands_alone() {
        let html = page(&Bench::parse(SAMPLE).unwrap());
        for needle in [
            "<h2>All designs</h2>",
            "Linux 6.1",
            "<h2>Not measured</h2>",
            "<svg ",
        ] {
            assert!(html.contains(needle), "{needle}");
        }
        for needle in [
            "http:",
            "https:",
            "<script",
            "<link",
            "url(",
            "NaN",
            "Too many workers",
        ] {
            assert!(!html.contains(needle), "{needle}");
        }
        let count = |tag: &str| html.matches(tag).count();
        for (open, close) in [
            ("<section>", "</section>"),
            ("<svg ", "</svg>"),
            ("<div", "</div>"),
        ] {
            assert_eq!(count(open), count(close), "{open}");
        }
    }

    #[test]
    fn a_bench_of_nothing_is_a_page() {
        let html = page(&Bench::default());
        assert!(html.ends_with("</html>\n") && !html.contains("<svg"));
    }
}

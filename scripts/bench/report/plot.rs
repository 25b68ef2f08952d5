//! Plots as SVG, drawn to stand in the report's page: colours and type are
//! its style sheet's, in light and in dark. Pure.

use std::fmt::Write;

use crate::scale::{Scale, apart, ends, number, rounded};
use crate::summary::Series;
use crate::table::escape;

const WIDTH: f64 = 760.0;
const NAMES: f64 = 150.0;
const RIGHT: f64 = 70.0;
const LINE: f64 = 22.0;
const FOOT: f64 = 40.0;

/// A bar with its whiskers.
#[derive(Debug)]
pub struct Bar {
    /// What stands beside it.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// Least and greatest round.
    pub ends: Option<(f64, f64)>,
    /// A class of the style sheet: `design`, `baseline` or `peer`.
    pub class: String,
}

/// Bars side by side with zero on the left, or in the middle of what is below.
pub fn bars(axis: &str, bars: &[Bar]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let reach = |bar: &Bar| bar.ends.map_or(bar.value, |(_, high)| high.max(bar.value));
    let top = bars.iter().map(reach).fold(0.0, f64::max);
    let low = bars.iter().map(|bar| bar.value).fold(0.0, f64::min);
    let scale = Scale::linear(low, top, NAMES, WIDTH - RIGHT);
    let height = bars.len() as f64 * LINE;
    let mut out = open(height + FOOT, axis);
    grid(&mut out, &scale, height, axis);
    for (i, bar) in bars.iter().enumerate() {
        let y = i as f64 * LINE;
        let (from, to) = (scale.at(bar.value.min(0.0)), scale.at(bar.value.max(0.0)));
        name(&mut out, &bar.name, y);
        let _ = write!(
            out,
            "<rect class=\"{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            escape(&bar.class),
            y + 4.0,
            (to - from).max(0.5),
            LINE - 8.0
        );
        let mut end = to;
        if let Some((low, high)) = bar.ends {
            let (a, b, middle) = (scale.at(low), scale.at(high), y + LINE / 2.0);
            end = end.max(b);
            let _ = write!(
                out,
                "<path class=\"whisker\" d=\"M{a:.1} {middle:.1}H{b:.1}M{a:.1} {:.1}v6M{b:.1} {:.1}v6\"/>",
                middle - 3.0,
                middle - 3.0
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            end + 6.0,
            y + LINE / 2.0 + 4.0,
            rounded(bar.value)
        );
    }
    out + "</svg>\n"
}

/// Marks on a logarithmic axis: p50, p90, p99, p99.9 and the greatest.
pub fn ranges(axis: &str, rows: &[(String, [Option<f64>; 5])]) -> String {
    let all = || {
        rows.iter()
            .flat_map(|(_, marks)| marks.iter().flatten())
            .filter(|v| **v > 0.0)
    };
    let low = all().copied().fold(f64::INFINITY, f64::min);
    let high = all().copied().fold(0.0, f64::max);
    if high <= 0.0 {
        return String::new();
    }
    let scale = Scale::log(low, high, NAMES, WIDTH - 20.0);
    let height = rows.len() as f64 * LINE;
    let mut out = open(height + FOOT, axis);
    grid(&mut out, &scale, height, axis);
    for (i, (label, marks)) in rows.iter().enumerate() {
        let (y, middle) = (i as f64 * LINE, i as f64 * LINE + LINE / 2.0);
        name(&mut out, label, y);
        let at = |mark: Option<f64>| mark.filter(|v| *v > 0.0).map(|v| scale.at(v));
        if let (Some(from), Some(to)) = (at(marks[0]), at(marks[4]).or(at(marks[2]))) {
            let _ = write!(
                out,
                "<path class=\"range\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>"
            );
        }
        for (mark, class) in marks.iter().zip(["p50", "p90", "p99", "p99_9", "max"]) {
            if let (Some(x), Some(value)) = (at(*mark), mark) {
                let _ = write!(
                    out,
                    "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"4\"><title>{} {} us</title></circle>",
                    class.replace('_', "."),
                    rounded(*value)
                );
            }
        }
        out.push('\n');
    }
    out + "</svg>\n"
}

/// Lines over a number, each named at its right end.
pub fn lines(x_axis: &str, y_axis: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    let top = points().map(|p| p.1).fold(0.0, f64::max);
    let (left, right) = ends(points().map(|p| p.0));
    if top <= 0.0 || right <= left {
        return String::new();
    }
    let (high, bottom) = (14.0, 300.0);
    let x = Scale::exact(left.min(0.0), right, 60.0, WIDTH - NAMES - 10.0);
    let y = Scale::linear(0.0, top, bottom, high);
    let mut out = open(bottom + FOOT, y_axis);
    for tick in &y.ticks {
        let at = y.at(*tick);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M60 {at:.1}H{:.1}\"/><text class=\"tick end\" x=\"54\" y=\"{:.1}\">{}</text>",
            x.to,
            at + 4.0,
            number(*tick)
        );
    }
    let mut places: Vec<f64> = points().map(|p| p.0).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut last = f64::NEG_INFINITY;
    for place in places.iter().filter(|place| {
        // As many as have room.
        let room = x.at(**place) - last >= 34.0;
        if room {
            last = x.at(**place);
        }
        room
    }) {
        let at = x.at(*place);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {bottom}v5\"/><text class=\"tick middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            number(*place)
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"axis middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"axis\" x=\"60\" y=\"9\">{}</text>",
        (60.0 + x.to) / 2.0,
        bottom + 34.0,
        escape(x_axis),
        escape(y_axis)
    );
    let labels = apart(
        series
            .iter()
            .map(|line| y.at(line.points[line.points.len() - 1].1)),
    );
    for (i, (line, label)) in series.iter().zip(labels).enumerate() {
        let class = format!("s{}", i % 6);
        let path: Vec<String> = line
            .points
            .iter()
            .map(|p| format!("{:.1} {:.1}", x.at(p.0), y.at(p.1)))
            .collect();
        let _ = write!(
            out,
            "<path class=\"line {class}\" d=\"M{}\"/>",
            path.join("L")
        );
        for p in &line.points {
            let _ = write!(
                out,
                "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{} at {}: {}</title></circle>",
                x.at(p.0),
                y.at(p.1),
                escape(&line.name),
                number(p.0),
                rounded(p.1)
            );
        }
        let (from, to) = (x.at(line.points[line.points.len() - 1].0), x.to + 14.0);
        let end = y.at(line.points[line.points.len() - 1].1);
        let _ = writeln!(
            out,
            "<path class=\"lead\" d=\"M{:.1} {end:.1}L{to:.1} {label:.1}\"/><text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            from + 5.0,
            to + 4.0,
            label + 4.0,
            escape(&line.name)
        );
    }
    out + "</svg>\n"
}

/// A small column for each worker, most first: who did the work.
pub fn workers(rows: &[(String, Vec<f64>)]) -> String {
    let most = rows
        .iter()
        .flat_map(|(_, counts)| counts)
        .copied()
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let (tall, step, column) = (64.0, 104.0, 22.0);
    let mut out = open(
        rows.len().div_ceil(2) as f64 * step,
        "connections for each worker",
    );
    for (i, (label, counts)) in rows.iter().enumerate() {
        let left = if i % 2 == 0 { 10.0 } else { WIDTH / 2.0 + 10.0 };
        let foot = (i / 2) as f64 * step + 20.0 + tall;
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{left}\" y=\"{:.1}\">{}</text>",
            foot - tall - 6.0,
            escape(label)
        );
        for (j, count) in counts.iter().take(15).enumerate() {
            let high = (count / most * tall).max(1.0);
            let _ = write!(
                out,
                "<rect class=\"design\" x=\"{:.1}\" y=\"{:.1}\" width=\"{}\" height=\"{high:.1}\"><title>{count}</title></rect>",
                left + j as f64 * column,
                foot - high,
                column - 4.0
            );
        }
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{left} {foot}h{}\"/>",
            15.0 * column - 4.0
        );
    }
    out + "</svg>\n"
}

fn open(height: f64, label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">\n",
        escape(label)
    )
}

fn name(out: &mut String, text: &str, y: f64) {
    let _ = write!(
        out,
        "<text class=\"name end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        NAMES - 8.0,
        y + LINE / 2.0 + 4.0,
        escape(text)
    );
}

fn grid(out: &mut String, scale: &Scale, height: f64, axis: &str) {
    for tick in &scale.ticks {
        let at = scale.at(*tick);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} 0V{height:.1}\"/><text class=\"tick middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            height + 15.0,
            number(*tick)
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"axis middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        (scale.from + scale.to) / 2.0,
        height + 33.0,
        escape(axis)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_draw_is_no_plot() {
        assert_eq!(lines("x", "y", &[]), "");
        assert_eq!(ranges("x", &[("a".to_owned(), [None; 5])]), "");
        assert_eq!(workers(&[]), "");
    }

    #[test]
    fn what_is_drawn_is_well_formed() {
        let bar = |value: f64| Bar {
            name: "a<b".to_owned(),
            value,
            ends: Some((value * 0.9, value * 1.1)),
            class: "design".to_owned(),
        };
        let line = |name: &str| Series {
            name: name.to_owned(),
            points: vec![(15.0, 1.0), (30.0, 2.0)],
        };
        for plot in [
            bars("n/s", &[bar(5.0), bar(-1.0), bar(0.0)]),
            ranges(
                "us",
                &[(
                    "a".to_owned(),
                    [Some(1.0), None, Some(9.0), None, Some(99.0)],
                )],
            ),
            lines("workers", "s", &[line("a"), line("b")]),
            workers(&[("a".to_owned(), vec![3.0, 1.0])]),
        ] {
            assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
            assert_eq!(
                plot.matches("<text").count(),
                plot.matches("</text>").count()
            );
            assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
            assert!(!plot.contains("a<b"));
        }
    }
}

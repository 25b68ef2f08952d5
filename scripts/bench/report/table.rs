//! Tables as text, Markdown, HTML and CSV. Pure.

use crate::stats::Ratio;

/// A heading and rows of as many cells.
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
                    if self.figures(i) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
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
        let rules = (0..self.head.len()).map(|i| if self.figures(i) { "---:|" } else { "---|" });
        let rule = format!("|{}\n", rules.collect::<String>());
        row(&self.head) + &rule + &self.rows.iter().map(row).collect::<String>()
    }

    /// For the report.
    pub fn html(&self) -> String {
        let row = |line: &Vec<String>, tag: &str| {
            let cell = |(i, cell): (usize, &String)| match self.figures(i) {
                true => format!("<{tag}>{}</{tag}>", escape(cell)),
                false => format!("<{tag} class=\"text\">{}</{tag}>", escape(cell)),
            };
            let cells: String = line.iter().enumerate().map(cell).collect();
            format!("<tr>{cells}</tr>\n")
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

    /// Is this a column of figures? Then most of its cells begin like one.
    fn figures(&self, column: usize) -> bool {
        let begins = |row: &&Vec<String>| {
            row[column].starts_with(|c: char| c.is_ascii_digit() || "+-<>".contains(c))
        };
        self.rows.iter().filter(begins).count() * 2 > self.rows.len()
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

/// What stands where nothing was measured.
pub fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            table
                .html()
                .contains("<td class=\"text\">&lt;c|d&gt;</td><td>1000</td>")
        );
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
    }
}

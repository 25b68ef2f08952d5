//! The report card: one row for each thing that was tried, in a table that
//! Markdown and people can read.

use std::fmt::{self, Display, Formatter};
use std::process::Command;

use crate::plan::Plan;

/// What one scenario did to one design, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The scenario: `S1`.
    pub id: &'static str,
    /// What was done: `workers killed, prefork`.
    pub what: String,
    /// Kills, stops, reloads, faults.
    pub tried: u64,
    /// Of these, after how many echod went on as it should.
    pub survived: u64,
    /// Connections or datagrams that were echoed in full.
    pub echoed: u64,
    /// Losses that nothing explains.
    pub lost: u64,
    /// Losses that belong to a process that was killed.
    pub explained: u64,
    /// Connections that got a byte back which they had not sent there.
    pub corrupt: u64,
    /// Children that stayed dead and unreaped for longer than a sample.
    pub zombies: u64,
    /// Descriptors and resident KiB that the supervisor gained.
    pub growth: Option<(i64, i64)>,
    /// A figure, or what went wrong.
    pub seen: String,
    /// How often it was not as it should be; `seen` tells of the first.
    pub failures: u64,
    /// It is about another server: shown beside ours, judged and added up nowhere.
    pub theirs: bool,
}

impl Row {
    /// An empty row.
    pub fn new(id: &'static str, what: impl Into<String>) -> Row {
        Row {
            id,
            what: what.into(),
            ..Row::default()
        }
    }

    /// Adds to what was seen.
    pub fn see(&mut self, what: impl Display) {
        let sep = if self.seen.is_empty() { "" } else { "; " };
        self.seen += &format!("{sep}{what}");
    }

    /// Marks the row, and says why, of the first three times.
    pub fn fail(&mut self, why: impl Display) {
        self.failures += 1;
        if self.failures <= 3 {
            self.see(format!("FAILED: {why}"));
        }
    }

    /// Nothing lost that nothing explains, nothing wrong, nobody left.
    pub fn is_clean(&self) -> bool {
        if self.theirs {
            return true;
        }
        let quiet = self.lost == 0 && self.corrupt == 0 && self.zombies == 0;
        quiet && self.failures == 0 && self.survived == self.tried
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (fds, rss) = match self.growth {
            Some((fds, rss)) => (format!("{fds:+}"), format!("{rss:+}")),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let mark = if self.is_clean() { "" } else { " **failed**" };
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {fds} | {rss} | {}{mark} |",
            self.id,
            self.what,
            self.tried,
            self.survived,
            self.echoed,
            self.lost,
            self.explained,
            self.corrupt,
            self.zombies,
            self.seen,
        )
    }
}

/// Every row, under what a figure means nothing without.
#[derive(Debug)]
pub struct Card {
    head: String,
    rows: Vec<Row>,
}

impl Card {
    /// An empty card that says where and when.
    pub fn new(plan: &Plan) -> Card {
        let said = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output();
            let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
            text.unwrap_or_default().trim().to_owned()
        };
        let head = format!(
            "{}, {} cores, {}, echod {}, seed {}",
            said("uname", &["-sr"]),
            said("getconf", &["_NPROCESSORS_ONLN"]),
            said("date", &["-u", "+%Y-%m-%dT%H:%MZ"]),
            env!("CARGO_PKG_VERSION"),
            plan.seed,
        );
        Card {
            head,
            rows: Vec::new(),
        }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether every row is.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(Row::is_clean)
    }
}

impl Display for Card {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.head)?;
        writeln!(
            f,
            "| | what was done | tried | survived | echoed | lost | died with the killed | corrupted | zombies | fds | RSS KiB | seen |"
        )?;
        writeln!(f, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|")?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        let sum = |of: fn(&Row) -> u64| {
            let ours = self.rows.iter().filter(|row| !row.theirs);
            ours.map(of).sum::<u64>()
        };
        let all = Row {
            id: "",
            what: "in all".to_owned(),
            tried: sum(|r| r.tried),
            survived: sum(|r| r.survived),
            echoed: sum(|r| r.echoed),
            lost: sum(|r| r.lost),
            explained: sum(|r| r.explained),
            corrupt: sum(|r| r.corrupt),
            zombies: sum(|r| r.zombies),
            failures: sum(|r| r.failures),
            ..Row::default()
        };
        writeln!(f, "{all}")
    }
}

//! The figures that echod has set itself, each against what was measured. Pure.

use crate::record::{Bench, Server, number, text};
use crate::stats::Ratio;
use crate::summary::{self, YARDSTICK};
use crate::table::{Table, short};

/// With whom a design is compared.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// This server.
    One(&'static str),
    /// The best of these.
    BestOf(&'static [&'static str]),
    /// The best of the peers that have a process for each connection.
    BestProcessPeer,
    /// Each of the peers; so the best of them.
    EveryPeer,
}

/// One row of the table.
struct Target {
    load: &'static str,
    ours: &'static str,
    against: Against,
    /// At least this, or at most where `most` is set.
    wanted: f64,
    most: bool,
}

const fn at_least(load: &'static str, ours: &'static str, against: Against, wanted: f64) -> Target {
    Target {
        load,
        ours,
        against,
        wanted,
        most: false,
    }
}

const MUSL: &str = "C fork, musl";
const REUSE: &str = "prefork, reuse";

const TARGETS: &[Target] = &[
    at_least("crr 16", "fork, ignore", Against::One(YARDSTICK), 1.0),
    at_least("crr 16", "prefork", Against::One(YARDSTICK), 0.95),
    at_least("crr 16", "fork, ignore", Against::One(MUSL), 0.9),
    at_least("crr 16", "prefork", Against::One(MUSL), 0.9),
    at_least("crr 16", "fork, ignore", Against::BestProcessPeer, 3.0),
    at_least("crr 16", "prefork", Against::BestProcessPeer, 3.0),
    at_least("crr 16", REUSE, Against::One("Apache, reuse"), 1.05),
    at_least("crr 16", REUSE, Against::One("C epoll"), 0.85),
    at_least("rr 1", "prefork", Against::One(YARDSTICK), 0.98),
    at_least("rr 16", "prefork", Against::One(YARDSTICK), 0.98),
    at_least("rr 1", "prefork", Against::EveryPeer, 1.0),
    at_least("rr 16", "prefork", Against::EveryPeer, 1.0),
    at_least(
        "stream 4",
        "prefork",
        Against::BestOf(&[YARDSTICK, "socat", "socat, exec", "Go"]),
        1.1,
    ),
    at_least(
        "burst 256",
        "prefork, pool of 32",
        Against::One("Apache, 1 each"),
        50.0,
    ),
    Target {
        load: "memory",
        ours: "prefork",
        against: Against::One(YARDSTICK),
        wanted: 1.15,
        most: true,
    },
    at_least("alive", "prefork", Against::One("prefork, none alive"), 0.8),
];

/// The name under which a pair was measured.
pub fn pair_id(load: &str, ours: &str, theirs: &str) -> String {
    format!("{load}|{ours}|{theirs}")
}

/// The table of all targets.
pub fn table(bench: &Bench) -> Table {
    let head = ["load", "against", "wanted", "measured", "pairs", "verdict"];
    let mut table = Table::new(&head);
    table
        .rows
        .extend(TARGETS.iter().map(|target| row(bench, target)));
    table.rows.push(wakeups(bench));
    table
}

fn row(bench: &Bench, target: &Target) -> Vec<String> {
    let found = found(bench, target);
    let sign = if target.most { "<=" } else { ">=" };
    let mut cells = vec![
        format!("{}: {}", load(bench, target.load), target.ours),
        against(
            target.against,
            found.as_ref().map(|(name, _)| name.as_str()),
        ),
        format!("{sign} {}", short(target.wanted)),
    ];
    match found {
        Some((_, ratio)) => cells.extend([
            measured(&ratio),
            ratio.pairs.to_string(),
            verdict(target, &ratio).to_owned(),
        ]),
        None => cells.extend(["-", "0", "not measured"].map(str::to_owned)),
    }
    cells
}

fn load(bench: &Bench, load: &str) -> String {
    match load {
        "memory" => format!("memory per idle connection, {} held", bench.said("held")),
        "alive" => format!("crr 16 with {} alive", bench.said("held")),
        other => other.to_owned(),
    }
}

fn against(against: Against, found: Option<&str>) -> String {
    let what = match against {
        Against::One(name) => return name.to_owned(),
        Against::BestOf(names) => format!("best of {}", names.join("; ")),
        Against::BestProcessPeer => "best peer with a process each".to_owned(),
        Against::EveryPeer => "every peer".to_owned(),
    };
    found.map_or_else(|| what.clone(), |name| format!("{what}: {name}"))
}

/// The strongest of those it is compared with, and the ratio to it.
fn found(bench: &Bench, target: &Target) -> Option<(String, Ratio)> {
    let theirs: Vec<String> = match target.against {
        Against::One(name) => vec![name.to_owned()],
        Against::BestOf(names) => names.iter().map(|name| (*name).to_owned()).collect(),
        Against::BestProcessPeer => peers(bench, |peer| peer.class == "process"),
        Against::EveryPeer => peers(bench, |_| true),
    };
    let ratios = theirs.into_iter().filter_map(|name| {
        let ratio = summary::pair(bench, &pair_id(target.load, target.ours, &name))?;
        Some((name, ratio))
    });
    ratios.min_by(|(_, a), (_, b)| a.median.total_cmp(&b.median))
}

fn peers(bench: &Bench, wanted: fn(&Server) -> bool) -> Vec<String> {
    let peers = bench.servers.iter().filter(|server| server.group == "peer");
    peers
        .filter(|peer| wanted(peer))
        .map(|peer| peer.name.clone())
        .collect()
}

fn measured(ratio: &Ratio) -> String {
    match ratio.interval {
        Some((low, high)) => {
            format!("{} [{}, {}]", short(ratio.median), short(low), short(high))
        }
        None => short(ratio.median),
    }
}

/// A target is met when all of the interval lies on its side.
fn verdict(target: &Target, ratio: &Ratio) -> &'static str {
    let Some((low, high)) = ratio.interval.filter(|_| ratio.pairs >= 20) else {
        return "too few pairs";
    };
    let met = if target.most {
        high <= target.wanted
    } else {
        low >= target.wanted
    };
    if met { "met" } else { "missed" }
}

fn wakeups(bench: &Bench) -> Vec<String> {
    let noted = bench
        .notes
        .iter()
        .rev()
        .find(|note| text(note, "about") == "wakeups");
    let each = noted.and_then(|note| Some(number(note, "vain")? / number(note, "connections")?));
    let verdict = match each {
        Some(each) if each <= 0.1 => "met",
        Some(_) => "missed",
        None => "not measured",
    };
    vec![
        "vain wake-ups of idle workers per connection, 64 idle: prefork".to_owned(),
        "0".to_owned(),
        "<= 0.10".to_owned(),
        each.map_or_else(|| "-".to_owned(), |each| format!("{each:.3}")),
        noted.map_or_else(
            || "0".to_owned(),
            |note| format!("{} connections", text(note, "connections")),
        ),
        verdict.to_owned(),
    ]
}

/// The ratios to peers and baselines that were measured in pairs.
pub fn pairs(bench: &Bench) -> Table {
    let mut table = Table::new(&[
        "load",
        "echod",
        "against",
        "class",
        "echod / it",
        "pairs",
        "its best configuration",
    ]);
    let mut seen: Vec<&str> = Vec::new();
    for run in bench.runs.iter().filter(|run| run.phase == "b") {
        if seen.contains(&run.pair.as_str()) {
            continue;
        }
        seen.push(&run.pair);
        let parts: Vec<&str> = run.pair.split('|').collect();
        let [load, ours, theirs] = parts[..] else {
            continue;
        };
        let server = bench.servers.iter().find(|server| server.name == theirs);
        let ratio = summary::pair(bench, &run.pair);
        let failed = bench
            .runs
            .iter()
            .find(|r| r.pair == run.pair && !r.failed.is_empty());
        let ratio_cell = match (&ratio, failed) {
            (Some(ratio), _) => measured(ratio),
            (None, Some(run)) => format!("failed: {}", run.failed),
            (None, None) => "-".to_owned(),
        };
        table.rows.push(vec![
            load.to_owned(),
            ours.to_owned(),
            theirs.to_owned(),
            server.map_or_else(String::new, |s| s.class.clone()),
            ratio_cell,
            ratio.map_or(0, |ratio| ratio.pairs).to_string(),
            server.map_or_else(String::new, |s| s.config.clone()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(low: f64, high: f64, pairs: usize) -> Ratio {
        Ratio {
            median: 1.0,
            interval: Some((low, high)),
            pairs,
        }
    }

    #[test]
    fn a_target_is_met_by_the_whole_interval() {
        let least = at_least("crr 16", "prefork", Against::EveryPeer, 0.95);
        let most = Target {
            most: true,
            wanted: 1.15,
            ..at_least("memory", "", Against::EveryPeer, 0.0)
        };
        for (target, ratio, expect) in [
            (&least, ratio(0.95, 1.2, 20), "met"),
            (&least, ratio(0.94, 1.2, 20), "missed"),
            (&least, ratio(1.1, 1.2, 19), "too few pairs"),
            (&most, ratio(1.0, 1.15, 30), "met"),
            (&most, ratio(1.0, 1.16, 30), "missed"),
        ] {
            assert_eq!(verdict(target, &ratio), expect);
        }
    }

    fn noted(id: &str, a: f64) -> String {
        format!("{{\"kind\":\"note\",\"pair\":\"{id}\",\"a\":\"{a}\",\"b\":\"1\"}}\n").repeat(20)
    }

    #[test]
    fn the_best_of_many_is_the_one_with_the_least_ratio() {
        let peer = |name: &str, class: &str| {
            format!(
                "{{\"kind\":\"server\",\"name\":\"{name}\",\"group\":\"peer\",\"class\":\"{class}\"}}\n"
            )
        };
        let text = [
            peer("xinetd", "process"),
            peer("socat", "process"),
            peer("Apache, reuse", "reuse"),
            noted("crr 16|prefork|xinetd", 3.5),
            noted("crr 16|prefork|socat", 5.0),
            noted("crr 16|prefork|Apache, reuse", 0.5),
            noted("rr 1|prefork|xinetd", 1.25),
            noted("rr 1|prefork|Apache, reuse", 1.125),
            "{\"kind\":\"note\",\"about\":\"wakeups\",\"vain\":\"3\",\"connections\":\"320\"}"
                .to_owned(),
        ];
        let table = table(&Bench::parse(&text.concat()).unwrap());
        assert_eq!(table.rows.len(), TARGETS.len() + 1);
        let row = |load: &str, against: &str| {
            let found = |row: &&Vec<String>| row[0] == load && row[1].starts_with(against);
            table.rows.iter().find(found).unwrap().clone()
        };
        let best = row("crr 16: prefork", "best peer");
        assert_eq!(best[1], "best peer with a process each: xinetd");
        assert_eq!(best[3..], ["3.50 [3.50, 3.50]", "20", "met"]);
        assert_eq!(row("rr 1: prefork", "every peer")[3], "1.12 [1.12, 1.12]");
        assert_eq!(row("rr 16: prefork", "every peer")[5], "not measured");
        assert_eq!(
            table.rows.last().unwrap()[3..],
            ["0.009", "320 connections", "met"]
        );
    }

    #[test]
    fn every_target_can_be_measured_by_its_name() {
        for target in TARGETS {
            let id = pair_id(target.load, target.ours, "x");
            assert_eq!(id.split('|').count(), 3, "{id}");
        }
    }
}

//! What the kernel counted: CPU seconds and context switches of a server.
//!
//! RUSAGE_CHILDREN holds only children that somebody waited for, and two of
//! the designs never wait. So a server runs in a control group of its own where
//! one can be made: its `cpu.stat` counts the living and the dead, whoever
//! reaped them (cgroups(7)). Elsewhere proc(5) has to do, and the report says so.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// Where a server's CPU seconds are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `cpu.stat` of this control group (version 2).
    Cgroup(PathBuf),
    /// /proc/PID/stat of this process and its descendants: what they used, and
    /// what the children used that they waited for.
    Tree(u32),
    /// /proc/stat less the client: everything that ran on the machine.
    Machine,
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("cgroup", path)) => Ok(Source::Cgroup(path.into())),
            Some(("tree", pid)) => pid.parse().map(Source::Tree).map_err(|e| e.to_string()),
            _ if text == "machine" => Ok(Source::Machine),
            _ => Err("cgroup:DIR, tree:PID or machine".to_owned()),
        }
    }
}

impl Source {
    /// The word for it in results and in the header.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Cgroup(_) => "cgroup",
            Source::Tree(_) => "tree",
            Source::Machine => "machine",
        }
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    server_s: Option<f64>,
    client_s: f64,
    switches: Option<f64>,
    client_switches: f64,
}

/// What lies between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// CPU seconds of the server.
    pub server_s: Option<f64>,
    /// CPU seconds of the client, which has been waited for.
    pub client_s: f64,
    /// Context switches of the machine, less those of the client's threads.
    pub switches: Option<f64>,
}

/// Reads all counters now.
pub fn snapshot(source: &Source) -> Snapshot {
    let (client_s, client_switches) = waited_for();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let server_s = match source {
        Source::Cgroup(dir) => fs::read_to_string(dir.join("cpu.stat"))
            .ok()
            .and_then(|text| usage_usec(&text))
            .map(|usec| usec / 1e6),
        Source::Tree(root) => tree(*root).map(|ticks| ticks / ticks_per_s()),
        Source::Machine => busy_ticks(&stat).map(|ticks| ticks / ticks_per_s()),
    };
    Snapshot {
        server_s,
        client_s,
        switches: switches(&stat),
        client_switches,
    }
}

/// What was used from `before` to `after`.
pub fn between(source: &Source, before: Snapshot, after: Snapshot) -> Used {
    let client_s = after.client_s - before.client_s;
    let less = if *source == Source::Machine {
        client_s
    } else {
        0.0
    };
    Used {
        server_s: difference(before.server_s, after.server_s).map(|s| (s - less).max(0.0)),
        client_s,
        switches: difference(before.switches, after.switches)
            .map(|n| (n - (after.client_switches - before.client_switches)).max(0.0)),
    }
}

fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}

/// CPU seconds and context switches of children that this process waited for.
fn waited_for() -> (f64, f64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return (0.0, 0.0);
    };
    let usec = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
    (usec as f64 / 1e6, switches as f64)
}

fn ticks_per_s() -> f64 {
    match sysconf(SysconfVar::CLK_TCK) {
        Ok(Some(ticks)) => ticks as f64,
        _ => 100.0,
    }
}

fn usage_usec(cpu_stat: &str) -> Option<f64> {
    value_of(cpu_stat, "usage_usec")
}

fn switches(stat: &str) -> Option<f64> {
    value_of(stat, "ctxt")
}

fn value_of(text: &str, key: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// user, nice, system, irq and softirq; idle, iowait and steal are nobody's work.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let field: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .flat_map(str::parse)
        .collect();
    Some([0, 1, 2, 5, 6].iter().filter_map(|i| field.get(*i)).sum())
}

/// Ticks of the process `root`, of its living descendants, and of the dead
/// ones that were waited for. A death between two looks loses nothing: what the
/// child had used is then its parent's.
fn tree(root: u32) -> Option<f64> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let text = fs::read_to_string(entry.path().join("stat"));
        if let Some((pid, stat)) = text.ok().as_deref().and_then(process) {
            found.insert(pid, stat);
        }
    }
    found.get(&root)?;
    Some(sum(root, &found))
}

fn sum(root: u32, found: &HashMap<u32, (u32, f64)>) -> f64 {
    found
        .iter()
        .filter(|(pid, _)| descends(**pid, root, found))
        .map(|(_, (_, ticks))| ticks)
        .sum()
}

fn descends(mut pid: u32, root: u32, found: &HashMap<u32, (u32, f64)>) -> bool {
    // Parents can change while /proc is read; a circle would not end.
    for _ in 0..64 {
        if pid == root {
            return true;
        }
        match found.get(&pid) {
            Some((parent, _)) => pid = *parent,
            None => return false,
        }
    }
    false
}

/// pid, parent and ticks (own, and of the children waited for) of a
/// /proc/PID/stat. The name in it may hold spaces and parentheses.
fn process(stat: &str) -> Option<(u32, (u32, f64))> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let field: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |i: usize| field.get(i).and_then(|text| text.parse::<f64>().ok());
    let used = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    Some((pid.parse().ok()?, (field.get(1)?.parse().ok()?, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(usage_usec("usage_usec 1500\nuser_usec 9\n"), Some(1500.0));
        assert_eq!(usage_usec(""), None);
        let stat = "cpu  1 2 4 800 16 32 64 128 0 0\ncpu0 1 1\nctxt 4711\n";
        assert_eq!(busy_ticks(stat), Some(103.0));
        assert_eq!(switches(stat), Some(4711.0));
    }

    #[test]
    fn a_tree_is_a_process_and_who_descends_from_it() {
        let line = |pid: u32, parent: u32| {
            format!("{pid} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 9")
        };
        assert_eq!(process(&line(7, 3)), Some((7, (3, 10.0))));
        assert_eq!(process("nothing"), None);
        let found: HashMap<_, _> = [(3, 1), (7, 3), (8, 7), (9, 1)]
            .iter()
            .filter_map(|(pid, parent)| process(&line(*pid, *parent)))
            .collect();
        assert_eq!(sum(3, &found), 30.0);
        assert_eq!(sum(9, &found), 10.0);
    }

    #[test]
    fn sources_are_typed() {
        assert_eq!("tree:7".parse(), Ok(Source::Tree(7)));
        assert_eq!("machine".parse(), Ok(Source::Machine));
        assert_eq!("cgroup:/a:b".parse(), Ok(Source::Cgroup("/a:b".into())));
        for text in ["", "tree:x", "cgroup", "rusage"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_has_the_counters_of_proc() {
        let me = Source::Tree(std::process::id());
        let (before, after) = (snapshot(&me), snapshot(&me));
        let used = between(&me, before, after);
        assert!(used.server_s.is_some() && used.switches.is_some());
    }
}

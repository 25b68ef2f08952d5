//! Processes as /proc shows them, see proc(5): who is whose child, and what
//! each used so far.

use std::fs;
use std::time::Duration;

/// What is needed of /proc/PID/stat, see proc_pid_stat(5).
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) threads: u64,
    /// Clock ticks after boot: with the pid, the name of a process.
    pub(super) started: u64,
    /// Clock ticks.
    pub(super) own: u64,
    /// Clock ticks of children that were waited for.
    pub(super) waited: u64,
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold anything, blanks and parentheses too.
    let (head, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |n: usize| fields.get(n - 3)?.trim().parse::<u64>().ok();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        parent: i32::try_from(field(4)?).ok()?,
        group: i32::try_from(field(5)?).ok()?,
        threads: field(20)?,
        started: field(22)?,
        own: field(14)? + field(15)?,
        waited: field(16)? + field(17)?,
    })
}

/// To the nanosecond where the process has one thread, which is what that file
/// is of.
pub(super) fn own_time(pid: i32, stat: &Stat, tick: Duration) -> Duration {
    let exact = || {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        text.split(' ')
            .next()?
            .parse()
            .ok()
            .map(Duration::from_nanos)
    };
    let ticks = || tick.saturating_mul(u32::try_from(stat.own).unwrap_or(u32::MAX));
    match stat.threads {
        1 => exact().unwrap_or_else(ticks),
        _ => ticks(),
    }
}

/// Does it ignore SIGCHLD, and so wait for nobody?
pub(super) fn ignores_children(pid: i32) -> bool {
    const SIGCHLD: u32 = 17;
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (SIGCHLD - 1) & 1 == 1)
}

/// Forks on this machine since it started, threads too.
pub(super) fn forks() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("processes "))?;
    line.trim().parse().ok()
}

pub(super) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat =
            parse_stat("7 (a) b (c) S 3 5 5 0 -1 4194560 9 8 0 0 10 20 30 40 20 0 2 0 12345 1 2")
                .unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.parent, stat.group),
            ("a) b (c", 3, 5)
        );
        assert_eq!((stat.own, stat.waited), (30, 70));
        assert_eq!((stat.threads, stat.started), (2, 12345));
    }
}

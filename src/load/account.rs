//! What a server used during a run, from looks at its processes. Pure.
//!
//! A server may have a process for each connection, which lives for less than
//! a look takes. What such a one used is added to its parent's account when the
//! parent waits for it, and is lost when nobody does: the parent ignores
//! SIGCHLD, or forked twice. Then the answer is "not known", never too little:
//!
//! 1. A cgroup that holds the server and nothing else counts all, the dead too.
//! 2. Nobody came or went, and the machine forked too seldom for a process per
//!    connection: the processes' own time is all.
//! 3. Some came and went, their parents do not ignore them, the time of
//!    children that were waited for grew, and no process with the server's name
//!    and process group, but without a parent in it, was ever seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A pid and the time it started: pids are used again.
pub type Name = (i32, u64);

/// One process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its own processor time.
    pub own: Duration,
    /// That of its children that it waited for, and theirs.
    pub waited: Duration,
    /// It ignores SIGCHLD.
    pub ignores: bool,
}

/// One look.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The server's processes.
    pub processes: BTreeMap<Name, Process>,
    /// Those that look like its own, and have another's parent.
    pub strays: BTreeSet<Name>,
    /// Processor time of the server's own cgroup, if it has one.
    pub cgroup: Option<Duration>,
    /// Forks of the whole machine since it started.
    pub forks: u64,
}

/// Processor time between the first look and the last, the others having been
/// taken under load; `connections` were served meanwhile.
pub fn used(looks: &[Sample], connections: u64) -> Option<Duration> {
    let [first, .., last] = looks else {
        return None;
    };
    if let (Some(from), Some(to)) = (first.cgroup, last.cgroup) {
        return to.checked_sub(from);
    }
    let names = |look: &Sample| look.processes.keys().copied().collect::<BTreeSet<Name>>();
    let at_first = names(first);
    let same = looks.iter().all(|look| names(look) == at_first);
    let seldom = (last.forks - first.forks) < connections / 4;
    let known = match same {
        true => seldom,
        false => {
            let ignored = looks
                .iter()
                .any(|look| look.processes.values().any(|one| one.ignores));
            let strays = looks
                .iter()
                .any(|look| look.strays.difference(&first.strays).count() > 0);
            let waited = |look: &Sample| {
                look.processes
                    .values()
                    .map(|one| one.waited)
                    .sum::<Duration>()
            };
            !ignored && !strays && waited(last) > waited(first)
        }
    };
    let all = |look: &Sample| {
        let each = look.processes.values().map(|one| one.own + one.waited);
        each.sum::<Duration>()
    };
    known.then(|| all(last).checked_sub(all(first)))?
}

/// What the processes seen used at least, whoever came and went besides.
pub fn seen(looks: &[Sample]) -> Option<Duration> {
    let [first, .., last] = looks else {
        return None;
    };
    let more = |(name, process): (&Name, &Process)| {
        let before = first.processes.get(name).copied().unwrap_or_default();
        (process.own + process.waited).saturating_sub(before.own + before.waited)
    };
    Some(last.processes.iter().map(more).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A look at (pid, own ms, waited ms).
    fn look(forks: u64, processes: &[(i32, u32, u32)]) -> Sample {
        let process = |&(pid, own, waited): &(i32, u32, u32)| {
            let process = Process {
                own: own * MS,
                waited: waited * MS,
                ignores: false,
            };
            ((pid, 1), process)
        };
        Sample {
            processes: processes.iter().map(process).collect(),
            forks,
            ..Sample::default()
        }
    }

    #[test]
    fn a_server_of_steady_processes_is_their_own_time() {
        let looks = [
            look(0, &[(1, 10, 0), (2, 5, 0)]),
            look(3, &[(1, 20, 0), (2, 10, 0)]),
            look(9, &[(1, 30, 0), (2, 15, 0)]),
        ];
        assert_eq!(used(&looks, 1000), Some(30 * MS));
        // As many forks as connections: perhaps a process for each, never seen.
        assert_eq!(used(&looks, 20), None);
    }

    #[test]
    fn children_count_when_they_were_waited_for() {
        let looks = [
            look(0, &[(1, 10, 0)]),
            look(50, &[(1, 20, 40), (7, 1, 0)]),
            look(100, &[(1, 30, 80)]),
        ];
        assert_eq!(used(&looks, 100), Some(100 * MS));
        let mut ignores = looks.clone();
        ignores[0].processes.get_mut(&(1, 1)).unwrap().ignores = true;
        assert_eq!(used(&ignores, 100), None);
        let mut stray = looks.clone();
        stray[1].strays.insert((9, 9));
        assert_eq!(used(&stray, 100), None);
        stray[0].strays.insert((9, 9));
        assert_eq!(used(&stray, 100), Some(100 * MS), "it was there before");
    }

    #[test]
    fn children_nobody_waits_for_make_it_unknown() {
        let looks = [
            look(0, &[(1, 10, 0)]),
            look(50, &[(1, 20, 0), (7, 1, 0)]),
            look(100, &[(1, 30, 0)]),
        ];
        assert_eq!(used(&looks, 100), None);
        assert_eq!(used(&looks, 100_000), None);
        assert_eq!(seen(&looks), Some(20 * MS));
        assert_eq!(seen(&looks[..1]), None);
    }

    #[test]
    fn its_own_cgroup_knows_all() {
        let mut looks = [look(0, &[(1, 10, 0)]), look(900, &[(8, 1, 0)])];
        looks[0].cgroup = Some(10 * MS);
        looks[1].cgroup = Some(70 * MS);
        assert_eq!(used(&looks, 900), Some(60 * MS));
        assert_eq!(used(&looks[..1], 900), None);
    }
}

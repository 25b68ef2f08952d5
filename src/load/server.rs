//! The server's processes, when it runs on this machine: found through /proc,
//! and what they used so far: known, or said not to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::addr::{Addr, Target, UnixPath};
use crate::error::{Error, Result};

/// A server of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its first processes; the others are their descendants.
    roots: BTreeSet<i32>,
}

impl Server {
    /// The server that `pid` is.
    ///
    /// # Errors
    /// There is no such process (64).
    pub fn of_pid(pid: i32) -> Result<Server> {
        match stat(pid) {
            Some(_) => Ok(Server {
                roots: BTreeSet::from([pid]),
            }),
            None => Err(Error::usage(
                format!("--server-pid {pid}"),
                "no such process",
            )),
        }
    }

    /// Whoever has the socket that serves `target`; `None` if that is elsewhere,
    /// or a process that we may not look into.
    pub fn of_target(target: &Target) -> Option<Server> {
        let sockets = match target.addr() {
            Addr::Tcp { .. } => inet_sockets("tcp", &target.addr().resolve().ok()?),
            Addr::Udp { .. } => inet_sockets("udp", &target.addr().resolve().ok()?),
            Addr::Unix(path) | Addr::UnixGram(path) => unix_sockets(path),
        };
        let holders = holders(&sockets);
        (!holders.is_empty()).then_some(Server { roots: holders })
    }

    /// What it uses now.
    pub fn sample(&self) -> Option<Sample> {
        let tick = sysconf(SysconfVar::CLK_TCK).ok()??;
        let tick = Duration::from_secs(1) / u32::try_from(tick).ok()?;
        let all: BTreeMap<i32, Stat> = pids().filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let tree = self.tree(&all);
        let processes = tree.iter().filter_map(|pid| {
            let stat = all.get(pid)?;
            let process = Process {
                own: own_time(*pid, stat, tick),
                waited: tick * u32::try_from(stat.waited).ok()?,
                ignores: ignores_children(*pid),
            };
            Some(((*pid, stat.started), process))
        });
        let processes = processes.collect();
        let groups: BTreeSet<i32> = tree
            .iter()
            .filter_map(|pid| Some(all.get(pid)?.group))
            .collect();
        let names: Vec<&str> = tree
            .iter()
            .filter_map(|pid| Some(all.get(pid)?.name.as_str()))
            .collect();
        let strays = all.iter().filter(|(pid, stat)| {
            let named = names.iter().any(|name| stat.name.starts_with(name));
            !tree.contains(pid) && groups.contains(&stat.group) && named
        });
        let strays = strays.map(|(pid, stat)| (*pid, stat.started)).collect();
        Some(Sample {
            processes,
            strays,
            cgroup: self.cgroup_time(&tree),
            forks: forks()?,
        })
    }

    fn tree(&self, all: &BTreeMap<i32, Stat>) -> BTreeSet<i32> {
        let mut tree = self.roots.clone();
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|(pid, stat)| tree.contains(&stat.parent) && !tree.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                return tree;
            }
            tree.extend(more);
        }
    }

    /// Processor time of the cgroup that holds the server and nothing else.
    fn cgroup_time(&self, tree: &BTreeSet<i32>) -> Option<Duration> {
        let root = self.roots.first()?;
        let text = fs::read_to_string(format!("/proc/{root}/cgroup")).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let places: &[&str] = match controllers {
                "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
                other if other.split(',').any(|one| one == "cpuacct") => {
                    &["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"]
                }
                _ => return None,
            };
            places.iter().find_map(|place| {
                let dir = format!("{place}{path}");
                let members = fs::read_to_string(format!("{dir}/cgroup.procs")).ok()?;
                let mut members = members.lines().map(|line| line.parse::<i32>());
                let alone = members.all(|pid| pid.is_ok_and(|pid| tree.contains(&pid)));
                // "/" as a path: all the machine, or all of a container.
                if path == "/" || !alone {
                    return None;
                }
                cgroup_usage(&dir)
            })
        })
    }
}

fn cgroup_usage(dir: &str) -> Option<Duration> {
    if let Ok(nanos) = fs::read_to_string(format!("{dir}/cpuacct.usage")) {
        return nanos.trim().parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(format!("{dir}/cpu.stat")).ok()?;
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    usage.parse().ok().map(Duration::from_micros)
}

// What a server used during a run, from looks at its processes. Pure.
//
// A server may have a process for each connection, which lives for less than
// a look takes. What such a one used is added to its parent's account when the
// parent waits for it, and is lost when nobody does: the parent ignores
// SIGCHLD, or forked twice. Then the answer is "not known", never too little:
//
// 1. A cgroup that holds the server and nothing else counts all, the dead too.
// 2. Nobody came or went, and the machine forked too seldom for a process per
//    connection: the processes' own time is all.
// 3. Some came and went, their parents do not ignore them, the time of
//    children that were waited for grew, and no process with the server's name
//    and process group, but without a parent in it, was ever seen.

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

// Processes as /proc shows them, see proc(5): who is whose child, what each used
// so far, and who has the sockets that serve an address.

/// What is needed of /proc/PID/stat, see proc_pid_stat(5).
struct Stat {
    name: String,
    parent: i32,
    group: i32,
    threads: u64,
    /// Clock ticks after boot: with the pid, the name of a process.
    started: u64,
    /// Clock ticks.
    own: u64,
    /// Clock ticks of children that were waited for.
    waited: u64,
}

fn stat(pid: i32) -> Option<Stat> {
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
fn own_time(pid: i32, stat: &Stat, tick: Duration) -> Duration {
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
fn ignores_children(pid: i32) -> bool {
    const SIGCHLD: u32 = 17;
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (SIGCHLD - 1) & 1 == 1)
}

/// Forks on this machine since it started, threads too.
fn forks() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("processes "))?;
    line.trim().parse().ok()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

// The sockets that serve an address, as /proc/net lists them, and who has them
// open.

/// Processes that have one of these sockets open.
fn holders(sockets: &BTreeSet<u64>) -> BTreeSet<i32> {
    let has = |pid: &i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| {
            let inode = link
                .to_str()
                .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            inode
                .and_then(|inode| inode.parse().ok())
                .is_some_and(|inode| sockets.contains(&inode))
        })
    };
    match sockets.is_empty() {
        true => BTreeSet::new(),
        false => pids().filter(has).collect(),
    }
}

/// Inodes of the sockets that serve one of `addrs`.
fn inet_sockets(protocol: &str, addrs: &[SocketAddr]) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for table in [protocol.to_owned(), format!("{protocol}6")] {
        let Ok(file) = File::open(format!("/proc/net/{table}")) else {
            continue;
        };
        let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
        let rows = lines.map_while(|line| parse_row(&line));
        // TCP's listeners come first, and there may be 100,000 in TIME-WAIT.
        let rows = rows.take_while(|row| row.waits || protocol == "udp");
        let serves = |row: &Row| row.waits && addrs.iter().any(|addr| row.serves(addr));
        found.extend(rows.filter(serves).map(|row| row.inode));
    }
    found
}

/// A line of /proc/net/tcp and its like.
struct Row {
    local: SocketAddr,
    /// It listens, or is a datagram socket that has no peer.
    waits: bool,
    inode: u64,
}

impl Row {
    fn serves(&self, addr: &SocketAddr) -> bool {
        let same_family = self.local.is_ipv4() == addr.is_ipv4();
        let any = self.local.ip().is_unspecified() && (same_family || self.local.is_ipv6());
        self.local.port() == addr.port() && (any || self.local.ip() == addr.ip())
    }
}

fn parse_row(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = parse_hex(fields.get(1)?)?;
    // TCP_LISTEN, and TCP_CLOSE for a datagram socket without a peer.
    let waits = matches!(*fields.get(3)?, "0A" | "07");
    let inode = fields.get(9)?.parse().ok()?;
    Some(Row {
        local,
        waits,
        inode,
    })
}

/// `0100007F:1E61`: words of the address in the machine's own byte order.
fn parse_hex(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| {
        let digits = ip.get(8 * n..8 * n + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Inodes of the sockets with this name that listen or take datagrams.
fn unix_sockets(path: &UnixPath) -> BTreeSet<u64> {
    let name = match path {
        UnixPath::Path(path) => path.display().to_string(),
        UnixPath::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
    };
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let rows = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.splitn(8, ' ').collect();
        // An accepted connection has the listener's name; only the listener has
        // __SO_ACCEPTCON, and a datagram socket is type 2.
        let serves = fields.get(3)? == &"00010000" || fields.get(4)? == &"0002";
        let rest = line.split_whitespace().collect::<Vec<_>>();
        (serves && rest.get(7)? == &name.as_str()).then(|| rest[6].parse().ok())?
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target: Target = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = Server::of_target(&target).unwrap();
        let me = std::process::id().cast_signed();
        assert!(server.roots.contains(&me));
        let sample = server.sample().unwrap();
        assert!(sample.processes.keys().any(|(pid, _)| *pid == me));
        drop(listener);
        assert_eq!(Server::of_target(&target), None);
    }

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

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        for (text, addr) in [
            ("0100007F:1E61", "127.0.0.1:7777"),
            ("00000000000000000000000001000000:0007", "[::1]:7"),
        ] {
            assert_eq!(parse_hex(text), Some(addr.parse().unwrap()), "{text}");
        }
    }
}

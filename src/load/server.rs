//! The server's processes, when it runs on this machine: found through /proc,
//! and what they used so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::addr::{Addr, UnixPath};
use crate::error::{Error, Result};
use crate::load::account::{Process, Sample};
use crate::load::target::Target;

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
    fn lines_of_proc_are_read() {
        let stat =
            parse_stat("7 (a) b (c) S 3 5 5 0 -1 4194560 9 8 0 0 10 20 30 40 20 0 2 0 12345 1 2")
                .unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.parent, stat.group),
            ("a) b (c", 3, 5)
        );
        assert_eq!((stat.own, stat.waited), (30, 70));
        assert_eq!((stat.threads, stat.started), (2, 12345));
        for (text, addr) in [
            ("0100007F:1E61", "127.0.0.1:7777"),
            ("00000000000000000000000001000000:0007", "[::1]:7"),
        ] {
            assert_eq!(parse_hex(text), Some(addr.parse().unwrap()), "{text}");
        }
    }

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
}

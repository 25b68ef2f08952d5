//! Processes as /proc shows them, see proc(5): who is whose child, what each used
//! so far, and who has the sockets that serve an address.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::addr::UnixPath;

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

// The sockets that serve an address, as /proc/net lists them, and who has them
// open.

/// Processes that have one of these sockets open.
pub(super) fn holders(sockets: &BTreeSet<u64>) -> BTreeSet<i32> {
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
pub(super) fn inet_sockets(protocol: &str, addrs: &[SocketAddr]) -> BTreeSet<u64> {
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
pub(super) fn unix_sockets(path: &UnixPath) -> BTreeSet<u64> {
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

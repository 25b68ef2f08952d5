//! The sockets that serve an address, as /proc/net lists them, and who has them
//! open.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::process::pids;
use crate::addr::UnixPath;

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
    fn addresses_are_read_as_the_kernel_writes_them() {
        for (text, addr) in [
            ("0100007F:1E61", "127.0.0.1:7777"),
            ("00000000000000000000000001000000:0007", "[::1]:7"),
        ] {
            assert_eq!(parse_hex(text), Some(addr.parse().unwrap()), "{text}");
        }
    }
}

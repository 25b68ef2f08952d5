//! Who holds an address or a lock that a start wants, as far as /proc tells: the
//! workers that a killed supervisor left and that will be gone in a moment, or the
//! echod of the same pidfile.
//!
//! Names of processes are hearsay: what is decided by them is how long to wait, and
//! what `--check` says. Without /proc nothing is known, and nobody holds anything.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use crate::addr::{Addr, UnixPath};
use crate::net;

/// A process, as proc_pid_stat(5) has it.
struct Process {
    pid: i32,
    name: String,
    parent: i32,
    /// Killed, and on its way out.
    dying: bool,
    /// A zombie, which has let go of everything.
    dead: bool,
}

impl Process {
    fn look(pid: i32) -> Option<Process> {
        Process::read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state ppid ...`: the flags are the 9th field, and the signals that
    /// wait for the process's thread the 31st.
    fn read(pid: i32, stat: &str) -> Option<Process> {
        const EXITING: u64 = 4; // PF_EXITING in its include/linux/sched.h
        const KILL: u64 = 1 << (libc::SIGKILL - 1);
        let (_, name) = stat.split_once('(')?;
        let (name, rest) = name.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Process {
            pid,
            name: name.to_owned(),
            parent: number(4)?.try_into().ok()?,
            dying: number(9)? & EXITING != 0 || number(31)? & KILL != 0,
            dead: matches!(*fields.first()?, "Z" | "X"),
        })
    }

    /// All that have a name of ours.
    fn all() -> impl Iterator<Item = Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
            name.starts_with(b"echod").then(|| Process::look(pid))?
        })
    }

    fn lives(&self) -> bool {
        !self.dying && !self.dead
    }

    fn is_supervisor(&self) -> bool {
        self.name == "echod"
    }

    /// A worker without a supervisor.
    fn is_orphan(&self) -> bool {
        let parent = || Process::look(self.parent);
        !self.is_supervisor() && !parent().is_some_and(|p| p.lives() && p.is_supervisor())
    }

    /// How many of these sockets it has open; `None` if its descriptors may not be
    /// read.
    fn has(&self, sockets: &[Socket]) -> Option<usize> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let targets: Vec<_> = targets.collect();
        let open = |socket: &&Socket| targets.iter().any(|to| to.as_os_str() == &*socket.link());
        Some(sockets.iter().filter(open).count())
    }
}

/// A socket of a table in /proc/net.
struct Socket {
    inode: u64,
    /// Who made it; for a Unix socket that is not told.
    uid: Option<u32>,
}

impl Socket {
    /// What its descriptor is a link to.
    fn link(&self) -> String {
        format!("socket:[{}]", self.inode)
    }
}

/// Is this process on its way out, whatever it holds still?
pub fn is_dying(pid: i32) -> bool {
    Process::look(pid).is_none_or(|process| process.dying || process.dead)
}

/// Is it an echod that runs?
pub fn is_echod(pid: i32) -> bool {
    Process::look(pid).is_some_and(|process| process.lives() && process.is_supervisor())
}

/// Will the address soon be free, because processes of an echod have it whose
/// supervisor is dead or dies? At `first`, one that dies may have it whatever can be
/// seen: its descriptors are gone a moment before what they were open on.
pub fn leaves(addr: &Addr, first: bool) -> bool {
    let sockets = sockets_at(addr);
    if sockets.is_empty() {
        // It has gone since, or there is no table.
        return fs::exists("/proc/net/unix").unwrap_or(false);
    }
    Process::all().any(|process| {
        let worker = process.name.starts_with("echod-");
        !process.dead
            && match process.dying {
                true if worker || process.is_supervisor() => {
                    worker || first || process.has(&sockets) != Some(0)
                }
                false if worker => process.is_orphan() && process.has(&sockets) != Some(0),
                _ => false,
            }
    })
}

/// Does the echod `pid` have this address? Where its descriptors may not be read, a
/// socket that was made by the user we are counts as its.
pub fn has(pid: i32, addr: &Addr) -> bool {
    let sockets = sockets_at(addr);
    let us = nix::unistd::geteuid().as_raw();
    let Some(process) = Process::look(pid) else {
        return false;
    };
    let ours = |socket: &&Socket| socket.uid.is_none_or(|uid| uid == us);
    let count = process.has(&sockets);
    let count = count.unwrap_or_else(|| sockets.iter().filter(ours).count());
    count > 0 && count == sockets.len()
}

/// The sockets that keep others from an address.
fn sockets_at(addr: &Addr) -> Vec<Socket> {
    let read = |table: &str| fs::read(format!("/proc/net/{table}")).unwrap_or_default();
    let inet = |tables: [&str; 2], listening| {
        let wanted = addr.resolve().unwrap_or_default();
        let conflicts = |at: SocketAddr| wanted.iter().any(|&w| net::share_an_address(w, at));
        tables
            .iter()
            .flat_map(|table| inet_sockets(&String::from_utf8_lossy(&read(table)), listening))
            .filter(|(at, _)| conflicts(*at))
            .map(|(_, socket)| socket)
            .collect()
    };
    match addr {
        Addr::Tcp { .. } => inet(["tcp", "tcp6"], true),
        Addr::Udp { .. } => inet(["udp", "udp6"], false),
        Addr::Unix(path) | Addr::UnixGram(path) => unix_sockets(&read("unix"), &name(path)),
    }
}

/// As the table has it: NUL is `@`.
fn name(path: &UnixPath) -> Vec<u8> {
    match path {
        UnixPath::Path(path) => {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            whole.as_os_str().as_bytes().to_vec()
        }
        UnixPath::Abstract(name) => [b"@", name.as_slice()].concat(),
    }
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode`, proc_net(5).
fn inet_sockets(table: &str, listening: bool) -> Vec<(SocketAddr, Socket)> {
    let line = |line: &str| {
        if listening && !line.contains(" 0A ") {
            return None;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let words: Option<Vec<u8>> = ip
            .as_bytes()
            .chunks(8)
            .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
            .try_fold(Vec::new(), |mut bytes, word| {
                bytes.extend(word?.to_ne_bytes());
                Some(bytes)
            });
        let words = words?;
        let ip = match <[u8; 4]>::try_from(words.as_slice()) {
            Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)),
        };
        let socket = Socket {
            inode: fields.get(9)?.parse().ok()?,
            uid: fields.get(7)?.parse().ok(),
        };
        Some((
            SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
            socket,
        ))
    };
    table.lines().filter_map(line).collect()
}

/// `num refs protocol flags type state inode path`, where a path may have blanks.
fn unix_sockets(table: &[u8], name: &[u8]) -> Vec<Socket> {
    let line = |line: &[u8]| {
        let mut rest = line;
        let mut inode = None;
        for _ in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&b| b == b' ')?;
            inode = Some(&rest[..end]);
            rest = &rest[end + 1..];
        }
        let inode = std::str::from_utf8(inode?).ok()?.parse().ok()?;
        (rest == name).then_some(Socket { inode, uid: None })
    };
    table.split(|&b| b == b'\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_process_that_was_killed_is_dying() {
        let stat = |state, flags, pending| {
            let mid = "0 ".repeat(31 - 10);
            let line = format!("7 (a) b) {state} 5 7 7 0 -1 {flags} {mid}{pending} 0 0");
            Process::read(7, &line).expect("a line")
        };
        for (state, flags, pending, dying) in [
            ("S", "4194560", "0", false),
            ("Z", "4194560", "0", false),
            ("R", "4194564", "0", true),
            ("D", "4194560", "256", true),
            ("D", "4194560", "16384", false),
        ] {
            let process = stat(state, flags, pending);
            assert_eq!(process.dying, dying, "{state} {flags} {pending}");
            assert_eq!(process.dead, state == "Z");
            assert_eq!((process.name.as_str(), process.parent), ("a) b", 5));
        }
        let us = Process::look(std::process::id() as i32).expect("us");
        assert_eq!(us.parent, nix::unistd::getppid().as_raw());
        assert!(!us.dying);
    }

    #[test]
    fn a_socket_is_found_by_its_address() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("with a blank");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let _unix = UnixListener::bind(&path).expect("bind");
        let at = |port, ip| format!("{ip}:{port}");
        let (tcp, udp) = (
            tcp.local_addr().expect("an address"),
            udp.local_addr().expect("one"),
        );
        for (addr, held) in [
            (format!("tcp:{tcp}"), true),
            (format!("tcp:{}", at(tcp.port(), "*")), true),
            (format!("tcp:{}", at(tcp.port(), "127.0.0.2")), false),
            (format!("udp:{udp}"), true),
            (format!("unix:{}", path.display()), true),
            (format!("unix:{}x", path.display()), false),
        ] {
            let addr: Addr = addr.parse().expect("an address");
            assert_eq!(has(std::process::id() as i32, &addr), held, "{addr}");
            assert!(!has(i32::MAX, &addr));
        }
        if let Ok(v6) = TcpListener::bind("[::1]:0") {
            let addr = format!("tcp:{}", v6.local_addr().expect("an address"));
            assert!(has(
                std::process::id() as i32,
                &addr.parse().expect("an address")
            ));
        }
    }
}

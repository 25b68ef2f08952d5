//! What /proc says about a process: the only way these tests look inside.
//!
//! stat and status are readable by everyone, so they work without privilege;
//! fd and environ need the same user and a dumpable process, or root, and give
//! `None` otherwise (see proc(5)).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, poll_until};

/// A file of a process, such as `limits` or `net/tcp`; `None` when it is gone, or
/// where we may not look.
pub fn file(pid: i32, name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).ok()
}

/// Where a link of a process leads, such as `root` or `ns/pid`.
pub fn link(pid: i32, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/{name}")).ok()
}

/// A file of the whole machine, such as `meminfo` or `sys/net/core/somaxconn`.
pub fn machine(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{name}")).ok()
}

/// One line of /proc/PID/stat.
#[derive(Clone, Debug)]
pub struct Stat {
    pub pid: i32,
    pub comm: String,
    pub state: char,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// Clock ticks of processor time, its own and in the kernel for it.
    pub ticks: u64,
    /// Clock ticks after boot: two processes with one pid differ in it.
    pub start: u64,
}

/// One process; `None` when it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = file(pid, "stat")?;
    // The name may hold anything, a parenthesis too: the last one ends it.
    let (head, tail) = (text.find('(')?, text.rfind(')')?);
    let rest: Vec<&str> = text[tail + 1..].split_whitespace().collect();
    Some(Stat {
        pid,
        comm: text[head + 1..tail].to_owned(),
        state: rest.first()?.chars().next()?,
        ppid: rest.get(1)?.parse().ok()?,
        pgrp: rest.get(2)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
        ticks: rest.get(11)?.parse::<u64>().ok()? + rest.get(12)?.parse::<u64>().ok()?,
        start: rest.get(19)?.parse().ok()?,
    })
}

/// Every process there is.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// The children of a process, zombies too, oldest first.
pub fn children(pid: i32) -> Vec<i32> {
    let mut found: Vec<Stat> = all().into_iter().filter(|p| p.ppid == pid).collect();
    found.sort_by_key(|p| (p.start, p.pid));
    found.into_iter().map(|p| p.pid).collect()
}

/// Its children, without a look at every other process where the kernel lists them
/// (proc(5), CONFIG_PROC_CHILDREN): quick, and one may be missing when another dies
/// meanwhile.
pub fn quick_children(pid: i32) -> Vec<i32> {
    match file(pid, &format!("task/{pid}/children")) {
        Some(list) => list.split_whitespace().flat_map(str::parse).collect(),
        None => children(pid),
    }
}

/// The dead and unreaped children of a process.
pub fn zombies(pid: i32) -> Vec<i32> {
    let dead = all()
        .into_iter()
        .filter(|p| p.ppid == pid && p.state == 'Z');
    dead.map(|p| p.pid).collect()
}

/// The name ps(1) shows; empty when the process is gone.
pub fn comm(pid: i32) -> String {
    stat(pid).map(|p| p.comm).unwrap_or_default()
}

/// `R`, `S`, `T`, `Z`…; `None` when the process is gone.
pub fn state(pid: i32) -> Option<char> {
    stat(pid).map(|p| p.state)
}

/// Gone, or dead and waiting to be reaped.
pub fn is_dead(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Open descriptors, where we may look.
pub fn fd_count(pid: i32) -> Option<usize> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()
        .map(Iterator::count)
}

/// What the descriptors are (`socket:[123]`, `/dev/null`), where we may look.
pub fn fd_targets(pid: i32) -> Option<Vec<(i32, String)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let read = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    };
    Some(entries.filter_map(|entry| read(entry.ok()?)).collect())
}

/// strace(1) with these words on a process that runs, from when it is attached.
pub fn strace(pid: i32, words: &[&str]) -> Child {
    let strace = Command::new("strace")
        .args(words)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace");
    poll_until(DEADLINE, "strace is attached", || {
        status(pid, "TracerPid").is_some_and(|tracer| tracer != "0")
    });
    strace
}

/// One value of /proc/PID/status, as text.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let text = file(pid, "status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// Resident memory in KiB. The kernel keeps it per processor and adds it up
/// lazily, so a few dozen pages either way mean nothing.
pub fn rss_kib(pid: i32) -> Option<u64> {
    let value = status(pid, "VmRSS")?;
    value.split_whitespace().next()?.parse().ok()
}

/// How often a process went to sleep of its own accord: its wake-ups.
pub fn wakeups(pid: i32) -> Option<u64> {
    status(pid, "voluntary_ctxt_switches")?.parse().ok()
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: i32, which: Signal) {
    let _ = kill(Pid::from_raw(pid), which);
}

/// Sends a signal to a whole process group.
pub fn signal_group(pgrp: i32, which: Signal) {
    let _ = kill(Pid::from_raw(-pgrp), which);
}

/// Whether a process was started with this `NAME=value`, where we may look.
pub fn environ_has(pid: i32, entry: &str) -> bool {
    has_string(pid, "environ", entry)
}

/// Whether this is one of its arguments.
pub fn cmdline_has(pid: i32, arg: &str) -> bool {
    has_string(pid, "cmdline", arg)
}

/// Of a file in which each ends in a NUL.
fn has_string(pid: i32, name: &str, string: &str) -> bool {
    let all = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    all.split(|&byte| byte == 0)
        .any(|one| one == string.as_bytes())
}

/// Soft and hard limit by their name in its `limits`.
pub fn limit(pid: i32, name: &str) -> String {
    let text = file(pid, "limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap_or_default().split_whitespace().take(2);
    words.collect::<Vec<_>>().join(" ")
}

/// Are all its threads stopped?
pub fn all_stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its tasks");
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    })
}

/// The inode of the server's end of a TCP connection, in `pid`'s network
/// namespace, from the two ports.
pub fn socket_inode(pid: i32, server_port: u16, client_port: u16) -> Option<u64> {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    for table in ["tcp", "tcp6"] {
        let text = file(pid, &format!("net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(remote), Some(inode)) =
                (fields.get(1), fields.get(2), fields.get(9))
            else {
                continue;
            };
            if port(local) == Some(server_port) && port(remote) == Some(client_port) {
                return inode.parse().ok().filter(|&inode| inode != 0);
            }
        }
    }
    None
}

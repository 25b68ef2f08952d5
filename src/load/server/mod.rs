//! The server's processes, when it runs on this machine: found through /proc,
//! and what they used so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::addr::Addr;
use crate::error::{Error, Result};
use crate::load::account::{Process, Sample};
use crate::load::target::Target;

mod process;
mod sockets;

use process::{Stat, forks, ignores_children, own_time, pids, stat};
use sockets::{holders, inet_sockets, unix_sockets};

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
}

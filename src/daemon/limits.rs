//! Does the configuration fit this machine? Said once at start, and by `--check`.

use nix::sys::resource::{Resource, getrlimit};

use super::{account, offer, privileges};
use crate::addr::{Addr, ListenSpec};
use crate::config::{Accept, Config, Model, Reap};
use crate::error::{Error, Exit, Result};
use crate::net;
use crate::service::AT_ONCE;

/// Descriptors beside listeners and channels: standard three, log, pidfile,
/// directories, pipes, epoll, eventfd, and one being accepted.
const DESCRIPTORS: u64 = 24;
/// Processes beside the children: the supervisor, and a few of the user's own.
const PROCESSES: u64 = 4;

/// A limit, what it is and what it would have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    have: u64,
    need: u64,
}

/// The limits that are too low, in one line.
pub fn shortage(config: &Config) -> Option<String> {
    let clients = config.max_clients as u64;
    let channels = channels(config) as u64;
    let sockets = match config.model.accept() {
        Accept::Reuseport(sockets) => sockets as u64,
        _ => 1,
    };
    // With a client of the command service come a helper and a command, and as
    // many with each of those that a datagram worker keeps.
    let with_commands = |spec: &&ListenSpec| config.runs_commands_at(spec);
    let (datagrams, streams): (Vec<_>, Vec<_>) =
        config.listen.iter().partition(|s| s.addr.is_datagram());
    let each = match streams.iter().any(with_commands) {
        true => 3,
        false => 1,
    };
    let desks = datagrams.iter().copied().filter(with_commands).count() * 3 * AT_ONCE;
    // Two generations of them, at a reload.
    let datagrams = 2 * (datagrams.len() + desks) as u64;
    let processes = clients * each + datagrams + PROCESSES;
    let soft = |resource| getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft);
    let limits = [
        Limit {
            name: "open files (ulimit -n)",
            have: soft(Resource::RLIMIT_NOFILE),
            need: DESCRIPTORS + config.listen.len() as u64 * 2 * sockets + channels,
        },
        Limit {
            name: "processes (ulimit -u)",
            have: soft(Resource::RLIMIT_NPROC),
            need: processes,
        },
        Limit {
            name: "tasks (pids.max of the control group)",
            have: pids_max().unwrap_or(u64::MAX),
            need: processes,
        },
        Limit {
            name: "processes (kernel.pid_max)",
            have: number_in("/proc/sys/kernel/pid_max").unwrap_or(u64::MAX),
            need: processes + 300,
        },
    ];
    describe(&limits, config.max_clients)
}

/// Descriptors that come and go with the supervisor's children.
fn channels(config: &Config) -> usize {
    match config.model {
        Model::Fork(Reap::DoubleFork) => config.max_clients,
        // The one worker's sockets.
        model if model.is_threaded() => config.max_clients,
        // To each idle worker a channel, and to some a client on its way; who
        // serves many keeps the channel.
        Model::Prefork {
            pool,
            per_child,
            accept: Accept::Pass,
        } => {
            let idle = pool.start.max(pool.max_spare);
            idle + if per_child == Some(1) {
                idle
            } else {
                config.max_clients
            }
        }
        _ => 0,
    }
}

fn describe(limits: &[Limit], clients: usize) -> Option<String> {
    let short: Vec<_> = limits
        .iter()
        .filter(|limit| limit.have < limit.need)
        .map(|limit| {
            format!(
                "{} is {}, needed are {}",
                limit.name, limit.have, limit.need
            )
        })
        .collect();
    (!short.is_empty())
        .then(|| format!("too low for --max-clients {clients}: {}", short.join("; ")))
}

/// The smallest pids.max on the way from our control group to the root.
fn pids_max() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let (root, path) = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controllers {
            "" => Some(("/sys/fs/cgroup", path.to_owned())),
            c if c.split(',').any(|c| c == "pids") => {
                Some(("/sys/fs/cgroup/pids", path.to_owned()))
            }
            _ => None,
        }
    })?;
    let group = std::path::Path::new(root).join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(|dir| number_in(dir.join("pids.max")))
        .min()
}

fn number_in(path: impl AsRef<std::path::Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `--check`: everything that can be known without serving.
///
/// # Errors
/// The first thing that would not work.
pub fn check(config: &Config) -> Result<()> {
    let plan = privileges::plan(
        &config.identity,
        privileges::Current::now(),
        &account::System::new(),
    )?;
    offer::refuse_root(config, &plan)?;
    offer::check_programs(config)?;
    for spec in config.listen.iter().skip(config.handed) {
        net::check(spec)?;
        if let Addr::Tcp { .. } | Addr::Udp { .. } = spec.addr {
            spec.addr.resolve()?;
        }
    }
    let log = match &config.log.target {
        crate::config::LogTarget::File(path) => Some(path),
        _ => None,
    };
    for path in [config.pidfile.as_ref(), log].into_iter().flatten() {
        directory_exists(path)?;
    }
    if let Some(dir) = &config.identity.chroot
        && !dir.is_dir()
    {
        return Err(Error::usage(
            format!("--chroot {}", dir.display()),
            "not a directory",
        ));
    }
    match shortage(config) {
        Some(shortage) => Err(Error::usage("limits", shortage).exit(Exit::Config)),
        None => Ok(()),
    }
}

fn directory_exists(path: &std::path::Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    match dir {
        Some(dir) if !dir.is_dir() => {
            Err(Error::usage(path.display(), "its directory does not exist"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_each_limit_and_by_how_much() {
        let limit = |name, have, need| Limit { name, have, need };
        assert_eq!(describe(&[limit("a", 5, 5)], 9), None);
        assert_eq!(
            describe(&[limit("a", 4, 5), limit("b", 1, 1), limit("c", 2, 7)], 9).as_deref(),
            Some("too low for --max-clients 9: a is 4, needed are 5; c is 2, needed are 7"),
        );
    }
}

//! Does the configuration fit this machine? Said once at start, and what `--check`
//! finds.
//!
//! What is needed (`Demand`) and what there is (`Machine`) are compared in a
//! pure function. What there is: limits of the kernel, of the user and of the control
//! groups, read and not judged; where one is not set, or cannot be read (no /proc, an
//! older kernel), it is none. Costs are those of idle connections: see CAPACITY in echod(8).

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use crate::addr::{Addr, ListenSpec};
use crate::config::{Accept, Config, Model, Reap, ThreadAccept};
use crate::daemon::datagram::commands::AT_ONCE;
use crate::daemon::threads::{self, MAPPINGS, MAPPINGS_PER_THREAD};
use crate::error::{Error, Exit, Result};

/// Descriptors beside listeners and channels: standard three, log, pidfile,
/// directories, pipes, epoll, eventfd, and one being accepted.
const DESCRIPTORS: u64 = 24;
/// Processes beside the children: the supervisor, and a few of the user's own.
const PROCESSES: u64 = 4;
/// The kernel does not give these numbers to processes a second time
/// (RESERVED_PIDS in its kernel/pid.c).
const LOW_PIDS: u64 = 300;
/// Bytes that a process with an idle connection costs, its socket included.
const PROCESS: u64 = 110 * 1024;
/// The same of a thread.
const THREAD: u64 = 40 * 1024;
/// Bytes of a descriptor's place in a table. A double-forked child has a copy of
/// the supervisor's.
const PLACE: u64 = 8;
const MIB: u64 = 1024 * 1024;

/// What a configuration needs when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Demand {
    clients: u64,
    /// Processes and threads.
    tasks: u64,
    descriptors: u64,
    mappings: u64,
    /// Bytes.
    memory: u64,
    /// The longest queue asked for, where one was.
    backlog: Option<u32>,
}

/// A limit: what it is, what is in use of it, and what is needed beside that.
struct Limit {
    name: String,
    have: Option<u64>,
    used: u64,
    need: u64,
    unit: &'static str,
}

/// The limits that are too low for `config`, in one line. RLIMIT_NPROC is none
/// for who `keeps_root`.
pub fn shortage(config: &Config, keeps_root: bool) -> Option<String> {
    lacking(&demand(config), &Machine::look(keeps_root))
}

fn demand(config: &Config) -> Demand {
    let clients = config.max_clients as u64;
    let sockets = config.model.sockets_each() as u64;
    // With a client of the command service come a helper and a command, and as
    // many with each of those that a datagram worker keeps.
    let with_commands = |spec: &&ListenSpec| config.runs_commands_at(spec);
    let (datagrams, streams): (Vec<_>, Vec<_>) =
        config.listen.iter().partition(|s| s.addr.is_datagram());
    let each = match streams.iter().any(with_commands) {
        true => 3,
        false => 1,
    };
    let helpers = datagrams.iter().copied().filter(with_commands).count() * 3 * AT_ONCE;
    // Two generations of them, at a reload.
    let datagrams = 2 * (datagrams.len() + helpers) as u64;
    let tasks = clients * each + datagrams + PROCESSES;
    let cost = match config.model {
        Model::Thread | Model::Prethread { .. } => THREAD,
        Model::Fork(Reap::DoubleFork) => PROCESS + clients * PLACE,
        _ => PROCESS,
    };
    let threads = if config.model.is_threaded() { tasks } else { 0 };
    let backlogs = streams.iter().map(|spec| spec.attrs.backlog);
    Demand {
        clients,
        tasks,
        descriptors: DESCRIPTORS + config.listen.len() as u64 * 2 * sockets + channels(config),
        mappings: threads * MAPPINGS_PER_THREAD + MAPPINGS,
        memory: tasks * cost,
        backlog: backlogs.map(|own| own.or(config.backlog)).max().flatten(),
    }
}

/// Descriptors that come and go with the supervisor's children.
fn channels(config: &Config) -> u64 {
    let channels = match config.model {
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
    };
    channels as u64
}

/// What of `machine` is too low for `demand`, and by how much.
fn lacking(demand: &Demand, machine: &Machine) -> Option<String> {
    let limit = |name: &str, have, used, need| Limit {
        name: name.to_owned(),
        have,
        used,
        need,
        unit: "",
    };
    let group = |what: &str, group: &Option<Group>, unit: u64| {
        let path = group.as_ref().map_or("", |group| &group.path);
        let part = |pick: fn(&Group) -> u64| group.as_ref().map(|group| pick(group) / unit);
        let name = format!("{what} of the control group {path})");
        (name, part(|g| g.most), part(|g| g.used).unwrap_or(0))
    };
    let mib = |name: &str, have, used| Limit {
        unit: " MiB",
        ..limit(name, have, used, demand.memory.div_ceil(MIB))
    };
    let pids = group("tasks (pids.max", &machine.pids, 1);
    let memory = group("memory (memory.max", &machine.memory, MIB);
    let running = machine.tasks;
    let limits = [
        limit(
            "open files (ulimit -n)",
            machine.open_files,
            0,
            demand.descriptors,
        ),
        limit(
            "processes (ulimit -u)",
            machine.user_processes,
            0,
            demand.tasks,
        ),
        limit(&pids.0, pids.1, pids.2, demand.tasks),
        limit(
            "processes (kernel.pid_max)",
            machine.pid_max,
            running + LOW_PIDS,
            demand.tasks,
        ),
        limit(
            "tasks (kernel.threads-max)",
            machine.threads_max,
            running,
            demand.tasks,
        ),
        limit(
            "mappings (vm.max_map_count)",
            machine.mappings,
            0,
            demand.mappings,
        ),
        mib(
            "memory (MemAvailable)",
            machine.available.map(|bytes| bytes / MIB),
            0,
        ),
        mib(&memory.0, memory.1, memory.2),
    ];
    let queue = demand.backlog.map(|backlog| {
        let need = u64::from(backlog);
        let queue = limit("queue (net.core.somaxconn)", machine.somaxconn, 0, need);
        (backlog, queue)
    });
    let clients = describe(&format!("--max-clients {}", demand.clients), &limits);
    let queue = queue.and_then(|(n, queue)| describe(&format!("a backlog of {n}"), &[queue]));
    match (clients, queue) {
        (Some(clients), Some(queue)) => Some(format!("{clients}; {queue}")),
        (clients, queue) => clients.or(queue),
    }
}

fn describe(what: &str, limits: &[Limit]) -> Option<String> {
    let short: Vec<_> = limits.iter().filter_map(describe_one).collect();
    (!short.is_empty()).then(|| format!("too low for {what}: {}", short.join("; ")))
}

fn describe_one(limit: &Limit) -> Option<String> {
    let Limit { name, unit, .. } = limit;
    let have = limit.have?;
    let need = limit.used + limit.need;
    let more = need.checked_sub(have).filter(|more| *more > 0)?;
    Some(format!(
        "{name} is {have}{unit}, needed are {need}{unit}, {more}{unit} more"
    ))
}

/// Can one client be served, where the descriptors below `open` are taken and the
/// rest of a start is to come?
///
/// # Errors
/// 78, with how many descriptors it takes.
pub fn room_for_one(config: &Config, open: u64) -> Result<()> {
    let have = Machine::look(false).open_files;
    let files = Limit {
        name: "open files (ulimit -n)".to_owned(),
        have,
        used: open,
        need: GENERATION + for_one(config),
        unit: "",
    };
    match describe("even one client", &[files]) {
        Some(line) => Err(Error::usage("limits", line).exit(Exit::Config)),
        None => Ok(()),
    }
}

/// The pipe of a generation of workers.
const GENERATION: u64 = 2;

/// Descriptors that the process which has most of them opens until a client is
/// served, as counted.
fn for_one(config: &Config) -> u64 {
    let design = match config.model {
        Model::Fork(Reap::DoubleFork) => 4,
        Model::Fork(_) => 1,
        Model::Iterative => 2,
        Model::Thread => 5,
        Model::Prethread { accept, .. } => match accept {
            ThreadAccept::Pass => 5,
            ThreadAccept::Shared | ThreadAccept::Mutex => 6,
        },
        Model::Prefork {
            pool,
            per_child,
            accept,
        } => {
            let lasts = per_child != Some(1);
            let own = match accept {
                // A way to each that waits, before anybody is accepted.
                Accept::Pass => pool.start as u64 + 1 + u64::from(lasts),
                Accept::Fcntl => 2,
                Accept::Shared | Accept::Mutex | Accept::Reuseport => 1,
            };
            own + u64::from(lasts)
        }
    };
    // The socket once more, one without a name, and one that it answers.
    let gram = |spec: &ListenSpec| matches!(spec.addr, Addr::UnixGram(_));
    let design = match config.listen.iter().any(gram) {
        true => design.max(3),
        false => design,
    };
    match config.runs_commands() {
        true => design + COMMAND,
        false => design,
    }
}

/// Both ends of a helper's socket.
const COMMAND: u64 = 2;

/// What a start has failed for, if it was for want of descriptors.
pub fn of_files(error: Error) -> Error {
    match (error.errno(), Machine::look(false).open_files) {
        (Some(Errno::EMFILE), Some(have)) => Error::usage(
            "limits",
            format!("open files (ulimit -n) is {have}, too low to start: {error}"),
        )
        .exit(Exit::Config),
        _ => error,
    }
}

/// What there is on this machine of everything that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Machine {
    /// RLIMIT_NOFILE, the soft one.
    open_files: Option<u64>,
    /// RLIMIT_NPROC, the soft one.
    user_processes: Option<u64>,
    /// kernel.pid_max.
    pid_max: Option<u64>,
    /// kernel.threads-max.
    threads_max: Option<u64>,
    /// Processes and threads there are now, of everybody.
    tasks: u64,
    /// vm.max_map_count.
    mappings: Option<u64>,
    /// net.core.somaxconn.
    somaxconn: Option<u64>,
    /// Bytes that processes can still have without swapping: MemAvailable.
    available: Option<u64>,
    /// The control group with the least room for tasks.
    pids: Option<Group>,
    /// The control group with the least room for memory, in bytes.
    memory: Option<Group>,
}

/// A control group that limits us, perhaps from above our own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// Its path, as /proc/PID/cgroup has it.
    path: String,
    /// Its limit.
    most: u64,
    /// What of that is in use and stays so.
    used: u64,
}

impl Machine {
    /// Looks. RLIMIT_NPROC does not bind who `keeps_root`, see setrlimit(2).
    fn look(keeps_root: bool) -> Machine {
        let soft = |resource| getrlimit(resource).ok().map(|(soft, _)| soft);
        let kernel = |name: &str| number(&Path::new("/proc/sys").join(name));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Machine {
            open_files: soft(Resource::RLIMIT_NOFILE),
            user_processes: soft(Resource::RLIMIT_NPROC).filter(|_| !keeps_root),
            pid_max: kernel("kernel/pid_max"),
            threads_max: kernel("kernel/threads-max"),
            tasks: tasks().unwrap_or(0),
            mappings: threads::mappings(),
            somaxconn: kernel("net/core/somaxconn"),
            available: field(&memory, "MemAvailable:").map(|kib| kib * 1024),
            pids: least_room(&groups, "pids", tasks_of),
            memory: least_room(&groups, "memory", memory_of),
        }
    }
}

/// proc_loadavg(5): the fourth word is `running/all`.
fn tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split('/').nth(1)?.parse().ok()
}

/// The limit of the group in `dir` and what is used of it.
type Read = fn(dir: &Path) -> Option<(u64, u64)>;

fn tasks_of(dir: &Path) -> Option<(u64, u64)> {
    let used = number(&dir.join("pids.current")).unwrap_or(0);
    Some((number(&dir.join("pids.max"))?, used))
}

/// The page cache that a group is charged for is given up for its processes.
fn memory_of(dir: &Path) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let file = |sum: &str, each: &str| field(&stat, sum).or_else(|| field(&stat, each));
    let cached = file("total_inactive_file", "inactive_file").unwrap_or(0)
        + file("total_active_file", "active_file").unwrap_or(0);
    let either = |new, old| number(&dir.join(new)).or_else(|| number(&dir.join(old)));
    let most = either("memory.max", "memory.limit_in_bytes")?;
    let used = either("memory.current", "memory.usage_in_bytes").unwrap_or(0);
    Some((most, used.saturating_sub(cached)))
}

/// The group with the least room, from our own to the root of those that we see.
fn least_room(groups: &str, controller: &str, read: Read) -> Option<Group> {
    let (root, path) = place(groups, controller)?;
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let limits = Path::new(path).ancestors().filter_map(|path| {
        let (most, used) = read(&below(path))?;
        let path = path.display().to_string();
        Some(Group { path, most, used })
    });
    limits.min_by_key(|group| group.most.saturating_sub(group.used))
}

/// Where the groups of `controller` are mounted, and which is ours: its own
/// hierarchy in version 1, else the one of version 2; see cgroups(7).
fn place<'a>(groups: &'a str, controller: &str) -> Option<(PathBuf, &'a str)> {
    let fields = |line: &'a str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    };
    let mounted = Path::new("/sys/fs/cgroup");
    let own = |(names, _): &(&str, &str)| names.split(',').any(|name| name == controller);
    let mut all = groups.lines().filter_map(fields);
    if let Some((_, path)) = all.clone().find(own) {
        return Some((mounted.join(controller), path));
    }
    let (_, path) = all.find(|(names, _)| names.is_empty())?;
    Some((mounted.to_owned(), path))
}

/// The number after `name`, at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// The number a file holds, if it is one: `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;

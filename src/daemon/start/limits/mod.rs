//! Does the configuration fit this machine? Said once at start, and what `--check`
//! finds.
//!
//! What is needed (`Demand`) and what there is ([`Machine`]) are compared in a
//! pure function. Costs are those of idle connections: see CAPACITY in echod(8).

use nix::errno::Errno;

use crate::addr::ListenSpec;
use crate::config::{Accept, Config, Model, Reap, ThreadAccept};
use crate::daemon::datagram::commands::AT_ONCE;
use crate::daemon::start::machine::{Group, Machine};
use crate::daemon::threads::{MAPPINGS, MAPPINGS_PER_THREAD};
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
        Model::Thread => 4,
        Model::Prethread { accept, .. } => match accept {
            ThreadAccept::Pass => 4,
            ThreadAccept::Shared | ThreadAccept::Mutex => 5,
        },
        Model::Prefork {
            per_child, accept, ..
        } => {
            let lasts = per_child != Some(1);
            let own = match accept {
                Accept::Pass => 2 + u64::from(lasts),
                Accept::Fcntl => 2,
                Accept::Shared | Accept::Mutex | Accept::Reuseport => 1,
            };
            own + u64::from(lasts)
        }
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

#[cfg(test)]
mod tests;

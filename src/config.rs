//! What a command line means: checked once, immutable, owned by everyone.
//!
//! [`crate::cli`] holds what was typed; `Config` holds what it means. After
//! it exists nothing is validated again. This module knows no system call.

use std::path::PathBuf;
use std::time::Duration;

use crate::access;
use crate::addr::ListenSpec;
use crate::allowed::Allowed;

/// Everything echod was asked to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to serve, in the order given.
    pub listen: Vec<ListenSpec>,
    /// So many of those, the first ones, are open already: they were handed over.
    pub handed: usize,
    /// What is served where a listener does not say.
    pub service: ServiceKind,
    /// What clients of the command service may ask for.
    pub commands: Vec<Allowed>,
    /// Which process design serves.
    pub model: Model,
    /// Connections, and so serving processes, at once.
    pub max_clients: usize,
    /// listen(2)'s backlog; `None` is the kernel's somaxconn.
    pub backlog: Option<u32>,
    /// What happens to a client that comes when `max_clients` are served.
    pub overflow: Overflow,
    /// How long one connection may be silent, stuck, or last.
    pub timeouts: Timeouts,
    /// Who is served, and how many of them.
    pub access: access::Policy,
    /// What keeps UDP from being a weapon.
    pub udp: UdpLimits,
    /// What is given up once the sockets are open.
    pub identity: Identity,
    /// How far a serving child is locked in.
    pub sandbox: SandboxPolicy,
    /// Detach from the terminal, as daemon(7) says.
    pub daemon: bool,
    /// Where the supervisor's pid is written and locked.
    pub pidfile: Option<PathBuf>,
    /// Serve the connection on descriptor 0 and exit.
    pub inetd: bool,
    /// How a stop proceeds.
    pub stop: StopTimes,
    /// What children do when the supervisor dies.
    pub orphans: Orphans,
    /// Children copy what they receive to standard output.
    pub print: bool,
    /// Where and how to log.
    pub log: LogConfig,
    /// The descriptor told when we serve; open when the program started.
    pub ready_fd: Option<i32>,
    /// Validate what can be without serving, and exit.
    pub check: bool,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// What comes is sent back.
    Echo,
    /// A line names a command, whose output comes back.
    Command,
}

impl Config {
    /// Processes the supervisor may have at once. A threaded worker that was
    /// told to go stays only for its clients, each of which is one of
    /// `max_clients`: so many old ones at most, and the present one.
    pub fn child_slots(&self) -> usize {
        self.max_clients + usize::from(self.model.is_threaded())
    }

    /// What a listener serves whose `service` attribute is this.
    pub fn served(&self, attribute: Option<&str>) -> ServiceKind {
        match attribute {
            Some("command") => ServiceKind::Command,
            Some(_) => ServiceKind::Echo,
            None => self.service,
        }
    }

    /// Are commands run at this address?
    pub fn runs_commands_at(&self, spec: &ListenSpec) -> bool {
        self.served(spec.attrs.service.as_deref()) == ServiceKind::Command
    }

    /// Can any client ask for a command?
    pub fn runs_commands(&self) -> bool {
        match self.inetd {
            true => self.service == ServiceKind::Command,
            false => self.listen.iter().any(|spec| self.runs_commands_at(spec)),
        }
    }
}

/// The process designs of UNP vol. 1, chapter 30, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// One worker serves in its accept loop: the baseline.
    Iterative,
    /// The supervisor accepts and forks a child for each connection.
    Fork(Reap),
    /// Workers forked in advance each call accept.
    Prefork {
        /// Spare-server limits.
        pool: PoolLimits,
        /// Connections a worker serves before it is replaced; `None` is no limit.
        per_child: Option<u64>,
        /// How they come by a connection.
        accept: Accept,
    },
    /// One worker process accepts and starts a thread for each connection.
    Thread,
    /// One worker process with a pool of threads.
    Prethread {
        /// Spare-thread limits.
        pool: PoolLimits,
        /// Which of its threads calls accept.
        accept: ThreadAccept,
    },
}

/// Who calls accept in a pool of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAccept {
    /// Every idle thread (serv09 of the tutorials): the kernel wakes one.
    Shared,
    /// The idle thread that holds the mutex (UNP row 7).
    Mutex,
    /// The main thread, which hands the connection over (UNP row 8).
    Pass,
}

/// How the workers of a pool come by a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// All wait for the same sockets, the kernel wakes one (UNP row 2).
    Shared,
    /// One at a time waits, the others queue for a record lock (row 3).
    Fcntl,
    /// The same with a robust mutex in shared memory (row 4).
    Mutex,
    /// The supervisor accepts and passes the descriptor (row 5).
    Pass,
    /// So many sockets for each address, each with a queue of its own.
    Reuseport(usize),
}

impl Model {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Model::Iterative => "iterative",
            Model::Fork(Reap::Wait) => "fork, reap wait",
            Model::Fork(Reap::Ignore) => "fork, reap ignore",
            Model::Fork(Reap::DoubleFork) => "fork, reap double-fork",
            Model::Prefork {
                per_child: Some(1),
                accept,
                ..
            } => match accept {
                Accept::Shared => "prefork, a process per connection",
                Accept::Fcntl => "prefork, accept fcntl, a process per connection",
                Accept::Mutex => "prefork, accept mutex, a process per connection",
                Accept::Pass => "prefork, accept pass, a process per connection",
                Accept::Reuseport(_) => "prefork, accept reuseport, a process per connection",
            },
            Model::Prefork { accept, .. } => match accept {
                Accept::Shared => "prefork, workers reused",
                Accept::Fcntl => "prefork, accept fcntl, workers reused",
                Accept::Mutex => "prefork, accept mutex, workers reused",
                Accept::Pass => "prefork, accept pass, workers reused",
                Accept::Reuseport(_) => "prefork, accept reuseport, workers reused",
            },
            Model::Thread => "thread, a thread per connection",
            Model::Prethread { accept, .. } => match accept {
                ThreadAccept::Shared => "prethread, threads that each accept",
                ThreadAccept::Mutex => "prethread, accept mutex",
                ThreadAccept::Pass => "prethread, accept pass",
            },
        }
    }

    /// How processes come by a connection; the other designs have one way each.
    pub fn accept(self) -> Accept {
        match self {
            Model::Prefork { accept, .. } => accept,
            Model::Iterative | Model::Fork(_) | Model::Thread | Model::Prethread { .. } => {
                Accept::Shared
            }
        }
    }
}

impl Model {
    /// Does a worker go on to another connection?
    pub fn reuses(self) -> bool {
        match self {
            Model::Prefork { per_child, .. } => per_child != Some(1),
            Model::Fork(_) => false,
            Model::Iterative | Model::Thread | Model::Prethread { .. } => true,
        }
    }

    /// Does one process serve many connections at once, by threads?
    pub fn is_threaded(self) -> bool {
        matches!(self, Model::Thread | Model::Prethread { .. })
    }
}

/// How the `fork` design gets rid of its dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// SIGCHLD and waitpid(2).
    Wait,
    /// SIGCHLD ignored: the kernel reaps, nobody learns how a child ended.
    Ignore,
    /// The child forks again and leaves: init reaps the grandchild.
    DoubleFork,
}

/// Spare-server limits, in Apache's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Workers forked at start.
    pub start: usize,
    /// Fewer idle workers than this, and more are forked.
    pub min_spare: usize,
    /// More idle workers than this, and some retire.
    pub max_spare: usize,
}

/// What happens to a client beyond `max_clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It waits in the kernel's accept queue.
    Queue,
    /// It is accepted and closed.
    Close,
    /// It is accepted and reset.
    Reset,
}

/// Limits on one connection; `None` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A client that sends nothing.
    pub idle: Option<Duration>,
    /// A client that reads nothing.
    pub write: Option<Duration>,
    /// A connection in all.
    pub lifetime: Option<Duration>,
}

/// Which datagrams are answered; `None` is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpLimits {
    /// From one source prefix.
    pub rate: Option<Rate>,
    /// From all of them.
    pub global_rate: Option<Rate>,
    /// Source ports that are not.
    pub refuse_ports: Option<Ports>,
}

/// So many in such a time, at least one in more than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

/// Ranges of ports, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<(u16, u16)>);

/// Who we are once the sockets are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `--user USER[:GROUP]`, as typed; resolved at start.
    pub user: Option<String>,
    /// `--chroot DIR`.
    pub chroot: Option<PathBuf>,
    /// Keep uid 0 if that is what we were started with.
    pub allow_root: bool,
}

/// How far a serving child is locked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxPolicy {
    /// Refuse to serve without a sandbox.
    Strict,
    /// Take what the kernel offers, and say what that is.
    BestEffort,
    /// None; for strace and gdb.
    Off,
}

/// How a stop proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    /// How long clients may take to finish after TERM.
    pub graceful: Duration,
    /// How long to go on accepting after TERM.
    pub delay: Duration,
    /// How long handshakes in flight may take to complete.
    pub settle: Duration,
}

/// What children do when the supervisor dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// Serve their client to its end.
    Finish,
    /// Die too.
    Terminate,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The sink.
    pub target: LogTarget,
    /// It was not asked for: `--daemon` alone means syslog.
    pub assumed: bool,
    /// The shape of a line.
    pub format: LogFormat,
    /// The filter when `RUST_LOG` does not say otherwise.
    pub level: log::LevelFilter,
}

/// The sink of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// /dev/log, as syslog(3) would, but never waiting for it.
    Syslog,
    /// A file, appended to and reopened on USR1 and HUP.
    File(PathBuf),
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

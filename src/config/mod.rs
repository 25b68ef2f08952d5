//! What a command line means: checked once, immutable, owned by everyone.
//!
//! [`crate::cli`] holds what was typed; `Config` holds what it means. After
//! it exists nothing is validated again. What is one of several words here is so on
//! the command line, too: the first line of each is its help. This module knows no
//! system call.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::access;
use crate::addr::ListenSpec;
use crate::allowed::Allowed;
use crate::values::{Keepalive, Ports, Rate};

mod log_target;
mod model;

pub use log_target::{Facility, LogTarget};
pub use model::{Accept, Model, ModelName, PoolLimits, Reap, ThreadAccept};

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
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// what comes is sent back (RFC 862)
    Echo,
    /// a line names one of --allow-command
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

/// What happens to a client beyond `max_clients`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// wait in the accept queue
    Queue,
    /// accept and close
    Close,
    /// accept and reset
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
    /// A TCP client whose machine may be gone.
    pub keepalive: Option<Keepalive>,
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
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxPolicy {
    /// refuse to serve without one
    Strict,
    /// use what the kernel offers
    BestEffort,
    /// none, for strace and gdb
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
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// serve their client to its end
    Finish,
    /// die too
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
    /// It was asked for, by `-v` or `-q`, and `RUST_LOG` says nothing.
    pub chosen: bool,
}

/// The shape of a line.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// for people
    Text,
    /// one object a line
    Json,
}

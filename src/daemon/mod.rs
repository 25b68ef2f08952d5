//! The daemon: a straight line from a command line to an exit status.
//!
//! What was handed over → what was typed → what it means → signals → sockets, pidfile, log →
//! privileges → supervise → tidy up. Read this file, then `supervisor`,
//! `state`, `workforce`, `child` and the designs in `model`.

pub mod account;
mod activation;
pub mod admission;
pub mod backoff;
pub mod births;
mod burial;
pub mod channels;
pub mod child;
pub mod children;
pub mod confine;
mod crew;
pub mod detach;
mod doorkeeper;
mod drop_log;
pub mod ending;
pub mod generation;
mod handover;
mod inetd;
mod intake;
pub mod limits;
pub mod machine;
pub mod model;
mod notify;
mod offer;
mod orders;
mod overflows;
mod passing;
pub mod paths;
pub mod pidfile;
pub mod pool;
mod posts;
pub mod privileges;
mod ready;
pub mod reaper;
pub mod refusals;
mod report;
pub mod scoreboard;
pub mod seats;
pub mod self_check;
mod sources;
pub mod startup;
pub mod state;
mod stop;
pub mod supervisor;
mod tally;
mod threaded;
mod workforce;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use log::{info, warn};
use nix::unistd::Pid;

use self::activation::Activation;
use self::admission::Admission;
use self::crew::Crew;
use self::detach::Ready;
use self::pidfile::PidFile;
use self::ready::ReadyFd;
use self::supervisor::{Estate, Supervisor};
use crate::addr::ListenSpec;
use crate::cli;
use crate::config::{Accept, Config, LogConfig, LogTarget, SandboxPolicy, ServiceKind};
use crate::error::{Error, Exit, Result};
use crate::logging::{self, LogHandle};
use crate::net::{self, DatagramSocket, Handed, ListenOptions, Listener, Opened};
use crate::service::{Plain, Service};
use crate::sys::sandbox::Sandbox;
use crate::sys::signal::Signals;
use crate::sys::{fd, process};

/// echod, from its arguments to its exit status.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> Exit {
    run(argv, None)
}

/// The same, with something else in the place of the echo. The tests of the sandbox
/// have a service that tries to break out of it.
pub fn main_with(argv: impl IntoIterator<Item = OsString>, plain: &'static dyn Service) -> Exit {
    run(argv, Some(plain))
}

fn run(argv: impl IntoIterator<Item = OsString>, plain: Plain) -> Exit {
    let argv: Vec<OsString> = argv.into_iter().collect();
    if argv.iter().any(|word| word == "--inetd") {
        inetd::spare_the_client();
    }
    let activation = activation::take();
    let manager = notify::Asked::take();
    let mut config = match cli::echod::parse_beside(argv, activation.specs()) {
        Ok(config) => config,
        Err(Ok(help)) => {
            // Not print!: help into a closed pipe is no reason to panic.
            let _ = std::io::stdout().write_all(help.as_bytes());
            return Exit::Ok;
        }
        Err(Err(error)) => return Ready::foreground().failed(&error),
    };
    let inherited = match inherit(&mut config, activation, manager) {
        Ok(inherited) => inherited,
        Err(error) => return Ready::foreground().failed(&error),
    };
    if config.check {
        return match limits::check(&config) {
            Ok(()) => Exit::Ok,
            Err(error) => Ready::foreground().failed(&error.exit(Exit::Config)),
        };
    }
    if config.inetd {
        return inetd::serve(&config, plain).unwrap_or_else(|e| Ready::foreground().failed(&e));
    }
    if config.daemon {
        detach::detach(|ready| serve(config, plain, inherited, ready))
    } else {
        serve(config, plain, inherited, Ready::foreground())
    }
}

/// What whoever started us gave us, beside the command line.
struct Inherited {
    ready_fd: Option<ReadyFd>,
    sockets: Vec<Handed>,
    manager: notify::Asked,
    notice: Option<String>,
}

/// Makes the process what we take it to be, whoever started it, and of what it
/// inherited keeps what is meant for it.
fn inherit(
    config: &mut Config,
    activation: Activation,
    manager: notify::Asked,
) -> Result<Inherited> {
    paths::anchor(config)?;
    let sockets = match config.inetd {
        // The connection is descriptor 0, and all there is. These are closed now:
        // what comes next closes them by number.
        true => {
            drop(activation.sockets);
            Vec::new()
        }
        false => activation.sockets?,
    };
    let mut keep: Vec<_> = sockets.iter().map(Handed::number).collect();
    if let Some(number) = config.ready_fd {
        let refuse = |why| Err(Error::usage(format!("--ready-fd {number}"), why));
        if keep.contains(&number) {
            return refuse("this is a socket of LISTEN_FDS; name another descriptor");
        }
        if !fd::is_open(number) {
            return refuse("descriptor is not open");
        }
        keep.push(number);
    }
    startup::sanitize(&keep)?;
    Ok(Inherited {
        ready_fd: config.ready_fd.map(ReadyFd::adopt).transpose()?,
        sockets,
        manager,
        notice: activation.notice,
    })
}

fn serve(config: Config, plain: Plain, mut inherited: Inherited, ready: Ready) -> Exit {
    let ready_fd = inherited.ready_fd.take();
    match start(config, plain, inherited) {
        Err(error) => ready.failed(&error),
        Ok((supervisor, pidfile)) => {
            let exit = supervisor.run(|names| {
                if let Some(ready_fd) = ready_fd {
                    ready_fd.announce(names);
                }
                ready.serving();
            });
            if let Some(pidfile) = pidfile {
                pidfile.remove();
            }
            exit
        }
    }
}

/// Everything up to serving; leaves nothing behind if any of it fails.
fn start(
    config: Config,
    plain: Plain,
    inherited: Inherited,
) -> Result<(Supervisor, Option<PidFile>)> {
    process::guard_children_against_panic();
    // From here on a TERM is an orderly stop, at the first look at it.
    let signals = Signals::install().map_err(|e| Error::os("sigaction", "", e))?;
    let log = open_log(&config)?;
    if let Some(notice) = inherited.notice {
        warn!("{notice}");
    }
    // Before chroot(2), as the manager's socket may be a file.
    let main_pid = config.daemon.then(|| Pid::this().as_raw());
    let (notify, complaints) = inherited.manager.connect(main_pid);
    for complaint in complaints {
        warn!("{complaint}");
    }
    let plan = privileges::plan(
        &config.identity,
        privileges::Current::now(),
        &account::System::new(),
    )?;
    offer::refuse_root(&config, &plan)?;
    // After chroot(2) there may be no /dev.
    let null = fd::dev_null()?;
    if fd::is_stand_in(null.as_fd()) {
        warn!("no /dev/null here: a closed pipe stands in for it");
    }
    let pidfile = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let opened = open_sockets(&config, inherited.sockets).and_then(|sockets| {
        let left = match privileges::apply(&plan, config.sandbox == SandboxPolicy::Off) {
            Ok(()) => supervisor(config, plain, &plan, sockets, null, signals, log),
            Err(error) => Err(Box::new((error, sockets))),
        };
        left.map_err(|left| {
            left.1.unlink();
            left.0
        })
    });
    match opened {
        Ok(mut supervisor) => {
            supervisor.notify = notify;
            Ok((supervisor, pidfile))
        }
        Err(error) => {
            if let Some(pidfile) = pidfile {
                pidfile.remove();
            }
            Err(error)
        }
    }
}

/// A daemon nobody told where to log may find no syslog: better a warning to
/// whoever starts it than no daemon.
fn open_log(config: &Config) -> Result<LogHandle> {
    let no_syslog = match logging::init(&config.log) {
        Err(error) if config.log.assumed => error,
        log => return log,
    };
    let target = LogTarget::Stderr;
    let log = logging::init(&LogConfig {
        target,
        ..config.log.clone()
    })?;
    // Not by the log, whose filter is for readers of the log.
    detach::complain(&format!(
        "{no_syslog}; nothing is logged once this has detached"
    ));
    Ok(log)
}

/// What was opened to serve at.
#[derive(Default)]
struct Sockets {
    listeners: Vec<Listener>,
    datagrams: Vec<DatagramSocket>,
    /// Their names, in the order asked for.
    names: Vec<String>,
    /// What the first of them, which were handed over, are called by who did so.
    labels: Vec<String>,
}

impl Sockets {
    fn open(&mut self, spec: &ListenSpec, options: &ListenOptions) -> Result<()> {
        if spec.addr.is_datagram() {
            let opened = net::open_datagram(spec)?;
            self.names
                .extend(opened.iter().map(|s| s.name().to_owned()));
            self.datagrams.extend(opened);
        } else {
            let opened = net::open(spec, options)?;
            let mut names: Vec<_> = opened.iter().map(|l| l.name().to_owned()).collect();
            names.dedup(); // sockets that share an address have one name
            self.names.extend(names);
            self.listeners.extend(opened);
        }
        Ok(())
    }

    fn take_over(&mut self, handed: Handed, options: &ListenOptions) -> Result<()> {
        self.labels.push(handed.label().to_owned());
        match handed.open(options)? {
            Opened::Stream(listener) => {
                self.names.push(listener.name().to_owned());
                self.listeners.push(listener);
            }
            Opened::Datagram(socket) => {
                self.names.push(socket.name().to_owned());
                self.datagrams.push(socket);
            }
        }
        Ok(())
    }

    fn unlink(&self) {
        for listener in &self.listeners {
            let _ = listener.unlink();
        }
        for socket in &self.datagrams {
            let _ = socket.unlink();
        }
    }
}

fn open_sockets(config: &Config, handed: Vec<Handed>) -> Result<Sockets> {
    let options = ListenOptions {
        backlog: config.backlog,
        timeouts: config.timeouts,
        sockets: match config.model.accept() {
            Accept::Reuseport(sockets) => sockets,
            _ => 1,
        },
    };
    let mut sockets = Sockets::default();
    for handed in handed {
        sockets.take_over(handed, &options)?;
    }
    for spec in config.listen.iter().skip(config.handed) {
        if let Err(error) = sockets.open(spec, &options) {
            sockets.unlink();
            return Err(error);
        }
    }
    Ok(sockets)
}

type Left = Box<(Error, Sockets)>;

fn supervisor(
    config: Config,
    plain: Plain,
    plan: &privileges::Plan,
    sockets: Sockets,
    null: OwnedFd,
    signals: Signals,
    log: LogHandle,
) -> Result<Supervisor, Left> {
    let sandbox = match confine::sandbox(&config) {
        Ok(sandbox) => sandbox,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    let seats = config
        .model
        .is_threaded()
        .then(|| seats::Seats::new(config.max_clients));
    let boards = scoreboard::Scoreboard::new(config.child_slots())
        .and_then(|board| Ok((board, seats.transpose()?, Admission::new(&config.access)?)));
    let (board, seats, admission) = match boards {
        Ok(boards) => boards,
        Err(errno) => {
            let error = Error::os("map", "the scoreboard", errno);
            return Err(Box::new((error, sockets)));
        }
    };
    let services = match offer::menu(&config, &sockets.listeners, plain) {
        Ok(services) => services,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    say_what_starts(&config, plan, &sockets, &sandbox);
    // What may still fail needs memory or descriptors: our own few.
    let alone = |error| Box::new((error, Sockets::default()));
    let runs = |attribute: Option<&str>| config.served(attribute) == ServiceKind::Command;
    let crew = Crew::new(sockets.datagrams, &config.udp, runs)
        .map_err(|e| alone(Error::os("mmap", "", e)))?;
    let estate = Estate {
        listeners: sockets.listeners.into_iter().map(Some).collect(),
        addresses: sockets.names,
        board,
        seats,
        admission,
        services,
        sandbox,
        null,
        log,
        stdout: std::io::stdout(),
        pid: Pid::this(),
        config,
    };
    Supervisor::new(estate, crew, signals).map_err(alone)
}

fn say_what_starts(config: &Config, plan: &privileges::Plan, sockets: &Sockets, sandbox: &Sandbox) {
    process::set_name(process::SUPERVISOR);
    let streams = match sockets.listeners.is_empty() {
        true => "datagrams only".to_owned(),
        false => format!(
            "{}, at most {} clients",
            config.model.name(),
            config.max_clients
        ),
    };
    info!(
        "echod {} ({}): {streams}, sandbox {}{}",
        env!("CARGO_PKG_VERSION"),
        build(),
        sandbox.name(),
        landlock(config, sandbox),
    );
    if let Some(notice) = plan.notice() {
        info!("{notice}");
    }
    if !sandbox.has_seccomp() && config.sandbox != SandboxPolicy::Off {
        warn!("no sandbox: this kernel offers no seccomp");
    }
    let keeps_root = plan.keeps_root(privileges::Current::now());
    if let Some(shortage) = limits::shortage(config, keeps_root) {
        warn!("{shortage}");
    }
    for (i, name) in sockets.names.iter().enumerate() {
        match sockets.labels.get(i) {
            Some(label) => info!("listening on {name}, handed over as {label}"),
            None => info!("listening on {name}"),
        }
    }
    if let Some(access) = config.access.describe() {
        info!("{access}");
    }
    if let Some(allowed) = offer::say(config) {
        info!("{allowed}");
    }
    if let Some(hint) = ready::hint(&sockets.names) {
        info!("{hint}");
    }
}

/// What workers that live on have besides, where there are any.
fn landlock(config: &Config, sandbox: &Sandbox) -> String {
    let lives_on = |spec: &ListenSpec| spec.addr.is_datagram() || config.model.reuses();
    if config.sandbox == SandboxPolicy::Off || !config.listen.iter().any(lives_on) {
        return String::new();
    }
    match sandbox.landlock_abi() {
        Some(abi) => format!(", Landlock ABI {abi}"),
        None => ", no Landlock".to_owned(),
    }
}

/// Which build this is: it shows in every figure.
fn build() -> &'static str {
    match (cfg!(target_feature = "crt-static"), cfg!(debug_assertions)) {
        (true, false) => "static, release",
        (true, true) => "static, debug",
        (false, false) => "dynamic, release",
        (false, true) => "dynamic, debug",
    }
}

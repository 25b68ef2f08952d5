//! The daemon: a straight line from a command line to an exit status.
//!
//! What was typed → what it means → signals → sockets, pidfile, log →
//! privileges → supervise → tidy up. Read this file, then `supervisor`,
//! `state`, `workforce`, `child` and the designs in `model`.

pub mod account;
pub mod backoff;
pub mod births;
mod burial;
pub mod channels;
pub mod child;
pub mod children;
mod crew;
pub mod detach;
mod drop_log;
pub mod ending;
pub mod generation;
mod handover;
mod inetd;
mod intake;
pub mod limits;
pub mod model;
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
pub mod scoreboard;
pub mod seats;
pub mod startup;
pub mod state;
mod stop;
pub mod supervisor;
mod tally;
mod threaded;
mod workforce;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;

use log::{info, warn};
use nix::unistd::Pid;

use self::crew::Crew;
use self::detach::Ready;
use self::pidfile::PidFile;
use self::ready::ReadyFd;
use self::supervisor::{Estate, Supervisor};
use crate::addr::ListenSpec;
use crate::cli;
use crate::config::{Accept, Config, LogConfig, LogTarget, SandboxPolicy};
use crate::error::{Error, Exit, Result};
use crate::logging::{self, LogHandle};
use crate::net::{self, DatagramSocket, ListenOptions, Listener};
use crate::sys::sandbox::{Need, Sandbox};
use crate::sys::signal::Signals;
use crate::sys::{fd, process};

/// echod, from its arguments to its exit status.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> Exit {
    let argv: Vec<OsString> = argv.into_iter().collect();
    if argv.iter().any(|word| word == "--inetd") {
        inetd::spare_the_client();
    }
    let mut config = match cli::echod::parse(argv) {
        Ok(config) => config,
        Err(Ok(help)) => {
            // Not print!: help into a closed pipe is no reason to panic.
            let _ = std::io::stdout().write_all(help.as_bytes());
            return Exit::Ok;
        }
        Err(Err(error)) => return Ready::foreground().failed(&error),
    };
    let ready_fd = match paths::anchor(&mut config).and_then(|()| prepare(&config)) {
        Ok(ready_fd) => ready_fd,
        Err(error) => return Ready::foreground().failed(&error),
    };
    if config.check {
        return match limits::check(&config) {
            Ok(()) => Exit::Ok,
            Err(error) => Ready::foreground().failed(&error.exit(Exit::Config)),
        };
    }
    if config.inetd {
        return inetd::serve(&config).unwrap_or_else(|e| Ready::foreground().failed(&e));
    }
    if config.daemon {
        detach::detach(|ready| serve(config, ready_fd, ready))
    } else {
        serve(config, ready_fd, Ready::foreground())
    }
}

/// Makes the process what we take it to be, whoever started it.
fn prepare(config: &Config) -> Result<Option<ReadyFd>> {
    let keep: Vec<_> = config.ready_fd.into_iter().collect();
    if let Some(&number) = keep.iter().find(|&&number| !fd::is_open(number)) {
        return Err(Error::usage(
            format!("--ready-fd {number}"),
            "descriptor is not open",
        ));
    }
    startup::sanitize(&keep)?;
    config.ready_fd.map(ReadyFd::adopt).transpose()
}

fn serve(config: Config, ready_fd: Option<ReadyFd>, ready: Ready) -> Exit {
    match start(config) {
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
fn start(config: Config) -> Result<(Supervisor, Option<PidFile>)> {
    process::guard_children_against_panic();
    // From here on a TERM is an orderly stop, at the first look at it.
    let signals = Signals::install().map_err(|e| Error::os("sigaction", "", e))?;
    let log = open_log(&config)?;
    let plan = privileges::plan(
        &config.identity,
        privileges::Current::now(),
        &account::System::new(),
    )?;
    offer::refuse_root(&config, &plan)?;
    // After chroot(2) there may be no /dev.
    let null = fd::dev_null()?;
    let pidfile = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let opened = open_sockets(&config).and_then(|sockets| {
        let left = match privileges::apply(&plan, config.sandbox == SandboxPolicy::Off) {
            Ok(()) => supervisor(config, &plan, sockets, null, signals, log),
            Err(error) => Err(Box::new((error, sockets))),
        };
        left.map_err(|left| {
            left.1.unlink();
            left.0
        })
    });
    match opened {
        Ok(supervisor) => Ok((supervisor, pidfile)),
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
            self.names
                .extend(opened.iter().map(|l| l.name().to_owned()));
            self.names.dedup(); // sockets that share an address have one name
            self.listeners.extend(opened);
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

fn open_sockets(config: &Config) -> Result<Sockets> {
    let options = ListenOptions {
        backlog: config.backlog,
        timeouts: config.timeouts,
        sockets: match config.model.accept() {
            Accept::Reuseport(sockets) => sockets,
            _ => 1,
        },
    };
    let mut sockets = Sockets::default();
    for spec in &config.listen {
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
    plan: &privileges::Plan,
    sockets: Sockets,
    null: OwnedFd,
    signals: Signals,
    log: LogHandle,
) -> Result<Supervisor, Left> {
    let sandbox = match sandbox(&config) {
        Ok(sandbox) => sandbox,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    let seats = config
        .model
        .is_threaded()
        .then(|| seats::Seats::new(config.max_clients));
    let boards = scoreboard::Scoreboard::new(config.child_slots())
        .and_then(|board| Ok((board, seats.transpose()?)));
    let (board, seats) = match boards {
        Ok(boards) => boards,
        Err(errno) => {
            let error = Error::os("map", "the scoreboard", errno);
            return Err(Box::new((error, sockets)));
        }
    };
    let services = match offer::menu(&config, &sockets.listeners) {
        Ok(services) => services,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    say_what_starts(&config, plan, &sockets, &sandbox);
    // What may still fail needs memory or descriptors: our own few.
    let alone = |error| Box::new((error, Sockets::default()));
    let crew =
        Crew::new(sockets.datagrams, &config.udp).map_err(|e| alone(Error::os("mmap", "", e)))?;
    let estate = Estate {
        listeners: sockets.listeners.into_iter().map(Some).collect(),
        addresses: sockets.names,
        board,
        seats,
        services,
        sandbox,
        null,
        stdout: std::io::stdout(),
        pid: Pid::this(),
        config,
    };
    Supervisor::new(estate, crew, signals, log).map_err(alone)
}

fn sandbox(config: &Config) -> Result<Sandbox> {
    if config.sandbox == SandboxPolicy::Off {
        return Ok(Sandbox::Off);
    }
    let mut needs = Vec::new();
    if ending::start_of_conn().is_some() {
        needs.push(Need::Log);
    }
    needs.extend(match config.model.accept() {
        Accept::Shared | Accept::Reuseport(_) => None,
        Accept::Fcntl => Some(Need::RecordLock),
        Accept::Mutex => Some(Need::Mutex),
        Accept::Pass => Some(Need::Message),
    });
    let sandbox = Sandbox::probe(&needs).map_err(|e| Error::os("fork", "", e))?;
    if matches!(sandbox, Sandbox::Off) && config.sandbox == SandboxPolicy::Strict {
        return Err(
            Error::usage("--sandbox strict", "this kernel offers no seccomp").exit(Exit::Config),
        );
    }
    Ok(sandbox)
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
        "echod {} ({}): {streams}, sandbox {}",
        env!("CARGO_PKG_VERSION"),
        build(),
        sandbox.name(),
    );
    if let Some(notice) = plan.notice() {
        info!("{notice}");
    }
    if matches!(sandbox, Sandbox::Off) && config.sandbox != SandboxPolicy::Off {
        warn!("no sandbox: this kernel offers no seccomp");
    }
    if let Some(shortage) = limits::shortage(config) {
        warn!("{shortage}");
    }
    for name in &sockets.names {
        info!("listening on {name}");
    }
    if let Some(allowed) = offer::say(config) {
        info!("{allowed}");
    }
    if let Some(hint) = ready::hint(&sockets.names) {
        info!("{hint}");
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

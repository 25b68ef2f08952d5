//! The daemon: a straight line from a command line to an exit status.
//!
//! What was handed over → what was typed → what it means → signals → sockets, pidfile, log →
//! privileges → supervise → tidy up. Read this file, then `supervisor`,
//! `state`, `workforce`, `child` and the designs in `model`.

pub mod datagram;
pub mod shared;
pub mod start;
pub mod supervisor;
pub mod threads;
pub mod worker;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use self::shared::{scoreboard, seats};
use self::start::{
    account, activation, banner, check, detach, inetd, inherited, limits, notify, privileges,
    services, sockets,
};
use self::worker::sandbox;
use log::{error, info, warn};
use nix::unistd::Pid;

use crate::cli::{self, echod::Refused};
use crate::config::{Config, LogConfig, LogTarget, ServiceKind};
use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::start::detach::Ready;
use crate::daemon::start::inherited::Inherited;
use crate::daemon::start::pidfile::PidFile;
use crate::daemon::start::sockets::Sockets;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::datagrams::Crew;
use crate::daemon::worker::context::WorkerContext;
use crate::error::{Error, Exit, Result};
use crate::logging::{self, LogHandle, Voice};
use crate::service::{self, Echo};
use crate::sys::memory::OomScore;
use crate::sys::signal::Signals;
use crate::sys::{fd, memory, process, startup};

/// echod, from its arguments to its exit status.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> Exit {
    main_with(argv, service::echo)
}

/// The same, with something else in the place of the echo. The tests of the sandbox
/// have a service that tries to break out of it.
pub fn main_with(argv: impl IntoIterator<Item = OsString>, echo: Echo) -> Exit {
    let argv: Vec<OsString> = argv.into_iter().collect();
    if argv.iter().any(|word| word == "--inetd") {
        inetd::spare_the_client();
    }
    let activation = activation::take();
    let manager = notify::Asked::take();
    let env = |name: &str| std::env::var_os(name);
    let voice = Voice::new(cli::echod::log_format(&argv, env));
    let failed = |error: &Error| Ready::foreground(voice).failed(error);
    let mut config = match cli::echod::parse_beside(argv, env, activation.specs()) {
        Ok(config) => config,
        Err(Refused::Text(text)) => {
            // Not print!: help into a closed pipe is no reason to panic.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Exit::Ok;
        }
        Err(Refused::Wrong(errors)) => {
            let fail = |_, error| failed(error);
            return errors.iter().fold(Exit::Internal, fail);
        }
    };
    let voice = voice.speaking(config.log.format);
    let failed = |error: &Error| Ready::foreground(voice).failed(error);
    if !config.inetd
        && let Err(error) = logging::check_filter(&config.log)
    {
        return failed(&error);
    }
    let inherited = match inherited::inherit(&mut config, activation, manager) {
        Ok(inherited) => inherited,
        Err(error) => return failed(&error),
    };
    if !config.inetd {
        startup::raise_files();
    }
    if config.check {
        return check::check(config, echo, inherited, voice);
    }
    if config.inetd {
        return inetd::serve(&config, echo).unwrap_or_else(|e| failed(&e));
    }
    if config.daemon {
        detach::detach(voice, |ready| serve(config, echo, inherited, ready, voice))
    } else {
        let ready = Ready::foreground(voice);
        serve(config, echo, inherited, ready, voice)
    }
}

fn serve(config: Config, echo: Echo, mut inherited: Inherited, ready: Ready, voice: Voice) -> Exit {
    let ready_fd = inherited.ready_fd.take();
    match start(config, echo, inherited, voice).map_err(limits::of_files) {
        Err(error) => ready.failed(&error),
        Ok((supervisor, pidfile)) => {
            let exit = supervisor.run(|names| {
                if let Some(ready_fd) = ready_fd
                    && let Err(error) = ready_fd.announce(names)
                {
                    error!("{error}");
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

/// Everything up to serving; leaves nothing behind if any of it fails, nor where
/// [`check`] has it only tried.
fn start(
    config: Config,
    echo: Echo,
    inherited: Inherited,
    voice: Voice,
) -> Result<(Supervisor, Option<PidFile>)> {
    process::guard_children_against_panic();
    // From here on a TERM is an orderly stop, at the first look at it.
    let signals = Signals::install().map_err(|e| Error::os("sigaction", "", e))?;
    let log = open_log(&config, voice)?;
    for notice in inherited.notices {
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
    services::refuse_root(&config, &plan)?;
    if let Some((uid, gid)) = plan.becomes() {
        log.give_to(uid, gid);
    }
    // After chroot(2) there may be no /dev.
    let null = fd::dev_null()?;
    if fd::is_stand_in(null.as_fd()) {
        warn!("no /dev/null here: a closed pipe stands in for it");
    }
    let oom = OomScore::open();
    if let Err(error) = &oom {
        info!("/proc/self/oom_score_adj: {error}: workers do not go first when memory is short");
    }
    let kept = Kept {
        null,
        oom: oom.ok(),
    };
    let (pidfile, running) = match config.pidfile.as_deref() {
        Some(path) if config.check => (None, PidFile::rehearse(path)?),
        path => (path.map(PidFile::create).transpose()?, None),
    };
    let opened = sockets::open(&config, inherited.sockets, running).and_then(|sockets| {
        let left = match privileges::apply(&plan, privileges::Open::new(&config)) {
            Ok(()) => supervisor(config, echo, &plan, sockets, kept, signals, log),
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
            supervisor.terminal = inherited.terminal;
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
fn open_log(config: &Config, voice: Voice) -> Result<LogHandle> {
    let init = match config.check {
        true => logging::rehearse,
        false => logging::init,
    };
    let no_syslog = match init(&config.log, voice) {
        Err(error) if config.log.assumed => error,
        log => return log,
    };
    let target = LogTarget::Stderr;
    let cfg = LogConfig {
        target,
        ..config.log.clone()
    };
    let log = init(&cfg, voice)?;
    // Not by the log, whose filter is for readers of the log.
    voice.warn(&format!(
        "{no_syslog}; nothing is logged once this has detached"
    ));
    Ok(log)
}

type Left = Box<(Error, Sockets)>;

/// What could be opened at the start and perhaps never again.
struct Kept {
    null: OwnedFd,
    oom: Option<OomScore>,
}

fn supervisor(
    config: Config,
    echo: Echo,
    plan: &privileges::Plan,
    sockets: Sockets,
    kept: Kept,
    signals: Signals,
    log: LogHandle,
) -> Result<Supervisor, Left> {
    let sandbox = match sandbox::sandbox(&config) {
        Ok(sandbox) => sandbox,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    memory::give_back();
    let seats = config
        .model
        .is_threaded()
        .then(|| seats::Seats::new(config.max_clients));
    let boards = scoreboard::Scoreboard::new(config.child_slots()).and_then(|board| {
        Ok((
            board,
            seats.transpose()?,
            AccessControl::new(&config.access)?,
        ))
    });
    let (board, seats, access) = match boards {
        Ok(boards) => boards,
        Err(errno) => {
            let error = Error::os("map", "the scoreboard", errno);
            return Err(Box::new((error, sockets)));
        }
    };
    let services = match services::services(&config, &sockets.listeners, echo) {
        Ok(services) => services,
        Err(error) => return Err(Box::new((error, sockets))),
    };
    if let Err(error) = limits::room_for_one(&config, fd::lowest_free(kept.null.as_fd())) {
        return Err(Box::new((error, sockets)));
    }
    banner::say_what_starts(&config, plan, &sockets, &sandbox);
    if let Err(error) = log.can_reopen() {
        warn!("{error}");
    }
    // What may still fail needs memory or descriptors: our own few.
    let alone = |error| Box::new((error, Sockets::default()));
    let runs = |attribute: Option<&str>| config.served(attribute) == ServiceKind::Command;
    let crew = Crew::new(sockets.datagrams, &config.udp, runs)
        .map_err(|e| alone(Error::os("mmap", "", e)))?;
    let context = WorkerContext {
        listeners: sockets.listeners.into_iter().map(Some).collect(),
        addresses: sockets.names,
        board,
        seats,
        access,
        services,
        sandbox,
        null: kept.null,
        oom: kept.oom,
        log,
        stdout: std::io::stdout(),
        supervisor: Pid::this(),
        config,
    };
    Supervisor::new(context, crew, sockets.overflows, signals).map_err(alone)
}

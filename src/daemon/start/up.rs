//! Everything up to serving, in the order that identity, root directory and descriptors
//! allow.

use std::os::fd::{AsFd, OwnedFd};

use log::{info, warn};
use nix::unistd::Pid;

use crate::config::{Config, LogConfig, LogTarget, ServiceKind};
use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::shared::scoreboard::Scoreboard;
use crate::daemon::supervisor::datagrams::DatagramWorkers;
use crate::daemon::supervisor::{Orders, Supervisor};
use crate::daemon::worker::child::WorkerContext;
use crate::daemon::worker::sandbox;
use crate::error::{Error, Result};
use crate::logging::{self, LogHandle, Voice};
use crate::service::Echo;
use crate::sys::memory::OomScore;
use crate::sys::signal::Signals;
use crate::sys::{fd, memory, process};

use super::inherited::Inherited;
use super::pidfile::PidFile;
use super::sockets::Sockets;
use super::{account, banner, limits, privileges, services, sockets};
use crate::daemon::supervisor::notify::Notify;

/// A daemon that is about to serve.
pub(crate) struct Started {
    pub(crate) supervisor: Supervisor,
    pub(crate) pidfile: Option<PidFile>,
    /// Everything that is served at, in the order asked for.
    pub(crate) addresses: Vec<String>,
}

/// Leaves nothing behind if any of it fails, nor where `--check` has it only tried.
///
/// # Errors
/// What could not be had.
pub(crate) fn start(
    config: Config,
    echo: Echo,
    inherited: Inherited,
    voice: Voice,
) -> Result<Started> {
    prepare(config, echo, inherited, voice).map_err(limits::of_files)
}

fn prepare(config: Config, echo: Echo, inherited: Inherited, voice: Voice) -> Result<Started> {
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
    let kept = Kept {
        orders: Orders::new(signals, inherited.terminal),
        notify,
        log,
        // After chroot(2) there may be no /dev.
        null: open_null()?,
        oom: open_oom(),
    };
    let (pidfile, running) = match config.pidfile.as_deref() {
        Some(path) if config.check => (None, PidFile::rehearse(path)?),
        path => (path.map(PidFile::create).transpose()?, None),
    };
    let supervisor = sockets::open(&config, inherited.sockets, running)
        .and_then(|sockets| supervisor(config, echo, &plan, sockets, kept));
    match supervisor {
        Ok((supervisor, addresses)) => Ok(Started {
            supervisor,
            pidfile,
            addresses,
        }),
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

fn open_null() -> Result<OwnedFd> {
    let null = fd::dev_null()?;
    if fd::is_stand_in(null.as_fd()) {
        warn!("no /dev/null here: a closed pipe stands in for it");
    }
    Ok(null)
}

fn open_oom() -> Option<OomScore> {
    OomScore::open()
        .inspect_err(|error| {
            info!(
                "/proc/self/oom_score_adj: {error}: workers do not go first when memory is short"
            );
        })
        .ok()
}

/// What could be opened at the start and perhaps never again.
struct Kept {
    orders: Orders,
    notify: Option<Notify>,
    log: LogHandle,
    null: OwnedFd,
    oom: Option<OomScore>,
}

/// Gives up what the plan says, and builds what serves; with its addresses.
fn supervisor(
    config: Config,
    echo: Echo,
    plan: &privileges::Plan,
    sockets: Sockets,
    kept: Kept,
) -> Result<(Supervisor, Vec<String>)> {
    privileges::apply(plan, privileges::Open::new(&config))?;
    let sandbox = sandbox::sandbox(&config)?;
    memory::give_back();
    let boards = Scoreboard::new(config.child_slots())
        .and_then(|board| Ok((board, AccessControl::new(&config.access)?)));
    let (board, access) = boards.map_err(|e| Error::os("map", "the scoreboard", e))?;
    let services = services::services(&config, &sockets.listeners, echo)?;
    limits::room_for_one(&config, fd::lowest_free(kept.null.as_fd()))?;
    banner::say_what_starts(&config, plan, &sockets, &sandbox);
    if let Err(error) = kept.log.can_reopen() {
        warn!("{error}");
    }
    // What may still fail needs memory or descriptors: our own few.
    let sockets = sockets.keep();
    let runs = |attribute: Option<&str>| config.served(attribute) == ServiceKind::Command;
    let datagrams = DatagramWorkers::new(sockets.datagrams, &config.udp, runs)
        .map_err(|e| Error::os("mmap", "", e))?;
    let context = WorkerContext {
        listeners: sockets.listeners.into_iter().map(Some).collect(),
        board,
        access,
        services,
        sandbox,
        null: kept.null,
        oom: kept.oom,
        log: kept.log,
        stdout: std::io::stdout(),
        supervisor: Pid::this(),
        config,
    };
    let Kept { orders, notify, .. } = kept;
    let supervisor = Supervisor::new(context, datagrams, sockets.overflows, orders, notify)?;
    Ok((supervisor, sockets.names))
}

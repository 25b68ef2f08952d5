//! Everything up to serving, in the order that identity, root directory and descriptors
//! allow; and what the log says of that first.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use log::{info, warn};
use nix::unistd::Pid;

use crate::addr::ListenSpec;
use crate::config::{Config, LogConfig, LogTarget, SandboxPolicy, ServiceKind};
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
use crate::sys::sandbox::Sandbox;
use crate::sys::signal::Signals;
use crate::sys::{fd, memory, process};
use crate::values::plural;

use super::inherited::Inherited;
use super::pidfile::PidFile;
use super::privileges::{Current, Plan};
use super::sockets::Sockets;
use super::{limits, privileges, services, sockets};
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
    let plan = privileges::plan(&config.identity, Current::now(), &privileges::System::new())?;
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
    plan: &Plan,
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
    say_what_starts(&config, plan, &sockets, &sandbox);
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

/// What the log says first: what this is, what it serves at, and what it lacks. Takes
/// the supervisor's name.
fn say_what_starts(config: &Config, plan: &Plan, sockets: &Sockets, sandbox: &Sandbox) {
    process::set_name(process::SUPERVISOR);
    let streams = match sockets.listeners.is_empty() {
        true => "datagrams only".to_owned(),
        false => format!(
            "{}, at most {}",
            config.model.name(),
            plural(config.max_clients as u64, "client")
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
    let keeps_root = plan.keeps_root(Current::now());
    if !config.check
        && let Some(shortage) = limits::shortage(config, keeps_root)
    {
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
    if let Some(allowed) = services::say(config) {
        info!("{allowed}");
    }
    if let Some(hint) = hint(&sockets.names) {
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

/// On a terminal, a line to try that works with every nc.
fn hint(names: &[String]) -> Option<String> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    try_line(names.first()?)
}

fn try_line(name: &str) -> Option<String> {
    if let Some(path) = name.strip_prefix("unix:") {
        return (!path.starts_with('@')).then(|| format!("try: nc -U {path}"));
    }
    let (nc, address) = match name.strip_prefix("udp:") {
        Some(address) => ("nc -u", address),
        None => ("nc", name.strip_prefix("tcp:")?),
    };
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    Some(format!("try: {nc} {host} {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_to_try_names_an_address_one_can_connect_to() {
        for (name, expected) in [
            ("tcp:127.0.0.1:7777", Some("try: nc 127.0.0.1 7777")),
            ("tcp:[::]:7", Some("try: nc ::1 7")),
            ("tcp:0.0.0.0:7", Some("try: nc 127.0.0.1 7")),
            ("unix:/run/echod.sock", Some("try: nc -U /run/echod.sock")),
            ("unix:@name", None),
            ("udp:[::1]:7", Some("try: nc -u ::1 7")),
            ("unixgram:/run/s", None),
        ] {
            assert_eq!(try_line(name).as_deref(), expected, "{name}");
        }
    }
}

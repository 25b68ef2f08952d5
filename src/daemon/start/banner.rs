//! What the log says first: what this is, what it serves at, and what it lacks.

use log::{info, warn};

use crate::addr::ListenSpec;
use crate::config::{Config, SandboxPolicy};
use crate::daemon::start::limits;
use crate::daemon::start::privileges::{Current, Plan};
use crate::daemon::start::ready;
use crate::daemon::start::services;
use crate::daemon::start::sockets::Sockets;
use crate::sys::process;
use crate::sys::sandbox::Sandbox;
use crate::values::plural;

/// Says so, and takes the supervisor's name.
pub(crate) fn say_what_starts(config: &Config, plan: &Plan, sockets: &Sockets, sandbox: &Sandbox) {
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

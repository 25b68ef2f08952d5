//! Which service answers at which listener, and what
//! must hold before a client may ask for a command.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::config::{Config, ServiceKind};
use crate::daemon::start::privileges::{Current, Plan};
use crate::error::{Error, Exit, Result};
use crate::net::Listener;
use crate::service::{Command, Echo, Services};

/// Commands are never run by uid 0.
///
/// # Errors
/// 77, naming both ways out.
pub fn refuse_root(config: &Config, plan: &Plan) -> Result<()> {
    if config.runs_commands() && plan.keeps_root(Current::now()) {
        return Err(Error::usage(
            "the command service with --allow-root",
            "clients' commands are not run as root: leave --allow-root out, or name a --user",
        )
        .exit(Exit::NoPermission));
    }
    Ok(())
}

/// The services of these listeners, `echo` where it is not commands; of the one
/// that inetd has, where there are none. To be called once identity and root directory are the final ones.
///
/// # Errors
/// 78 for a program that cannot be run.
pub fn services(config: &Config, listeners: &[Listener], echo: Echo) -> Result<Services> {
    check_runnable(config)?;
    let runs = |attribute| config.served(attribute) == ServiceKind::Command;
    let commands_at = match config.inetd {
        true => vec![runs(None)],
        false => listeners.iter().map(|l| runs(l.service())).collect(),
    };
    let command = Command::new(config.commands.clone());
    Ok(Services::new(echo, command, commands_at))
}

fn check_runnable(config: &Config) -> Result<()> {
    for command in &config.commands {
        let path = Path::new(OsStr::from_bytes(command.program.to_bytes()));
        let runnable = access(path, AccessFlags::X_OK).and(match path.is_file() {
            true => Ok(()),
            false => Err(Errno::EACCES),
        });
        runnable.map_err(|errno| {
            let subject = format!("--allow-command {}={}", command.name, path.display());
            Error::os("run", subject, errno)
                .hint("it must be a program that echod's user may run")
                .exit(Exit::Config)
        })?;
    }
    Ok(())
}

/// One line for the log, where there are commands.
pub fn say(config: &Config) -> Option<String> {
    let names: Vec<_> = config.commands.iter().map(|c| c.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("clients may run: {}", names.join(" ")))
}

//! What whoever started us gave us beside the command line: descriptors, and
//! the words of a service manager.

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::daemon::start::activation::Activation;
use crate::daemon::start::ready::ReadyFd;
use crate::daemon::start::{paths, startup};
use crate::daemon::supervisor::notify::Asked;
use crate::error::{Error, Result};
use crate::net::Handed;
use crate::sys::signal::Terminal;
use crate::sys::{fd, signal};

/// What whoever started us gave us, beside the command line.
pub(crate) struct Inherited {
    /// Whom to tell that we serve.
    pub(crate) ready_fd: Option<ReadyFd>,
    /// Open sockets to serve at.
    pub(crate) sockets: Vec<Handed>,
    /// What a service manager asked to be told.
    pub(crate) manager: Asked,
    /// The terminal, in the foreground, unless we are to outlive it.
    pub(crate) terminal: Option<Terminal>,
    /// What is odd about any of that, for the log.
    pub(crate) notices: Vec<String>,
}

/// Makes the process what we take it to be, whoever started it, and of what it
/// inherited keeps what is meant for it.
///
/// # Errors
/// A descriptor that was named is not there, or means two things.
pub(crate) fn inherit(
    config: &mut Config,
    activation: Activation,
    manager: Asked,
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
        if !fd::is_writable(number) {
            return refuse("descriptor is not open for writing");
        }
        keep.push(number);
    }
    let mut notices: Vec<_> = activation.notice.into_iter().collect();
    if config.print && fd::was_closed(1) {
        notices.push("--print: standard output is closed: nothing is copied".to_owned());
    }
    if let Some(number) = config.ready_fd.filter(|number| fd::was_closed(*number)) {
        notices.push(format!("--ready-fd {number}: it is closed: nobody is told"));
    }
    // As by nohup(1).
    let stays = signal::is_ignored(Signal::SIGHUP);
    startup::sanitize(&keep)?;
    let foreground = !config.daemon && !config.inetd && !stays;
    Ok(Inherited {
        terminal: foreground.then(Terminal::find).flatten(),
        ready_fd: config.ready_fd.map(ReadyFd::adopt).transpose()?,
        sockets,
        manager,
        notices,
    })
}

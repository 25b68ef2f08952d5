//! `--check`: a start, by the same steps, in a process of its own that ends where a
//! daemon would serve.
//!
//! What is left out is what others would notice: it does not listen, it writes no
//! pidfile and no log, a socket's file has another name for a moment, and what was
//! handed over is looked at and not touched. Those places ask `config.check`; there
//! is no second list of what may go wrong.

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::chdir;

use super::inherited::Inherited;
use super::privileges::{self, Current};
use super::{inetd, limits, up};
use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::logging::Voice;
use crate::service::Echo;
use crate::sys::{process, startup};

/// The status, and on standard error the message, of a start; 78 where a limit is
/// too low, of which a start only warns.
pub(crate) fn check(config: Config, echo: Echo, inherited: Inherited, voice: Voice) -> Exit {
    let outcome = process::fork(|| {
        let outcome = rehearse(config, echo, inherited, voice);
        let exit = outcome.map_or_else(|error| failed(&error, voice), |()| Exit::Ok);
        exit as i32
    })
    .map_err(|errno| Error::os("fork", "the check", errno))
    .and_then(|child| {
        loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(Exit::of(status)),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Err(Error::usage("the check", format_args!("died of {signal}"))
                        .exit(Exit::Internal));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::os("waitpid", "the check", errno)),
            }
        }
    });
    outcome.unwrap_or_else(|error| failed(&error, voice))
}

fn failed(error: &Error, voice: Voice) -> Exit {
    voice.complain(&error.to_string());
    error.status()
}

fn rehearse(config: Config, echo: Echo, inherited: Inherited, voice: Voice) -> Result<()> {
    if config.inetd {
        // It ends in the sandbox, if it comes so far.
        return inetd::serve(&config, echo).map(drop);
    }
    if config.daemon {
        umask(Mode::empty());
        chdir("/").map_err(|errno| Error::os("chdir", "/", errno))?;
    }
    // Looked at before --chroot hides /proc. Who cannot become who they should does
    // not come so far.
    let current = Current::now();
    let shortage = privileges::plan(&config.identity, current, &privileges::System::new())
        .ok()
        .and_then(|plan| limits::shortage(&config, plan.keeps_root(current)));
    // This process is one more than a start has.
    let as_many = startup::raise_processes().is_ok();
    match (up::start(config, echo, inherited, voice), shortage) {
        (Err(error), Some(shortage)) if !as_many && error.errno() == Some(Errno::EAGAIN) => {
            Err(too_low(&shortage))
        }
        (Ok(_), Some(shortage)) => Err(too_low(&shortage)),
        (started, _) => started.map(drop),
    }
}

fn too_low(shortage: &str) -> Error {
    Error::usage("limits", shortage).exit(Exit::Config)
}

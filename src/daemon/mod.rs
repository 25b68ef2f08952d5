//! The daemon: a straight line from a command line to an exit status.
//!
//! What was handed over → what was typed → what it means → signals, sockets, pidfile, log,
//! privileges (`start::up`) → supervise → tidy up.

pub mod datagram;
pub mod shared;
pub mod start;
pub mod supervisor;
pub mod threads;
pub mod worker;

use std::ffi::OsString;
use std::io::Write;

use log::error;

use self::start::detach::Ready;
use self::start::inherited::Inherited;
use self::start::up::{self, Started};
use self::start::{activation, check, detach, inetd, inherited};
use self::supervisor::notify;
use crate::cli::{self, echod::Refused};
use crate::config::Config;
use crate::error::{Error, Exit};
use crate::logging::{self, Voice};
use crate::service::{self, Echo};
use crate::sys::startup;

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
    match up::start(config, echo, inherited, voice) {
        Err(error) => ready.failed(&error),
        Ok(Started {
            supervisor,
            pidfile,
            addresses,
        }) => {
            let exit = supervisor.run(|| {
                if let Some(ready_fd) = ready_fd
                    && let Err(error) = ready_fd.announce(&addresses)
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

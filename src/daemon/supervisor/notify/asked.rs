//! What the environment asks for: whom to tell, and how often to show a sign of
//! life.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::daemon::supervisor::notify::Notify;
use crate::error::{Error, errno_text};
use crate::sys::startup;
use crate::values::{decimal, refused_value};

/// What the environment asks for.
#[derive(Default)]
pub struct Asked {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    complaint: Option<Error>,
}

impl Asked {
    /// Takes the variables out of the environment.
    pub fn take() -> Asked {
        let [socket, usec, pid] =
            ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map(startup::take_env);
        let watchdog = match &socket {
            Some(_) => watchdog(usec, pid, std::process::id()),
            None => Ok(None),
        };
        let (watchdog, complaint) = match watchdog {
            Ok(watchdog) => (watchdog, None),
            Err(error) => (None, Some(error)),
        };
        Asked {
            socket,
            watchdog,
            complaint,
        }
    }

    /// Is there anybody to tell?
    #[cfg(test)]
    pub fn asks(&self) -> bool {
        self.socket.is_some()
    }

    /// Connects to whoever wants to hear, and says what is wrong with the
    /// variables: nobody is refused service for that. `main_pid` is told where it
    /// is not the process that was started.
    pub fn connect(self, main_pid: Option<i32>) -> (Option<Notify>, Vec<Error>) {
        let mut complaints: Vec<_> = self.complaint.into_iter().collect();
        let Some(typed) = self.socket else {
            return (None, complaints);
        };
        match open(&typed) {
            Ok(socket) => (
                Some(Notify::new(socket, self.watchdog, main_pid)),
                complaints,
            ),
            Err(error) => {
                complaints.push(error);
                (None, complaints)
            }
        }
    }
}

/// How often it wants a sign of life, at least; `None` if it is off, or for another
/// process.
///
/// # Errors
/// 78, naming the variable that cannot be read.
pub fn watchdog(
    usec: Option<OsString>,
    pid: Option<OsString>,
    own: u32,
) -> Result<Option<Duration>, Error> {
    let Some(usec) = usec else { return Ok(None) };
    if let Some(pid) = pid {
        match decimal(&pid) {
            Some(pid) if pid == u64::from(own) => {}
            Some(pid) if pid > 0 => return Ok(None),
            _ => {
                return Err(refused_value(
                    "WATCHDOG_PID",
                    &pid,
                    "not a process id: ignored",
                ));
            }
        }
    }
    match decimal(&usec) {
        // The greatest stands for infinity there.
        Some(usec) if usec > 0 && usec < u64::MAX => Ok(Some(Duration::from_micros(usec))),
        _ => Err(refused_value(
            "WATCHDOG_USEC",
            &usec,
            "not a time in microseconds: ignored",
        )),
    }
}

pub(crate) fn open(typed: &OsString) -> Result<OwnedFd, Error> {
    const ADVICE: &str = "the service manager is told nothing";
    let bytes = typed.as_bytes();
    let address = match bytes {
        [b'/', ..] => UnixAddr::new(Path::new(typed)),
        [b'@', name @ ..] if !name.is_empty() => UnixAddr::new_abstract(name),
        _ => {
            let why = format!("neither a path nor an abstract name: {ADVICE}");
            return Err(refused_value("NOTIFY_SOCKET", typed, &why));
        }
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = address.and_then(|address| {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(socket)
    });
    connected.map_err(|errno| {
        let why = format!("{}: {ADVICE}", errno_text(errno));
        refused_value("NOTIFY_SOCKET", typed, &why)
    })
}

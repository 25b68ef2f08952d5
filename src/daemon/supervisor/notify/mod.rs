//! Words for a service manager, by the protocol of sd_notify(3): datagrams to
//! the socket that NOTIFY_SOCKET names. Whom to tell, and how often to show a sign
//! of life, is what the environment asks for ([`Asked`]).
//!
//! The supervisor speaks, once a turn of its loop at most, and never waits: a
//! word that does not fit into the manager's queue is kept and said later, a
//! sign of life is not. No word is put together on the heap, which would be a
//! page that the next fork copies. A supervisor that is stuck gives no sign of
//! life, which is what WATCHDOG_USEC is for.

use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};
use nix::time::{ClockId, clock_gettime};

use crate::error::{Error, errno_text};
use crate::sys::startup;
use crate::values::{decimal, plural, refused_value};

/// How soon a word that did not fit is said again.
const RETRY: Duration = Duration::from_millis(100);
/// Time from one STATUS to the next, at least.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The watchdog is served as often as this at most, whatever it asks for.
const FASTEST: Duration = Duration::from_millis(10);

/// What is said but once, in the order in which it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// HUP is being obeyed; [`Word::Ready`] follows.
    Reloading,
    /// It serves.
    Ready,
    /// It is about to stop.
    Stopping,
}

const WORDS: [Word; 3] = [Word::Reloading, Word::Ready, Word::Stopping];

/// What STATUS tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// New clients are welcome.
    pub serves: bool,
    /// Clients being served.
    pub clients: usize,
    /// Workers that wait, where there is a pool of them.
    pub idle: Option<usize>,
}

/// See the module.
pub struct Notify {
    socket: OwnedFd,
    main_pid: Option<i32>,
    unsaid: [bool; WORDS.len()],
    retry_at: Option<Instant>,
    told: Option<Status>,
    status_after: Option<Instant>,
    /// Something has happened since, so there may be something to tell.
    stirred: bool,
    sign_every: Option<Duration>,
    sign_at: Option<Instant>,
    deaf: bool,
}

impl Notify {
    fn new(socket: OwnedFd, watchdog: Option<Duration>, main_pid: Option<i32>) -> Notify {
        Notify {
            socket,
            main_pid,
            unsaid: [false; WORDS.len()],
            retry_at: None,
            told: None,
            status_after: None,
            stirred: false,
            sign_every: watchdog.map(|time| (time / 2).max(FASTEST)),
            sign_at: None,
            deaf: false,
        }
    }

    /// Says it now, or as soon as it fits.
    pub fn say(&mut self, word: Word, now: Instant) {
        self.unsaid[word as usize] = true;
        self.catch_up(now);
    }

    fn catch_up(&mut self, now: Instant) {
        self.retry_at = None;
        for word in WORDS {
            if !self.unsaid[word as usize] {
                continue;
            }
            let main_pid = self.main_pid;
            if self.send(|text| word.write(text, main_pid)) == Err(Errno::EAGAIN) {
                self.retry_at = Some(now + RETRY);
                return;
            }
            self.unsaid[word as usize] = false;
        }
    }

    /// Once a turn of the loop: what is due. True if STATUS may be told now.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.catch_up(now);
        }
        if let Some(every) = self.sign_every
            && self.sign_at.is_none_or(|at| at <= now)
        {
            // One that does not fit is not kept: the next says as much.
            let _ = self.send(|text| text.write_all(b"WATCHDOG=1"));
            self.sign_at = now.checked_add(every);
        }
        self.stirred = self.status_after.is_some_and(|after| after > now);
        !self.stirred
    }

    /// Tells it if it is news, after a [`Notify::look`] that said so.
    pub fn tell(&mut self, status: Status, now: Instant) {
        self.status_after = Some(now + STATUS_EVERY);
        if self.told != Some(status) && self.send(|text| status.write(text)) != Err(Errno::EAGAIN) {
            self.told = Some(status);
        }
    }

    /// When [`Notify::look`] will find something due.
    pub fn wakes_at(&self) -> Option<Instant> {
        let status = self.status_after.filter(|_| self.stirred);
        [self.retry_at, self.sign_at, status]
            .into_iter()
            .flatten()
            .min()
    }

    /// One datagram. EAGAIN is for the caller; anything else will not pass, and
    /// is said once.
    fn send(
        &mut self,
        write: impl FnOnce(&mut Cursor<&mut [u8]>) -> std::io::Result<()>,
    ) -> Result<(), Errno> {
        let mut bytes = [0; 128];
        let mut text = Cursor::new(&mut bytes[..]);
        if write(&mut text).is_err() {
            return Err(Errno::EMSGSIZE);
        }
        let length = text.position() as usize;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.socket.as_raw_fd(), &bytes[..length], flags) {
            Ok(_) => Ok(()),
            // ENOBUFS and ENOMEM pass too.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                Err(Errno::EAGAIN)
            }
            Err(errno) => {
                if !std::mem::replace(&mut self.deaf, true) {
                    let errno = errno_text(errno);
                    warn!("NOTIFY_SOCKET: {errno}: the service manager does not hear");
                }
                Err(errno)
            }
        }
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Word {
    fn write(self, text: &mut impl Write, main_pid: Option<i32>) -> std::io::Result<()> {
        match (self, main_pid) {
            (Word::Reloading, _) => {
                // Which of two reloads this is, for Type=notify-reload.
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
                let usec = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000;
                write!(text, "RELOADING=1\nMONOTONIC_USEC={usec}")
            }
            (Word::Ready, None) => text.write_all(b"READY=1"),
            (Word::Ready, Some(pid)) => write!(text, "READY=1\nMAINPID={pid}"),
            (Word::Stopping, _) => text.write_all(b"STOPPING=1"),
        }
    }
}

impl Status {
    fn write(self, text: &mut impl Write) -> std::io::Result<()> {
        let does = if self.serves { "serving" } else { "stopping" };
        let clients = plural(self.clients as u64, "client");
        write!(text, "STATUS={does}, {clients}")?;
        match self.idle {
            Some(idle) => write!(text, ", {idle} idle"),
            None => Ok(()),
        }
    }
}

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

fn open(typed: &OsString) -> Result<OwnedFd, Error> {
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

#[cfg(test)]
mod tests;

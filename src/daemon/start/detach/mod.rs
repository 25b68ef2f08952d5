//! Saying that we serve, to whoever started us and waits: on `--ready-fd`; and with
//! `--daemon`, the SysV steps of daemon(7) around a pipe that tells the starter how it
//! went.
//!
//! Promises that whoever typed the command gets the daemon's own answer: exit
//! 0 only once it serves, else its status and message. Until then its
//! standard descriptors stay the starter's, so that warnings are seen. Knows
//! nothing of what happens between the fork and the answer.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, read, setsid, write};

use crate::error::{Error, Exit, Result};
use crate::logging::Voice;
use crate::sys::{fd, process};

/// The longest message sent up the pipe, so that it is one atomic write.
const LONGEST: usize = 4000;

/// See pipe(7).
const PIPE_BUF: usize = 4096;

/// Milliseconds that a full pipe may take to be read from, before clients are served.
const PATIENCE: u16 = 1000;

/// Told once how the start went. In the foreground there is nobody to tell
/// but standard error. Dropping it unanswered, as a daemon that dies does,
/// makes the starter say that the daemon is gone.
#[derive(Debug)]
pub struct Ready {
    daemon: Option<Channel>,
    voice: Voice,
}

#[derive(Debug)]
struct Channel {
    starter: OwnedFd,
    /// Opened early: after chroot(2) there may be none.
    null: OwnedFd,
}

impl Ready {
    /// For a program that stays in the foreground.
    pub fn foreground(voice: Voice) -> Ready {
        Ready {
            daemon: None,
            voice,
        }
    }

    /// We serve. A daemon lets go of the terminal; its starter exits 0.
    pub fn serving(self) {
        if let Some(Channel { starter, null }) = self.daemon {
            point_stdio_at(&null);
            // A starter killed while it waited wants no answer.
            let _ = write(&starter, &encode(Exit::Ok, ""));
        }
    }

    /// We do not: the message for whoever started us, and the status to end
    /// with.
    pub fn failed(self, error: &Error) -> Exit {
        match self.daemon {
            Some(Channel { starter, .. }) => {
                let _ = write(&starter, &encode(error.status(), &error.to_string()));
            }
            None => self.voice.complain(&error.to_string()),
        }
        error.status()
    }
}

/// Runs `run` in a process detached from terminal, session and directory, and
/// returns in the starter, with the status to exit with, once that process
/// has answered. The detached process leaves with what `run` returns.
///
/// The caller is single-threaded and has flushed what it wrote; it may hold
/// signals blocked, and they stay so in both. `run` works in `/` with umask 0,
/// so paths must be absolute by now and modes explicit. Forked children of the
/// detached process should be born after [`Ready::serving`]: those born before
/// keep the starter's terminal.
pub fn detach(voice: Voice, run: impl FnOnce(Ready) -> Exit) -> Exit {
    match start(voice, run).and_then(|(starter, leader)| {
        let answer = wait_for_answer(&starter);
        // It left right after its fork. ECHILD, if SIGCHLD is ignored, is as good.
        let _ = waitpid(leader, None);
        answer
    }) {
        Ok(()) => Exit::Ok,
        Err(Failure { exit, message }) => {
            voice.complain(&message);
            exit
        }
    }
}

/// What the starter prints, and exits with.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    exit: Exit,
    message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            exit: error.status(),
            message: error.to_string(),
        }
    }
}

fn start(
    voice: Voice,
    run: impl FnOnce(Ready) -> Exit,
) -> Result<(OwnedFd, nix::unistd::Pid), Failure> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::os("pipe", "", errno))?;
    let null = fd::dev_null()?;
    let ready = Ready {
        daemon: Some(Channel {
            starter: writer,
            null,
        }),
        voice,
    };
    // An Option, so that the child can close it and we can keep it.
    let mut reader = Some(reader);
    let leader = process::fork(|| {
        drop(reader.take());
        lead(ready, run) as i32
    })
    .map_err(|errno| Error::os("fork", "the daemon", errno))?;
    match reader {
        Some(reader) => Ok((reader, leader)),
        None => unreachable!("only the child takes it"),
    }
}

/// The first child: a new session, so no terminal's signals; then a second
/// fork, so that its child leads no session and can never acquire a terminal.
fn lead(ready: Ready, run: impl FnOnce(Ready) -> Exit) -> Exit {
    if let Err(errno) = setsid() {
        return ready.failed(&Error::os("setsid", "", errno));
    }
    let mut ready = Some(ready);
    let forked = process::fork(|| match ready.take() {
        Some(ready) => be_daemon(ready, run) as i32,
        None => unreachable!("taken once"),
    });
    match (forked, ready) {
        (Err(errno), Some(ready)) => ready.failed(&Error::os("fork", "the daemon", errno)),
        _ => Exit::Ok,
    }
}

fn be_daemon(ready: Ready, run: impl FnOnce(Ready) -> Exit) -> Exit {
    umask(Mode::empty());
    match chdir("/") {
        Ok(()) => run(ready),
        Err(errno) => ready.failed(&Error::os("chdir", "/", errno)),
    }
}

/// Puts /dev/null on 0, 1 and 2.
///
/// dup2(2) from and to open descriptors fails only for want of one (EBUSY, a
/// race with another thread's open, cannot be: there is none).
fn point_stdio_at(null: &OwnedFd) {
    for outcome in [dup2_stdin(null), dup2_stdout(null), dup2_stderr(null)] {
        debug_assert_eq!(outcome, Ok(()));
    }
}

/// Reads until the answer is whole. Its end, not the end of file: children of
/// the daemon may hold the pipe open.
fn wait_for_answer(starter: &OwnedFd) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    let mut buf = [0; 512];
    loop {
        match decode(&bytes) {
            Heard::Partial => {}
            Heard::Serving => return Ok(()),
            Heard::Failed(failure) => return Err(failure),
        }
        match read(starter, &mut buf) {
            Ok(0) => return Err(vanished()),
            Ok(n) => bytes.extend_from_slice(&buf[..n]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::os("read", "the daemon's answer", errno).into()),
        }
    }
}

fn vanished() -> Failure {
    Failure {
        exit: Exit::Internal,
        message: "the daemon ended before it served, without a word: \
                  run it without --daemon to see why"
            .to_owned(),
    }
}

/// What has come of its word.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Partial,
    Serving,
    Failed(Failure),
}

/// The status, the length of the text in two bytes, the text.
fn encode(exit: Exit, text: &str) -> Vec<u8> {
    let text = &text[..text.floor_char_boundary(LONGEST)];
    let length = u16::try_from(text.len()).unwrap_or(0);
    let mut bytes = vec![exit as u8];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Heard {
    let [status, low, high, text @ ..] = bytes else {
        return Heard::Partial;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let Some(text) = text.get(..length) else {
        return Heard::Partial;
    };
    match Exit::of((*status).into()) {
        Exit::Ok => Heard::Serving,
        exit => Heard::Failed(Failure {
            exit,
            message: String::from_utf8_lossy(text).into_owned(),
        }),
    }
}

/// The descriptor that waits for the listeners' names.
pub struct ReadyFd(OwnedFd);

impl ReadyFd {
    /// Takes over descriptor `number`, which the command line named.
    ///
    /// # Errors
    /// It cannot be duplicated.
    pub fn adopt(number: RawFd) -> Result<Self> {
        fd::adopt(number).map(ReadyFd)
    }

    /// One line per listener, then end of file. A reader that has gone away, or does
    /// not read, is no reason not to serve.
    ///
    /// # Errors
    /// What was not said, for the log.
    pub fn announce(self, names: &[String]) -> Result<()> {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        // A pipe that poll(2) calls writable takes PIPE_BUF bytes at once.
        let outcome = lines.as_bytes().chunks(PIPE_BUF).try_for_each(|mut rest| {
            while !rest.is_empty() {
                self.wait_for_room()?;
                match write(&self.0, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        });
        outcome.map_err(|errno| {
            Error::os("write", "to --ready-fd", errno)
                .hint("who waits there has not been told that it serves")
        })
    }

    fn wait_for_room(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::from(PATIENCE)) {
            Ok(0) => Err(Errno::EAGAIN),
            // The write says what is wrong.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

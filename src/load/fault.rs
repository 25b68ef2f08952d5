//! How one attempt ended, what is said of one that failed, and the file in which
//! those are written down.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use nix::errno::Errno;

use crate::addr::Target;
use crate::error::{Error, Exit, Result};

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All came back, and nothing else.
    Complete,
    /// Nobody listens there, or no way leads there.
    Refused,
    /// The server broke the connection.
    Reset,
    /// A connect, read or write took longer than `--timeout`.
    Timeout,
    /// The server closed before all was back.
    Short,
    /// Something came back that was not sent.
    Corrupt,
    /// This side could not go on: no descriptor, port or memory was left.
    Other,
}

impl Outcome {
    /// Every kind, in the order of the report.
    pub const ALL: [Outcome; 7] = [
        Outcome::Complete,
        Outcome::Refused,
        Outcome::Reset,
        Outcome::Timeout,
        Outcome::Short,
        Outcome::Corrupt,
        Outcome::Other,
    ];

    /// The word the report uses.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Refused => "refused",
            Outcome::Reset => "reset",
            Outcome::Timeout => "timeout",
            Outcome::Short => "short",
            Outcome::Corrupt => "corrupt",
            Outcome::Other => "other",
        }
    }

    /// What an errno of connect, read, write or shutdown says of the server, or
    /// [`Outcome::Other`] if it says something of this side.
    pub fn of(errno: Errno) -> Outcome {
        match errno {
            Errno::ECONNREFUSED
            | Errno::ENOENT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN => Outcome::Refused,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED | Errno::ENOTCONN => {
                Outcome::Reset
            }
            // A Unix socket whose queue is full says EAGAIN; see connect(2).
            Errno::ETIMEDOUT | Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY => {
                Outcome::Timeout
            }
            _ => Outcome::Other,
        }
    }
}

/// An attempt that did not complete.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the server did, or [`Outcome::Other`].
    pub outcome: Outcome,
    /// The same for people.
    pub error: Error,
}

// The file of `--outcomes`: a line for every unit that did not complete.
//
// Tab-separated: UNIX time in seconds with six decimals, kind, local address,
// target, bytes sent, bytes received back.

/// An open file of outcomes.
pub struct Outcomes {
    path: String,
    file: Mutex<BufWriter<File>>,
}

/// A unit that failed.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    /// How.
    pub outcome: Outcome,
    /// The client's address, or `-`.
    pub local: String,
    /// The server.
    pub target: &'a Target,
    /// Bytes sent on this unit.
    pub sent: u64,
    /// Bytes that came back.
    pub back: u64,
}

impl Outcomes {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// open(2)'s (73).
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = File::create(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("create", &shown, errno).exit(Exit::CantCreate)
        })?;
        Ok(Outcomes {
            path: shown,
            file: Mutex::new(BufWriter::new(file)),
        })
    }

    /// Writes one line. What cannot be written shows in [`Outcomes::close`].
    pub fn write(&self, failure: &Failure) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let line = line(now.unwrap_or_default().as_secs_f64(), failure);
        let mut file = self.file.lock().expect("no thread panics with it");
        let _ = file.write_all(line.as_bytes());
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// write(2)'s (74).
    pub fn close(self) -> Result<()> {
        let mut file = self.file.into_inner().expect("no thread panics with it");
        file.flush().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("write", &self.path, errno).exit(Exit::Io)
        })
    }
}

fn line(time: f64, failure: &Failure) -> String {
    let Failure {
        outcome,
        local,
        target,
        sent,
        back,
    } = failure;
    let kind = outcome.name();
    format!("{time:.6}\t{kind}\t{local}\t{target}\t{sent}\t{back}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_the_servers_doing_or_ours() {
        for (errno, outcome) in [
            (Errno::ECONNREFUSED, Outcome::Refused),
            (Errno::ENOENT, Outcome::Refused),
            (Errno::ECONNRESET, Outcome::Reset),
            (Errno::EPIPE, Outcome::Reset),
            (Errno::EAGAIN, Outcome::Timeout),
            (Errno::ETIMEDOUT, Outcome::Timeout),
            (Errno::EMFILE, Outcome::Other),
            (Errno::EADDRNOTAVAIL, Outcome::Other),
            (Errno::EACCES, Outcome::Other),
        ] {
            assert_eq!(Outcome::of(errno), outcome, "{errno}");
        }
    }

    #[test]
    fn a_line_has_six_fields() {
        let target = "127.0.0.1:7".parse().unwrap();
        let failure = Failure {
            outcome: Outcome::Reset,
            local: "127.0.0.2:40000".to_owned(),
            target: &target,
            sent: 64,
            back: 10,
        };
        assert_eq!(
            line(1_700_000_000.25, &failure),
            "1700000000.250000\treset\t127.0.0.2:40000\ttcp:127.0.0.1:7\t64\t10\n"
        );
    }
}

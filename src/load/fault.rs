//! How one attempt ended, and what is said of one that failed. Pure.

use nix::errno::Errno;

use crate::error::Error;

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
}

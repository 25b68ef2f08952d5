//! What can go wrong, and the exit status that says so.
//!
//! An [`Error`] keeps the operation, its subject, the errno and what to do
//! about it, and prints as one line. Libraries return it; only the programs
//! and the supervisor show it.

use std::fmt;

use nix::errno::Errno;

/// Exit statuses of sysexits(3), the ones echod and echoload use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// The command line was wrong.
    Usage = 64,
    /// Address in use, or the service cannot be reached.
    Unavailable = 69,
    /// A contract of our own was broken.
    Internal = 70,
    /// The operating system refused (fork, limits).
    Os = 71,
    /// A pidfile, log or socket path cannot be created.
    CantCreate = 73,
    /// Input or output failed.
    Io = 74,
    /// The asked rate was not reached (echoload).
    NotReached = 75,
    /// What came back is not what was sent.
    Mismatch = 76,
    /// Permission denied.
    NoPermission = 77,
    /// The configuration does not fit this machine.
    Config = 78,
}

impl Exit {
    /// The one with this number, as another process of ours told it.
    pub fn of(status: i32) -> Exit {
        const ALL: [Exit; 9] = [
            Exit::Ok,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Os,
            Exit::CantCreate,
            Exit::Io,
            Exit::NoPermission,
            Exit::Config,
            Exit::Internal,
        ];
        ALL.into_iter()
            .find(|exit| *exit as i32 == status)
            .unwrap_or(Exit::Internal)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// One failure: `bind tcp:127.0.0.1:7: Permission denied (EACCES): ports below
/// 1024 need CAP_NET_BIND_SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    op: String,
    subject: String,
    errno: Option<Errno>,
    hint: String,
    exit: Exit,
}

impl Error {
    /// A system call failed: operation, subject and errno. The exit status is
    /// 71 until [`Error::exit`] names a better one.
    pub fn os(op: &str, subject: impl fmt::Display, errno: Errno) -> Self {
        Error {
            op: op.to_owned(),
            subject: subject.to_string(),
            errno: Some(errno),
            hint: String::new(),
            exit: Exit::Os,
        }
    }

    /// What was asked for cannot be meant: exit status 64.
    pub fn usage(subject: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error {
            op: String::new(),
            subject: subject.to_string(),
            errno: None,
            hint: hint.to_string(),
            exit: Exit::Usage,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = hint.to_string();
        self
    }

    /// Ends the program with this status.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The status the program ends with.
    pub fn status(&self) -> Exit {
        self.exit
    }

    /// The errno, where a system call was the cause.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }
}

/// `Permission denied (EACCES)`, as every message names an errno.
pub fn errno_text(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match (self.op.as_str(), self.subject.as_str()) {
            ("", subject) => subject.to_owned(),
            (op, "") => op.to_owned(),
            (op, subject) => format!("{op} {subject}"),
        };
        let errno = self.errno.map(errno_text).unwrap_or_default();
        let parts = [subject, errno, self.hint.clone()];
        let said = parts.into_iter().filter(|part| !part.is_empty());
        for c in said.collect::<Vec<_>>().join(": ").chars() {
            // What was typed is repeated, and must not begin another line.
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The result of anything that can end a program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_of_operation_subject_errno_and_advice() {
        let error = Error::os("bind", "tcp:127.0.0.1:7", Errno::EACCES)
            .hint("ports below 1024 need CAP_NET_BIND_SERVICE")
            .exit(Exit::NoPermission);
        assert_eq!(
            error.to_string(),
            "bind tcp:127.0.0.1:7: Permission denied (EACCES): \
             ports below 1024 need CAP_NET_BIND_SERVICE"
        );
        assert_eq!(error.status() as u8, 77);
    }

    #[test]
    fn what_was_typed_begins_no_line() {
        let error = Error::usage("'1\n2\u{1b}[31m'", "not a number");
        assert_eq!(error.to_string(), "'1\\n2\\u{1b}[31m': not a number");
    }

    #[test]
    fn a_usage_error_has_no_errno() {
        let error = Error::usage("--max-clients 0", "at least 1");
        assert_eq!(error.to_string(), "--max-clients 0: at least 1");
        assert_eq!(error.status(), Exit::Usage);
    }
}

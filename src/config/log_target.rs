//! Where the log goes, as it is typed: a word, or a path, which has a slash.
//!
//! A word that is neither is refused with the nearest one, so that what was
//! mistyped does not become a file of that name.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;
use crate::values::nearest;

/// The sink of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// /dev/log, as syslog(3) would, but never waiting for it.
    Syslog(Facility),
    /// A file, appended to and reopened on USR1 and HUP.
    File(PathBuf),
}

/// Who says it, for syslogd to sort by: syslog(3)'s LOG_DAEMON and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// By number. There is no `kern`: syslogd takes that from the kernel alone.
const FACILITIES: [(&str, u8); 19] = [
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

impl Facility {
    /// LOG_DAEMON.
    pub const DAEMON: Facility = Facility(3);

    /// Its bits of a priority.
    pub fn bits(self) -> u8 {
        self.0 << 3
    }
}

/// The names by which a standard descriptor can be opened, as containers give them
/// for a log. They are not opened: a socket cannot be, and a file would get a second
/// offset.
const STANDARD: [(LogTarget, [&str; 3]); 2] = [
    (
        LogTarget::Stdout,
        ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"],
    ),
    (
        LogTarget::Stderr,
        ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"],
    ),
];

impl FromStr for LogTarget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "stderr" => return Ok(LogTarget::Stderr),
            "stdout" | "-" => return Ok(LogTarget::Stdout),
            "syslog" => return Ok(LogTarget::Syslog(Facility::DAEMON)),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("syslog:") {
            return facility(name).map(LogTarget::Syslog);
        }
        if !text.contains('/') {
            return Err(refused(text, &["stderr", "stdout", "syslog"]));
        }
        if text.ends_with('/') {
            return Err(Error::usage("", "this is a directory: name a file in it"));
        }
        let path = Path::new(text);
        let is = |name: &str| path == Path::new(OsStr::new(name));
        let named = STANDARD
            .into_iter()
            .find(|(_, names)| names.iter().any(|name| is(name)));
        Ok(named.map_or_else(|| LogTarget::File(path.to_owned()), |(target, _)| target))
    }
}

fn facility(name: &str) -> Result<Facility, Error> {
    match FACILITIES.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => Ok(Facility(*number)),
        None => {
            let names = FACILITIES.map(|(name, _)| name);
            let guess = nearest(name, &names).map(|name| format!("; syslog:{name}?"));
            Err(Error::usage(
                "",
                format!(
                    "no such facility{}; there are {}",
                    guess.unwrap_or_default(),
                    names.join(" ")
                ),
            ))
        }
    }
}

fn refused(text: &str, words: &[&str]) -> Error {
    let guess = nearest(text, words).map(|word| format!("; {word}?"));
    let file = match text {
        "" => "a path".to_owned(),
        text => format!("a path with a slash, as ./{text}"),
    };
    Error::usage(
        "",
        format!(
            "no such target{}: it is stderr, stdout, syslog[:FACILITY] or {file}",
            guess.unwrap_or_default()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LogTarget, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }

    #[test]
    fn a_target_is_a_word_or_has_a_slash() {
        let file = |path: &str| LogTarget::File(path.into());
        for (text, target) in [
            ("stderr", LogTarget::Stderr),
            ("stdout", LogTarget::Stdout),
            ("-", LogTarget::Stdout),
            ("/dev/stdout", LogTarget::Stdout),
            ("//dev/./stdout", LogTarget::Stdout),
            ("/proc/self/fd/1", LogTarget::Stdout),
            ("/dev/fd/1", LogTarget::Stdout),
            ("/dev/stderr", LogTarget::Stderr),
            ("/proc/self/fd/2", LogTarget::Stderr),
            ("syslog", LogTarget::Syslog(Facility::DAEMON)),
            ("syslog:daemon", LogTarget::Syslog(Facility::DAEMON)),
            ("syslog:local7", LogTarget::Syslog(Facility(23))),
            ("./stderr", file("./stderr")),
            ("logs/access", file("logs/access")),
            ("/dev/stdout.log", file("/dev/stdout.log")),
        ] {
            assert_eq!(parse(text), Ok(target), "{text}");
        }
        assert_eq!(Facility::DAEMON.bits(), 24);
    }

    #[test]
    fn any_other_word_is_refused_with_the_nearest() {
        for (text, guess) in [
            ("sylog", "syslog?"),
            ("stdrr", "stderr?"),
            ("stdot", "stdout?"),
            ("STDERR", "stderr?"),
            ("Syslog", "syslog?"),
            ("access.log", "./access.log"),
            ("", "a path"),
            ("--", "./--"),
            ("syslog:locl0", "syslog:local0?"),
            ("syslog:kern", "no such facility"),
            ("syslog:", "no such facility"),
            ("/var/log/", "a directory"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(guess), "{text}: {error}");
        }
    }
}

//! Standard error while there is no log: what is wrong with a start, in the shape
//! that the log would have.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use log::Level;

use super::line::{Header, Layout, Line};
use crate::config::LogFormat;
use crate::sys::fd::stat;

/// How lines look on standard error, and on standard output.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    format: LogFormat,
    journal: Option<Stream>,
}

/// Device and inode of a socket.
type Stream = (u64, u64);

impl Voice {
    /// Lines of this format, for who reads standard error: JOURNAL_STREAM tells
    /// whether it is systemd's journal (systemd.exec(5)). The variable stays for
    /// others who have the same standard error; the journal's is no secret.
    pub fn new(format: LogFormat) -> Self {
        let said = std::env::var("JOURNAL_STREAM").ok();
        Voice {
            format,
            journal: said.as_deref().and_then(stream),
        }
    }

    /// The same in another format.
    #[must_use]
    pub fn speaking(self, format: LogFormat) -> Self {
        Voice { format, ..self }
    }

    /// What lines written to this descriptor begin with. The variable may be
    /// inherited by who has another standard error, so it alone says nothing.
    pub(super) fn header(self, fd: BorrowedFd<'_>) -> Header {
        let is = stat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
        match self.journal {
            Some(stream) if is == Some(stream) => Header::Journal,
            _ => Header::Own,
        }
    }

    /// An error as a line of standard error.
    pub(super) fn line(self, level: Level, message: &str) -> String {
        let layout = Layout {
            format: self.format,
            header: self.header(io::stderr().as_fd()),
        };
        if (layout.format, layout.header) == (LogFormat::Text, Header::Own) {
            return format!("echod: {message}\n");
        }
        layout.render(&Line {
            at: SystemTime::now(),
            pid: std::process::id(),
            level,
            target: "echod",
            message: message.to_owned(),
            fields: Vec::new(),
        })
    }

    /// One line on standard error, whoever reads it or not.
    pub fn complain(self, message: &str) {
        self.say(Level::Error, message);
    }

    /// The same of what is no reason not to start.
    pub fn warn(self, message: &str) {
        self.say(Level::Warn, message);
    }

    fn say(self, level: Level, message: &str) {
        let _ = io::stderr().write_all(self.line(level, message).as_bytes());
    }
}

/// `8:123456`, or nothing that could be a descriptor of ours.
fn stream(said: &str) -> Option<Stream> {
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let (device, inode) = said.split_once(':')?;
    Some((number(device)?, number(inode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_two_numbers_and_garbage_is_none() {
        assert_eq!(stream("8:123456"), Some((8, 123_456)));
        assert_eq!(stream("0:18446744073709551615"), Some((0, u64::MAX)));
        for garbage in [
            "", ":", "8", "8:", ":1", "8:1:2", "+8:1", "8: 1", "8:x", "8:1\n",
        ] {
            assert_eq!(stream(garbage), None, "{garbage:?}");
        }
        assert_eq!(stream("0:18446744073709551616"), None);
    }

    #[test]
    fn another_descriptor_than_the_journals_has_its_own_header() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let found = stat(ours.as_fd()).expect("stat");
        let voice = Voice {
            format: LogFormat::Text,
            journal: Some((found.st_dev, found.st_ino)),
        };
        assert_eq!(voice.header(ours.as_fd()), Header::Journal);
        assert_eq!(voice.header(theirs.as_fd()), Header::Own);
        let nobody = Voice {
            journal: None,
            ..voice
        };
        assert_eq!(nobody.header(ours.as_fd()), Header::Own);
    }
}

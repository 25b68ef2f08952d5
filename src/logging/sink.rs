//! One line out, or counted: what stands between the log and its reader.
//!
//! Promises never to wait and never to fail. A line is one write of at most
//! [`LONGEST`] bytes, so that lines of several processes do not interleave in
//! a pipe (`pipe(7)`). What was lost is said, first thing, when the output
//! takes lines again. Knows no message but that one.

use std::borrow::Cow;
use std::os::fd::RawFd;
use std::time::SystemTime;

use log::Level;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};

use crate::error::Error;
use crate::logging::line::{LONGEST, Layout, Line};
use crate::logging::output::Output;

/// The end of a line that was too long.
const CUT: &str = "…\n";

pub(super) struct Sink {
    output: Output,
    layout: Layout,
    /// The process whose losses these are: a forked child's start at none, or
    /// parent and child would both announce the same ones.
    owner: u32,
    /// Lines lost and not yet announced.
    unsaid: u64,
    /// Lines lost in all.
    lost: u64,
    /// The last write was cut short (a disk that filled up): the next one
    /// begins with the newline that line never got.
    torn: bool,
}

impl Sink {
    pub fn new(output: Output, layout: Layout) -> Sink {
        Sink {
            output,
            layout,
            owner: std::process::id(),
            unsaid: 0,
            lost: 0,
            torn: false,
        }
    }

    /// Writes a line that ends in a newline, or counts it.
    pub fn put(&mut self, line: &[u8]) {
        let pid = std::process::id();
        if pid != self.owner {
            (self.owner, self.unsaid, self.lost) = (pid, 0, 0);
            self.output.forked();
        }
        if self.caught_up(pid) && self.write(line).is_ok() {
            return;
        }
        self.unsaid += 1;
        self.lost += 1;
    }

    pub fn reopen(&mut self) -> Result<bool, Error> {
        self.output.reopen()
    }

    pub fn give_to(&mut self, uid: Uid, gid: Gid) {
        if let Output::File(file) = &mut self.output {
            file.give_to(uid, gid);
        }
    }

    pub fn can_reopen(&self) -> Result<(), Error> {
        match &self.output {
            Output::File(file) => file.can_reopen(),
            _ => Ok(()),
        }
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub fn keep(&self) -> Vec<RawFd> {
        self.output.keep()
    }

    /// Announces what was lost, if anything was; false if that is lost too.
    fn caught_up(&mut self, pid: u32) -> bool {
        if self.unsaid == 0 {
            return true;
        }
        let notice = self.layout.render(&Line {
            at: SystemTime::now(),
            pid,
            level: Level::Warn,
            target: "log",
            message: format!("{} log lines lost", self.unsaid),
            fields: vec![("lost".to_owned(), self.unsaid.into())],
        });
        let said = self.write(notice.as_bytes()).is_ok();
        if said {
            self.unsaid = 0;
        }
        said
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Errno> {
        let mut bytes = fitting(line);
        if self.torn {
            let mut whole = vec![b'\n'];
            whole.extend_from_slice(&fitting_in(line, LONGEST - 1));
            bytes = Cow::Owned(whole);
        }
        let written = self.output.send(&bytes)?;
        self.torn = written < bytes.len();
        if self.torn {
            Err(Errno::ENOSPC)
        } else {
            Ok(())
        }
    }
}

fn fitting(line: &[u8]) -> Cow<'_, [u8]> {
    fitting_in(line, LONGEST)
}

/// The line, cut at a character's end if it has more than `room` bytes.
fn fitting_in(line: &[u8], room: usize) -> Cow<'_, [u8]> {
    if line.len() <= room {
        return Cow::Borrowed(line);
    }
    let mut end = room - CUT.len();
    while end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    Cow::Owned([&line[..end], CUT.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::UnixDatagram;

    use super::super::line::Header;
    use super::super::output::{LogFile, Syslog};
    use super::*;
    use crate::config::{Facility, LogFormat};

    const TEXT: Layout = Layout {
        format: LogFormat::Text,
        header: Header::Own,
    };

    fn to_file(path: &std::path::Path) -> Sink {
        Sink::new(Output::File(LogFile::open(path).expect("open")), TEXT)
    }

    #[test]
    fn a_full_disk_counts_and_recovers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut sink = to_file("/dev/full".as_ref());
        for _ in 0..3 {
            sink.put(b"lost\n");
        }
        assert_eq!(sink.lost(), 3);
        // The disk has room again.
        sink.output = Output::File(LogFile::open(&path).expect("open"));
        sink.put(b"kept\n");
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(" WARN  echod["), "{text}");
        assert!(lines[0].ends_with(": 3 log lines lost"), "{text}");
        assert_eq!(lines[1], "kept");
        assert_eq!(sink.lost(), 3);
    }

    #[test]
    fn a_child_does_not_announce_its_parents_losses() {
        let mut sink = to_file("/dev/full".as_ref());
        sink.put(b"lost\n");
        sink.owner = 1;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        sink.output = Output::File(LogFile::open(&path).expect("open"));
        sink.put(b"child\n");
        assert_eq!(fs::read_to_string(&path).expect("read"), "child\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_only_counted() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let mut sink = Sink::new(Output::Pipe(writer.into()), TEXT);
        sink.put(b"lost\n");
        sink.put(b"lost\n");
        assert_eq!(sink.lost(), 2);
    }

    #[test]
    fn row_66_a_full_pipe_does_not_delay_the_caller() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let mut sink = Sink::new(Output::Pipe(writer.into()), TEXT);
        let mut kept = 0;
        while sink.lost() == 0 {
            sink.put(b"fill\n");
            kept += 1;
            assert!(kept < 1_000_000, "the pipe never filled");
        }
        sink.put(b"lost\n");
        // Everything in the pipe leaves it; then it takes lines again.
        let mut drained = vec![0; (kept - 1) * 5];
        reader.read_exact(&mut drained).expect("drain");
        sink.put(b"kept\n");
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("rest");
        assert!(rest.ends_with(": 2 log lines lost\nkept\n"), "{rest}");
    }

    #[test]
    fn row_67_a_renamed_file_is_left_at_reopen() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = to_file(&path);
        sink.put(b"one\n");
        fs::rename(&path, &old).expect("rename");
        sink.put(b"two\n");
        sink.reopen().expect("reopen");
        sink.put(b"three\n");
        assert_eq!(fs::read_to_string(&old).expect("old"), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).expect("new"), "three\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_leaves_the_old_one_in_use() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = to_file(&path);
        fs::rename(&path, &old).expect("rename");
        std::os::unix::fs::symlink(&old, &path).expect("symlink");
        let error = sink.reopen().expect_err("a symlink is not followed");
        assert!(error.to_string().contains("still writing to"), "{error}");
        sink.put(b"kept\n");
        assert_eq!(fs::read_to_string(&old).expect("old"), "kept\n");
    }

    #[test]
    fn long_lines_are_cut_and_torn_ones_ended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut sink = to_file(&path);
        sink.put(format!("{}\n", "é".repeat(3000)).as_bytes());
        let text = fs::read_to_string(&path).expect("whole characters");
        assert!(text.len() <= LONGEST && text.ends_with("é…\n"));
        sink.torn = true;
        sink.put(b"next\n");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.ends_with("…\n\nnext\n"));
    }

    #[test]
    fn syslog_reconnects_when_its_reader_returns() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let layout = Layout {
            header: Header::Syslog(Facility::DAEMON),
            ..TEXT
        };
        let reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            layout,
        );
        let mut buf = [0; 256];
        sink.put(b"<30>echod[1]: one\n");
        let n = reader.recv(&mut buf).expect("recv");
        assert_eq!(&buf[..n], b"<30>echod[1]: one");
        drop(reader);
        sink.put(b"<30>echod[1]: lost\n");
        assert_eq!(sink.lost(), 1);
        fs::remove_file(&path).expect("unlink");
        let reader = UnixDatagram::bind(&path).expect("bind again");
        sink.put(b"<30>echod[1]: two\n");
        let n = reader.recv(&mut buf).expect("recv");
        assert!(buf[..n].ends_with(b": 1 log lines lost"));
        let n = reader.recv(&mut buf).expect("recv");
        assert_eq!(&buf[..n], b"<30>echod[1]: two");
    }

    /// Its sandbox would kill it for a connect(2).
    #[test]
    fn row_95_a_worker_does_not_connect_to_a_syslog_that_came_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            TEXT,
        );
        sink.owner = 1; // as after a fork
        let mut buf = [0; 256];
        sink.put(b"<30>echod[1]: one\n");
        reader.recv(&mut buf).expect("recv");
        drop(reader);
        fs::remove_file(&path).expect("unlink");
        let _reader = UnixDatagram::bind(&path).expect("bind again");
        sink.put(b"<30>echod[1]: lost\n");
        sink.put(b"<30>echod[1]: lost too\n");
        assert_eq!(sink.lost(), 2);
    }

    #[test]
    fn a_stopped_syslog_reader_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let _reader = UnixDatagram::bind(&path).expect("bind");
        let mut sink = Sink::new(
            Output::Syslog(Syslog::connect(&path).expect("connect")),
            TEXT,
        );
        for _ in 0..10_000 {
            sink.put(b"<30>echod[1]: line\n");
        }
        assert!(sink.lost() > 0);
    }
}

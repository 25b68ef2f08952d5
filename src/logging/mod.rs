//! The log: env_logger's filter, our own line and our own sink.
//!
//! Promises that a log call returns at once whatever became of the log: lines
//! that cannot be written are counted, and the count is written when the sink
//! works again; and that an error is written whatever the filter. A forked child
//! may go on logging: the state is its own copy, and no lock can be held across a
//! fork in a single-threaded process.
//! What is logged is said here, `line` gives a line its shape, `output` gets rid of it,
//! and [`Voice`] speaks while there is no log. Knows nothing of connections but the
//! target name `conn`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::unistd::{Gid, Uid};

use crate::config::{LogConfig, LogFormat, LogTarget};
use crate::error::{Error, Exit, Result};
use crate::logging::line::{Header, Layout, Line};
use crate::logging::output::{DEV_LOG, LogFile, Output, Sink, Standard, Syslog};
use crate::sys::fd::stat;
use crate::values::nearest;

mod line;
mod output;

/// The running log, for the one who reopens it and asks what was lost.
#[derive(Clone)]
pub struct LogHandle {
    sink: Arc<Mutex<Sink>>,
    voice: Voice,
}

/// Opens the sink and makes it the process's logger.
///
/// A `RUST_LOG` that is set and not empty replaces `cfg.level` altogether, so
/// that `RUST_LOG=conn=debug` is the access log and no more, but for errors; unless
/// the level was chosen. A relative path is taken from the directory of the moment and
/// kept as a descriptor: it survives `chdir`, chroot(2) and a change of user.
///
/// # Errors
/// 64 for a `RUST_LOG` that cannot be read, 69 when /dev/log is not there or nobody
/// reads it, 73 or 77 when the file cannot be opened (nothing is installed then: the
/// caller may try another target), 70 when a logger is installed already.
pub fn init(cfg: &LogConfig, voice: Voice) -> Result<LogHandle> {
    let standard = |standard: Standard| {
        let header = voice.header(standard.fd());
        (Output::Standard(standard), header)
    };
    let (output, header) = match &cfg.target {
        LogTarget::Stderr => standard(Standard::error()),
        LogTarget::Stdout => standard(Standard::output()),
        LogTarget::Syslog(facility) => (
            Output::Syslog(Syslog::connect(DEV_LOG)?),
            Header::Syslog(*facility),
        ),
        LogTarget::File(path) => (Output::File(LogFile::open(path)?), Header::Own),
    };
    let layout = Layout {
        format: cfg.format,
        header,
    };
    let handle = LogHandle {
        sink: Arc::new(Mutex::new(Sink::new(output, layout))),
        voice,
    };

    let mut builder = env_logger::Builder::new();
    match asked(cfg)? {
        Some(filter) => builder.parse_filters(&filter),
        None => builder.filter_level(cfg.level),
    };
    let filtered = builder
        .format(move |buf, record| buf.write_all(render(layout, record).as_bytes()))
        .target(env_logger::Target::Pipe(Box::new(Pipe(handle.clone()))))
        .build();
    let level = filtered.filter().max(LevelFilter::Error);
    let logger = Logger {
        filtered,
        layout,
        handle: handle.clone(),
    };
    log::set_boxed_logger(Box::new(logger))
        .map_err(|_| Error::usage("log", "a logger is installed already").exit(Exit::Internal))?;
    log::set_max_level(level);
    Ok(handle)
}

/// Tries what [`init`] would do, and writes no line there and makes no file: what a
/// start would warn of is said on standard error.
///
/// # Errors
/// As for [`init`].
pub fn rehearse(cfg: &LogConfig, voice: Voice) -> Result<LogHandle> {
    match &cfg.target {
        LogTarget::Stderr | LogTarget::Stdout => {}
        LogTarget::Syslog(_) => drop(Syslog::connect(DEV_LOG)?),
        LogTarget::File(path) => LogFile::rehearse(path)?,
    }
    let cfg = LogConfig {
        target: LogTarget::Stderr,
        level: cfg.level.min(LevelFilter::Warn),
        chosen: true,
        ..cfg.clone()
    };
    init(&cfg, voice)
}

fn render(layout: Layout, record: &Record<'_>) -> String {
    layout.render(&Line::of(record, SystemTime::now(), std::process::id()))
}

/// What the filter lets through, and every error.
struct Logger {
    filtered: env_logger::Logger,
    layout: Layout,
    handle: LogHandle,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() == Level::Error || self.filtered.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filtered.matches(record) {
            self.filtered.log(record);
        } else if record.level() == Level::Error {
            let line = render(self.layout, record);
            self.handle.lock().put(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

impl LogHandle {
    /// Opens the log file anew, after a rotation: an existing file before a
    /// new one. True if that was done; the other sinks have nothing to reopen.
    ///
    /// # Errors
    /// The file cannot be opened; the one opened before stays in use. As that one
    /// may be about to be compressed and removed, standard error hears of it too.
    pub fn reopen(&self) -> Result<bool> {
        let outcome = self.lock().reopen();
        if let Err(error) = &outcome {
            let line = self.voice.line(Level::Error, &error.to_string());
            let _ = Standard::error().send(line.as_bytes());
        }
        outcome
    }

    /// Makes the log file this user's, who is to open it again: if we have just
    /// created it, or it is ours to give.
    pub fn give_to(&self, uid: Uid, gid: Gid) {
        self.lock().give_to(uid, gid);
    }

    /// Could the log file be opened again, by who we are now?
    ///
    /// # Errors
    /// Why it could not.
    pub fn can_reopen(&self) -> Result<()> {
        self.lock().can_reopen()
    }

    /// Lines this process could not write, since it started.
    pub fn lost(&self) -> u64 {
        self.lock().lost()
    }

    /// The descriptors the log needs, for a caller about to close all others.
    /// Standard error is one (2). They change at a reopening and at the first
    /// line to a terminal: ask when you close, not before.
    pub fn keep(&self) -> Vec<RawFd> {
        self.lock().keep()
    }

    /// A panic while the lock was held leaves a counter at worst: go on.
    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What env_logger writes to: one call is one line, and it never fails.
struct Pipe(LogHandle);

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Standard error while there is no log: what is wrong with a start, in the shape
// that the log would have.

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
    fn header(self, fd: BorrowedFd<'_>) -> Header {
        let is = stat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
        match self.journal {
            Some(stream) if is == Some(stream) => Header::Journal,
            _ => Header::Own,
        }
    }

    /// An error as a line of standard error.
    fn line(self, level: Level, message: &str) -> String {
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

// What is logged: by the options, or by RUST_LOG, which is read here before
// env_logger reads it. That takes any word for the name of a target, and so
// `RUST_LOG=debgu` for one that says nothing: silence for a slip of the finger.

/// Where our records come from.
const TARGETS: [&str; 2] = ["conn", "echod"];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Could it be logged by this? For who has not opened the log yet.
///
/// # Errors
/// A usage error that quotes a RUST_LOG that cannot be read.
pub fn check_filter(cfg: &LogConfig) -> Result<()> {
    asked(cfg).map(drop)
}

/// RUST_LOG, if it is there and nothing was chosen by an option.
fn asked(cfg: &LogConfig) -> Result<Option<String>> {
    match std::env::var_os("RUST_LOG") {
        Some(typed) if !cfg.chosen && !typed.is_empty() => readable(typed).map(Some),
        _ => Ok(None),
    }
}

fn readable(typed: OsString) -> Result<String> {
    let wrong = |why: String| {
        let shown: String = typed.to_string_lossy().chars().take(100).collect();
        Error::usage(format!("RUST_LOG={shown}"), why)
    };
    let Some(text) = typed.to_str() else {
        return Err(wrong("not text".to_owned()));
    };
    // TARGET=LEVEL,... and, after a slash, what a message must contain.
    let mut parts = text.split('/');
    let directives = parts.next().unwrap_or_default();
    if parts.nth(1).is_some() {
        return Err(wrong("more than one '/'".to_owned()));
    }
    let directives = directives.split(',').map(str::trim);
    for directive in directives.filter(|directive| !directive.is_empty()) {
        fault(directive).map_or(Ok(()), |why| Err(wrong(why)))?;
    }
    Ok(text.to_owned())
}

/// What is wrong with `info`, `conn=debug`.
fn fault(directive: &str) -> Option<String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let no_level = |word: &str| {
        let guess = nearest(word, &LEVELS).map(|level| format!("; {level}?"));
        let guess = guess.unwrap_or_default();
        format!("'{word}' is no level{guess}: {}", LEVELS.join(" "))
    };
    let is_name = |name: &str| {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
        !name.is_empty() && name.bytes().all(is_part)
    };
    match directive.split_once('=') {
        Some((name, _)) if !is_name(name) => {
            Some(format!("'{name}' is no target: {}", TARGETS.join(" ")))
        }
        Some((_, level)) if level.trim().is_empty() || is_level(level.trim()) => None,
        Some((_, level)) => Some(no_level(level)),
        None if is_level(directive) => None,
        // By its beginning, as env_logger compares.
        None if TARGETS.iter().any(|target| target.starts_with(directive)) => None,
        None if directive.starts_with("echod::") => None,
        None => {
            let word = nearest(directive, &LEVELS).or(nearest(directive, &TARGETS));
            let guess = word.map(|word| format!("; {word}?"));
            Some(format!(
                "'{directive}' is no level and no target{}: conn=debug, or info",
                guess.unwrap_or_default()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::rerun;

    const ROLE: &str = "logging::tests::logger_role";

    /// Logs to the file its argument names, or floods standard error.
    #[test]
    fn logger_role() {
        let Some(argument) = rerun::role() else {
            return;
        };
        let target = match argument.as_str() {
            "flood" => LogTarget::Stderr,
            path => LogTarget::File(path.into()),
        };
        let cfg = LogConfig {
            assumed: false,
            target,
            format: LogFormat::Text,
            level: log::LevelFilter::Info,
            chosen: false,
        };
        let handle = init(&cfg, Voice::new(LogFormat::Text)).expect("the only logger");
        let lines = if argument == "flood" { 100_000 } else { 1 };
        for n in 0..lines {
            log::info!(n; "hello");
            log::error!("help");
            log::debug!(target: "conn", pid = 7, end = "eof"; "");
        }
        rerun::say(format!("lost {}", handle.lost()));
        rerun::wait_for_end();
    }

    /// What the role wrote, each line from its pid on.
    fn logged(rust_log: &str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut env = std::process::Command::new("env");
        env.arg(format!("RUST_LOG={rust_log}"));
        let mut role = rerun::start_under(env, ROLE, path.to_str().expect("utf-8"));
        assert_eq!(role.hear(), "lost 0");
        let tag = format!("echod[{}]: ", role.pid());
        role.end();
        let text = fs::read_to_string(&path).expect("read");
        let tail = |line: &str| line.split_once(&tag).map(|(_, tail)| tail.to_owned());
        text.lines()
            .map(|line| tail(line).expect("our pid"))
            .collect()
    }

    #[test]
    fn rust_log_replaces_the_default_filter() {
        assert_eq!(logged(""), ["hello", "help"]);
        assert_eq!(logged("conn=debug"), ["help", "conn pid=7 end=eof"]);
        assert_eq!(logged("off"), ["help"]);
        assert_eq!(logged("info,conn=debug").len(), 3);
    }

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

    #[test]
    fn what_env_logger_reads_is_read() {
        for text in [
            "info",
            "OFF",
            "conn=debug",
            "info,conn=debug",
            "conn",
            "echod",
            "echod::daemon",
            "echod::daemon::supervisor::orders=trace",
            "conn=",
            "hyper=debug,info",
            "info/refusing",
            ",",
            "info,",
        ] {
            assert_eq!(readable(text.into()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_would_be_silence_is_an_error() {
        for (text, guess) in [
            ("debgu", "debug?"),
            ("conn=debgu", "debug?"),
            ("conn=debug=x", "no level"),
            ("con=5", "no level"),
            ("info,con n=debug", "no target"),
            ("=debug", "no target"),
            ("conn = debug", "no target"),
            ("loud", "no level and no target"),
            ("info;conn=debug", "no target"),
            ("a/b/c", "more than one '/'"),
            ("3", "no level and no target"),
        ] {
            let error = readable(text.into()).expect_err(text).to_string();
            assert!(error.starts_with(&format!("RUST_LOG={text}: ")), "{error}");
            assert!(error.contains(guess), "{error}");
        }
        let bytes = OsString::from_vec(vec![b'i', 0xff]);
        assert!(readable(bytes).is_err());
    }
}

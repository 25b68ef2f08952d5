//! The log: env_logger's filter, our own line and our own sink.
//!
//! Promises that a log call returns at once whatever became of the log: lines
//! that cannot be written are counted, and the count is written when the sink
//! works again. A forked child may go on logging: the state is its own copy,
//! and no lock can be held across a fork in a single-threaded process.
//! `line` gives a line its shape, `sink` gets rid of it, `output` is
//! where to. Knows nothing of connections but the target name `conn`.

mod line;
mod output;
mod sink;

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::{LogConfig, LogTarget};
use crate::error::{Error, Exit};

use line::{Layout, Line};
use output::{DEV_LOG, LogFile, Output, Stderr, Syslog};
use sink::Sink;

/// The running log, for the one who reopens it and asks what was lost.
#[derive(Clone)]
pub struct LogHandle {
    sink: Arc<Mutex<Sink>>,
}

/// Opens the sink and makes it the process's logger.
///
/// A `RUST_LOG` that is set and not empty replaces `cfg.level` altogether, so
/// that `RUST_LOG=conn=debug` is the access log and nothing else. A relative
/// path is taken from the directory of the moment and kept as a descriptor:
/// it survives `chdir`, chroot(2) and a change of user.
///
/// # Errors
/// 69 when /dev/log is not there or nobody reads it, 73 or 77 when the file
/// cannot be opened (nothing is installed then: the caller may try another
/// target), 70 when a logger is installed already.
pub fn init(cfg: &LogConfig) -> Result<LogHandle, Error> {
    let output = match &cfg.target {
        LogTarget::Stderr => Output::Stderr(Stderr::new()),
        LogTarget::Syslog => Output::Syslog(Syslog::connect(DEV_LOG)?),
        LogTarget::File(path) => Output::File(LogFile::open(path)?),
    };
    let layout = Layout {
        format: cfg.format,
        syslog: matches!(output, Output::Syslog(_)),
    };
    let handle = LogHandle {
        sink: Arc::new(Mutex::new(Sink::new(output, layout))),
    };

    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => builder.parse_filters(&filter),
        _ => builder.filter_level(cfg.level),
    };
    builder
        .format(move |buf, record| {
            let line = Line::of(record, SystemTime::now(), std::process::id());
            buf.write_all(layout.render(&line).as_bytes())
        })
        .target(env_logger::Target::Pipe(Box::new(Pipe(handle.clone()))));
    builder
        .try_init()
        .map_err(|_| Error::usage("log", "a logger is installed already").exit(Exit::Internal))?;
    Ok(handle)
}

impl LogHandle {
    /// Opens the log file anew, after a rotation: an existing file before a
    /// new one. The other sinks have nothing to reopen.
    ///
    /// # Errors
    /// The file cannot be opened; the one opened before stays in use.
    pub fn reopen(&self) -> Result<(), Error> {
        self.lock().reopen()
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::LogFormat;
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
        let handle = init(&LogConfig {
            assumed: false,
            target,
            format: LogFormat::Text,
            level: log::LevelFilter::Info,
        })
        .expect("the only logger");
        let lines = if argument == "flood" { 100_000 } else { 1 };
        for n in 0..lines {
            log::info!(n; "hello");
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
        assert_eq!(logged(""), ["hello n=0"]);
        assert_eq!(logged("conn=debug"), ["conn pid=7 end=eof"]);
        assert_eq!(logged("info,conn=debug").len(), 2);
    }
}

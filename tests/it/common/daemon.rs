//! A running echod, and its end.
//!
//! Its processes are found by their process group (the shell that starts it
//! makes a new one); under a wrapper or `--daemon` also by `ECHOD_TEST_ID` in
//! their environment where that may be read, and by the sessions of tracked
//! pids, which an unprivileged test of `--daemon` needs: see [`Daemon::track`].

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::builder::Builder;
use super::proc::{self, Stat};
use super::{ConnLine, DEADLINE, Signal, holds_within, poll_some, poll_until};

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// An echod under test; dropping it stops it and asserts that nothing is left.
#[derive(Debug)]
pub struct Daemon {
    child: RefCell<Child>,
    id: String,
    wrapped: bool,
    expected: usize,
    lines: Receiver<String>,
    addrs: Vec<String>,
    pid: i32,
    tracked: Vec<i32>,
    log: PathBuf,
    dir: TempDir,
    pub(super) sigsys_is_fine: bool,
}

impl Daemon {
    /// Starts echod with these arguments and waits until it serves.
    #[track_caller]
    pub fn start<S: AsRef<str>>(args: &[S]) -> Daemon {
        Builder::new().args(args).start()
    }

    /// Everything else that can be asked for.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Takes over a child that [`Builder`] started.
    pub(super) fn new(
        mut child: Child,
        id: String,
        wrapped: bool,
        expected: usize,
        log: PathBuf,
        dir: TempDir,
    ) -> Daemon {
        let stdout = child.stdout.take().expect("a pipe was asked for");
        let (tell, lines) = channel();
        // Ends at end of file, or when nobody listens to it any more.
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Daemon {
            pid: child.id().cast_signed(),
            child: RefCell::new(child),
            id,
            wrapped,
            expected,
            lines,
            addrs: Vec::new(),
            tracked: Vec::new(),
            log,
            dir,
            sigsys_is_fine: false,
        }
    }

    /// Waits for the listener lines; an error says why they do not come. Not
    /// for end of file: a wrapper like strace(1) keeps the pipe open.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        while self.addrs.len() < self.expected {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.addrs.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("only {:?} after {deadline:?}", self.addrs));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it closed the pipe after {:?}", self.addrs));
                }
            }
        }
        if self.wrapped && self.tracked.is_empty() {
            // One that ends at once may be gone before it is found.
            let gone = || self.try_exit().map(|_| self.pid);
            let found = || self.supervisor().or_else(gone);
            self.pid = poll_some(DEADLINE, "echod among its processes", found);
        }
        Ok(())
    }

    /// The first listener, as echod names it: `tcp:127.0.0.1:41234`.
    #[track_caller]
    pub fn addr(&self) -> &str {
        self.addrs.first().expect("a daemon that is ready")
    }

    /// Every listener, in order.
    pub fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// The supervisor's pid, also under a wrapper.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The process group that all of it was started in.
    pub fn group(&self) -> i32 {
        self.child.borrow().id().cast_signed()
    }

    /// A directory for files; removed with the daemon.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What went to standard output so far (`--print`).
    pub fn stdout(&self) -> String {
        let bytes = fs::read(self.dir.path().join("stdout")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log holds `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str, deadline: Duration) {
        poll_until(deadline, &format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }

    /// Log lines that hold `text`.
    pub fn log_count(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits for the connection line of the client with this address
    /// ([`Client::peer_name`]).
    #[track_caller]
    pub fn conn_line(&self, peer: &str) -> ConnLine {
        poll_some(DEADLINE, &format!("the conn line of {peer}"), || {
            ConnLine::all(&self.log())
                .into_iter()
                .find(|line| line.peer == peer)
        })
    }

    /// Its live processes, supervisor and wrapper too; no zombies.
    pub fn members(&self) -> Vec<Stat> {
        let group = self.group();
        let ours = |p: &Stat| {
            p.state != 'Z'
                && (p.pgrp == group
                    || self.tracked.contains(&p.session)
                    || (self.wrapped && proc::environ_has(p.pid, &self.id)))
        };
        proc::all().into_iter().filter(ours).collect()
    }

    /// Counts a pid's session among this daemon's processes, and takes the pid
    /// for the supervisor's: for `--daemon`, whose pid a pidfile tells.
    pub fn track(&mut self, pid: i32) {
        self.pid = pid;
        if let Some(stat) = proc::stat(pid) {
            self.tracked.push(stat.session);
        }
    }

    /// Sends the supervisor a signal, unless it is gone: its pid may by then be
    /// a stranger's.
    pub fn signal(&self, which: Signal) {
        if self.try_exit().is_none() || self.wrapped && !proc::is_dead(self.pid) {
            proc::signal(self.pid, which);
        }
    }

    /// Waits for the program we started (the starter, under `--daemon`).
    #[track_caller]
    pub fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        poll_some(deadline, "echod ends", || self.try_exit())
    }

    /// Its exit status, if it has ended.
    pub fn try_exit(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().expect("our own child")
    }

    /// Asserts that none of its processes is left.
    #[track_caller]
    pub fn assert_gone(&self, deadline: Duration) {
        let gone = holds_within(deadline, || self.members().is_empty());
        assert!(gone, "left behind: {:?}", self.members());
    }

    /// TERM, a second one, KILL, each with its time. False if KILL was needed.
    fn stop(&self) -> bool {
        let ended = |time| {
            holds_within(time, || {
                self.try_exit().is_some() && proc::is_dead(self.pid)
            })
        };
        for _ in 0..2 {
            self.signal(Signal::SIGTERM);
            if ended(Duration::from_secs(4)) {
                return true;
            }
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let asked = self.stop();
        let failed = thread::panicking();
        let left = !holds_within(Duration::from_secs(4), || self.members().is_empty());
        let members = self.members();
        for member in &members {
            proc::signal(member.pid, Signal::SIGKILL);
        }
        let _ = self.child.borrow_mut().wait();
        let sigsys = ["SIGSYS", "killed:SYS"]
            .iter()
            .any(|word| self.log_count(word) > 0);
        let sandbox_killed = sigsys && !self.sigsys_is_fine;
        if failed || !asked || left || sandbox_killed {
            eprintln!("--- log of {}:\n{}---", self.id, self.log());
        }
        if !failed {
            assert!(asked, "echod did not stop: {members:?}");
            assert!(!left, "echod left processes behind: {members:?}");
            assert!(!sandbox_killed, "the sandbox killed a child");
        }
    }
}

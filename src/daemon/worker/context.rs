//! What every child is born with.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::config::Config;
use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::shared::connection_log::{self, Ended, Report};
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::logging::LogHandle;
use crate::net::Listener;
use crate::net::connection::{End, Printer};
use crate::service::Services;
use crate::sys::memory::{Goes, OomScore};
use crate::sys::sandbox::Sandbox;

/// See the module; unchanged while the supervisor lives (but for
/// listeners that close).
pub struct WorkerContext {
    /// What was asked for.
    pub config: Config,
    /// Open listeners; their index is their name in the scoreboard.
    pub listeners: Vec<Option<Listener>>,
    /// What children tell.
    pub board: Scoreboard,
    /// Who is let in.
    pub access: AccessControl,
    /// What they serve, at which listener.
    pub services: Services,
    /// How they are locked in.
    pub sandbox: Sandbox,
    /// Open on /dev/null.
    pub null: OwnedFd,
    /// By which children go first when memory is short; `None` without /proc.
    pub oom: Option<OomScore>,
    /// The log, for what its descriptors are.
    pub log: LogHandle,
    /// Standard output, made before the first fork.
    pub stdout: std::io::Stdout,
    /// Who forks them.
    pub supervisor: Pid,
}

/// Children that go before the others when memory is short.
const FIRST_TO_GO: Slot = 8;

impl WorkerContext {
    /// Does a child that is forked from now on share what only workers that live on
    /// have business with?
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.access.inherited(whether)
    }

    /// Makes the fork of the child of `slot`, or of one without. The lowest slots are
    /// taken whenever any are, so these children go first when memory is short.
    ///
    /// # Errors
    /// The fork's.
    #[inline(always)]
    pub fn fork(
        &self,
        slot: Option<Slot>,
        fork: impl FnOnce() -> Result<Pid, Errno>,
    ) -> Result<Pid, Errno> {
        let goes = match slot {
            Some(0..FIRST_TO_GO) => Goes::First,
            _ => Goes::Next,
        };
        match &self.oom {
            Some(score) => score.fork(goes, fork),
            None => fork(),
        }
    }

    /// In a worker that lives on: writes the line of a connection that is over.
    pub fn log_connection(&self, report: Report, end: End, lasted: Duration) {
        let listener = self.listeners.get(report.listener).and_then(Option::as_ref);
        connection_log::log_conn(&Ended {
            pid: Some(Pid::this()),
            report,
            listener: listener.map_or("?", Listener::name),
            lasted,
            end,
        });
    }

    /// With `--print`, where what is received is copied to.
    pub fn printer(&self) -> Option<Printer<'_>> {
        self.config.print.then(|| Printer {
            to: self.stdout.as_fd(),
            failed: self.board.print_failed(),
            waker: self.board.waker(),
        })
    }
}

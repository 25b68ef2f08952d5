//! Life after fork: what every child is born with, and how it begins and leaves,
//! whichever design it belongs to. No child returns to the supervisor's code.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::config::{Config, Orphans};
use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::shared::connection_log::{self, Ended, Report};
use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::logging::LogHandle;
use crate::net::Listener;
use crate::net::connection::{End, Printer};
use crate::service::Services;
use crate::sys::memory::{Goes, OomScore};
use crate::sys::sandbox::Sandbox;
use crate::sys::{process, signal};

/// What every child is born with; unchanged while the supervisor lives (but for
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

/// How a child leaves; the supervisor decides by it what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Leave {
    /// It has served, as much as it was meant to.
    Served = 0,
    /// It waited and was told, by the pipe of death, to go.
    Retired = 10,
    /// Its listener cannot be accepted on: forking another would not help.
    Unusable = 11,
    /// It could not map its buffers, or have the helpers it needs.
    NoMemory = 13,
    /// A helper that it cannot do without is gone.
    NoHelper = 14,
    /// It could not lock itself in, and `--sandbox strict` says it must.
    NoSandbox = 12,
}

/// First thing in every child: signals as a worker hears them, and a panic that
/// ends it.
pub fn begin() {
    signal::become_worker();
    process::become_child();
    #[cfg(debug_assertions)]
    fault_at("begin");
}

/// The same in a child that will start threads.
pub fn begin_with_threads() {
    begin();
    process::panic_means_exit_all();
}

/// With `--orphans terminate`, the child dies when the supervisor does.
pub fn follow(context: &WorkerContext) {
    if context.config.orphans == Orphans::Terminate {
        process::die_with_parent(context.supervisor);
    }
}

/// Leaves.
pub fn leave(how: Leave) -> ! {
    process::exit(how as i32)
}

/// In a worker that waits to be passed its one connection: closes everything else.
/// Of the supervisor's there are a channel for each sibling and perhaps clients on
/// their way, which it must not keep, and too many to close one by one.
pub fn keep_for_channel(context: &WorkerContext, death: &PipeOfDeath, channel: &OwnedFd) {
    let print = context
        .printer()
        .map_or(context.null.as_fd(), |print| print.to);
    let [watched, channel] = [death.watched(), channel.as_fd()];
    let [a, b, c, d, e] = [
        watched,
        channel,
        context.board.waker(),
        context.null.as_fd(),
        print,
    ]
    .map(|fd| fd.as_raw_fd());
    let mut keep = [0, 1, 2, a, b, c, d, e];
    keep.sort_unstable();
    process::keep_numbers(&keep);
}

/// The test hook of debug builds: `ECHOD_FAULT=PLACE:HOW` makes each child fail
/// there, by `panic`, `segv` or an exit status.
#[cfg(debug_assertions)]
pub(in crate::daemon) fn fault_at(place: &str) {
    match fault(place).as_deref() {
        None => {}
        Some("panic") => panic!("asked to"),
        Some("segv") => drop(nix::sys::signal::raise(nix::sys::signal::SIGSEGV)),
        Some(status) => process::exit(status.parse().unwrap_or(1)),
    }
}

/// The same for a child that was taken over, with its client just accepted:
/// `tell:junk` writes all over the scoreboard, `tell:unusable` leaves like a
/// worker whose listener is broken.
#[cfg(debug_assertions)]
pub(in crate::daemon) fn lie(context: &WorkerContext, slot: usize) {
    match fault("tell").as_deref() {
        Some("junk") => context.board.scribble(slot as u64),
        Some("unusable") => {
            context.board.idle(slot);
            let end = crate::net::connection::End::Error(nix::errno::Errno::EINVAL);
            context.board.entry(slot).end(end);
            leave(Leave::Unusable);
        }
        _ => {}
    }
}

#[cfg(debug_assertions)]
fn fault(place: &str) -> Option<String> {
    let fault = std::env::var("ECHOD_FAULT").ok()?;
    let how = fault.strip_prefix(place)?.strip_prefix(':')?;
    Some(how.to_owned())
}

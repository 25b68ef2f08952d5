//! How a worker that lives on locks itself in: it lets go of the descriptors of
//! the supervisor's that it has no use for (the pidfile, directories, the log where
//! it writes none), gives up what setrlimit(2) can take, and enters its sandbox.
//!
//! A worker with one connection does none of this but to close everything; see
//! `serve`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::config::{Config, Model, Orphans, SandboxPolicy};
use crate::daemon::shared::connection_log;
use crate::daemon::worker::child::WorkerContext;
use crate::error::{Error, Exit, Result};
use crate::sys::process;
use crate::sys::sandbox::{Descriptors, Need, Sandbox};
use crate::sys::startup::Worker;

/// Address space of a worker, beside what it shares with the supervisor: a debug
/// build has 16 MiB at the start.
const MEMORY: u64 = 64 << 20;

/// Descriptors opened after [`let_go`]: an epoll, and one being accepted.
const YET_TO_COME: u64 = 2;

/// What a worker with threads opens beyond those: a pipe and two wakeups.
const OF_THREADS: u64 = 4;

/// What workers that serve several connections will ask of the kernel.
pub fn needs(config: &Config) -> Vec<Need> {
    use crate::config::Accept::{Fcntl, Mutex, Pass, Reuseport, Shared};
    let accept = config.model.accept();
    let processes = !config.model.is_threaded();
    let passed = accept == Pass;
    let releases = processes && !passed && config.orphans == Orphans::Finish;
    let by_accept = match accept {
        Shared | Reuseport => None,
        Fcntl => Some(Need::RecordLock),
        Mutex => Some(Need::Mutex),
        Pass => Some(Need::Message),
    };
    [
        (!passed).then_some(Need::Accept),
        by_accept,
        releases.then_some(Need::Release),
        (processes && config.timeouts.lifetime.is_some()).then_some(Need::Alarm),
        connection_log::start_of_conn()
            .is_some()
            .then_some(Need::Log),
        (config.access.rules.ask_identity() && !passed).then_some(Need::PeerIdentity),
        (config.access.rate.is_some() && config.model == Model::Iterative).then_some(Need::Clock),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The sandbox that was asked for, as far as this kernel has it.
///
/// # Errors
/// 78 where `strict` was asked for and there is none; fork(2)'s.
pub fn sandbox(config: &Config) -> Result<Sandbox> {
    if config.sandbox == SandboxPolicy::Off {
        return Ok(Sandbox::off());
    }
    let sandbox = Sandbox::probe(&needs(config)).map_err(|e| Error::os("fork", "", e))?;
    if !sandbox.has_seccomp() && config.sandbox == SandboxPolicy::Strict {
        return Err(
            Error::usage("--sandbox strict", "this kernel offers no seccomp").exit(Exit::Config),
        );
    }
    Ok(sandbox)
}

/// Closes everything but the listeners, the `needed`, and what every such worker
/// needs; for one that serves several connections. Its limits and its descriptors,
/// for its sandbox.
///
/// The filter knows a connection by its number, so there must be no gap for it
/// among the listeners and whatever else is kept.
pub fn let_go<'a>(
    context: &WorkerContext,
    listeners: impl IntoIterator<Item = BorrowedFd<'a>>,
    needed: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> (Worker, Descriptors) {
    let logs = connection_log::start_of_conn().is_some();
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
    let mut keep: Vec<RawFd> = listeners.into_iter().map(number).collect();
    keep.extend(needed.into_iter().map(number));
    keep.extend(
        [
            context.board.waker(),
            context.board.rebalance(),
            context.null.as_fd(),
        ]
        .map(number),
    );
    keep.extend(context.printer().map(|print| number(print.to)));
    if logs {
        keep.extend(context.log.keep());
    }
    keep.sort_unstable();
    process::keep_numbers(&keep);
    let above = keep.last().map_or(0, |fd| fd.unsigned_abs() + 1);
    process::fill_gaps(above, context.null.as_fd());
    let limits = Worker {
        descriptors: u64::from(above) + YET_TO_COME,
        memory: Some(MEMORY + context.board.bytes() as u64),
        writes_files: logs || context.printer().is_some(),
    };
    (limits, descriptors(context, above))
}

fn descriptors(context: &WorkerContext, born_below: u32) -> Descriptors {
    Descriptors {
        born_below,
        null: context.null.as_raw_fd().unsigned_abs(),
    }
}

/// Of the same, with as many clients at a time as there are `seats`.
pub fn with_threads(limits: Worker, seats: usize) -> Worker {
    Worker {
        descriptors: limits.descriptors + OF_THREADS + seats as u64,
        memory: None,
        ..limits
    }
}

/// Of a worker that opens nothing more, and whose highest descriptor this is.
pub fn limits(context: &WorkerContext, highest: RawFd) -> (Worker, Descriptors) {
    let above = highest.unsigned_abs() + 1;
    let limits = Worker {
        descriptors: above.into(),
        memory: Some(MEMORY + context.board.bytes() as u64),
        writes_files: context.printer().is_some(),
    };
    (limits, descriptors(context, above))
}

/// Of the same, if it has one descriptor more now and then, with a number above all
/// of these.
pub fn with_one_more(context: &WorkerContext, highest: RawFd) -> (Worker, Descriptors) {
    let (limits, descriptors) = limits(context, highest);
    process::fill_gaps(descriptors.born_below, context.null.as_fd());
    let limits = Worker {
        descriptors: limits.descriptors + 1,
        ..limits
    };
    (limits, descriptors)
}

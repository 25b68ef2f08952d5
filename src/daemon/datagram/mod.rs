//! The datagram worker: a process for each socket, for as long as its generation
//! lives.
//!
//! Nothing is forked per datagram, which would be the client's to multiply. It
//! takes what is queued, asks the guard about each, and sends the replies
//! together: two system calls, however many there are. It counts and never logs,
//! so no log can keep it waiting.
//!
//! Word to go is SIGPWR, from the supervisor or by its death. The handler puts
//! /dev/null in the place of the descriptor that is received from, so a
//! receive that waits, or is just about to, fails (recvmmsg(2) is restarted),
//! and no poll(2) is needed to hear it. What is queued is then answered by
//! another descriptor of the same socket, and the worker leaves.
//!
//! Whether a datagram is answered, and from where, is `answer`'s. Where datagrams name
//! commands the same process works as [`commands`] says.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::config::SandboxPolicy;
use crate::daemon::datagram::answer::{Answerer, LAST_BATCHES, rest_after};
use crate::daemon::datagram::commands::{AT_ONCE, CommandWorker, Helper};
use crate::daemon::worker::child::{self, Leave, WorkerContext, leave};
use crate::daemon::worker::sandbox;
use crate::net::guard::Guard;
use crate::sys::mmsg::{Batch, Sender, Wait};
use crate::sys::{process, sockopt};

mod answer;
pub mod commands;

pub use answer::Workplace;

/// The worker.
pub fn serve(context: &WorkerContext, workplace: &Workplace<'_>) -> ! {
    child::begin();
    process::set_name(process::DATAGRAMS);
    let Some((answerer, work)) = prepare(context, workplace) else {
        leave(Leave::NoMemory);
    };
    lock_in(&answerer, &work);
    match work {
        Work::Echo(batch) => EchoWorker { answerer, batch }.run(),
        Work::Commands(helpers, said) => CommandWorker::new(answerer, *helpers, said).run(),
    }
}

/// What a worker does, and what it needs for that.
enum Work {
    Echo(Batch),
    Commands(Box<[Helper; AT_ONCE]>, Batch),
}

impl Work {
    /// See [`Batch::for_unix`].
    fn for_unix(self) -> Self {
        match self {
            Work::Echo(batch) => Work::Echo(batch.for_unix()),
            Work::Commands(helpers, said) => {
                let helpers = helpers.map(Helper::for_unix);
                Work::Commands(Box::new(helpers), said.for_unix())
            }
        }
    }
}

/// Buffers, helpers, and a descriptor of the socket that no signal takes away.
fn prepare<'a>(
    context: &'a WorkerContext,
    workplace: &'a Workplace<'a>,
) -> Option<(Answerer<'a>, Work)> {
    // Before the handler stands, which the helpers would inherit.
    let work = match workplace.runs_commands {
        true => {
            let helpers =
                commands::helpers(context.services.command(), context.null.as_fd()).ok()?;
            Work::Commands(Box::new(helpers), Batch::of(1).ok()?)
        }
        false => Work::Echo(Batch::new().ok()?),
    };
    let work = match workplace.guard {
        Guard::Udp(_) => work,
        Guard::Unix(_) => work.for_unix(),
    };
    let answerer = Answerer::new(context, workplace).ok()?;
    process::release_on_parent_death(
        &[workplace.socket],
        context.null.as_fd(),
        context.supervisor,
    )
    .ok()?;
    Some((answerer, work))
}

/// Closes what the work does not need, and enters the sandbox.
fn lock_in(answerer: &Answerer<'_>, work: &Work) {
    let helpers = match work {
        Work::Commands(helpers, _) => &helpers[..],
        Work::Echo(_) => &[],
    };
    let mut keep = [answerer.workplace.socket; 6 + AT_ONCE];
    keep[1] = answerer.own.as_fd();
    keep[2] = answerer.context.null.as_fd();
    keep[3] = answerer.context.board.waker();
    keep[4] = answerer
        .context
        .printer()
        .map_or(answerer.workplace.socket, |print| print.to);
    if let Some(nameless) = answerer.nameless() {
        keep[5] = nameless;
    }
    for (kept, helper) in keep[6..].iter_mut().zip(helpers) {
        *kept = helper.way();
    }
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    let highest = keep[keep.len() - 1].as_raw_fd();
    let sandbox = &answerer.context.sandbox;
    let entered = match answerer.workplace.guard {
        Guard::Udp(_) => {
            let (limits, descriptors) = sandbox::limits(answerer.context, highest);
            sandbox.enter_for_datagrams(limits, descriptors)
        }
        Guard::Unix(_) => {
            let (limits, descriptors) = sandbox::with_one_more(answerer.context, highest);
            sandbox.enter_for_unix_datagrams(limits, descriptors)
        }
    };
    if entered.is_err() && answerer.context.config.sandbox == SandboxPolicy::Strict {
        leave(Leave::NoSandbox);
    }
}

struct EchoWorker<'a> {
    answerer: Answerer<'a>,
    batch: Batch,
}

impl EchoWorker<'_> {
    fn run(&mut self) -> ! {
        let mut failures = 0;
        while !self.answerer.workplace.last {
            match self
                .batch
                .receive(self.answerer.workplace.socket, Wait::ForOne)
            {
                Ok(1) if self.is_end_of_file() => break,
                Ok(n) => {
                    failures = 0;
                    self.answer(n);
                }
                Err(Errno::ENOTSOCK) => break,
                Err(errno) => {
                    self.answerer.failed(errno);
                    failures += 1;
                    rest_after(failures);
                }
            }
        }
        self.finish()
    }

    /// A Unix socket that was made deaf ends the wait with an empty datagram from
    /// nobody, a moment before the signal comes.
    fn is_end_of_file(&mut self) -> bool {
        let datagram = self.batch.get(0);
        datagram.from == Sender::Unnamed
            && datagram.bytes.is_empty()
            && sockopt::is_read_shut(self.answerer.own.as_fd())
    }

    /// Answers what is in the queue, and leaves.
    fn finish(&mut self) -> ! {
        for _ in 0..LAST_BATCHES {
            match self.batch.receive(self.answerer.own.as_fd(), Wait::Never) {
                Ok(n) => self.answer(n),
                Err(Errno::EAGAIN) => break,
                Err(errno) => self.answerer.failed(errno),
            }
        }
        self.answerer.workplace.tally.retire();
        leave(Leave::Retired)
    }

    fn answer(&mut self, n: usize) {
        let now = self.answerer.now();
        for i in 0..n {
            let datagram = self.batch.get(i);
            if let Some(way) = self.answerer.admit(&datagram, now) {
                self.answerer.answer(&mut self.batch, i, way);
            }
        }
        self.answerer.send(&mut self.batch);
    }
}

//! The supervisor and its datagram workers: it forks whom `crew` misses, and
//! stops when nothing is left to serve at.

use std::time::Instant;

use log::error;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::config::{Model, Reap};
use crate::daemon::datagram::worker;
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::state::{Input, Phase};
use crate::error::{Exit, errno_text};
use crate::sys::process;

impl Supervisor {
    /// Forks the datagram workers that are missing. During a stop too, while a
    /// queue has not been answered: its worker was killed.
    pub(crate) fn man_posts(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        let number = self.generation.number;
        while !self.fork_wait.waits(now)
            && let Some(index) = self.crew.vacant(number, now)
            && let Some(post) = self.crew.post(index, !self.phase.serves())
        {
            let generation = &self.generation;
            let context = &self.context;
            let forked = self.crew.inherited(index, true).and_then(|()| {
                let serve = || {
                    if let Some(order_end) = generation.order_end() {
                        process::close_inherited(order_end);
                    }
                    worker::serve(context, &post)
                };
                context.fork(None, || process::fork(serve))
            });
            let _ = self.crew.inherited(index, false);
            match forked {
                Err(errno) => self.fork_failed(errno, now),
                Ok(pid) => {
                    self.outlive(pid, now);
                    self.crew.hired(index, pid, number, now);
                }
            }
        }
    }

    pub(crate) fn fork_failed(&mut self, errno: Errno, now: Instant) {
        self.fork_wait.fail(now);
        if self.troubles.fork.begin(now) {
            error!(
                "fork: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// With `--reap ignore` a new child may have the pid of one that the kernel
    /// has reaped and we have not missed yet.
    pub(crate) fn outlive(&mut self, pid: Pid, now: Instant) {
        if self.context.config.model != Model::Fork(Reap::Ignore) {
            return;
        }
        if let Some(slot) = self.children.find(pid) {
            self.bury(slot, Gone::Untold, now);
        }
        self.crew
            .bury(pid, Gone::Untold, self.generation.number, now);
    }

    /// Stops if nothing is left to serve at; says whether it did.
    pub(crate) fn left_alone(&mut self) -> bool {
        let listeners = self.context.listeners.iter().flatten().count();
        let alone = listeners == 0 && self.crew.is_gone() && self.phase.welcomes();
        if alone {
            error!("no listener is left");
            self.exit = Exit::Os;
            self.advance(Input::Interrupt, Instant::now());
        }
        alone
    }
}

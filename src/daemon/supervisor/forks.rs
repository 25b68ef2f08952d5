//! Forking, as far as it may fail: when to try again, and whether there is memory.

use std::time::{Duration, Instant};

use log::error;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::daemon::shared::backoff::{Backoff, Episode, FIRST_WAIT, LONGEST_FORK_WAIT};
use crate::daemon::shared::connection_log::Gone;
use crate::error::errno_text;
use crate::net::connection::End;
use crate::sys::memory::OomScore;

/// How long memory counts as short after the kernel has killed for it.
const SHORT_FOR: Duration = Duration::from_secs(60);
/// Children more, at the least, until room is looked for again.
const STEP: usize = 4;

/// See the module.
pub(super) struct Forks {
    wait: Backoff,
    trouble: Episode,
    /// When the kernel last killed a child for its memory, and how many processes it
    /// had killed by then.
    last_kill: Option<Instant>,
    kills: u64,
    /// For how many children there was room.
    proven_for: usize,
}

impl Forks {
    /// None has failed.
    pub(super) fn new(oom: Option<&OomScore>) -> Self {
        Forks {
            wait: Backoff::new(FIRST_WAIT, LONGEST_FORK_WAIT),
            trouble: Episode::default(),
            last_kill: None,
            kills: oom.map_or(0, OomScore::kills),
            proven_for: 0,
        }
    }

    /// Has one failed, too lately for another?
    pub(super) fn wait(&self, now: Instant) -> bool {
        self.wait.waits(now)
    }

    /// One has worked, or a process is gone: perhaps the one whose place fork(2)
    /// wanted.
    pub(super) fn may_work(&mut self) {
        self.wait.reset();
    }

    /// One has failed.
    pub(super) fn failed(&mut self, errno: Errno, now: Instant) {
        self.wait.fail(now);
        self.say("fork", errno, now);
    }

    /// A worker could not start a thread.
    pub(super) fn thread_failed(&mut self, errno: Errno, now: Instant) {
        self.say("clone", errno, now);
    }

    fn say(&mut self, call: &str, errno: Errno, now: Instant) {
        if self.trouble.begin(now) {
            error!(
                "{call}: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// Once a turn of the loop: is the trouble over?
    pub(super) fn look(&mut self, now: Instant) {
        if self.wait.waits(now) {
            // For longer than an episode has to be quiet to be over.
            self.trouble.lasts(now);
        }
        self.trouble.say_end("fork works again", now);
    }

    /// When that may be, or the next may be tried.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.wait.wakes_at(now), self.trouble.wakes_at()];
        times.into_iter().flatten().min()
    }

    /// Is there memory for one, beside so many children? Asked where it may be short:
    /// for a while after the kernel has killed for it, and now and then as children
    /// become more. If there is none, it has failed.
    pub(super) fn have_memory(
        &mut self,
        oom: Option<&OomScore>,
        children: usize,
        now: Instant,
    ) -> bool {
        let Some(oom) = oom else {
            return true;
        };
        let since = self.last_kill.map(|at| now.saturating_duration_since(at));
        let is_short = since.is_some_and(|since| since < SHORT_FOR);
        if !is_short && children < self.proven_for {
            return true;
        }
        if oom.proves_room() {
            self.proven_for = children + STEP.max(children / 64);
            return true;
        }
        self.last_kill = Some(now);
        self.failed(Errno::ENOMEM, now);
        false
    }

    /// A child is gone, killed by nobody here knows whom: by the kernel, for its memory?
    /// Where its status is not seen, its silence says so.
    pub(super) fn note_kill(
        &mut self,
        oom: Option<&OomScore>,
        gone: Gone,
        end: Option<End>,
        now: Instant,
    ) {
        let killed = match gone {
            Gone::Killed(signal) => signal == Signal::SIGKILL,
            Gone::Untold => end.is_none(),
            Gone::Exited(_) => false,
        };
        if let Some(oom) = oom.filter(|_| killed) {
            let kills = oom.kills();
            if kills != std::mem::replace(&mut self.kills, kills) {
                self.last_kill = Some(now);
            }
        }
    }
}

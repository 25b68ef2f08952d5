//! The supervisor's sleep: for how long, and what wakes it.

use std::os::fd::AsFd;
use std::time::Instant;

use crate::daemon::shared::refusals::RefusalLog;
use crate::daemon::start::notify::Notify;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::channels::Channels;
use crate::daemon::supervisor::passing::Passing;
use crate::daemon::supervisor::waiters::Watch;
use crate::net::Intake;

// Places in the wait.
pub(crate) const SIGNALS: usize = 0;
pub(crate) const BOARD: usize = 1;
pub(crate) const CHANNELS: usize = 2;
pub(crate) const LISTENERS: usize = 3;

impl Supervisor {
    /// Sleeps; true if a descriptor woke us, false for the time.
    pub(crate) fn sleep(&mut self, now: Instant) -> bool {
        // Asked once: that it is just over must not be missed by whoever would
        // have to wake us.
        let pause = self.pause();
        let watches = self.watches(now);
        let listening = (pause.is_none() && self.listens(now)) || watches.contains(&Watch::Queues);
        self.wait.clear();
        self.wait.add(Some(self.signals.wakeup()));
        self.wait.add(Some(self.context.board.wakeup()));
        let channels = self.channels.as_ref().map(Channels::wakeup);
        let passing = || self.passing.as_ref().and_then(Passing::wakeup);
        self.wait.add(channels.or_else(passing));
        for listener in &self.context.listeners {
            self.wait
                .add(listener.as_ref().filter(|_| listening).map(AsFd::as_fd));
        }
        let timeout = self
            .wakes_at(now)
            .into_iter()
            .chain(pause.map(|pause| now + pause))
            .chain(watches.into_iter().filter_map(Watch::until))
            .min()
            .map(|at| at.saturating_duration_since(now));
        self.wait.sleep(timeout)
    }

    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        [
            self.phase.wakes_at(),
            self.fork_wait.wakes_at(now),
            self.births.wakes_at(now),
            self.accept_wait.wakes_at(now),
            self.reaper.wakes_at(),
            self.troubles.fork.wakes_at(),
            self.troubles.sick.wakes_at(),
            self.troubles.accept.wakes_at(),
            self.waiters_wake_at(),
            self.overflows.wakes_at().filter(|_| self.phase.welcomes()),
            self.crew.wakes_at(self.generation.number, now),
            self.notify.as_ref().and_then(Notify::wakes_at),
            self.refusal_log.as_ref().and_then(RefusalLog::wakes_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Should readable listeners wake us?
    fn listens(&self, now: Instant) -> bool {
        self.phase.serves() && !self.accept_wait.waits(now) && self.intake() != Intake::Leave
    }
}

//! What the supervisor says of how things are, in the log and to a service manager:
//! each trouble once when it begins, and once when it is over.

use std::time::Instant;

use log::error;

use crate::config::Config;
use crate::daemon::shared::access_control::AccessControl;
use crate::daemon::shared::refusals::RefusalLog;
use crate::daemon::shared::scoreboard::Scoreboard;
use crate::daemon::supervisor::notify::{Notify, Status, Word};
use crate::error::{Error, Result, errno_text};
use crate::net::Listener;

use super::overflows::Overflows;
use super::waiters::WaitLog;

/// See the module.
pub(super) struct Report {
    /// The service manager, if there is one.
    notify: Option<Notify>,
    /// Who waits, and who was turned away.
    pub(super) waits: WaitLog,
    /// Who was refused, where anybody may be.
    refusals: Option<RefusalLog>,
    /// Who found a listen queue full.
    overflows: Overflows,
    /// `--print` fails, and that was said.
    print_failed: bool,
}

impl Report {
    /// Nothing has happened.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn new(
        config: &Config,
        access: &AccessControl,
        overflows: Overflows,
        notify: Option<Notify>,
    ) -> Result<Self> {
        let refusals = access.refusals().map(RefusalLog::new).transpose();
        Ok(Report {
            notify,
            waits: WaitLog::new(config),
            refusals: refusals.map_err(|errno| Error::os("mmap", "", errno))?,
            overflows,
            print_failed: false,
        })
    }

    /// To the service manager: a word that is said once.
    pub(super) fn say(&mut self, word: Word) {
        if let Some(notify) = &mut self.notify {
            notify.say(word, Instant::now());
        }
    }

    /// The same, once a turn of the loop: a sign of life and the state of things, as far
    /// as they are due. Counting may mean a look at every slot, so not each time.
    pub(super) fn tell(&mut self, status: impl FnOnce() -> Status, now: Instant) {
        if let Some(notify) = &mut self.notify
            && notify.look(now)
        {
            notify.tell(status(), now);
        }
    }

    /// Have clients found a queue full?
    pub(super) fn look_at_queues(
        &mut self,
        listeners: &[Option<Listener>],
        no_places: bool,
        now: Instant,
    ) {
        self.overflows.look(listeners, no_places, now);
    }

    /// A child woke us, or with `last` we leave: who was refused?
    pub(super) fn look_at_refusals(
        &mut self,
        access: &AccessControl,
        names: &[String],
        now: Instant,
        last: bool,
    ) {
        if let (Some(log), Some(refusals)) = (&mut self.refusals, access.refusals()) {
            log.look(refusals, access.policy(), names, now, last);
        }
    }

    /// The same once a turn of the loop, if it is time to.
    pub(super) fn refusals_are_due(&self, now: Instant) -> bool {
        self.refusals.as_ref().is_some_and(|log| log.is_due(now))
    }

    /// Has `--print` failed? Said once, whatever it is: who looks at standard output
    /// sees the rest.
    pub(super) fn look_at_print(&mut self, board: &Scoreboard) {
        if !self.print_failed
            && let Some(errno) = board.print_failure()
        {
            self.print_failed = true;
            error!(
                "--print: write to standard output: {}: clients are served, and not all is copied",
                errno_text(errno)
            );
        }
    }

    /// When any of that may have something to say. The queues are looked at while the
    /// kernel `welcomes` clients, and nobody waits whom it does not `serve`.
    pub(super) fn wakes_at(&self, serves: bool, welcomes: bool) -> Option<Instant> {
        [
            self.waits.wakes_at(serves),
            self.overflows.wakes_at().filter(|_| welcomes),
            self.notify.as_ref().and_then(Notify::wakes_at),
            self.refusals.as_ref().and_then(RefusalLog::wakes_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

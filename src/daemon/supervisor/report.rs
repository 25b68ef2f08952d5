//! What the supervisor tells a service manager, if there is one.

use std::time::Instant;

use crate::daemon::start::notify::{Status, Word};
use crate::daemon::supervisor::Supervisor;

impl Supervisor {
    /// A word that is said once.
    pub(crate) fn say(&mut self, word: Word) {
        if let Some(notify) = &mut self.notify {
            notify.say(word, Instant::now());
        }
    }

    /// Once a turn of the loop: a sign of life and the state of things, as far as
    /// they are due. Counting may mean a look at every slot, so not each time.
    pub(crate) fn report(&mut self, now: Instant) {
        if !self.notify.as_mut().is_some_and(|notify| notify.look(now)) {
            return;
        }
        let status = Status {
            serves: self.phase.serves(),
            clients: self.busy(),
            idle: match self.context.seats {
                Some(_) => None,
                None => self.pool.map(|_| self.idle()),
            },
        };
        if let Some(notify) = &mut self.notify {
            notify.tell(status, now);
        }
    }

    /// Clients being served.
    pub(crate) fn busy(&self) -> usize {
        match &self.context.seats {
            Some(seats) => seats.occupied(),
            None => self.children.alive().saturating_sub(self.idle()),
        }
    }
}

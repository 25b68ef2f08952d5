//! Clients that wait in a listen queue though they could be accepted: for a place
//! (`--max-clients`), or for their time (`--connection-rate`). One line when it
//! begins, one when it is over.
//!
//! Nobody tells: a full table is no news while nobody comes, and most clients that
//! are queued are accepted in a moment. So the supervisor waits for a queue that is
//! not empty where it could mean this, then looks whether more wait than there are
//! places for. For a place they must be found waiting in several looks in a row: a
//! child that is about to be reaped keeps nobody for long.
//!
//! And for a worker: the kernel wakes one for a client, and one that was taken over
//! may stay where it is, or say on the scoreboard that others wait. So a queue that is
//! not empty for a second gets a worker that looks at it before it waits.

use std::time::{Duration, Instant};

use log::{debug, info, warn};

use crate::config::{Model, Overflow};
use crate::daemon::shared::backoff::Episode;
use crate::daemon::shared::scoreboard::Said;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::children::Role;
use crate::net::Intake;
use crate::values::{self, plural};

/// From one look to the next.
const STEP: Duration = Duration::from_millis(50);

/// Looks in a row that find somebody waiting, after which no worker will come.
pub(crate) const UNHEARD: u32 = 20;

/// For one thing that clients wait for: when to look, and whether it has begun or is
/// over. A clock without a clock, as in `backoff`.
#[derive(Clone, Copy, Debug)]
pub struct Waiters {
    sure: u32,
    seen: u32,
    first: Option<Instant>,
    next: Option<Instant>,
    episode: Episode,
}

/// What a look has found in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody.
    Nobody,
    /// Clients that will be accepted in a moment.
    Passing,
    /// Clients that have to wait.
    Waiting,
}

/// What the supervisor's sleep is to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// A queue that is not empty is to wake it.
    Queues,
    /// This time is.
    Until(Instant),
}

impl Watch {
    /// When time is to wake it.
    pub fn until(self) -> Option<Instant> {
        match self {
            Watch::Until(at) => Some(at),
            Watch::Nothing | Watch::Queues => None,
        }
    }
}

impl Waiters {
    /// Nobody waits; so many looks in a row must say otherwise.
    pub fn new(sure: u32) -> Self {
        Waiters {
            sure,
            seen: 0,
            first: None,
            next: None,
            episode: Episode::default(),
        }
    }

    /// `matters` says that whoever is queued may have to wait. A listener stays
    /// readable, so its queue wakes us once, and then time does.
    pub fn watch(&self, matters: bool, now: Instant) -> Watch {
        match self.next.filter(|_| matters || self.seen > 0) {
            Some(next) if self.seen > 0 || now < next => Watch::Until(next),
            _ if matters => Watch::Queues,
            _ => Watch::Nothing,
        }
    }

    /// Is a look due?
    pub fn is_due(&self, matters: bool, now: Instant) -> bool {
        (matters || self.seen > 0) && self.next.is_none_or(|next| now >= next)
    }

    /// The look; true when it has just become certain.
    pub fn look(&mut self, found: Found, now: Instant) -> bool {
        // An empty queue wakes nobody, so there is no need to rest.
        self.next = (found != Found::Nobody).then(|| now + STEP);
        if found != Found::Waiting {
            (self.seen, self.first) = (0, None);
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        let first = *self.first.get_or_insert(now);
        let on = self.episode.is_on();
        if self.seen < self.sure && !on {
            return false;
        }
        if !on {
            self.episode.begin(first);
        }
        self.episode.lasts(now);
        !on
    }

    /// Once nobody has waited for a while: for how long somebody did.
    pub fn end(&mut self, now: Instant) -> Option<Duration> {
        self.episode.end(now).map(|(_, lasted)| lasted)
    }

    /// When [`Waiters::end`] may have something to say.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.episode.wakes_at()
    }
}

impl Supervisor {
    /// What the sleep is to do about clients that might wait for a place, or for the
    /// rate.
    pub(crate) fn watches(&self, now: Instant) -> [Watch; 3] {
        [
            self.unheard.watch(self.may_be_unheard(), now),
            self.places.watch(self.may_lack_places(), now),
            self.paces.watch(self.may_be_early(), now),
        ]
    }

    /// Looks, if it is time to, and says what has begun or is over.
    pub(crate) fn look_at_waiters(&mut self, now: Instant) {
        if self.places.is_due(self.may_lack_places(), now) {
            let found = self.look_for_places(now);
            // One at a time is what `iterative` is; it is no news.
            if self.places.look(found, now) && self.context.config.model != Model::Iterative {
                let max = self.context.config.max_clients;
                warn!(
                    reason = "--max-clients", limit = max;
                    "--max-clients {max} reached: further clients wait in the queue"
                );
            }
        }
        if self.paces.is_due(self.may_be_early(), now) {
            let told = self.context.board.take_early();
            let found = match told || (self.is_paced() && self.queued() > 0) {
                true if self.phase.serves() => Found::Waiting,
                _ => Found::Nobody,
            };
            if self.paces.look(found, now) {
                let rate = self.rate();
                warn!(
                    reason = rate.as_str();
                    "{rate} reached: further clients wait in the queue"
                );
            }
        }
        let unheard = self.may_be_unheard();
        if self.unheard.is_due(unheard, now) {
            let waits = unheard && self.queued() > 0;
            let found = if waits { Found::Waiting } else { Found::Nobody };
            if self.unheard.look(found, now) {
                self.unheard = Waiters::new(UNHEARD);
                self.send_somebody();
            }
        }
        if self.phase.serves() {
            // Whom a stop cannot serve yet waits for a place, too.
            self.end_waiters(now);
        }
        if self.turned_away.is_on() {
            self.end_turned_away(now);
        }
    }

    /// A client waits whom no worker hears: one more looks at the queues, or where
    /// there is no room for it, all that wait are woken by word to go for one.
    fn send_somebody(&mut self) {
        if !self.children.full() {
            debug!("a client waits and no worker comes: one more");
            self.idle_lost += 1;
        } else if self.generation.retiring() == 0 && self.idle() > 0 {
            debug!("a client waits and no worker comes: all of them look");
            self.generation.retire(1);
        }
    }

    /// When something may be over.
    pub(crate) fn waiters_wake_at(&self) -> Option<Instant> {
        let [places, paces] = [&self.places, &self.paces].map(Waiters::wakes_at);
        let waiters = places.into_iter().chain(paces);
        let waiters = waiters.filter(|_| self.phase.serves());
        waiters.chain(self.turned_away.wakes_at()).min()
    }

    fn end_waiters(&mut self, now: Instant) {
        let max = self.context.config.max_clients;
        if let Some(lasted) = self.places.end(now)
            && self.context.config.model != Model::Iterative
        {
            info!(
                reason = "--max-clients", limit = max, dur_s = lasted.as_secs_f64();
                "--max-clients {max}: no client waits any more, after {}",
                values::show(lasted)
            );
        }
        if let Some(lasted) = self.paces.end(now) {
            let rate = self.rate();
            info!(
                reason = rate.as_str(), dur_s = lasted.as_secs_f64();
                "{rate}: no client waits any more, after {}",
                values::show(lasted)
            );
        }
    }

    /// Have clients found the queue full? A stop drops newcomers itself.
    pub(crate) fn look_at_queues(&mut self, now: Instant) {
        if self.phase.welcomes() {
            let no_places = self.may_lack_places();
            self.overflows.look(&self.context.listeners, no_places, now);
        }
    }

    /// `n` more clients were turned away, here or in a worker.
    pub(crate) fn count_turned_away(&mut self, n: u64, now: Instant) {
        if self.turned_away.add(n, now) {
            let fate = self.fate();
            let max = self.context.config.max_clients;
            warn!(
                reason = "--max-clients", limit = max, overflow = fate;
                "--max-clients {max} reached: further clients are {fate}"
            );
        }
    }

    /// One line when no client has been turned away for a while.
    pub(crate) fn end_turned_away(&mut self, now: Instant) {
        if let Some((n, lasted)) = self.turned_away.end(now) {
            let max = self.context.config.max_clients;
            let time = match n {
                1 => String::new(),
                _ => format!(" in {}", values::show(lasted)),
            };
            let clients = plural(n, "client");
            info!(
                reason = "--max-clients", limit = max, count = n, dur_s = lasted.as_secs_f64();
                "--max-clients {max}: no client is turned away any more, after {clients}{time}"
            );
        }
    }

    fn fate(&self) -> &'static str {
        match self.context.config.overflow {
            Overflow::Reset => "reset",
            Overflow::Close | Overflow::Queue => "closed",
        }
    }

    fn rate(&self) -> String {
        let rate = self.context.access.policy().rate;
        let rate = rate.map_or("off".to_owned(), |rate| rate.to_string());
        format!("--connection-rate {rate}")
    }

    /// Might a client that comes now have to wait for a place? Threads do not say
    /// how many they are, so there it always might.
    pub(super) fn may_lack_places(&self) -> bool {
        self.context.config.overflow == Overflow::Queue
            && self.phase.serves()
            && (self.context.seats.is_some() || self.children.full())
    }

    /// Do workers accept, several of them, so that one may be woken and not come?
    fn may_be_unheard(&self) -> bool {
        self.phase.serves()
            && self.passing.is_none()
            && matches!(self.context.config.model, Model::Prefork { .. })
    }

    /// Might a client that comes now be too early for the rate, or has a worker that
    /// keeps to it itself seen one?
    fn may_be_early(&self) -> bool {
        self.is_paced() || self.context.board.is_early()
    }

    /// Would we take a client, but for the rate?
    fn is_paced(&self) -> bool {
        self.pause().is_some() && self.intake() != Intake::Leave
    }

    /// Do more clients wait than there are places for? A place is not taken by a
    /// worker that waits, is being born or leaves, nor by one that is dead or has
    /// said that it has nothing more to do.
    fn look_for_places(&mut self, now: Instant) -> Found {
        if !self.phase.serves() || self.queued() == 0 {
            return Found::Nobody;
        }
        self.catch_up(now);
        let places = self.context.config.max_clients;
        match self.queued() > places.saturating_sub(self.serving()) {
            true => Found::Waiting,
            false => Found::Passing,
        }
    }

    /// Clients that wait to be accepted, or to be passed to a worker; of a Unix
    /// socket's the kernel says no more than whether there are any.
    fn queued(&self) -> usize {
        let open = self.context.listeners.iter().flatten();
        let queued: usize = open.map(|listener| listener.queue().waiting as usize).sum();
        let passed = self.passing.iter().flat_map(|passing| passing.waiting());
        queued + passed.count()
    }

    /// Clients that are being served, as far as their children say.
    fn serving(&self) -> usize {
        if let Some(seats) = &self.context.seats {
            return seats.occupied();
        }
        let tells = self.tells_roles();
        let serves = |slot: usize| match tells {
            true => self
                .children
                .get(slot)
                .is_some_and(|c| c.role == Role::Busy),
            false => self.context.board.said(slot) == Said::Serving,
        };
        let serving = self.children.slots().filter(|&slot| serves(slot)).count();
        let mut ended = 0;
        self.context
            .board
            .ended(|slot| ended += usize::from(serves(slot)));
        serving.saturating_sub(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Found::*;

    /// Steps through `(ms since start, what is found, has it become certain)`.
    fn story(sure: u32, steps: &[(u64, Found, bool)]) -> (Waiters, Instant) {
        let start = Instant::now();
        let mut waiters = Waiters::new(sure);
        for &(ms, found, certain) in steps {
            let now = start + Duration::from_millis(ms);
            assert!(waiters.is_due(true, now), "at {ms} ms");
            assert_eq!(waiters.look(found, now), certain, "at {ms} ms");
            let again = waiters.is_due(true, now);
            assert_eq!(again, found == Nobody, "at {ms} ms, again");
        }
        (waiters, start)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_moment_is_no_news_and_what_lasts_is_said_once() {
        let (mut waiters, start) = story(
            3,
            &[
                (0, Waiting, false),
                (50, Waiting, false),
                (100, Passing, false),
                (2000, Waiting, false),
                (2050, Waiting, false),
                (2100, Waiting, true),
                (2150, Waiting, false),
                (2200, Nobody, false),
                // As good as the same.
                (3000, Waiting, false),
                (3050, Passing, false),
            ],
        );
        assert_eq!(waiters.end(start + ms(7999)), None);
        assert_eq!(waiters.end(start + ms(8000)), Some(ms(1000)));
        assert_eq!(waiters.end(start + ms(20_000)), None);
        // And again, another time.
        for (at, certain) in [(30_000, false), (30_050, false), (30_100, true)] {
            assert_eq!(waiters.look(Waiting, start + ms(at)), certain);
        }
        let (mut once, start) = story(
            1,
            &[
                (0, Waiting, true),
                (50, Waiting, false),
                (100, Nobody, false),
            ],
        );
        assert_eq!(once.end(start + ms(5050)), Some(ms(50)));
        assert!(once.look(Waiting, start + ms(6000)));
    }

    #[test]
    fn a_queue_wakes_once_and_then_time_does_until_it_is_empty() {
        let now = Instant::now();
        let next = now + STEP;
        for (found, matters, then, later) in [
            (Nobody, true, Watch::Queues, Watch::Queues),
            (Nobody, false, Watch::Nothing, Watch::Nothing),
            (Passing, true, Watch::Until(next), Watch::Queues),
            (Passing, false, Watch::Nothing, Watch::Nothing),
            (Waiting, true, Watch::Until(next), Watch::Until(next)),
            // Whatever it was about: somebody has to see the end.
            (Waiting, false, Watch::Until(next), Watch::Until(next)),
        ] {
            let mut waiters = Waiters::new(3);
            waiters.look(found, now);
            assert_eq!(waiters.watch(matters, now), then, "{found:?} {matters}");
            assert_eq!(waiters.watch(matters, next), later, "{found:?} {matters}");
            let due = matters || found == Waiting;
            assert_eq!(waiters.is_due(matters, next), due, "{found:?} {matters}");
        }
    }
}

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

use log::{info, warn};

use crate::config::{Config, Model, Overflow};
use crate::daemon::shared::backoff::Episode;
use crate::values::{self, plural};

/// From one look to the next.
const STEP: Duration = Duration::from_millis(50);

/// Looks in a row that find somebody waiting, after which no worker will come.
const UNHEARD: u32 = 20;

/// For one thing that clients wait for: when to look, and whether it has begun or is
/// over. A clock without a clock, as in `backoff`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiters {
    sure: u32,
    seen: u32,
    first: Option<Instant>,
    next: Option<Instant>,
    episode: Episode,
}

/// What a look has found in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nobody.
    Nobody,
    /// Clients that will be accepted in a moment.
    Passing,
    /// Clients that have to wait.
    Waiting,
}

impl Found {
    /// Does anybody?
    pub(super) fn waiting(waits: bool) -> Found {
        match waits {
            true => Found::Waiting,
            false => Found::Nobody,
        }
    }
}

/// What the supervisor's sleep is to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nothing.
    Nothing,
    /// A queue that is not empty is to wake it.
    Queues,
    /// This time is.
    Until(Instant),
}

impl Watch {
    /// When time is to wake it.
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Watch::Until(at) => Some(at),
            Watch::Nothing | Watch::Queues => None,
        }
    }
}

impl Waiters {
    /// Nobody waits; so many looks in a row must say otherwise.
    fn new(sure: u32) -> Self {
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
    fn watch(&self, matters: bool, now: Instant) -> Watch {
        match self.next.filter(|_| matters || self.seen > 0) {
            Some(next) if self.seen > 0 || now < next => Watch::Until(next),
            _ if matters => Watch::Queues,
            _ => Watch::Nothing,
        }
    }

    /// Is a look due?
    fn is_due(&self, matters: bool, now: Instant) -> bool {
        (matters || self.seen > 0) && self.next.is_none_or(|next| now >= next)
    }

    /// The look; true when it has just become certain.
    fn look(&mut self, found: Found, now: Instant) -> bool {
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
    fn end(&mut self, now: Instant) -> Option<Duration> {
        self.episode.end(now).map(|(_, lasted)| lasted)
    }

    /// When [`Waiters::end`] may have something to say.
    fn wakes_at(&self) -> Option<Instant> {
        self.episode.wakes_at()
    }
}

/// What a client that comes now might have to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct MayWait {
    /// A place. Threads do not say how many they are, so there it always might.
    pub(super) place: bool,
    /// Its time, by `--connection-rate`; or a worker that keeps to it itself has seen
    /// one.
    pub(super) time: bool,
    /// A worker: several of them accept, so one may be woken and not come.
    pub(super) worker: bool,
}

/// What the log says of clients that wait, and of those that are turned away.
pub(super) struct WaitLog {
    /// `--max-clients`
    max: usize,
    /// One at a time is what `iterative` is; it is no news.
    silent: bool,
    /// What becomes of those beyond it.
    fate: &'static str,
    /// `--connection-rate`
    rate: String,
    place: Waiters,
    time: Waiters,
    worker: Waiters,
    turned_away: Episode,
}

impl WaitLog {
    /// Nobody waits.
    pub(super) fn new(config: &Config) -> Self {
        let rate = config
            .access
            .rate
            .map_or("off".to_owned(), |r| r.to_string());
        WaitLog {
            max: config.max_clients,
            silent: config.model == Model::Iterative,
            fate: match config.overflow {
                Overflow::Reset => "reset",
                Overflow::Close | Overflow::Queue => "closed",
            },
            rate: format!("--connection-rate {rate}"),
            place: Waiters::new(3),
            time: Waiters::new(1),
            worker: Waiters::new(UNHEARD),
            turned_away: Episode::default(),
        }
    }

    /// What the sleep is to do about them.
    pub(super) fn watches(&self, may: MayWait, now: Instant) -> [Watch; 3] {
        [
            self.worker.watch(may.worker, now),
            self.place.watch(may.place, now),
            self.time.watch(may.time, now),
        ]
    }

    /// Is it time to look, for whom there is no place, for who is too early, and for
    /// whom no worker comes?
    pub(super) fn is_due(&self, may: MayWait, now: Instant) -> MayWait {
        MayWait {
            place: self.place.is_due(may.place, now),
            time: self.time.is_due(may.time, now),
            worker: self.worker.is_due(may.worker, now),
        }
    }

    /// The look for the first.
    pub(super) fn note_place(&mut self, found: Found, now: Instant) {
        let max = self.max;
        if self.place.look(found, now) && !self.silent {
            warn!(
                reason = "--max-clients", limit = max;
                "--max-clients {max} reached: further clients wait in the queue"
            );
        }
    }

    /// The look for the second.
    pub(super) fn note_time(&mut self, found: Found, now: Instant) {
        if self.time.look(found, now) {
            let rate = &self.rate;
            warn!(
                reason = rate.as_str();
                "{rate} reached: further clients wait in the queue"
            );
        }
    }

    /// The look for the third; true if one has waited too long.
    pub(super) fn note_worker(&mut self, found: Found, now: Instant) -> bool {
        let unheard = self.worker.look(found, now);
        if unheard {
            self.worker = Waiters::new(UNHEARD);
        }
        unheard
    }

    /// `n` more clients were turned away, here or in a worker.
    pub(super) fn count_turned_away(&mut self, n: u64, now: Instant) {
        if self.turned_away.add(n, now) {
            let WaitLog { max, fate, .. } = *self;
            warn!(
                reason = "--max-clients", limit = max, overflow = fate;
                "--max-clients {max} reached: further clients are {fate}"
            );
        }
    }

    /// One line for each that is over. Whom a stop cannot serve yet waits for a place,
    /// too, so those who wait are as before unless the supervisor `serves`.
    pub(super) fn look(&mut self, serves: bool, now: Instant) {
        if serves {
            self.end_waiters(now);
        }
        let max = self.max;
        if let Some((n, lasted)) = self.turned_away.end(now) {
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

    fn end_waiters(&mut self, now: Instant) {
        let max = self.max;
        if let Some(lasted) = self.place.end(now)
            && !self.silent
        {
            info!(
                reason = "--max-clients", limit = max, dur_s = lasted.as_secs_f64();
                "--max-clients {max}: no client waits any more, after {}",
                values::show(lasted)
            );
        }
        if let Some(lasted) = self.time.end(now) {
            let rate = &self.rate;
            info!(
                reason = rate.as_str(), dur_s = lasted.as_secs_f64();
                "{rate}: no client waits any more, after {}",
                values::show(lasted)
            );
        }
    }

    /// When that may be.
    pub(super) fn wakes_at(&self, serves: bool) -> Option<Instant> {
        let waiters = [&self.place, &self.time].map(Waiters::wakes_at);
        let waiters = waiters.into_iter().filter(|_| serves);
        let times = waiters.chain([self.turned_away.wakes_at()]);
        times.flatten().min()
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

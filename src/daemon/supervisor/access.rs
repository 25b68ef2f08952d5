//! The supervisor as whoever accepts: who is let in, and who counts for what as
//! long as a child of ours serves it. Nothing here costs anything where no
//! option of echod(8), ACCESS, is given.

use std::time::{Duration, Instant};

use log::error;

use crate::access::Source;
use crate::addr::Peer;
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::crashes::{COUNTS_FOR, is_crash};
use crate::net::Accepted;

impl Supervisor {
    /// A client was accepted: is it let in? If not, it is gone.
    pub(crate) fn admit(&mut self, accepted: Accepted, now: Instant) -> Option<Accepted> {
        let share = self.context.access.share(accepted.peer);
        let full = share.filter(|&(source, most)| self.has_its_share(source, most, now));
        let context = &self.context;
        let full = full.map(|(source, _)| source);
        context.access.admit(accepted, full, &context.board)
    }

    /// How long no client may be accepted, for `--connection-rate`. A stop does
    /// not wait for it.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let wait = self.context.access.wait();
        wait.filter(|_| self.phase.serves())
    }

    /// The child of `slot` serves this client from now on.
    pub(crate) fn occupy(&mut self, slot: Slot, peer: Peer) {
        let source = self.source(peer);
        if let Some(sources) = &mut self.sources {
            sources.occupy(slot, source);
        }
    }

    /// It does not any more; whose client it served, if that counted.
    pub(crate) fn vacate(&mut self, slot: Slot) -> Option<Source> {
        self.sources.as_mut()?.vacate(slot)
    }

    /// A child that served a client from there is gone: a crash keeps its place.
    pub(crate) fn note_crash(&mut self, source: Option<Source>, gone: Gone, now: Instant) {
        let Gone::Killed(signal) = gone else { return };
        let limit = self.context.access.policy().per_source;
        let (Some(sources), Some(source), Some(limit)) = (&mut self.sources, source, limit) else {
            return;
        };
        if is_crash(signal) && sources.crashed(source, now) == limit.most as usize {
            error!(
                "{} from {} in {} minutes: refusing it until fewer count",
                match limit.most {
                    1 => "1 crash".to_owned(),
                    most => format!("{most} crashes"),
                },
                limit.network(source),
                COUNTS_FOR.as_secs() / 60,
            );
        }
    }

    /// A child woke us, or it is time: what was refused, as log lines.
    pub(crate) fn look_at_refusals(&mut self, now: Instant, last: bool) {
        let access = &self.context.access;
        if let (Some(log), Some(refusals)) = (&mut self.refusal_log, access.refusals()) {
            log.look(refusals, access.policy(), &self.names, now, last);
        }
    }

    fn source(&self, peer: Peer) -> Option<Source> {
        self.context.access.policy().source(peer)
    }

    /// Does this source have all the connections it may? Before that is believed,
    /// the dead are looked for: who is refused shall not have been so for one
    /// that is gone.
    fn has_its_share(&mut self, source: Source, most: usize, now: Instant) -> bool {
        if self.connections(source, now) < most {
            return false;
        }
        if self.phase.serves() {
            self.catch_up(now);
        }
        self.connections(source, now) >= most
    }

    /// Connections of a source: those that children of ours serve or crashed of,
    /// those that wait for one, and those of threads.
    fn connections(&self, source: Source, now: Instant) -> usize {
        let is = |peer: Peer| self.source(peer) == Some(source);
        let served = self.sources.as_ref().map_or(0, |s| s.count(source, now));
        let passed = self.passing.iter().flat_map(|p| p.waiting());
        let waiting = passed
            .chain(&self.pending)
            .filter(|accepted| is(accepted.peer));
        let seats = self.context.seats.as_ref();
        served + waiting.count() + seats.map_or(0, |seats| seats.count_of(is))
    }
}

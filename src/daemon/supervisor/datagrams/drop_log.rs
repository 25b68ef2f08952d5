//! What datagram workers drop, as log lines: one when drops for a reason begin,
//! naming the option, and one when they are over. The workers only count, and
//! ring for the first; from then on the supervisor looks by itself, so a flood of
//! drops wakes nobody.

use std::time::{Duration, Instant};

use log::{info, warn};

use crate::daemon::shared::backoff::Episode;
use crate::net::drops::Tally;
use crate::net::drops::{REASONS, Reason};
use crate::values;

/// The drops of one socket.
#[derive(Clone, Copy, Default)]
pub(super) struct DropLog([Drops; REASONS.len()]);

/// Those for one reason.
#[derive(Clone, Copy, Default)]
struct Drops {
    episode: Episode,
    seen: u64,
    before: u64,
}

impl DropLog {
    /// Compares the counts with those seen last; `name` is the socket's.
    pub(super) fn look(&mut self, name: &str, tally: &Tally, now: Instant) {
        for (reason, drops) in REASONS.into_iter().zip(&mut self.0) {
            drops.note(reason, name, tally, now);
            drops.end(reason, name, tally, now);
        }
    }

    /// When [`DropLog::look`] may have something to say, unless a worker wakes us.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let ends = self.0.iter().filter_map(|drops| drops.episode.wakes_at());
        ends.min()
    }
}

impl Drops {
    fn note(&mut self, reason: Reason, name: &str, tally: &Tally, now: Instant) {
        let count = tally.dropped(reason);
        // Gossip: it may go down.
        if count <= self.seen {
            return;
        }
        self.seen = count;
        if self.episode.begin(now) {
            warn!(
                listener = name,
                reason = reason.name();
                "{name}: {}",
                reason.explain()
            );
        }
    }

    fn end(&mut self, reason: Reason, name: &str, tally: &Tally, now: Instant) {
        let Some((_, lasted)) = self.episode.end(now) else {
            return;
        };
        let count = self.seen - self.before;
        self.before = self.seen;
        let lasted = lasted.max(Duration::from_millis(1));
        let what = reason.name();
        let datagrams = values::plural(count, "datagram");
        info!(
            count,
            listener = name,
            reason = what,
            dur_s = lasted.as_secs_f64();
            "{name}: {datagrams} dropped in {} ({what}); none for a while",
            values::show(lasted)
        );
        tally.listen(reason);
        self.note(reason, name, tally, now);
    }
}

/// `120 datagrams answered, 3 dropped (--udp-rate 2, too large 1)`
pub(super) fn summary(tally: &Tally) -> String {
    let dropped = REASONS.map(|reason| (tally.dropped(reason), reason.name()));
    let all = dropped
        .iter()
        .fold(0u64, |n, (count, _)| n.wrapping_add(*count));
    let each: Vec<_> = dropped
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{name} {count}"))
        .collect();
    let (answered, _) = tally.total();
    let answered = values::plural(answered, "datagram");
    match each.is_empty() {
        true => format!("{answered} answered, none dropped"),
        false => format!("{answered} answered, {all} dropped ({})", each.join(", ")),
    }
}

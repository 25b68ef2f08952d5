//! What datagram workers drop, as log lines: one when drops for a reason begin,
//! naming the option, and one when they are over. The workers only count, and
//! wake the supervisor for the first; from then on the supervisor looks by itself, so a flood of
//! drops wakes nobody.

use std::time::Instant;

use log::{info, warn};

use crate::daemon::shared::backoff::Rise;
use crate::net::drops::{REASONS, Tally};
use crate::values;

/// The drops of one socket, for each reason.
#[derive(Clone, Copy, Default)]
pub(super) struct DropLog([Rise; REASONS.len()]);

impl DropLog {
    /// Compares the counts with those seen last; `name` is the socket's.
    pub(super) fn look(&mut self, name: &str, tally: &Tally, now: Instant) {
        for (reason, drops) in REASONS.into_iter().zip(&mut self.0) {
            if drops.note(tally.dropped(reason), now) {
                warn!(
                    listener = name,
                    reason = reason.name();
                    "{name}: {}",
                    reason.explain()
                );
            }
            let listen = || {
                tally.listen(reason);
                tally.dropped(reason)
            };
            if let Some((count, lasted)) = drops.end(now, listen) {
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
            }
        }
    }

    /// When [`DropLog::look`] may have something to say, unless a worker wakes us.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(Rise::wakes_at).min()
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

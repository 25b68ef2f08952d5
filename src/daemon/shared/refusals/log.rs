//! The log lines about refusals: one when they begin for a reason, one with their
//! number when they are over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;

use crate::access::Policy;
use crate::addr::Peer;
use crate::daemon::shared::backoff::Rise;
use crate::daemon::shared::connection_log::unpack;
use crate::daemon::shared::refusals::{COUNT, NOBODY, PEER, Refusals, SAID, TENANT};
use crate::sys::shm::DontFork;
use crate::values;

/// While something is refused, how often the counts are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What the supervisor knows of the counts, in memory that no child has.
pub struct RefusalLog {
    seen: DontFork<Rise>,
    looks: Option<Instant>,
}

impl RefusalLog {
    /// Nothing was refused yet.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new(refusals: &Refusals) -> Result<Self, Errno> {
        Ok(RefusalLog {
            seen: DontFork::new(refusals.lines.len(), Rise::default())?,
            looks: None,
        })
    }

    /// When [`RefusalLog::look`] may have something to say, unless a
    /// child wakes us.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.looks
    }

    /// Is it time to look?
    pub fn is_due(&self, now: Instant) -> bool {
        self.looks.is_some_and(|at| at <= now)
    }

    /// Compares the counts with those seen last. With `last`, whatever lasts is
    /// over. `names` are the listeners'.
    pub fn look(
        &mut self,
        refusals: &Refusals,
        policy: &Policy,
        names: &[String],
        now: Instant,
        last: bool,
    ) {
        let mut on = false;
        for (index, seen) in self.seen.iter_mut().enumerate() {
            let line = refusals.line(index);
            if seen.note(line[COUNT].load(Ordering::SeqCst), now) {
                say_first(line, &refusals.name(index, policy).0, names);
            }
            // Whenever it is, the last has been a while ago by then.
            let then = if last { now + 60 * LOOK } else { now };
            let listen = || {
                line[SAID].store(0, Ordering::SeqCst);
                line[COUNT].load(Ordering::SeqCst)
            };
            if let Some((count, lasted)) = seen.end(then, listen) {
                let (why, from) = refusals.name(index, policy);
                let connections = values::plural(count, "connection");
                info!(
                    count,
                    source = from.strip_prefix(" from ").unwrap_or_default(),
                    reason = why.as_str(),
                    dur_s = lasted.as_secs_f64();
                    "refused {connections}{from} in {}: {why}",
                    values::show(lasted)
                );
                line[TENANT].store(NOBODY, Ordering::Release);
            }
            on |= seen.is_on();
        }
        self.looks = on.then(|| now + LOOK);
    }
}

fn say_first(line: &[AtomicU64; 8], why: &str, names: &[String]) {
    let word = |i: usize| line[i].load(Ordering::Relaxed);
    let (at, port) = (word(PEER + 2) >> 32, word(PEER + 2) & 0xffff_ffff);
    let peer = show(word(PEER), word(PEER + 1), port);
    let listener = usize::try_from(at).ok().and_then(|at| names.get(at));
    warn!(
        peer = peer.as_str(),
        listener = listener.map_or("", String::as_str),
        reason = why;
        "refusing {peer}: {why}; further ones are counted"
    );
}

pub(super) fn show(high: u64, low: u64, port: u64) -> String {
    match unpack(high, low, port) {
        Peer::Unix => format!("unix, uid {high} and gid {low}"),
        peer => peer.to_string(),
    }
}

//! The log lines about refusals: one when they begin for a reason, one with their
//! number when they are over.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;

use crate::access::Policy;
use crate::addr::Peer;
use crate::daemon::shared::backoff::Episode;
use crate::daemon::shared::connection_log::unpack;
use crate::daemon::shared::refusals::{COUNT, NOBODY, PEER, Refusals, SAID, TENANT};
use crate::sys::shm::DontFork;
use crate::values;

/// While something is refused, how often the counts are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What the supervisor knows of the counts, in memory that no child has.
pub struct RefusalLog {
    seen: DontFork<Seen>,
    looks: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    episode: Episode,
    count: u64,
    before: u64,
}

impl RefusalLog {
    /// Nothing was refused yet.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new(refusals: &Refusals) -> Result<Self, Errno> {
        Ok(RefusalLog {
            seen: DontFork::new(refusals.lines.len(), Seen::default())?,
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
            seen.note(index, refusals, policy, names, now);
            // Whenever it is, the last has been a while ago by then.
            let then = if last { now + 60 * LOOK } else { now };
            seen.end(index, refusals, policy, then);
            on |= seen.episode.is_on();
        }
        self.looks = on.then(|| now + LOOK);
    }
}

impl Seen {
    fn note(
        &mut self,
        index: usize,
        refusals: &Refusals,
        policy: &Policy,
        names: &[String],
        now: Instant,
    ) {
        let line = refusals.line(index);
        let count = line[COUNT].load(Ordering::SeqCst);
        // Gossip: it may go down.
        if count <= self.count {
            return;
        }
        self.count = count;
        if self.episode.begin(now) {
            let word = |i: usize| line[i].load(Ordering::Relaxed);
            let (at, port) = (word(PEER + 2) >> 32, word(PEER + 2) & 0xffff_ffff);
            let peer = show(word(PEER), word(PEER + 1), port);
            let (why, _) = refusals.name(index, policy);
            let listener = usize::try_from(at).ok().and_then(|at| names.get(at));
            warn!(
                peer = peer.as_str(),
                listener = listener.map_or("", String::as_str),
                reason = why.as_str();
                "refusing {peer}: {why}; further ones are counted"
            );
        }
    }

    fn end(&mut self, index: usize, refusals: &Refusals, policy: &Policy, now: Instant) {
        let Some((_, lasted)) = self.episode.end(now) else {
            return;
        };
        let line = refusals.line(index);
        line[SAID].store(0, Ordering::SeqCst);
        self.count = self.count.max(line[COUNT].load(Ordering::SeqCst));
        let count = self.count - self.before;
        self.before = self.count;
        let (why, from) = refusals.name(index, policy);
        let connections = values::plural(count, "connection");
        let lasted = lasted.max(Duration::from_millis(1));
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
}

pub(super) fn show(high: u64, low: u64, port: u64) -> String {
    match unpack(high, low, port) {
        Peer::Unix => format!("unix, uid {high} and gid {low}"),
        peer => peer.to_string(),
    }
}

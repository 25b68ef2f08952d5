//! Who is refused and why: counts, in memory that all who accept share, and the log
//! lines about them: one when refusals begin for a reason, one with their number when
//! they are over.
//!
//! A line of counts for each rule, one for those that no `--allow` holds, and a
//! fixed number for sources at their limit, with one for all further sources:
//! whatever comes, it takes no more. Who refuses only counts, and wakes the supervisor for the
//! first; from then on the supervisor looks by itself, so a flood wakes nobody.
//! To the supervisor it is gossip, as the scoreboard is: numbers for the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;

use crate::access::{Client, Policy, Refusal, Source};
use crate::addr::Peer;
use crate::daemon::shared::backoff::Rise;
use crate::daemon::shared::connection_log::{pack, unpack};
use crate::sys::memory::{DontFork, Shared};
use crate::values;

/// Sources whose refusals are counted apart.
const SOURCES: usize = 32;

// The words of a line.
const COUNT: usize = 0;
const SAID: usize = 1;
const PEER: usize = 2; // three of them: one that was refused lately, and where
const TENANT: usize = 5;
const SOURCE: usize = 6; // two of them

// Who has a source's line.
const NOBODY: u64 = 0;
const MOVING_IN: u64 = 1;
const TAKEN: u64 = 2;

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By `--allow` and `--deny`, being this one.
    Listed(Refusal, Client),
    /// Its source has `--max-per-source`.
    Full(Source),
}

/// The counts.
pub struct Refusals {
    lines: Shared,
    rules: usize,
}

impl Refusals {
    /// All zero.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(policy: &Policy) -> Result<Self, Errno> {
        let rules = policy.rules.len();
        Ok(Refusals {
            lines: Shared::new(rules + 2 + SOURCES)?,
            rules,
        })
    }

    /// Whoever refuses: one more. True for the first since the last episode
    /// was over: the supervisor wants to know.
    pub fn count(&self, peer: Peer, why: Why, listener: usize) -> bool {
        let line = self.line(self.index(why));
        if line[SAID].load(Ordering::Relaxed) == 0 {
            // Before it is counted: the supervisor may be looking already.
            let (high, low, port) = told(peer, why);
            let at = (listener as u64) << 32 | port;
            for (word, part) in line[PEER..].iter().zip([high, low, at]) {
                word.store(part, Ordering::Relaxed);
            }
        }
        // Counted, then looked; the supervisor clears, then counts: whichever
        // comes first, one of the two sees the other (hence SeqCst).
        line[COUNT].fetch_add(1, Ordering::SeqCst);
        line[SAID].load(Ordering::SeqCst) == 0 && line[SAID].swap(1, Ordering::SeqCst) == 0
    }

    fn index(&self, why: Why) -> usize {
        match why {
            Why::Listed(Refusal::Rule(rule), _) => rule.min(self.rules),
            Why::Listed(Refusal::Unlisted, _) => self.rules,
            Why::Full(source) => self.rules + 1 + self.place_of(source),
        }
    }

    /// The source's line, or one that is free, or the last, which is for all
    /// others. Only one process accepts where this is asked, but for moments.
    fn place_of(&self, source: Source) -> usize {
        let line = |n: usize| self.line(self.rules + 1 + n);
        let has = |n: &usize| {
            line(*n)[TENANT].load(Ordering::Acquire) == TAKEN && source_in(line(*n)) == source
        };
        let (ok, no) = (Ordering::Acquire, Ordering::Relaxed);
        let free = |n: &usize| {
            let tenant = &line(*n)[TENANT];
            tenant.compare_exchange(NOBODY, MOVING_IN, ok, no).is_ok()
        };
        if let Some(n) = (0..SOURCES).find(has) {
            return n;
        }
        let Some(n) = (0..SOURCES).find(free) else {
            return SOURCES;
        };
        let (high, low) = ((source.0 >> 64) as u64, source.0 as u64);
        line(n)[SOURCE].store(high, Ordering::Relaxed);
        line(n)[SOURCE + 1].store(low, Ordering::Relaxed);
        line(n)[TENANT].store(TAKEN, Ordering::Release);
        n
    }

    fn line(&self, index: usize) -> &[AtomicU64; 8] {
        &self.lines[index].0
    }

    /// What decided, and what to call those it was decided about.
    fn name(&self, index: usize, policy: &Policy) -> (String, String) {
        if let Some(rule) = policy.rules.get(index) {
            return (rule.to_string(), String::new());
        }
        let Some(limit) = policy.per_source.filter(|_| index > self.rules) else {
            return ("no --allow".to_owned(), String::new());
        };
        let from = match index - self.rules - 1 {
            SOURCES => "other sources".to_owned(),
            _ => limit.network(source_in(self.line(index))).to_string(),
        };
        (
            format!("--max-per-source {}", limit.most),
            format!(" from {from}"),
        )
    }
}

/// What the log is to name, as three words: an address, or an identity, whose
/// third word is 0.
fn told(peer: Peer, why: Why) -> (u64, u64, u64) {
    match why {
        Why::Listed(_, Client::Unix { uid, gid }) => (uid.into(), gid.into(), 0),
        _ => pack(peer),
    }
}

fn source_in(line: &[AtomicU64; 8]) -> Source {
    let word = |i: usize| u128::from(line[i].load(Ordering::Relaxed));
    Source(word(SOURCE) << 64 | word(SOURCE + 1))
}

/// While something is refused, how often the counts are looked at.
const LOOK: Duration = Duration::from_secs(1);

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

fn show(high: u64, low: u64, port: u64) -> String {
    match unpack(high, low, port) {
        Peer::Unix => format!("unix, uid {high} and gid {low}"),
        peer => peer.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Rules, per_source, who};

    fn policy() -> Policy {
        Policy {
            rules: Rules::new(&[], &[who("192.0.2.0/24").unwrap()]),
            per_source: per_source("2").unwrap(),
            ..Policy::default()
        }
    }

    fn peer(n: u8) -> Peer {
        Peer::Inet(std::net::SocketAddr::from(([198, 51, 100, n], 7)))
    }

    #[test]
    fn the_first_of_each_reason_rings_until_its_episode_is_over() {
        let policy = policy();
        let refusals = Refusals::new(&policy).unwrap();
        let mut log = RefusalLog::new(&refusals).unwrap();
        let source = |n| Why::Full(policy.source(peer(n)).unwrap());
        let reasons = [
            Why::Listed(Refusal::Rule(0), Client::Unix { uid: 1, gid: 2 }),
            Why::Listed(Refusal::Unlisted, Client::Unix { uid: 1, gid: 2 }),
            source(1),
            source(2),
        ];
        for why in reasons {
            assert!(refusals.count(peer(1), why, 0), "{why:?}: the first");
            assert!(!refusals.count(peer(1), why, 0), "{why:?}: the second");
        }
        let now = Instant::now();
        assert_eq!(log.wakes_at(), None);
        let (high, low, port) = told(Peer::Unix, reasons[0]);
        assert_eq!(show(high, low, port), "unix, uid 1 and gid 2");
        let (high, low, port) = told(peer(9), source(9));
        assert_eq!(show(high, low, port), "198.51.100.9:7");
        log.look(&refusals, &policy, &[], now, false);
        assert_eq!(log.wakes_at(), Some(now + LOOK));
        log.look(&refusals, &policy, &[], now + 5 * LOOK, false);
        assert_eq!(log.wakes_at(), None, "over");
        for why in reasons {
            assert!(refusals.count(peer(1), why, 0), "{why:?}: again");
        }
        log.look(&refusals, &policy, &[], now + 6 * LOOK, true);
        assert_eq!(log.wakes_at(), None, "at the end of a stop");
    }

    #[test]
    fn sources_have_lines_of_their_own_as_long_as_there_are_any() {
        let policy = policy();
        let refusals = Refusals::new(&policy).unwrap();
        let mut log = RefusalLog::new(&refusals).unwrap();
        let source = |n| policy.source(peer(n)).unwrap();
        let places: Vec<_> = (0..40).map(|n| refusals.place_of(source(n))).collect();
        let expected: Vec<_> = (0..40).map(|n| n.min(SOURCES)).collect();
        assert_eq!(places, expected);
        assert_eq!(refusals.place_of(source(7)), 7, "again");
        let line = refusals.rules + 1;
        assert_eq!(
            refusals.name(line + 7, &policy),
            (
                "--max-per-source 2".to_owned(),
                " from 198.51.100.7/32".to_owned()
            )
        );
        assert_eq!(
            refusals.name(line + SOURCES, &policy).1,
            " from other sources"
        );
        assert_eq!(refusals.name(0, &policy).0, "--deny 192.0.2.0/24");
        assert_eq!(refusals.name(1, &policy).0, "no --allow");
        // One whose episode is over makes room.
        refusals.count(peer(7), Why::Full(source(7)), 0);
        log.look(&refusals, &policy, &[], Instant::now(), true);
        assert_eq!(refusals.place_of(source(39)), 7);
        assert_eq!(refusals.place_of(source(38)), SOURCES);
    }
}

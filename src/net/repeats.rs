//! What has been answered before, by whom it came from and all its bytes: what an
//! exchange without end is made of, since an echo changes nothing.
//!
//! Where two services answer each other, each of their datagrams comes back as it
//! was sent, as long as both live. Clients send the same again too, so to be a
//! repeat is no proof: [`Repeats`] counts, and its callers say what a number
//! means. It is a table of fixed size in memory that outlives a worker; what is
//! new takes the place of what has been seen once, or long ago, so a flood does not
//! hide a loop. Which entries a datagram falls on depends on a secret. Knows no
//! clock: the caller says what time it is, in nanoseconds.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use crate::sys::memory::{Line, Shared};

/// Lines of the table, four entries each: 256 KiB.
const LINES: usize = 4096;
/// After this long, in milliseconds, what comes again is new: whatever goes round
/// as slowly hurts nobody.
const WINDOW: u64 = 10_000;
/// An entry's second word: when it came last, and below that how often.
const COUNT_BITS: u32 = 24;
const MOST: u64 = (1 << COUNT_BITS) - 1;

/// See the module.
pub struct Repeats {
    table: Shared,
    secret: RandomState,
}

/// One datagram's count, not yet changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How often it came before, each time soon after the time before.
    pub times: u64,
    /// Milliseconds since the last time, if there was one.
    pub ago: u64,
}

impl Repeats {
    /// Nothing was seen yet.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        Ok(Repeats {
            table: Shared::apart(LINES)?,
            secret: RandomState::new(),
        })
    }

    /// See [`Shared::inherited`].
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.table.inherited(whether)
    }

    /// What these bytes from there are known by here. Never 0.
    pub fn tag(&self, from: impl Hash, bytes: &[u8]) -> u64 {
        self.secret.hash_one((from, bytes)) | 1
    }

    /// How often it came.
    pub fn look(&self, tag: u64, now: u64) -> Seen {
        let line = self.line(tag);
        let here = (0..4).find(|&n| tag_of(line, n) == tag);
        here.map_or(NEVER, |n| seen(line, n, now))
    }

    /// It came once more.
    pub fn count(&self, tag: u64, now: u64) {
        let line = self.line(tag);
        let worth = |&n: &usize| match (tag_of(line, n) == tag, seen(line, n, now)) {
            (true, _) => (0, 0),
            (_, NEVER) => (1, 0),
            (_, Seen { times: 1, ago }) => (2, u64::MAX - ago),
            (_, Seen { ago, .. }) => (3, u64::MAX - ago),
        };
        let n = (0..4).min_by_key(worth).unwrap_or(0);
        let times = match tag_of(line, n) == tag {
            true => seen(line, n, now).times,
            false => 0,
        };
        line.0[2 * n].store(tag, Relaxed);
        let word = (now / NS) << COUNT_BITS | (times + 1).min(MOST);
        line.0[2 * n + 1].store(word, Relaxed);
    }

    fn line(&self, tag: u64) -> &Line {
        // Not by the lowest bit, which is always set.
        &self.table[(tag >> 1) as usize % LINES]
    }
}

/// Nanoseconds in a millisecond.
const NS: u64 = 1_000_000;

const NEVER: Seen = Seen { times: 0, ago: 0 };

fn tag_of(line: &Line, n: usize) -> u64 {
    line.0[2 * n].load(Relaxed)
}

/// A time that is still to come, which nobody here has written, counts as none.
fn seen(line: &Line, n: usize, now: u64) -> Seen {
    let word = line.0[2 * n + 1].load(Relaxed);
    match (now / NS).checked_sub(word >> COUNT_BITS) {
        Some(ago @ ..=WINDOW) if word & MOST > 0 => Seen {
            times: word & MOST,
            ago,
        },
        _ => NEVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_same_from_the_same_is_counted_while_it_comes_soon_enough() {
        let repeats = Repeats::new().expect("mmap");
        let tag = repeats.tag("here", b"ping");
        for other in [repeats.tag("here", b"pink"), repeats.tag("there", b"ping")] {
            repeats.count(other, 0);
        }
        assert_eq!(repeats.look(tag, 0), NEVER);
        for (at, times, ago) in [
            (0, 0, 0),
            (0, 1, 0),
            (9, 2, 9000),
            (19, 3, 10_000),
            (30, 0, 0),
            (31, 1, 1000),
        ] {
            assert_eq!(repeats.look(tag, at * S), Seen { times, ago }, "{at} s");
            repeats.count(tag, at * S);
        }
    }

    #[test]
    fn a_flood_of_what_is_new_does_not_hide_what_repeats() {
        let repeats = Repeats::new().expect("mmap");
        let tag = repeats.tag("here", b"round and round");
        repeats.count(tag, 0);
        repeats.count(tag, 0);
        for n in 0..1_000_000u32 {
            repeats.count(repeats.tag(n, b"new"), 0);
        }
        assert_eq!(repeats.look(tag, S).times, 2);
    }

    #[test]
    fn what_cannot_be_counts_as_nothing() {
        let repeats = Repeats::new().expect("mmap");
        let tag = repeats.tag("here", b"ping");
        for word in repeats.table.iter().flat_map(|line| &line.0) {
            word.store(u64::MAX, Relaxed);
        }
        assert_eq!(repeats.look(tag, S), NEVER);
        repeats.count(tag, S);
        assert_eq!(repeats.look(tag, S).times, 1);
        for n in 0..4 {
            repeats.line(tag).0[2 * n].store(tag, Relaxed);
            repeats.line(tag).0[2 * n + 1].store(MOST, Relaxed);
        }
        repeats.count(tag, 0);
        assert_eq!(repeats.look(tag, 0).times, MOST);
    }
}

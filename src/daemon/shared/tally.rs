//! What datagram workers count, in memory they share with the supervisor: how
//! many they answered, and how many they dropped and why.
//!
//! As in the scoreboard, to the supervisor it is gossip: numbers for the log. The
//! counts of a socket go on from one worker to the next, and for a moment at a
//! reload two of them count, so each count is one indivisible addition.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::net::drops::Reason;
use crate::sys::shm::Shared;

const ANSWERED: usize = 0;
const BYTES: usize = 1;
const SAID: usize = 2;
const FAULT: usize = 3;
const RETIRED: usize = 4;
/// The reasons have the lines after the first.
const REASONS: usize = 1;

/// The counts of one socket.
pub struct Tally(Shared);

impl Tally {
    /// All zero.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        let lines = crate::net::drops::REASONS.len().div_ceil(8);
        Ok(Tally(Shared::apart(REASONS + lines)?))
    }

    /// See [`Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.0.inherited(whether)
    }

    /// Worker: so many were answered, with so many bytes.
    pub fn answered(&self, datagrams: u64, bytes: u64) {
        self.word(ANSWERED).fetch_add(datagrams, Ordering::Relaxed);
        self.word(BYTES).fetch_add(bytes, Ordering::Relaxed);
    }

    /// Worker: one was dropped. True for the first since [`Tally::listen`]: the
    /// supervisor wants to know.
    pub fn drop(&self, reason: Reason) -> bool {
        // Counted, then looked; the supervisor clears, then counts: whichever
        // comes first, one of the two sees the other (hence SeqCst).
        self.count(reason).fetch_add(1, Ordering::SeqCst);
        let said = self.word(SAID);
        said.load(Ordering::SeqCst) & bit(reason) == 0
            && said.fetch_or(bit(reason), Ordering::SeqCst) & bit(reason) == 0
    }

    /// Worker: receiving fails for good.
    pub fn fault(&self, errno: Errno) {
        self.word(FAULT).store(errno as u64, Ordering::Relaxed);
    }

    /// Worker: it has answered what was queued, as it was told, and leaves.
    pub fn retire(&self) {
        self.word(RETIRED).store(1, Ordering::Relaxed);
    }

    /// Supervisor: has one said so, since this was last asked?
    pub fn take_retired(&self) -> bool {
        self.word(RETIRED).swap(0, Ordering::Relaxed) != 0
    }

    /// Supervisor: wants to be told of the next one that is dropped for this
    /// reason. Look at [`Tally::dropped`] after this.
    pub fn listen(&self, reason: Reason) {
        self.word(SAID).fetch_and(!bit(reason), Ordering::SeqCst);
    }

    /// Supervisor: how many were dropped for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.count(reason).load(Ordering::SeqCst)
    }

    /// Supervisor: how many were answered, and their bytes.
    pub fn total(&self) -> (u64, u64) {
        let word = |i| self.word(i).load(Ordering::Relaxed);
        (word(ANSWERED), word(BYTES))
    }

    /// Supervisor: why a worker gave up.
    pub fn why(&self) -> Errno {
        Errno::from_raw(self.word(FAULT).load(Ordering::Relaxed) as i32)
    }

    fn word(&self, i: usize) -> &AtomicU64 {
        &self.0[0].0[i]
    }

    fn count(&self, reason: Reason) -> &AtomicU64 {
        let i = reason as usize;
        &self.0[REASONS + i / 8].0[i % 8]
    }
}

fn bit(reason: Reason) -> u64 {
    1 << reason as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::drops::REASONS;

    #[test]
    fn each_reason_is_counted_by_itself_and_told_once() {
        let tally = Tally::new().expect("mmap");
        for reason in REASONS {
            assert!(tally.drop(reason), "{reason:?}: the first");
            assert!(!tally.drop(reason), "{reason:?}: the second");
            assert_eq!(tally.dropped(reason), 2);
        }
        tally.listen(Reason::Rate);
        assert!(!tally.drop(Reason::GlobalRate));
        assert!(tally.drop(Reason::Rate), "asked again");
        tally.answered(2, 30);
        tally.answered(1, 0);
        assert_eq!(tally.total(), (3, 30));
        tally.fault(Errno::EBADF);
        assert_eq!(tally.why(), Errno::EBADF);
    }
}

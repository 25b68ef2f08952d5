//! The scoreboard: what children tell the supervisor, in memory they share.
//!
//! A slot is one cache line with one writer, its child; 63 of them and their
//! bitmaps share a page, the only one of the board that a child touches and so
//! pays a page fault for. What it holds of a connection is an [`Entry`], as in
//! [`crate::daemon::shared::seats`]. To the supervisor it is gossip (CVE-2019-0211): numbers for
//! the log, never an index, a length, a pid or a pointer; slots and limits follow
//! what the kernel reported. Two bitmaps say where to look, so that nobody
//! scans thousands of slots: `taken` (a waiting worker has a client now) and
//! `ended` (a child's last store).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::addr::Peer;
use crate::daemon::shared::connection_log::{self, Entry, Report, STATE};
use crate::sys::memory::{Line, Shared};
use crate::sys::raw;

/// Index of a slot.
pub type Slot = usize;

// A slot's line is an entry, and its own word this one.
const PID: usize = connection_log::OWN;

// The words of a block's first line. Every child may write them.
const TAKEN: usize = 0;
const ENDED: usize = 1;
// In the first block alone.
const PRINT: usize = 2;
const WAITING: usize = 3;
const WAKE_BELOW: usize = 4;
const WAKE_ABOVE: usize = 5;
const TROUBLE: usize = 6;
const EARLY: usize = 7;

/// Slots in a block: with the line of its bitmaps, one page of 4096 bytes.
const BLOCK: usize = 63;

/// What a child says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing yet.
    Starting,
    /// It waits for a connection.
    Idle,
    /// It serves one.
    Serving,
}

/// The shared memory and the wakeup beside it: a pipe, of which workers have the end
/// to write to. An eventfd could be read by whoever writes to it, and one that was
/// taken over would take the wakeups of all the others.
pub struct Scoreboard {
    lines: Shared,
    slots: usize,
    wakeup: OwnedFd,
    waker: OwnedFd,
    rebalance: EventFd,
}

impl Scoreboard {
    /// Maps `slots` slots with their bitmaps and the shared counts.
    ///
    /// # Errors
    /// mmap(2)'s, pipe2(2)'s or eventfd(2)'s.
    pub fn new(slots: usize) -> Result<Self, Errno> {
        let lines = Shared::new(slots.div_ceil(BLOCK).max(1) * (BLOCK + 1))?;
        let (wakeup, waker) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Scoreboard {
            lines,
            slots,
            wakeup,
            waker,
            rebalance: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Bytes of address space that it takes in each process.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Supervisor: readable when a child wants it to look.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// What a child needs to wake the supervisor.
    pub fn waker(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    /// Readable when a worker that sleeps should look at every listener.
    pub fn rebalance(&self) -> BorrowedFd<'_> {
        self.rebalance.as_fd()
    }

    /// Child: wakes one worker that sleeps, or the next that would, to look at every listener.
    pub fn ask_rebalance(&self) {
        let _ = raw::write(self.rebalance.as_fd(), &1u64.to_ne_bytes());
    }

    /// Child: takes the word that woke it, before it looks.
    pub fn take_rebalance(&self) {
        let _ = raw::read(self.rebalance.as_fd(), &mut [0; 8]);
    }

    /// Supervisor: clears the wakeup, before it looks at the board.
    pub fn clear_wakeup(&self) {
        let _ = raw::read(self.wakeup.as_fd(), &mut [0; 512]);
    }

    /// Supervisor: empties a slot for the child about to be forked.
    pub fn clear(&self, slot: Slot) {
        for word in &self.line(slot).0 {
            word.store(0, Ordering::Relaxed);
        }
        for map in [TAKEN, ENDED] {
            let (word, bit) = self.bit(map, slot);
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Child: waits for a connection.
    pub fn idle(&self, slot: Slot) {
        self.line(slot).0[STATE].store(1, Ordering::Relaxed);
    }

    /// Child, or the supervisor before it forks one: `slot` serves `peer`.
    pub fn serving(&self, slot: Slot, peer: Peer, listener: usize) {
        self.entry(slot).begin(peer, listener);
        self.line(slot).0[STATE].store(2, Ordering::Release);
    }

    /// Child: the waiting worker of `slot` is a serving one now; the supervisor
    /// may want another.
    pub fn taken(&self, slot: Slot, peer: Peer, listener: usize) {
        self.serving(slot, peer, listener);
        let (word, bit) = self.bit(TAKEN, slot);
        word.fetch_or(bit, Ordering::Release);
        self.wake();
    }

    /// Child that serves many: as [`Scoreboard::taken`], but the supervisor
    /// is woken only when fewer wait than the supervisor wants. The count goes down
    /// before the state changes, and up after it: a worker killed between the two
    /// leaves it too low, which costs a wakeup, and never too high.
    pub fn taken_by_many(&self, slot: Slot, peer: Peer, listener: usize) {
        let waiting = self
            .shared(WAITING)
            .fetch_sub(1, Ordering::AcqRel)
            .wrapping_sub(1);
        self.serving(slot, peer, listener);
        if (waiting as i64) < self.shared(WAKE_BELOW).load(Ordering::Relaxed) as i64 {
            self.wake();
        }
    }

    /// Child that serves many: waits again.
    pub fn idle_again(&self, slot: Slot) {
        self.idle(slot);
        let waiting = self
            .shared(WAITING)
            .fetch_add(1, Ordering::AcqRel)
            .wrapping_add(1);
        if waiting as i64 > self.shared(WAKE_ABOVE).load(Ordering::Relaxed) as i64 {
            self.wake();
        }
    }

    /// Supervisor: a worker that serves many was forked (1), or died waiting (-1).
    pub fn count_waiting(&self, change: i64) {
        self.shared(WAITING)
            .fetch_add(change as u64, Ordering::AcqRel);
    }

    /// Supervisor: workers that serve many wake us when fewer than `below` or more
    /// than `above` wait.
    pub fn wake_outside(&self, below: usize, above: usize) {
        self.shared(WAKE_BELOW)
            .store(below as u64, Ordering::Relaxed);
        self.shared(WAKE_ABOVE)
            .store(above as u64, Ordering::Relaxed);
    }

    /// Child: accept(2) fails for want of something; said once per try.
    pub fn trouble(&self, errno: Errno) {
        self.shared(TROUBLE).store(errno as u64, Ordering::Relaxed);
        self.wake();
    }

    /// Supervisor: what accept(2) failed with in some child since last asked.
    pub fn take_trouble(&self) -> Option<Errno> {
        let code = self.shared(TROUBLE).swap(0, Ordering::Relaxed);
        (code != 0).then(|| Errno::from_raw(code as i32))
    }

    /// Child that keeps to `--connection-rate` itself: a client waits for it.
    pub fn early(&self) {
        if self.shared(EARLY).swap(1, Ordering::Relaxed) == 0 {
            self.wake();
        }
    }

    /// Supervisor: has any child said so since this was last taken?
    pub fn is_early(&self) -> bool {
        self.shared(EARLY).load(Ordering::Relaxed) != 0
    }

    /// Supervisor: the same, and from now on a child that says so wakes us.
    pub fn take_early(&self) -> bool {
        self.shared(EARLY).swap(0, Ordering::Relaxed) != 0
    }

    /// Child: where it tells why it could not write what it was to print.
    pub fn print_failed(&self) -> &AtomicU64 {
        self.shared(PRINT)
    }

    /// Supervisor: what is told there.
    pub fn print_failure(&self) -> Option<Errno> {
        let code = self.shared(PRINT).load(Ordering::Relaxed);
        (code != 0).then(|| Errno::from_raw(code as i32))
    }

    /// Double-forked child: its pid, which nobody else knows.
    pub fn sign(&self, slot: Slot, pid: nix::unistd::Pid) {
        self.line(slot).0[PID].store(pid.as_raw().unsigned_abs().into(), Ordering::Relaxed);
    }

    /// What is said of the connection of `slot`, for its child to write.
    pub fn entry(&self, slot: Slot) -> Entry<'_> {
        Entry::new(&self.line(slot).0)
    }

    /// Child: its last store.
    pub fn announce_ended(&self, slot: Slot) {
        let (word, bit) = self.bit(ENDED, slot);
        word.fetch_or(bit, Ordering::Release);
    }

    /// Child: wakes the supervisor. Never blocks: a full pipe is as good.
    pub fn wake(&self) {
        let _ = raw::write(self.waker.as_fd(), &[0]);
    }

    /// Supervisor: what the child of `slot` says it is doing.
    pub fn said(&self, slot: Slot) -> Said {
        match self.line(slot).0[STATE].load(Ordering::Acquire) {
            0 => Said::Starting,
            1 => Said::Idle,
            _ => Said::Serving,
        }
    }

    /// Supervisor: what the child of `slot` says of its connection.
    pub fn report(&self, slot: Slot) -> Report {
        Report {
            pid: self.line(slot).0[PID].load(Ordering::Relaxed),
            ..self.entry(slot).report()
        }
    }

    /// Supervisor: the slots announced as taken since this was last called.
    pub fn drain_taken(&self, mut each: impl FnMut(Slot)) {
        self.drain(TAKEN, &mut each);
    }

    /// What a child that was taken over may do: other numbers in every word, and
    /// a wakeup. For the test hook of debug builds.
    #[cfg(debug_assertions)]
    pub fn scribble(&self, seed: u64) {
        let mut number = seed | 1;
        for word in self.lines.iter().flat_map(|line| &line.0) {
            // Knuth's constants for a linear congruential generator.
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            word.store(number, Ordering::Relaxed);
        }
        self.wake();
    }

    fn drain(&self, map: usize, each: &mut impl FnMut(Slot)) {
        for (i, word) in self.map(map).enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                self.each_bit(i, word.swap(0, Ordering::Acquire), each);
            }
        }
    }

    /// Supervisor: the slots whose child has said that it ends; cleared with the
    /// slot, because saying so comes before being dead.
    pub fn ended(&self, mut each: impl FnMut(Slot)) {
        for (i, word) in self.map(ENDED).enumerate() {
            self.each_bit(i, word.load(Ordering::Acquire), &mut each);
        }
    }

    fn each_bit(&self, block: usize, mut bits: u64, each: &mut impl FnMut(Slot)) {
        while bits != 0 {
            let slot = block * BLOCK + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if slot < self.slots {
                each(slot);
            }
        }
    }

    fn line(&self, slot: Slot) -> &Line {
        &self.lines[slot / BLOCK * (BLOCK + 1) + 1 + slot % BLOCK]
    }

    fn shared(&self, word: usize) -> &AtomicU64 {
        &self.lines[0].0[word]
    }

    fn map(&self, map: usize) -> impl Iterator<Item = &AtomicU64> {
        self.lines
            .iter()
            .step_by(BLOCK + 1)
            .map(move |line| &line.0[map])
    }

    fn bit(&self, map: usize, slot: Slot) -> (&AtomicU64, u64) {
        let header = &self.lines[slot / BLOCK * (BLOCK + 1)];
        (&header.0[map], 1 << (slot % BLOCK))
    }
}

#[cfg(test)]
mod tests;

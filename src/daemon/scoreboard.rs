//! The scoreboard: what children tell the supervisor, in memory they share.
//!
//! A slot is one cache line with one writer, its child; 63 of them and their
//! bitmaps share a page, the only one of the board that a child touches and so
//! pays a page fault for. To the supervisor it
//! is gossip (CVE-2019-0211): numbers for the log, never an index, a length, a
//! pid or a pointer; slots and limits follow what the kernel reported. Three
//! bitmaps say where to look, so that nobody scans thousands of slots: `taken`
//! (a waiting worker has a client now), `ended` (a child's last store) and
//! `again` (a worker waits for its next client).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::addr::Peer;
use crate::net::connection::{End, Meter};
use crate::sys::raw;
use crate::sys::shm::{Line, Shared};

/// Index of a slot.
pub type Slot = usize;

// The words of a slot's line.
const STATE: usize = 0;
const END: usize = 1;
const RECEIVED: usize = 2;
const SENT: usize = 3;
const ADDR_HIGH: usize = 4;
const ADDR_LOW: usize = 5;
const WHERE: usize = 6;
const PID: usize = 7;

// The words of a block's first line. Every child may write them.
const TAKEN: usize = 0;
const ENDED: usize = 1;
const AGAIN: usize = 2;
// In the first block alone.
const WAITING: usize = 3;
const RING_BELOW: usize = 4;
const RING_ABOVE: usize = 5;
const TROUBLE: usize = 6;

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

/// What a child says of the connection it serves, or served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where its client came from.
    pub peer: Peer,
    /// By which listener.
    pub listener: usize,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// How it ended; `None` if the child did not live to say.
    pub end: Option<End>,
    /// Who serves it: for the log, where the kernel does not tell us.
    pub pid: u64,
}

/// The shared memory and the bell beside it.
pub struct Scoreboard {
    lines: Shared,
    slots: usize,
    bell: EventFd,
    nudge: EventFd,
}

impl Scoreboard {
    /// Maps `slots` slots with their bitmaps and the shared counts.
    ///
    /// # Errors
    /// mmap(2)'s or eventfd(2)'s.
    pub fn new(slots: usize) -> Result<Self, Errno> {
        let lines = Shared::new(slots.div_ceil(BLOCK).max(1) * (BLOCK + 1))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Scoreboard {
            lines,
            slots,
            bell: EventFd::from_value_and_flags(0, flags)?,
            nudge: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Bytes of address space that it takes in each process.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Readable when a child has rung.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Readable when a worker that sleeps should look at every listener.
    pub fn nudge(&self) -> BorrowedFd<'_> {
        self.nudge.as_fd()
    }

    /// Child: wakes one worker that sleeps, or the next that would.
    pub fn nudge_another(&self) {
        let _ = raw::write(self.nudge.as_fd(), &1u64.to_ne_bytes());
    }

    /// Child: takes the nudge, before it looks.
    pub fn take_nudge(&self) {
        let _ = raw::read(self.nudge.as_fd(), &mut [0; 8]);
    }

    /// Supervisor: stops the bell, before it looks at the board.
    pub fn silence(&self) {
        let _ = self.bell.read();
    }

    /// Supervisor: empties a slot for the child about to be forked.
    pub fn clear(&self, slot: Slot) {
        for word in &self.line(slot).0 {
            word.store(0, Ordering::Relaxed);
        }
        for map in [TAKEN, ENDED, AGAIN] {
            let (word, bit) = self.bit(map, slot);
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Child: waits for its only connection.
    #[inline(always)]
    pub fn idle(&self, slot: Slot) {
        self.line(slot).0[STATE].store(1, Ordering::Relaxed);
    }

    /// Child, or the supervisor before it forks one: `slot` serves `peer`.
    #[inline(always)]
    pub fn serving(&self, slot: Slot, peer: Peer, listener: usize) {
        let line = &self.line(slot).0;
        let (high, low, port) = pack(peer);
        line[RECEIVED].store(0, Ordering::Relaxed);
        line[SENT].store(0, Ordering::Relaxed);
        line[END].store(0, Ordering::Relaxed);
        line[ADDR_HIGH].store(high, Ordering::Relaxed);
        line[ADDR_LOW].store(low, Ordering::Relaxed);
        line[WHERE].store((listener as u64) << 32 | port, Ordering::Relaxed);
        line[STATE].store(2, Ordering::Release);
    }

    /// Child: the waiting worker of `slot` is a serving one now; the supervisor
    /// may want another.
    #[inline(always)]
    pub fn taken(&self, slot: Slot, peer: Peer, listener: usize) {
        self.serving(slot, peer, listener);
        let (word, bit) = self.bit(TAKEN, slot);
        word.fetch_or(bit, Ordering::Release);
        self.ring();
    }

    /// Child that serves many: as [`Scoreboard::taken`], but the bell is rung
    /// only when fewer wait than the supervisor wants. The count goes down
    /// before the state changes, and up after it: a worker killed between the two
    /// leaves it too low, which costs a ring, and never too high.
    pub fn taken_by_many(&self, slot: Slot, peer: Peer, listener: usize) {
        let waiting = self
            .shared(WAITING)
            .fetch_sub(1, Ordering::AcqRel)
            .wrapping_sub(1);
        self.serving(slot, peer, listener);
        if (waiting as i64) < self.shared(RING_BELOW).load(Ordering::Relaxed) as i64 {
            self.ring();
        }
    }

    /// Child that serves many: waits again.
    pub fn idle_again(&self, slot: Slot) {
        self.idle(slot);
        let waiting = self
            .shared(WAITING)
            .fetch_add(1, Ordering::AcqRel)
            .wrapping_add(1);
        if waiting as i64 > self.shared(RING_ABOVE).load(Ordering::Relaxed) as i64 {
            self.ring();
        }
    }

    /// Child that serves many and is passed its connections: waits again, which
    /// the supervisor must know before it passes another.
    pub fn idle_for_another(&self, slot: Slot) {
        self.idle(slot);
        let (word, bit) = self.bit(AGAIN, slot);
        word.fetch_or(bit, Ordering::Release);
        self.ring();
    }

    /// Supervisor: a worker that serves many was forked (1), or died waiting (-1).
    pub fn count_waiting(&self, change: i64) {
        self.shared(WAITING)
            .fetch_add(change as u64, Ordering::AcqRel);
    }

    /// Supervisor: workers that serve many ring when fewer than `below` or more
    /// than `above` wait.
    pub fn ring_outside(&self, below: usize, above: usize) {
        self.shared(RING_BELOW)
            .store(below as u64, Ordering::Relaxed);
        self.shared(RING_ABOVE)
            .store(above as u64, Ordering::Relaxed);
    }

    /// Child: accept(2) fails for want of something; said once per try.
    pub fn trouble(&self, errno: Errno) {
        self.shared(TROUBLE).store(errno as u64, Ordering::Relaxed);
        self.ring();
    }

    /// Supervisor: what accept(2) failed with in some child since last asked.
    pub fn take_trouble(&self) -> Option<Errno> {
        let code = self.shared(TROUBLE).swap(0, Ordering::Relaxed);
        (code != 0).then(|| Errno::from_raw(code as i32))
    }

    /// Double-forked child: its pid, which nobody else knows.
    pub fn sign(&self, slot: Slot, pid: nix::unistd::Pid) {
        self.line(slot).0[PID].store(pid.as_raw().unsigned_abs().into(), Ordering::Relaxed);
    }

    /// Child: the connection of `slot` is over. The process may live on.
    #[inline(always)]
    pub fn end(&self, slot: Slot, end: End) {
        self.line(slot).0[END].store(end.encode(), Ordering::Relaxed);
    }

    /// Child: its last store.
    #[inline(always)]
    pub fn announce_ended(&self, slot: Slot) {
        let (word, bit) = self.bit(ENDED, slot);
        word.fetch_or(bit, Ordering::Release);
    }

    /// Child: wakes the supervisor. Never blocks; a bell that rings cannot ring
    /// more.
    #[inline(always)]
    pub fn ring(&self) {
        let _ = raw::write(self.bell.as_fd(), &1u64.to_ne_bytes());
    }

    /// The counters of `slot`, for its child to write.
    #[inline(always)]
    pub fn meter(&self, slot: Slot) -> Meter<'_> {
        let line = &self.line(slot).0;
        Meter {
            received: &line[RECEIVED],
            sent: &line[SENT],
        }
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
        let word = |i: usize| self.line(slot).0[i].load(Ordering::Relaxed);
        Report {
            peer: unpack(word(ADDR_HIGH), word(ADDR_LOW), word(WHERE) & 0xffff_ffff),
            listener: (word(WHERE) >> 32) as usize,
            received: word(RECEIVED),
            sent: word(SENT),
            end: End::decode(word(END)),
            pid: word(PID),
        }
    }

    /// Supervisor: the slots announced as taken since this was last called.
    pub fn drain_taken(&self, mut each: impl FnMut(Slot)) {
        self.drain(TAKEN, &mut each);
    }

    /// Supervisor: the slots whose child waits for another connection. To be
    /// drained before [`Scoreboard::drain_taken`] and acted on after it: who
    /// waits again has said before that it took what it was passed.
    pub fn drain_again(&self, mut each: impl FnMut(Slot)) {
        self.drain(AGAIN, &mut each);
    }

    /// What a child that was taken over may do: other numbers in every word, and
    /// a ring. For the test hook of debug builds.
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
        self.ring();
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

    #[inline(always)]
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

    #[inline(always)]
    fn bit(&self, map: usize, slot: Slot) -> (&AtomicU64, u64) {
        let header = &self.lines[slot / BLOCK * (BLOCK + 1)];
        (&header.0[map], 1 << (slot % BLOCK))
    }
}

/// A client and its listener as bytes, for a message to a worker.
pub type Note = [u8; 24];

/// See [`Note`].
pub fn write_note(peer: Peer, listener: usize) -> Note {
    let (high, low, port) = pack(peer);
    let mut note = [0; 24];
    for (part, word) in note
        .chunks_exact_mut(8)
        .zip([high, low, (listener as u64) << 32 | port])
    {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    note
}

/// See [`Note`].
pub fn read_note(note: Note) -> (Peer, usize) {
    let word = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&note[i * 8..i * 8 + 8]);
        u64::from_ne_bytes(bytes)
    };
    let peer = unpack(word(0), word(1), word(2) & 0xffff_ffff);
    (peer, (word(2) >> 32) as usize)
}

/// Address as an IPv6 number, port and family: bit 16 of the last for IPv4,
/// bit 17 for IPv6, neither for Unix.
#[inline(always)]
pub(super) fn pack(peer: Peer) -> (u64, u64, u64) {
    let Peer::Inet(addr) = peer else {
        return (0, 0, 0);
    };
    let (ip, family) = match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 1 << 16),
        IpAddr::V6(ip) => (ip, 1 << 17),
    };
    let bits = ip.to_bits();
    (
        (bits >> 64) as u64,
        bits as u64,
        u64::from(addr.port()) | family,
    )
}

pub(super) fn unpack(high: u64, low: u64, port: u64) -> Peer {
    let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    let ip = match port >> 16 {
        1 => IpAddr::V4(
            ip.to_ipv4_mapped()
                .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
        ),
        2 => IpAddr::V6(ip),
        _ => return Peer::Unix,
    };
    Peer::Inet(SocketAddr::new(ip, port as u16))
}

#[cfg(test)]
mod tests;

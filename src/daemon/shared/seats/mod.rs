//! Seats: one for each client that may be served at once, where one process
//! serves many.
//!
//! Elsewhere a client is a process, and the kernel counts those for us. Here a
//! client is a thread, and up to three kinds of process serve at one time: the
//! present worker, old ones that were told to go and have clients yet, and at a
//! stop a child of the supervisor's for each client it finds queued. So that
//! all of them together stay within `--max-clients`, each takes a seat, in
//! memory they share, before it accepts: taking is one compare-and-swap of the
//! seat's owner, and there is no other count that could disagree when a process
//! is killed between two stores. The seats of the dead are given back by the
//! supervisor, which finds in them what their connection lines need.
//!
//! To the supervisor the content is gossip, as the scoreboard's is.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::addr::Peer;
use crate::daemon::shared::connection_log::{self, Entry, Report, STATE, Words};
use crate::daemon::shared::scoreboard::Slot;
use crate::sys::memory::{Line, Shared};

// The words of the first line.
const WANTED: usize = 0;
const TURNED: usize = 1;
const SHORT: usize = 2;

// A seat's line is an entry, and its own word this one.
const SINCE: usize = connection_log::OWN;

/// Who waits for a seat; also the bit that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The present worker, at [`Seats::room`].
    Worker = 1,
    /// The supervisor, at the scoreboard's wakeup.
    Supervisor = 2,
}

/// A seat that was taken: give it back by [`Seats::release`].
#[derive(Debug)]
#[must_use = "release the seat"]
pub struct Seat(usize);

/// A client of a process that did not live to see its end.
pub struct Left {
    /// What is known of the connection.
    pub report: Report,
    /// How long it lasted.
    pub lasted: Duration,
}

/// The shared memory, and what wakes the worker that waits for a seat.
pub struct Seats {
    lines: Shared,
    seats: usize,
    room: EventFd,
    epoch: Instant,
}

impl Seats {
    /// Maps `seats` seats.
    ///
    /// # Errors
    /// mmap(2)'s or eventfd(2)'s.
    pub fn new(seats: usize) -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Seats {
            lines: Shared::apart(1 + owner_lines(seats) + seats)?,
            seats,
            room: EventFd::from_value_and_flags(0, flags)?,
            epoch: Instant::now(),
        })
    }

    /// Do children that are forked from now on share them? A process that serves one
    /// client has its seat taken and given back by the supervisor.
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.lines.inherited(whether)
    }

    /// Takes a free seat for the process of `owner`; `None` when all are taken.
    /// `from` is where to look first, and is kept where the last one was.
    pub fn claim(&self, owner: Slot, from: &mut usize) -> Option<Seat> {
        let owner = owner as u64 + 1;
        for k in 0..self.seats {
            let seat = (*from + k) % self.seats;
            let word = self.owner(seat);
            let free = word.load(Ordering::Relaxed) == 0;
            let (ok, no) = (Ordering::SeqCst, Ordering::SeqCst);
            if free && word.compare_exchange(0, owner, ok, no).is_ok() {
                *from = seat + 1;
                self.line(seat)[STATE].store(0, Ordering::Relaxed);
                return Some(Seat(seat));
            }
        }
        None
    }

    /// [`Seats::claim`], and word to be woken if there is none. Asked for before
    /// the second look, so that a seat given back between the two is not missed.
    pub fn claim_or_wait(&self, owner: Slot, from: &mut usize, who: Waiter) -> Option<Seat> {
        self.claim(owner, from).or_else(|| {
            self.shared(WANTED).fetch_or(who as u64, Ordering::SeqCst);
            self.claim(owner, from)
        })
    }

    /// Gives a seat back; true if the supervisor is to be woken for it, by the
    /// scoreboard.
    #[must_use = "wake the supervisor"]
    pub fn release(&self, seat: Seat) -> bool {
        self.owner(seat.0).store(0, Ordering::SeqCst);
        self.tell_waiters()
    }

    fn tell_waiters(&self) -> bool {
        if self.shared(WANTED).load(Ordering::SeqCst) == 0 {
            return false;
        }
        let waiters = self.shared(WANTED).swap(0, Ordering::SeqCst);
        if waiters & Waiter::Worker as u64 != 0 {
            self.wake_worker();
        }
        waiters & Waiter::Supervisor as u64 != 0
    }

    /// How many seats there are.
    pub fn count(&self) -> usize {
        self.seats
    }

    /// Lets whichever worker waits for a seat look again.
    pub fn wake_worker(&self) {
        let _ = self.room.write(1);
    }

    /// Readable when the worker should look for a seat again.
    pub fn room(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Worker: takes the word of room, before it looks.
    pub fn clear_room(&self) {
        let _ = self.room.read();
    }

    /// Its owner serves `peer` in this seat from now on.
    pub fn serving(&self, seat: &Seat, peer: Peer, listener: usize) {
        self.entry(seat).begin(peer, listener);
        let line = self.line(seat.0);
        let since = self.epoch.elapsed().as_micros() as u64;
        line[SINCE].store(since, Ordering::Relaxed);
        line[STATE].store(1, Ordering::Release);
    }

    /// What is said of its client, for the owner to write.
    pub fn entry(&self, seat: &Seat) -> Entry<'_> {
        Entry::new(self.line(seat.0))
    }

    /// The connection is over; its owner has its line to write and may then use
    /// the seat for another.
    pub fn over(&self, seat: &Seat) {
        self.line(seat.0)[STATE].store(0, Ordering::Release);
    }

    fn report_of(&self, seat: usize) -> Report {
        Entry::new(self.line(seat)).report()
    }

    /// Seats with a client in them.
    pub fn occupied(&self) -> usize {
        (0..self.seats).filter(|&seat| self.serves(seat)).count()
    }

    /// How many of those are such clients.
    pub fn count_of(&self, is: impl Fn(Peer) -> bool) -> usize {
        let serving = (0..self.seats).filter(|&seat| self.serves(seat));
        serving
            .filter(|&seat| is(self.report_of(seat).peer))
            .count()
    }

    fn serves(&self, seat: usize) -> bool {
        self.owner(seat).load(Ordering::Relaxed) != 0
            && self.line(seat)[STATE].load(Ordering::Acquire) == 1
    }

    /// Supervisor: the process of `owner` is dead. Gives its seats back, after
    /// handing the clients that were in them to `each`; and so those of owners that do
    /// not live, which somebody who was taken over has made up.
    pub fn vacate(&self, owner: Slot, lives: impl Fn(Slot) -> bool, mut each: impl FnMut(Left)) {
        let owner = owner as u64 + 1;
        for seat in 0..self.seats {
            let found = self.owner(seat).load(Ordering::Relaxed);
            let is_free = found == 0;
            if is_free || (found != owner && lives((found - 1) as Slot)) {
                continue;
            }
            if found == owner && self.serves(seat) {
                let since = self.line(seat)[SINCE].load(Ordering::Relaxed);
                let lasted = self.epoch.elapsed();
                each(Left {
                    report: self.report_of(seat),
                    lasted: lasted.saturating_sub(Duration::from_micros(since)),
                });
            }
            self.owner(seat).store(0, Ordering::SeqCst);
        }
        // It may have died with word of room that was meant for another.
        self.wake_worker();
    }

    /// Worker: a client was turned away for want of a seat. True if the
    /// supervisor is to be woken for that.
    #[must_use = "wake the supervisor"]
    pub fn say_turned_away(&self) -> bool {
        self.shared(TURNED).fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Supervisor: how many were since this was last asked.
    pub fn take_turned_away(&self) -> u64 {
        self.shared(TURNED).swap(0, Ordering::Relaxed)
    }

    /// Worker: a thread could not be started. Waking the supervisor is the caller's.
    pub fn say_short(&self, errno: Errno) {
        self.shared(SHORT).store(errno as u64, Ordering::Relaxed);
    }

    /// Supervisor: why a thread could not be started since this was last asked.
    pub fn take_short(&self) -> Option<Errno> {
        let code = self.shared(SHORT).swap(0, Ordering::Relaxed);
        (code != 0).then(|| Errno::from_raw(code as i32))
    }

    fn shared(&self, word: usize) -> &AtomicU64 {
        &self.lines[0].0[word]
    }

    /// Owners stand apart from the seats' lines: looking for a free seat among
    /// thousands then touches an eighth of the memory.
    fn owner(&self, seat: usize) -> &AtomicU64 {
        &self.lines[1 + seat / 8].0[seat % 8]
    }

    fn line(&self, seat: usize) -> &Words {
        let Line(words) = &self.lines[1 + owner_lines(self.seats) + seat];
        words
    }
}

fn owner_lines(seats: usize) -> usize {
    seats.div_ceil(8)
}

#[cfg(test)]
mod tests;

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

use super::scoreboard::{Report, Slot, pack, unpack};
use crate::addr::Peer;
use crate::net::connection::{End, Meter};
use crate::sys::shm::{Line, Shared};

// The words of the first line.
const WANTED: usize = 0;
const ASKED: usize = 1;
const FULL: usize = 2;
const SHORT: usize = 3;

// The words of a seat's line.
const STATE: usize = 0;
const END: usize = 1;
const RECEIVED: usize = 2;
const SENT: usize = 3;
const ADDR_HIGH: usize = 4;
const ADDR_LOW: usize = 5;
const WHERE: usize = 6;
const SINCE: usize = 7;

/// Who waits for a seat; also the bit that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The present worker, at [`Seats::room`].
    Worker = 1,
    /// The supervisor, at the scoreboard's bell.
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

/// The shared memory, and the bell of the worker that waits for a seat.
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
            lines: Shared::new(1 + owner_lines(seats) + seats)?,
            seats,
            room: EventFd::from_value_and_flags(0, flags)?,
            epoch: Instant::now(),
        })
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

    /// Gives a seat back; true if the scoreboard's bell is to be rung for the
    /// supervisor.
    #[must_use = "ring the bell"]
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
            self.nudge();
        }
        waiters & Waiter::Supervisor as u64 != 0
    }

    /// How many seats there are.
    pub fn count(&self) -> usize {
        self.seats
    }

    /// Lets whichever worker waits for a seat look again.
    pub fn nudge(&self) {
        let _ = self.room.write(1);
    }

    /// Readable when the worker should look for a seat again.
    pub fn room(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Worker: stops the bell, before it looks.
    pub fn silence(&self) {
        let _ = self.room.read();
    }

    /// Its owner serves `peer` in this seat from now on.
    pub fn serving(&self, seat: &Seat, peer: Peer, listener: usize) {
        let line = self.line(seat.0);
        let (high, low, port) = pack(peer);
        for word in [RECEIVED, SENT, END] {
            line[word].store(0, Ordering::Relaxed);
        }
        line[ADDR_HIGH].store(high, Ordering::Relaxed);
        line[ADDR_LOW].store(low, Ordering::Relaxed);
        line[WHERE].store((listener as u64) << 32 | port, Ordering::Relaxed);
        let since = self.epoch.elapsed().as_micros() as u64;
        line[SINCE].store(since, Ordering::Relaxed);
        line[STATE].store(1, Ordering::Release);
    }

    /// The connection is over; its owner has its line to write and may then use
    /// the seat for another.
    pub fn end(&self, seat: &Seat, end: End) {
        self.line(seat.0)[END].store(end.encode(), Ordering::Relaxed);
        self.line(seat.0)[STATE].store(0, Ordering::Release);
    }

    /// The counters, for the owner to write.
    pub fn meter(&self, seat: &Seat) -> Meter<'_> {
        let line = self.line(seat.0);
        Meter {
            received: &line[RECEIVED],
            sent: &line[SENT],
        }
    }

    /// What the owner said of the connection.
    pub fn report(&self, seat: &Seat) -> Report {
        self.report_of(seat.0)
    }

    fn report_of(&self, seat: usize) -> Report {
        let word = |i: usize| self.line(seat)[i].load(Ordering::Relaxed);
        Report {
            peer: unpack(word(ADDR_HIGH), word(ADDR_LOW), word(WHERE) & 0xffff_ffff),
            listener: (word(WHERE) >> 32) as usize,
            received: word(RECEIVED),
            sent: word(SENT),
            end: End::decode(word(END)),
            pid: 0,
        }
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
    /// handing the clients that were in them to `each`.
    pub fn vacate(&self, owner: Slot, mut each: impl FnMut(Left)) {
        let owner = owner as u64 + 1;
        for seat in 0..self.seats {
            if self.owner(seat).load(Ordering::Relaxed) != owner {
                continue;
            }
            if self.serves(seat) {
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
        self.nudge();
    }

    /// Supervisor: does it want to be told when the limit is reached?
    pub fn ask(&self, whether: bool) {
        self.shared(ASKED)
            .store(u64::from(whether), Ordering::Relaxed);
    }

    /// Worker: no seat is left. True if the bell is to be rung for that.
    pub fn say_full(&self) -> bool {
        if self.shared(ASKED).load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.shared(FULL).swap(1, Ordering::Relaxed) == 0
    }

    /// Supervisor: has the worker found no seat since this was last asked?
    pub fn take_full(&self) -> bool {
        self.shared(FULL).swap(0, Ordering::Relaxed) != 0
    }

    /// Worker: a thread could not be started. The bell is the caller's to ring.
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

    fn line(&self, seat: usize) -> &[AtomicU64; 8] {
        let Line(words) = &self.lines[1 + owner_lines(self.seats) + seat];
        words
    }
}

fn owner_lines(seats: usize) -> usize {
    seats.div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_by(seats: &Seats, owner: Slot) -> Vec<Report> {
        let mut left = Vec::new();
        seats.vacate(owner, |one| left.push(one.report));
        left
    }

    #[test]
    fn there_are_so_many_seats_and_no_more() {
        let seats = Seats::new(17).unwrap();
        let mut from = 5;
        let mut taken: Vec<_> = (0..17)
            .map(|n| seats.claim(n % 2, &mut from).expect("free"))
            .collect();
        assert!(seats.claim(0, &mut from).is_none());
        let _ = seats.release(taken.pop().unwrap());
        assert!(seats.claim(3, &mut from).is_some());
        assert!(seats.claim(3, &mut from).is_none());
        assert_eq!(seats.occupied(), 0, "taken, not used");
    }

    #[test]
    fn many_threads_never_share_a_seat() {
        let seats = Seats::new(3).unwrap();
        let used = [const { AtomicU64::new(0) }; 3];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut from = 0;
                    for _ in 0..20_000 {
                        let Some(seat) = seats.claim(1, &mut from) else {
                            continue;
                        };
                        let index = seat.0;
                        assert_eq!(used[index].fetch_add(1, Ordering::SeqCst), 0);
                        used[index].fetch_sub(1, Ordering::SeqCst);
                        let _ = seats.release(seat);
                    }
                });
            }
        });
    }

    #[test]
    fn the_dead_leave_their_clients_and_their_seats() {
        let seats = Seats::new(3).unwrap();
        let mut from = 0;
        let peer = Peer::Inet("127.0.0.1:52114".parse().unwrap());
        let busy = seats.claim(7, &mut from).unwrap();
        seats.serving(&busy, peer, 2);
        seats.meter(&busy).received.store(9, Ordering::Relaxed);
        let over = seats.claim(7, &mut from).unwrap();
        seats.serving(&over, Peer::Unix, 0);
        seats.end(&over, End::Eof);
        assert_eq!(seats.report(&over).end, Some(End::Eof));
        let other = seats.claim(8, &mut from).unwrap();
        seats.serving(&other, Peer::Unix, 1);
        assert_eq!(seats.occupied(), 2);

        let left = left_by(&seats, 7);
        assert_eq!(left.len(), 1, "the one whose end was said has its line");
        assert_eq!((left[0].peer, left[0].listener), (peer, 2));
        assert_eq!((left[0].received, left[0].end), (9, None));
        assert_eq!(seats.occupied(), 1);
        assert!(seats.claim(1, &mut from).is_some() && seats.claim(1, &mut from).is_some());
        assert!(left_by(&seats, 7).is_empty());
    }

    #[test]
    fn who_waits_is_told_once() {
        let seats = Seats::new(1).unwrap();
        let mut from = 0;
        let only = seats.claim(0, &mut from).unwrap();
        for who in [Waiter::Worker, Waiter::Supervisor] {
            assert!(seats.claim_or_wait(1, &mut from, who).is_none());
        }
        assert!(seats.release(only), "the supervisor waits");
        assert_eq!(seats.room.read(), Ok(1));
        let again = seats.claim(0, &mut from).unwrap();
        assert!(!seats.release(again), "nobody waits any more");
        assert_eq!(seats.room.read(), Err(Errno::EAGAIN));
    }

    #[test]
    fn news_are_told_once_and_only_if_asked_for() {
        let seats = Seats::new(1).unwrap();
        assert!(!seats.say_full() && !seats.take_full());
        seats.ask(true);
        assert!(seats.say_full() && !seats.say_full());
        assert!(seats.take_full() && !seats.take_full());
        seats.say_short(Errno::EAGAIN);
        assert_eq!(seats.take_short(), Some(Errno::EAGAIN));
        assert_eq!(seats.take_short(), None);
    }
}

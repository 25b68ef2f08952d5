//! The supervisor's children by number: the ledger of their places ([`Places`]), and
//! the table of who they are ([`Children`]). Reserve before the fork, commit after it,
//! release when the kernel says they are gone.
//!
//! The table lives in memory that fork(2) does not copy (`sys::memory::DontFork`), so a
//! child cannot see it and thousands of children do not slow the next fork down. Who is
//! alive and who is idle is counted as it changes, never recounted from what children
//! say.
//!
//! There is a place for each process that may serve, and whoever forks one takes it
//! from here, so `--max-clients` is exact on every path. A place is a number, and the
//! process that has it has the slot of that number, in the table of children and on the
//! scoreboard.
//!
//! The ledger also knows whose connections they are (`--max-per-source`): a source for
//! each place, and nothing that is added up. A count that is kept can disagree with what
//! it counts; this one is made anew when it is asked for, and holds as exactly as the
//! places do. It costs a look at each: measured, 0.3 us with 512 of them and 10 us with
//! 20,000, where a fork takes ten times that.
//!
//! A place is vacated when the kernel says that its child is gone. Only a worker that
//! is passed one client after another says itself when it is free again: one that was
//! taken over can keep its client uncounted.
//!
//! A crash keeps its place for a while. Children of one supervisor share its addresses
//! and its canary, so whoever may crash one after the other can guess them
//! ("clone-probing"). It counts as if the client were still there: a source has so many
//! guesses in that time, and then none.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::access::Source;
use crate::daemon::shared::scoreboard::Slot;
use crate::sys::memory::{DontFork, FixedStack};

/// How long a crash counts, as long as the longest penalty of sshd(8); the page
/// names it: echod(8), ACCESS.
pub(super) const COUNTS_FOR: Duration = Duration::from_secs(600);
/// The last so many crashes are known: 32 KiB.
const KNOWN: usize = 1024;

/// No network: all ones is a multicast address, which nobody connects from.
const NOBODY: Source = Source(u128::MAX);

/// What the supervisor holds a child to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It waits for a connection, or is on its way to.
    Idle,
    /// It did, and its generation has been told to go: it takes the connection
    /// it was woken for, or leaves.
    Leaving,
    /// It serves one.
    Busy,
}

/// One child.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    /// Its pid, while it is ours and unreaped; `None` for a double-forked one.
    pub pid: Option<Pid>,
    /// Idle, busy, or idle and told to leave.
    pub role: Role,
    /// Generation of workers it belongs to.
    pub generation: u32,
    /// When it was forked, or took its connection.
    pub since: Instant,
    /// It was told to stop.
    pub told: bool,
}

/// A slot that is reserved and not yet a child: commit or release it.
#[derive(Debug)]
#[must_use = "commit or release the slot"]
pub(super) struct Reserved(Slot);

impl Reserved {
    /// The slot's index.
    pub(super) fn slot(&self) -> Slot {
        self.0
    }
}

/// The table of children.
pub(super) struct Children {
    table: DontFork<Option<Child>>,
    alive: usize,
    idle: usize,
    high: usize,
}

impl Children {
    /// Room for `slots` children.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub(super) fn new(slots: usize) -> Result<Self, Errno> {
        Ok(Children {
            table: DontFork::new(slots, None)?,
            alive: 0,
            idle: 0,
            high: 0,
        })
    }

    /// Takes a place for a child; `None` when the limit is reached.
    pub(super) fn reserve(&mut self, places: &mut Places) -> Option<Reserved> {
        let place = places.take()?;
        self.alive += 1;
        Some(Reserved(place))
    }

    /// The fork worked.
    pub(super) fn commit(&mut self, reserved: Reserved, child: Child) {
        self.idle += usize::from(child.role == Role::Idle);
        self.table[reserved.0] = Some(child);
        self.high = self.high.max(reserved.0 + 1);
    }

    /// The fork failed.
    pub(super) fn cancel(&mut self, reserved: Reserved, places: &mut Places) {
        self.give_back(reserved.0, places);
    }

    /// The child of `slot` is gone.
    pub(super) fn release(&mut self, slot: Slot, places: &mut Places) -> Option<Child> {
        let child = self.table[slot].take()?;
        self.idle -= usize::from(child.role == Role::Idle);
        self.give_back(slot, places);
        Some(child)
    }

    /// The child of `slot` has a connection now; false if it had one already.
    pub(super) fn taken(&mut self, slot: Slot, now: Instant) -> bool {
        match &mut self.table[slot] {
            Some(child) if child.role != Role::Busy => {
                self.idle -= usize::from(child.role == Role::Idle);
                child.role = Role::Busy;
                child.since = now;
                true
            }
            _ => false,
        }
    }

    /// The child of `slot` has served and waits again; true if it may be given
    /// another connection, being of `generation`.
    pub(super) fn again(&mut self, slot: Slot, generation: u32) -> bool {
        match &mut self.table[slot] {
            Some(child) if child.role == Role::Busy => {
                let current = child.generation == generation;
                child.role = if current { Role::Idle } else { Role::Leaving };
                self.idle += usize::from(current);
                current
            }
            _ => false,
        }
    }

    /// The child of `slot`.
    pub(super) fn get(&self, slot: Slot) -> Option<&Child> {
        self.table.get(slot)?.as_ref()
    }

    /// Notes that the child of `slot` was told to stop.
    pub(super) fn told(&mut self, slot: Slot) {
        if let Some(child) = &mut self.table[slot] {
            child.told = true;
        }
    }

    /// The idle ones have been told to go.
    pub(super) fn leave_idle(&mut self) {
        for child in self.table[..self.high].iter_mut().flatten() {
            if child.role == Role::Idle {
                child.role = Role::Leaving;
            }
        }
        self.idle = 0;
    }

    /// The slot of `pid`. A walk, made only for deaths nobody announced.
    pub(super) fn find(&self, pid: Pid) -> Option<Slot> {
        self.slots()
            .find(|&slot| self.get(slot).is_some_and(|c| c.pid == Some(pid)))
    }

    /// Slots that hold a child, in rising order.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.high).filter(|&slot| self.table[slot].is_some())
    }

    /// Children alive, or reserved.
    pub(super) fn alive(&self) -> usize {
        self.alive
    }

    /// Children held to be idle.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }

    fn give_back(&mut self, slot: Slot, places: &mut Places) {
        places.give_back(slot);
        self.alive -= 1;
        // After a crowd nobody walks over its empty places.
        while self.high > 0 && self.table[self.high - 1].is_none() {
            self.high -= 1;
        }
    }
}

/// The ledger of places.
pub(super) struct Places {
    free: FixedStack<u32>,
    all: usize,
    sources: Option<Sources>,
}

/// By place: whose client is served there; and who crashed.
struct Sources {
    of: DontFork<Source>,
    high: usize,
    /// A ring; `None` is no crash.
    crashes: DontFork<Option<(Source, Instant)>>,
    next: usize,
}

impl Places {
    /// All of them are free. `by_source` says whether it matters whose clients are
    /// served.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub(super) fn new(all: usize, by_source: bool) -> Result<Self, Errno> {
        let mut free = FixedStack::new(all, 0)?;
        for place in (0..all).rev() {
            free.push(place as u32); // the lowest is on top
        }
        let sources = || {
            Ok(Sources {
                of: DontFork::new(all, NOBODY)?,
                high: 0,
                crashes: DontFork::new(KNOWN, None)?,
                next: 0,
            })
        };
        Ok(Places {
            free,
            all,
            sources: by_source.then(sources).transpose()?,
        })
    }

    /// Takes a free one; `None` when the limit is reached.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop().map(|place| place as Slot)
    }

    /// It is free again.
    pub(super) fn give_back(&mut self, place: Slot) {
        self.free.push(place as u32);
    }

    /// How many there are.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.all - self.free.len()
    }

    /// Is there no room for another process?
    pub(super) fn full(&self) -> bool {
        self.free.is_empty()
    }

    /// A client from there is served in this place; `None` is one that counts for
    /// nobody.
    pub(super) fn occupy(&mut self, place: Slot, source: Option<Source>) {
        if let Some(sources) = &mut self.sources {
            sources.of[place] = source.unwrap_or(NOBODY);
            sources.high = sources.high.max(place + 1);
        }
    }

    /// It is not any more; whose client it was, if that counted.
    pub(super) fn vacate(&mut self, place: Slot) -> Option<Source> {
        let sources = self.sources.as_mut()?;
        let source = std::mem::replace(&mut sources.of[place], NOBODY);
        (source != NOBODY).then_some(source)
    }

    /// A child crashed that served a client from there: how many such crashes count
    /// now.
    pub(super) fn crashed(&mut self, source: Source, now: Instant) -> usize {
        let Some(sources) = &mut self.sources else {
            return 0;
        };
        sources.crashes[sources.next] = Some((source, now));
        sources.next = (sources.next + 1) % KNOWN;
        sources.crashes(source, now)
    }

    /// How many children serve clients from there, or crashed lately while they did.
    pub(super) fn count(&self, source: Source, now: Instant) -> usize {
        let Some(sources) = &self.sources else {
            return 0;
        };
        let taken = &sources.of[..sources.high];
        let serving = taken.iter().filter(|&&other| other == source).count();
        serving + sources.crashes(source, now)
    }
}

impl Sources {
    fn crashes(&self, source: Source, now: Instant) -> usize {
        let counts = |&(whose, at): &(Source, Instant)| {
            whose == source && now.saturating_duration_since(at) < COUNTS_FOR
        };
        // From the start on, so the first that is free is the end of them.
        let known = self.crashes.iter().map_while(Option::as_ref);
        known.filter(|crash| counts(crash)).count()
    }
}

/// Is this how a program dies by its own fault? Not by SIGKILL: that is how strict
/// mode ends a child, but also how operators and a lack of memory do.
pub(super) fn is_crash(signal: Signal) -> bool {
    use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    matches!(
        signal,
        SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_taken_first() {
        let mut places = Places::new(2, false).unwrap();
        assert_eq!((places.take(), places.take()), (Some(0), Some(1)));
        assert!(places.full() && places.take().is_none());
        places.give_back(0);
        assert_eq!((places.taken(), places.all(), places.full()), (1, 2, false));
        assert_eq!(places.take(), Some(0));
        places.occupy(0, Some(Source(1)));
        assert_eq!(places.vacate(0), None, "nobody counts");
    }

    #[test]
    fn a_place_counts_for_whom_it_serves_and_for_as_long() {
        let mut places = Places::new(4, true).unwrap();
        let (a, b) = (Source(1), Source(2));
        for (place, source) in [(0, Some(a)), (1, Some(b)), (2, Some(a)), (3, None)] {
            places.occupy(place, source);
        }
        let now = Instant::now();
        let counts = |places: &Places| [a, b].map(|source| places.count(source, now));
        assert_eq!(counts(&places), [2, 1]);
        assert_eq!(places.vacate(0), Some(a));
        assert_eq!(places.vacate(0), None);
        assert_eq!(places.vacate(3), None);
        assert_eq!(counts(&places), [1, 1]);
        places.occupy(2, Some(b));
        assert_eq!(counts(&places), [0, 2]);
        // A crash keeps its place.
        assert_eq!(places.vacate(2), Some(b));
        assert_eq!(places.crashed(b, now), 1);
        assert_eq!(counts(&places), [0, 2]);
    }

    #[test]
    fn a_crash_counts_for_its_source_and_for_ten_minutes() {
        let mut places = Places::new(0, true).unwrap();
        let (a, b, start) = (Source(1), Source(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (source, seconds, of_it) in [(a, 0, 1), (b, 1, 1), (a, 300, 2)] {
            assert_eq!(places.crashed(source, at(seconds)), of_it);
        }
        for (seconds, of_a, of_b) in [(300, 2, 1), (599, 2, 1), (600, 1, 1), (601, 1, 0)] {
            let counts = [a, b].map(|source| places.count(source, at(seconds)));
            assert_eq!(counts, [of_a, of_b], "after {seconds} s");
        }
        assert_eq!(places.count(a, at(900)), 0);
    }

    #[test]
    fn the_oldest_crash_is_forgotten_first() {
        let mut places = Places::new(0, true).unwrap();
        let now = Instant::now();
        places.crashed(Source(1), now);
        for _ in 1..KNOWN {
            places.crashed(Source(2), now);
        }
        assert_eq!(places.count(Source(1), now), 1);
        places.crashed(Source(3), now);
        let counts = [1, 2, 3].map(|n| places.count(Source(n), now));
        assert_eq!(counts, [0, KNOWN - 1, 1]);
    }

    #[test]
    fn an_order_is_no_crash() {
        for signal in Signal::iterator() {
            let name = signal.as_str();
            let fault = ["ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP"];
            let expected = fault.contains(&&name[3..]);
            assert_eq!(is_crash(signal), expected, "{name}");
        }
    }

    fn child(pid: i32, role: Role) -> Child {
        Child {
            pid: Some(Pid::from_raw(pid)),
            role,
            generation: 0,
            since: Instant::now(),
            told: false,
        }
    }

    #[test]
    fn the_limit_is_exact_on_every_path() {
        let mut children = Children::new(2).unwrap();
        let places = &mut Places::new(2, false).unwrap();
        let a = children.reserve(places).unwrap();
        let b = children.reserve(places).unwrap();
        assert_eq!((a.slot(), b.slot()), (0, 1));
        assert!(places.full() && children.reserve(places).is_none());
        children.cancel(a, places);
        children.commit(b, child(11, Role::Idle));
        assert_eq!((children.alive(), children.idle()), (1, 1));
        let c = children.reserve(places).unwrap();
        children.commit(c, child(12, Role::Busy));
        assert_eq!((children.alive(), children.idle()), (2, 1));
        assert_eq!(children.find(Pid::from_raw(11)), Some(1));
        assert_eq!(children.find(Pid::from_raw(99)), None);

        assert!(children.taken(1, Instant::now()));
        assert!(!children.taken(1, Instant::now()), "counted once");
        assert_eq!(children.idle(), 0);
        assert!(children.again(1, 0) && !children.again(1, 0));
        assert_eq!(children.idle(), 1);
        assert!(children.taken(1, Instant::now()));
        assert!(!children.again(1, 7), "a generation that has ended");
        assert_eq!(children.idle(), 0);
        assert!(children.release(1, places).is_some());
        assert!(children.release(1, places).is_none(), "given back once");
        assert!(children.release(0, places).is_some());
        assert_eq!((children.alive(), children.idle()), (0, 0));
        assert_eq!(places.taken(), 0);
        assert_eq!(children.slots().count(), 0);
    }
}

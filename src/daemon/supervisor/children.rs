//! The supervisor's table of its children: reserve before the fork, commit
//! after it, release when the kernel says they are gone.
//!
//! The table lives in memory that fork(2) does not copy (`sys::memory::DontFork`),
//! so a child cannot see it and thousands of children do not slow the next fork
//! down. Counts are kept, never recounted from what children say.

use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::supervisor::places::Places;
use crate::sys::memory::DontFork;

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
    /// Idle or busy.
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

/// The table.
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

#[cfg(test)]
mod tests {
    use super::*;

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

//! Reaping at scale: who is dead, without asking about everyone.
//!
//! waitpid(2) for any child walks the list of all children in the kernel: 12 us
//! with a thousand alive, 1 ms with twenty thousand, and the loop until it is
//! empty does not end while they keep dying. Asking about one pid costs 0.6 us.
//! So the scoreboard's `ended` bits say whom to ask about, and the walk is made
//! only for deaths that nobody announced: at once if SIGCHLD came and no
//! announced child was found dead, else at most every 50 ms, and less often when
//! the walk is long. Double-forked, the children that serve are not in the list at
//! all, and of those that are each one is about to die, unannounced: there the walk
//! is short, and always made. The end of one that serves is told by [`Channels`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::config::Reap;
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::shared::scoreboard::{Scoreboard, Slot};
use crate::daemon::supervisor::children::Children;
use crate::sys::memory::FixedStack;

/// How long an unannounced death may go unseen, when there are many children: so
/// long for each [`LONG`] of them. With other work beside it, a walk of 20,000
/// takes 3 ms.
const SWEEP: Duration = Duration::from_millis(50);
const LONG: usize = 4096;
/// From how many children on a sweep is too dear to make for each SIGCHLD.
const MANY: usize = 256;
/// Strangers reaped in one go, before orders are looked at again.
const BATCH: usize = 64;

/// Knows when to look for the dead, and where.
pub(super) struct Reaper {
    how: Reap,
    /// Who was found dead, and how.
    dead: FixedStack<(Slot, Gone)>,
    /// When the next sweep may be.
    rested: Option<Instant>,
    sweep_due: bool,
    strangers: Vec<(Pid, Gone)>,
}

impl Reaper {
    /// Nothing is due yet, and nobody of so many is dead.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub(super) fn new(how: Reap, slots: usize) -> Result<Self, Errno> {
        Ok(Reaper {
            how,
            dead: FixedStack::new(slots, (0, Gone::Untold))?,
            rested: None,
            sweep_due: false,
            strangers: Vec::new(),
        })
    }

    /// A process without a slot that was reaped, each told once.
    pub(super) fn stranger(&mut self) -> Option<(Pid, Gone)> {
        self.strangers.pop()
    }

    /// A child that was found dead, each told once.
    pub(super) fn next_dead(&mut self) -> Option<(Slot, Gone)> {
        self.dead.pop()
    }

    /// When a sweep is due that was put off.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.sweep_due
            .then(|| self.rested.unwrap_or_else(Instant::now))
    }

    /// Finds the dead, whose slots are still held; true if there are any. `signalled` is
    /// whether SIGCHLD came; it must be asked before this.
    pub(super) fn reap(
        &mut self,
        signalled: bool,
        now: Instant,
        children: &Children,
        board: &Scoreboard,
    ) -> bool {
        if !signalled && !self.sweep_due {
            return false;
        }
        if self.how != Reap::DoubleFork {
            board.ended(|slot| self.dead.extend(ask(slot, children)));
        }
        self.sweep_due |= signalled;
        let walk = match self.how {
            Reap::DoubleFork => 0,
            _ => children.alive(),
        };
        let rested = self.rested.is_none_or(|at| now >= at);
        if rested || (self.dead.is_empty() && walk < MANY) {
            self.rested = Some(now + pause(walk));
            self.sweep_due = self.sweep(children);
        }
        !self.dead.is_empty()
    }

    /// Finds unannounced deaths; true if there may be more.
    fn sweep(&mut self, children: &Children) -> bool {
        if self.how == Reap::Ignore {
            // The kernel reaps; waitpid(2) for any child would only say that
            // some are alive.
            self.ask_all(children);
            return false;
        }
        for _ in 0..BATCH {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::EINTR) => {}
                Err(_) | Ok(WaitStatus::StillAlive) => return false,
                Ok(status) => {
                    let Some((pid, gone)) = gone(status) else {
                        continue;
                    };
                    match children.find(pid) {
                        Some(slot) => {
                            self.dead.push((slot, gone));
                            self.ask_all(children);
                            return true;
                        }
                        // PID 1 inherits orphans; a double-forked child's
                        // intermediate is nobody's slot, nor is a datagram worker.
                        None => self.strangers.push((pid, gone)),
                    }
                }
            }
        }
        true
    }

    /// Asks about every child that is not known to be dead.
    fn ask_all(&mut self, children: &Children) {
        let mut known: Vec<_> = self.dead.items().iter().map(|(slot, _)| *slot).collect();
        known.sort_unstable();
        let unknown = children
            .slots()
            .filter(|slot| known.binary_search(slot).is_err());
        self.dead
            .extend(unknown.filter_map(|slot| ask(slot, children)));
    }
}

/// Is the child of `slot` dead?
fn ask(slot: Slot, children: &Children) -> Option<(Slot, Gone)> {
    let pid = children.get(slot)?.pid?;
    loop {
        return match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => continue,
            // Under SA_NOCLDWAIT the kernel has reaped it.
            Err(_) => Some((slot, Gone::Untold)),
            Ok(status) => gone(status).map(|(_, gone)| (slot, gone)),
        };
    }
}

/// From one sweep to the next.
fn pause(children: usize) -> Duration {
    match children {
        0 => Duration::ZERO,
        _ => SWEEP * (1 + children / LONG) as u32,
    }
}

/// Who is gone and how, if anybody is.
pub(super) fn gone(status: WaitStatus) -> Option<(Pid, Gone)> {
    match status {
        WaitStatus::Exited(pid, status) => Some((pid, Gone::Exited(status))),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, Gone::Killed(signal))),
        _ => None,
    }
}

/// The ties to double-forked children: one socketpair each, whose end of file
/// says that the child is gone, and on which a byte tells it to go. A byte from the
/// child says nothing: strict mode lets it write there, and only its death, or
/// close(2), which strict mode forbids, hangs up. Ours are the ends by slot.
///
/// A descriptor per child is what this design costs: fork(2) copies them all.
pub(super) struct Channels {
    epoll: Epoll,
    ends: Vec<Option<OwnedFd>>,
}

impl Channels {
    /// Room for `slots` channels.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub(super) fn new(slots: usize) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Channels {
            epoll,
            ends: std::iter::repeat_with(|| None).take(slots).collect(),
        })
    }

    /// Readable when a child is gone.
    pub(super) fn wakeup(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Opens the channel of `slot` and returns the child's end, of which we must
    /// keep no copy.
    ///
    /// # Errors
    /// EMFILE and the like: nothing is left open.
    pub(super) fn open(&mut self, slot: Slot) -> Result<OwnedFd, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        // EPOLLHUP is always waited for, and nothing else is.
        self.epoll
            .add(&ours, EpollEvent::new(EpollFlags::empty(), slot as u64))?;
        self.ends[slot] = Some(ours);
        Ok(theirs)
    }

    /// Closes the channel of `slot`. Taken out of the epoll by hand: a child
    /// being born may hold a copy, and the kernel would go on watching it.
    pub(super) fn close(&mut self, slot: Slot) {
        if let Some(end) = self.ends[slot].take() {
            let _ = self.epoll.delete(&end);
        }
    }

    /// A slot whose child is gone; the same one until its channel is closed.
    pub(super) fn next_gone(&self) -> Option<Slot> {
        let mut event = [EpollEvent::empty()];
        match self.epoll.wait(&mut event, EpollTimeout::ZERO) {
            Ok(1..) => Some(event[0].data() as Slot),
            _ => None,
        }
    }

    /// Tells the child of `slot` to go.
    pub(super) fn order_stop(&self, slot: Slot) {
        if let Some(end) = &self.ends[slot] {
            let _ = nix::unistd::write(end, &[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests fork meanwhile, and their children hold copies for a moment.
    fn hang_up(end: OwnedFd) {
        let number = std::os::fd::AsRawFd::as_raw_fd(&end);
        nix::sys::socket::shutdown(number, nix::sys::socket::Shutdown::Both).unwrap();
    }

    #[test]
    fn row_112_a_byte_is_no_end() {
        let mut channels = Channels::new(1).unwrap();
        let theirs = channels.open(0).unwrap();
        while nix::unistd::write(&theirs, &[0; 4096]).is_ok() {
            assert_eq!(channels.next_gone(), None);
        }
        channels.order_stop(0);
        assert_eq!(nix::unistd::read(&theirs, &mut [0]), Ok(1));
        hang_up(theirs);
        assert_eq!(channels.next_gone(), Some(0));
    }

    #[test]
    fn the_end_of_a_child_is_seen_once_its_end_is_closed() {
        let mut channels = Channels::new(2).unwrap();
        let theirs = channels.open(1).unwrap();
        assert_eq!(channels.next_gone(), None);
        channels.order_stop(1);
        let mut order = [0; 8];
        assert_eq!(nix::unistd::read(&theirs, &mut order), Ok(1));
        hang_up(theirs);
        assert_eq!(channels.next_gone(), Some(1));
        channels.close(1);
        assert_eq!(channels.next_gone(), None);
    }
}

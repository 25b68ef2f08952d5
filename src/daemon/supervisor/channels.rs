//! The ties to double-forked children: one socketpair each, whose end of file
//! says that the child is gone, and on which a byte tells it to go. A byte from the
//! child says nothing: strict mode lets it write there, and only its death, or
//! close(2), which strict mode forbids, hangs up.
//!
//! A descriptor per child is what this design costs: fork(2) copies them all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::daemon::shared::scoreboard::Slot;

/// Our ends, by slot.
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

//! Which worker has been passed which client (`--accept pass`, UNP row 5).
//!
//! A channel a worker, with one client at most on its way through it. Of that
//! client the supervisor keeps its own copy until the worker has said that it
//! took it: if the worker dies before, whatever it had read from the channel,
//! nobody has spoken with the client and it goes to another. Decides nothing
//! about when to accept, and knows no signal and no clock.
//!
//! A worker that serves several asks for its next client by a byte in its channel.
//! On the scoreboard a child that was taken over could say so for any other.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};

use crate::daemon::shared::scoreboard::{Said, Scoreboard, Slot};
use crate::daemon::worker::fd_passing::write_note;
use crate::net::Accepted;
use crate::sys::fd;

/// The channels and what is on its way.
pub(super) struct FdPassing {
    ends: Vec<Option<OwnedFd>>,
    free: Vec<Slot>,
    copies: BTreeMap<Slot, Accepted>,
    waiting: VecDeque<Accepted>,
    /// Of the ends, where workers ask for another client; `None` where each gets one
    /// in its life.
    asks: Option<Epoll>,
}

/// What became of a client that was to be passed.
pub(super) enum Passed {
    /// It is on its way to the worker of this slot.
    To(Slot),
    /// No worker is free: it is among those that wait.
    NotYet,
    /// The kernel lacks something: the same.
    Short(Errno),
}

impl FdPassing {
    /// Room for `slots` workers; `one_each` says that a worker gets one client in
    /// its life.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub(super) fn new(slots: usize, one_each: bool) -> Result<Self, Errno> {
        let asks = (!one_each).then(|| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC));
        Ok(FdPassing {
            ends: std::iter::repeat_with(|| None).take(slots).collect(),
            free: Vec::new(),
            copies: BTreeMap::new(),
            waiting: VecDeque::new(),
            asks: asks.transpose()?,
        })
    }

    /// Opens the channel of `slot` and returns the worker's end, of which we must
    /// keep no copy. The worker can be passed a client once it is [`free`].
    ///
    /// [`free`]: FdPassing::free
    ///
    /// # Errors
    /// EMFILE and the like: nothing is left open.
    pub(super) fn open(&mut self, slot: Slot) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = fd::pair()?;
        if let Some(asks) = &self.asks {
            asks.add(&ours, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        }
        self.ends[slot] = Some(ours);
        Ok(theirs)
    }

    /// The worker of `slot` may be passed a client.
    pub(super) fn free(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// None of the workers may be passed any more.
    pub(super) fn none_free(&mut self) {
        self.free.clear();
    }

    /// Is there a worker to pass a client to?
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The channel of `slot` is closed; a client that was on its way is returned.
    pub(super) fn close(&mut self, slot: Slot) -> Option<Accepted> {
        self.hear_no_more(slot);
        self.ends[slot] = None;
        self.free.retain(|&free| free != slot);
        self.copies.remove(&slot)
    }

    /// The worker of `slot` took its client: lets go of the copy. From now on
    /// the end of the connection is the worker's to send.
    pub(super) fn taken(&mut self, slot: Slot) {
        if self.copies.remove(&slot).is_some() && self.asks.is_none() {
            self.ends[slot] = None;
        }
    }

    /// Readable when a worker asks for another client.
    pub(super) fn wakeup(&self) -> Option<BorrowedFd<'_>> {
        self.asks.as_ref().map(|asks| asks.0.as_fd())
    }

    /// A worker that asks for another client, and so has taken the one before.
    pub(super) fn next_asking(&mut self) -> Option<Slot> {
        loop {
            let mut event = [EpollEvent::empty()];
            match self.asks.as_ref()?.wait(&mut event, EpollTimeout::ZERO) {
                Ok(1..) => {}
                _ => return None,
            }
            let slot = event[0].data() as Slot;
            let end = self.ends[slot].as_ref()?;
            match recv(end.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Ok(1..) => {
                    self.taken(slot);
                    return Some(slot);
                }
                // It is dead. Its exit is on its way.
                _ => self.hear_no_more(slot),
            }
        }
    }

    /// Taken out of the epoll by hand: a child being born may hold a copy, and the
    /// kernel would go on watching it.
    fn hear_no_more(&self, slot: Slot) {
        if let (Some(asks), Some(end)) = (&self.asks, &self.ends[slot]) {
            let _ = asks.delete(end);
        }
    }

    /// A client that waits to be passed.
    pub(super) fn wait(&mut self, accepted: Accepted) {
        self.waiting.push_back(accepted);
    }

    /// All that do.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Accepted> {
        self.waiting.iter()
    }

    /// The one that has waited longest.
    pub(super) fn next_waiting(&mut self) -> Option<Accepted> {
        self.waiting.pop_front()
    }

    /// Passes a client to a worker; one that is known to wait, if there is one,
    /// for a worker that is being born would let it wait too. One that is dead
    /// already is passed over: its exit is on its way.
    pub(super) fn pass(&mut self, accepted: Accepted, board: &Scoreboard) -> Passed {
        loop {
            let waits = |&slot: &Slot| board.said(slot) == Said::Idle;
            let choice = self.free.iter().rposition(waits);
            let Some(choice) = choice.or(self.free.len().checked_sub(1)) else {
                self.waiting.push_front(accepted);
                return Passed::NotYet;
            };
            let slot = self.free[choice];
            let Some(end) = &self.ends[slot] else {
                self.free.remove(choice);
                continue;
            };
            let note = write_note(accepted.peer, accepted.listener);
            match fd::pass(end.as_fd(), &note, accepted.conn.as_fd()) {
                Ok(()) => {
                    self.free.remove(choice);
                    self.copies.insert(slot, accepted);
                    return Passed::To(slot);
                }
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                    self.free.remove(choice);
                }
                Err(errno) => {
                    self.waiting.push_front(accepted);
                    return Passed::Short(errno);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::addr::Peer;
    use crate::daemon::worker::fd_passing::read_note;

    fn client() -> (UnixStream, Accepted) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let accepted = Accepted {
            conn: ours.into(),
            peer: Peer::Unix,
            listener: 3,
        };
        (theirs, accepted)
    }

    fn got(worker: &OwnedFd) -> Option<UnixStream> {
        let mut note = [0; 24];
        let conn = fd::receive(worker.as_fd(), &mut note).ok()??;
        assert_eq!(read_note(note), (Peer::Unix, 3));
        Some(conn.into())
    }

    #[test]
    fn row_112_who_asks_for_another_client_does_so_itself() {
        let mut passing = FdPassing::new(2, false).unwrap();
        let workers = [0, 1].map(|slot| passing.open(slot).unwrap());
        assert_eq!(passing.next_asking(), None);
        assert_eq!(nix::unistd::write(&workers[1], &[0]), Ok(1));
        assert_eq!(passing.next_asking(), Some(1));
        assert_eq!(passing.next_asking(), None, "it asked once");
        drop(workers);
        assert_eq!(passing.next_asking(), None, "they are dead");
        let mut one_each = FdPassing::new(1, true).unwrap();
        let worker = one_each.open(0).unwrap();
        assert_eq!(nix::unistd::write(&worker, &[0]), Ok(1));
        assert!(one_each.wakeup().is_none() && one_each.next_asking().is_none());
    }

    #[test]
    fn a_client_is_kept_until_it_is_taken_and_comes_back_before() {
        let board = Scoreboard::new(4).unwrap();
        let mut passing = FdPassing::new(4, true).unwrap();
        let (mut theirs, accepted) = client();
        assert!(matches!(passing.pass(accepted, &board), Passed::NotYet));
        assert_eq!(passing.waiting().count(), 1);
        let workers = [0, 1, 2].map(|slot| {
            let worker = passing.open(slot).unwrap();
            passing.free(slot);
            worker
        });
        board.idle(1);
        let accepted = passing.next_waiting().unwrap();
        assert!(
            matches!(passing.pass(accepted, &board), Passed::To(1)),
            "the one that is known to wait"
        );
        // Worker 1 has read its channel and dies.
        drop(got(&workers[1]).unwrap());
        let accepted = passing.close(1).expect("not taken");
        // Worker 2 is dead too, and not reaped yet.
        board.idle(2);
        let [first, _, second] = workers;
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&second),
            nix::sys::socket::Shutdown::Both,
        )
        .unwrap();
        assert!(matches!(passing.pass(accepted, &board), Passed::To(0)));
        assert!(!passing.has_free());
        let mut conn = got(&first).unwrap();
        passing.taken(0);
        assert!(passing.close(0).is_none(), "taken");
        conn.write_all(b"served").unwrap();
        conn.shutdown(std::net::Shutdown::Both).unwrap();
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "served");
    }
}

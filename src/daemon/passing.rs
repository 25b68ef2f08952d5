//! Which worker has been passed which client (`--accept pass`, UNP row 5).
//!
//! A channel a worker, with one client at most on its way through it. Of that
//! client the supervisor keeps its own copy until the worker has said that it
//! took it: if the worker dies before, whatever it had read from the channel,
//! nobody has spoken with the client and it goes to another. Decides nothing
//! about when to accept, and knows no signal and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::scoreboard::{Said, Scoreboard, Slot, write_note};
use super::supervisor::Held;
use crate::sys::pass;

/// The channels and what is on its way.
pub struct Passing {
    ends: Vec<Option<OwnedFd>>,
    free: Vec<Slot>,
    copies: BTreeMap<Slot, Held>,
    waiting: VecDeque<Held>,
    one_each: bool,
}

/// What became of a client that was to be passed.
pub enum Passed {
    /// It is on its way to the worker of this slot.
    To(Slot),
    /// No worker is free: it is among those that wait.
    NotYet,
    /// The kernel lacks something: the same.
    Short(Errno),
}

impl Passing {
    /// Room for `slots` workers; `one_each` says that a worker gets one client in
    /// its life.
    pub fn new(slots: usize, one_each: bool) -> Self {
        Passing {
            ends: std::iter::repeat_with(|| None).take(slots).collect(),
            free: Vec::new(),
            copies: BTreeMap::new(),
            waiting: VecDeque::new(),
            one_each,
        }
    }

    /// Opens the channel of `slot` and returns the worker's end, of which we must
    /// keep no copy. The worker can be passed a client once it is [`free`].
    ///
    /// [`free`]: Passing::free
    ///
    /// # Errors
    /// EMFILE and the like: nothing is left open.
    pub fn open(&mut self, slot: Slot) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = pass::pair()?;
        self.ends[slot] = Some(ours);
        Ok(theirs)
    }

    /// The worker of `slot` may be passed a client.
    pub fn free(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// None of the workers may be passed any more.
    pub fn none_free(&mut self) {
        self.free.clear();
    }

    /// Is there a worker to pass a client to?
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The channel of `slot` is closed; a client that was on its way is returned.
    pub fn close(&mut self, slot: Slot) -> Option<Held> {
        self.ends[slot] = None;
        self.free.retain(|&free| free != slot);
        self.copies.remove(&slot)
    }

    /// The worker of `slot` took its client: lets go of the copy. From now on
    /// the end of the connection is the worker's to send.
    pub fn taken(&mut self, slot: Slot) {
        if self.copies.remove(&slot).is_some() && self.one_each {
            self.ends[slot] = None;
        }
    }

    /// A client that waits to be passed.
    pub fn wait(&mut self, held: Held) {
        self.waiting.push_back(held);
    }

    /// Does any?
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Those that do.
    pub fn waiting(&self) -> impl Iterator<Item = &Held> {
        self.waiting.iter()
    }

    /// The one that has waited longest.
    pub fn next_waiting(&mut self) -> Option<Held> {
        self.waiting.pop_front()
    }

    /// Passes a client to a worker; one that is known to wait, if there is one,
    /// for a worker that is being born would let it wait too. One that is dead
    /// already is passed over: its burial is on its way.
    pub fn pass(&mut self, held: Held, board: &Scoreboard) -> Passed {
        loop {
            let waits = |&slot: &Slot| board.said(slot) == Said::Idle;
            let choice = self.free.iter().rposition(waits);
            let Some(choice) = choice.or(self.free.len().checked_sub(1)) else {
                self.waiting.push_front(held);
                return Passed::NotYet;
            };
            let slot = self.free[choice];
            let Some(end) = &self.ends[slot] else {
                self.free.remove(choice);
                continue;
            };
            let note = write_note(held.peer, held.listener);
            match pass::send(end.as_fd(), &note, held.conn.as_fd()) {
                Ok(()) => {
                    self.free.remove(choice);
                    self.copies.insert(slot, held);
                    return Passed::To(slot);
                }
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                    self.free.remove(choice);
                }
                Err(errno) => {
                    self.waiting.push_front(held);
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

    use super::super::scoreboard::read_note;
    use super::*;
    use crate::addr::Peer;

    fn client() -> (UnixStream, Held) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let held = Held {
            conn: ours.into(),
            peer: Peer::Unix,
            listener: 3,
        };
        (theirs, held)
    }

    fn got(worker: &OwnedFd) -> Option<UnixStream> {
        let mut note = [0; 24];
        let conn = pass::receive(worker.as_fd(), &mut note).ok()??;
        assert_eq!(read_note(note), (Peer::Unix, 3));
        Some(conn.into())
    }

    #[test]
    fn a_client_is_kept_until_it_is_taken_and_comes_back_before() {
        let board = Scoreboard::new(4).unwrap();
        let mut passing = Passing::new(4, true);
        let (mut theirs, held) = client();
        assert!(matches!(passing.pass(held, &board), Passed::NotYet));
        assert!(passing.has_waiting());
        let workers = [0, 1, 2].map(|slot| {
            let worker = passing.open(slot).unwrap();
            passing.free(slot);
            worker
        });
        board.idle(1);
        let held = passing.next_waiting().unwrap();
        assert!(
            matches!(passing.pass(held, &board), Passed::To(1)),
            "the one that is known to wait"
        );
        // Worker 1 has read its channel and dies.
        drop(got(&workers[1]).unwrap());
        let held = passing.close(1).expect("not taken");
        // Worker 2 is dead too, and not buried yet.
        board.idle(2);
        let [first, _, second] = workers;
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&second),
            nix::sys::socket::Shutdown::Both,
        )
        .unwrap();
        assert!(matches!(passing.pass(held, &board), Passed::To(0)));
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

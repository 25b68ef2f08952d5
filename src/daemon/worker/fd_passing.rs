//! Connections that the supervisor passes to a worker: what the message says, and how
//! the worker waits, at its own channel and at the pipe of death.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::Peer;
use crate::daemon::shared::connection_log::{pack, unpack};
use crate::daemon::shared::scoreboard::Scoreboard;
use crate::daemon::worker::acceptor::{Next, PAUSE, is_retired};
use crate::daemon::worker::child::{Leave, leave};
use crate::net::Accepted;
use crate::sys::{fd, raw};

/// A client and its listener as bytes, in the message that carries the connection.
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

/// The worker's end of its channel.
pub struct FdReceiver<'a> {
    channel: BorrowedFd<'a>,
    pipe_of_death: BorrowedFd<'a>,
    board: &'a Scoreboard,
}

impl<'a> FdReceiver<'a> {
    /// Waits at `channel`.
    pub fn new(
        channel: BorrowedFd<'a>,
        pipe_of_death: BorrowedFd<'a>,
        board: &'a Scoreboard,
    ) -> Self {
        FdReceiver {
            channel,
            pipe_of_death,
            board,
        }
    }

    /// What it waits by.
    pub fn ties(&self) -> [BorrowedFd<'a>; 2] {
        [self.channel, self.pipe_of_death]
    }

    /// Asks for another, by its own channel: nobody else can do so for it.
    pub fn ask(&self) {
        let _ = raw::write(self.channel, &[0]);
    }

    /// The next connection, or word to go; calls `idle` before it waits.
    pub fn next(&mut self, idle: impl Fn()) -> Next {
        idle();
        loop {
            let told = self.wait();
            // First the channel: what is in it is for nobody else, and if the
            // supervisor is gone there is no other copy of it.
            let mut note = [0; 24];
            match fd::receive(self.channel, &mut note) {
                Ok(Some(conn)) => {
                    let (peer, listener) = read_note(note);
                    return Next::Accepted(Accepted {
                        conn,
                        peer,
                        listener,
                    });
                }
                Ok(None) => return Next::Retire,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    if told && is_retired(self.pipe_of_death) {
                        return Next::Retire;
                    }
                }
                Err(errno) => {
                    // The connection is lost to us and kept by the supervisor,
                    // which passes it to another once we are gone.
                    self.board.trouble(errno);
                    let mut gone = [PollFd::new(self.pipe_of_death, PollFlags::empty())];
                    let _ = poll(&mut gone, PollTimeout::from(PAUSE));
                    leave(Leave::Retired);
                }
            }
        }
    }

    /// True if the pipe of death has something to say.
    fn wait(&self) -> bool {
        let mut fds = [
            PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.pipe_of_death.as_fd(), PollFlags::POLLIN),
        ];
        let ready = poll(&mut fds, PollTimeout::NONE).is_ok_and(|ready| ready > 0);
        ready && fds[1].revents().is_some_and(|events| !events.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let inet = Peer::Inet("[2001:db8::1]:65535".parse().unwrap());
        for (peer, listener) in [(inet, 0), (Peer::Unix, 700)] {
            assert_eq!(read_note(write_note(peer, listener)), (peer, listener));
        }
    }
}

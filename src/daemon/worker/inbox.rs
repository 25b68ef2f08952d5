//! Where a worker waits that is passed its connections: at its own channel,
//! and at the pipe of death.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::daemon::shared::scoreboard::{Scoreboard, read_note};
use crate::daemon::worker::acceptor::{Next, PAUSE, is_retired};
use crate::daemon::worker::child::{Leave, leave};
use crate::net::Accepted;
use crate::sys::{fd, raw};

/// The worker's end of its channel.
pub struct Inbox<'a> {
    channel: BorrowedFd<'a>,
    pipe_of_death: BorrowedFd<'a>,
    board: &'a Scoreboard,
}

impl<'a> Inbox<'a> {
    /// Waits at `channel`.
    pub fn new(
        channel: BorrowedFd<'a>,
        pipe_of_death: BorrowedFd<'a>,
        board: &'a Scoreboard,
    ) -> Self {
        Inbox {
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

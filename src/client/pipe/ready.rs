//! What a conversation waits for on its three descriptors, and which are ready.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::{Line, Pipe};
use crate::client::dial::Link;
use crate::client::wait::Waiter;
use crate::error::Result;

/// What may be tried now.
pub(super) struct Ready {
    /// Standard input has something, or its end.
    pub(super) input: bool,
    /// Standard output takes something.
    pub(super) output: bool,
    /// The server sent something, or its end.
    pub(super) arrived: bool,
    /// The server takes something.
    pub(super) sendable: bool,
}

impl Pipe {
    /// Waits until one of them is ready, or a server's patience is over.
    pub(super) fn wait(&self, link: &Link, line: &Line, waiter: &Waiter) -> Result<Ready> {
        let stdin = io::stdin();
        let mut fds = Vec::with_capacity(3);
        let input = !self.input_ended && self.to_server.is_empty() && line.deaf.is_none();
        if input {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let output = !self.to_output.is_empty();
        if output {
            fds.push(PollFd::new(self.output.as_fd(), PollFlags::POLLOUT));
        }
        // Without an event asked for, a broken connection would still wake us,
        // again and again: poll(2).
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, !output && line.ended.is_none());
        let sendable = !self.to_server.is_empty() && line.deaf.is_none() && line.ended.is_none();
        wanted.set(PollFlags::POLLOUT, sendable);
        if !wanted.is_empty() {
            fds.push(PollFd::new(link.as_fd(), wanted));
        }
        let all_back = self.manner.verify && self.ledger.missing() == 0;
        let last = line.half_closed.filter(|_| all_back && !output);
        let last = last.map(|at| at + self.manner.patience);
        let until = [last, self.silence_ends(line)].into_iter().flatten().min();
        waiter.wait(&mut fds, until)?;
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next = |present: bool| {
            present
                .then(|| events.next())
                .flatten()
                .unwrap_or(PollFlags::empty())
        };
        let (input, output, link) = (next(input), next(output), next(!wanted.is_empty()));
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let arrived = PollFlags::POLLIN | broken;
        Ok(Ready {
            input: !input.is_empty(),
            output: !output.is_empty(),
            arrived: wanted.contains(PollFlags::POLLIN) && link.intersects(arrived),
            sendable: sendable && link.intersects(PollFlags::POLLOUT | broken),
        })
    }

    /// Is it the server's turn? What it sent and nobody took is not.
    pub(super) fn waiting(&self, line: &Line) -> bool {
        let out = match self.manner.verify {
            true => self.ledger.missing() > 0,
            false => line.half_closed.is_some(),
        };
        let theirs = out || (!self.to_server.is_empty() && line.deaf.is_none());
        theirs && self.to_output.is_empty() && line.ended.is_none()
    }

    fn silence_ends(&self, line: &Line) -> Option<Instant> {
        let silence = self.manner.silence.filter(|_| self.waiting(line))?;
        Some(line.moved? + silence)
    }

    /// Has it done nothing for too long?
    pub(super) fn silent(&self, line: &Line) -> bool {
        let end = self.silence_ends(line);
        end.is_some_and(|end| Instant::now() >= end)
    }

    /// A server that never ends its side is waited for no longer than that.
    pub(super) fn overdue(&self, line: &Line) -> bool {
        self.manner.verify
            && self.ledger.missing() == 0
            && line
                .half_closed
                .is_some_and(|at| at.elapsed() >= self.manner.patience)
    }
}

//! The datagram worker of the command service: each datagram names a command,
//! and its output, as much as fits, is the reply.
//!
//! The process is in the same sandbox as one that echoes; helpers that were
//! forked before ([`crate::service::Command::clerk`]) have the commands run, some
//! at once, so that a slow one keeps the others waiting only while they are all
//! busy. What comes then stays in the socket's queue.
//!
//! An answer may be longer than the question, and a source can be forged. So to
//! another machine a reply is never larger than its request, as with an echo:
//! who wants a longer one sends a longer datagram.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::{LAST_BATCHES, LOOPBACK, Station, Way, rest_after};
use crate::daemon::child::{Leave, leave};
use crate::service::{AT_ONCE, Command, LONGEST_REPLY, fit};
use crate::sys::mmsg::{Arrived, Batch, Wait};
use crate::sys::{raw, sockopt};

/// Requests taken after word to go, at most: more than the queue can hold.
const LAST: usize = 32 * LAST_BATCHES;

/// A helper, and the request that it works at.
pub struct Desk {
    clerk: OwnedFd,
    request: Batch,
    /// How long a reply it may have, and how that leaves; `None` while there is
    /// nothing to do.
    asked: Option<(usize, Way)>,
}

impl Desk {
    /// The way to the helper.
    pub fn clerk(&self) -> BorrowedFd<'_> {
        self.clerk.as_fd()
    }

    /// See [`Batch::for_unix`].
    pub fn for_unix(self) -> Desk {
        Desk {
            request: self.request.for_unix(),
            ..self
        }
    }

    fn answer(&mut self, output: &[u8], limit: usize, way: Way, station: &Station<'_>) {
        let mut reply = [0; LONGEST_REPLY];
        let length = fit(output, limit, &mut reply);
        self.request.replace(0, &reply[..length]);
        station.answer(&mut self.request, 0, way);
        station.send(&mut self.request);
        self.asked = None;
    }
}

/// The desks of a worker, with their helpers.
///
/// # Errors
/// Why there are none.
pub fn desks(commands: &Command, null: BorrowedFd<'_>) -> Result<[Desk; AT_ONCE], Errno> {
    let desk = || {
        Ok(Desk {
            clerk: commands.clerk(null)?,
            request: Batch::of(1)?,
            asked: None,
        })
    };
    Ok([desk()?, desk()?, desk()?, desk()?])
}

/// A request of so many bytes gets at most so many back.
fn limit(request: &Arrived<'_>) -> usize {
    match request.to {
        Some(to) if to.interface != LOOPBACK => request.bytes.len().min(LONGEST_REPLY),
        // From this machine: nobody else can be hurt by it.
        _ => LONGEST_REPLY,
    }
}

/// The worker.
pub struct Worker<'a> {
    station: Station<'a>,
    commands: &'a Command,
    desks: [Desk; AT_ONCE],
    /// For what helpers say.
    inbox: Batch,
    failures: u32,
    /// Requests that are still taken, once word to go has come.
    last: Option<usize>,
}

impl<'a> Worker<'a> {
    /// A worker with nothing to do yet.
    pub(super) fn new(station: Station<'a>, desks: [Desk; AT_ONCE], inbox: Batch) -> Self {
        Worker {
            commands: station.terms.services.command(),
            last: station.post.last.then_some(LAST),
            station,
            desks,
            inbox,
            failures: 0,
        }
    }

    /// Works until word to go, and then until nothing is left to do.
    pub fn run(&mut self) -> ! {
        loop {
            while let Some(left @ 1..) = self.last
                && let Some(desk) = self.free()
            {
                self.last = Some(left - 1);
                self.take(desk);
            }
            if self.last.is_some() && self.desks.iter().all(|desk| desk.asked.is_none()) {
                leave(Leave::Retired);
            }
            self.wait();
        }
    }

    fn free(&self) -> Option<usize> {
        self.desks.iter().position(|desk| desk.asked.is_none())
    }

    /// Waits for a helper, or for a request if there is somebody to give it to.
    fn wait(&mut self) {
        let taker = self.free().filter(|_| self.last.is_none());
        let [a, b, c, d] = &self.desks;
        let look = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let socket = look(self.station.post.socket);
        let mut fds = [
            look(a.clerk()),
            look(b.clerk()),
            look(c.clerk()),
            look(d.clerk()),
            socket,
        ];
        let asked = AT_ONCE + usize::from(taker.is_some());
        // A signal ends it too; word to go is then seen at the socket.
        if poll(&mut fds[..asked], PollTimeout::NONE).is_err() {
            return;
        }
        let ready = fds.map(|fd| fd.any() == Some(true));
        for desk in (0..AT_ONCE).filter(|&desk| ready[desk]) {
            self.hear(desk);
        }
        if let Some(desk) = taker.filter(|_| ready[AT_ONCE]) {
            self.take(desk);
        }
    }

    /// The next request, for a desk that is free.
    fn take(&mut self, desk: usize) {
        let source = match self.last {
            None => self.station.post.socket,
            Some(_) => self.station.own.as_fd(),
        };
        match self.desks[desk].request.receive(source, Wait::Never) {
            Ok(_) => {
                self.failures = 0;
                self.begin(desk);
            }
            Err(Errno::EAGAIN) if self.last.is_some() => self.last = Some(0),
            // A Unix socket that was made deaf is readable for ever.
            Err(Errno::EAGAIN) if !sockopt::is_read_shut(self.station.own.as_fd()) => {}
            Err(Errno::EAGAIN | Errno::ENOTSOCK) => self.last = Some(LAST),
            Err(errno) => {
                self.station.failed(errno);
                self.failures += 1;
                rest_after(self.failures);
            }
        }
    }

    fn begin(&mut self, desk: usize) {
        let now = self.station.now();
        let desk = &mut self.desks[desk];
        let request = desk.request.get(0);
        let Some(way) = self.station.admit(&request, now) else {
            return;
        };
        let limit = limit(&request);
        match self.commands.named_in(request.bytes) {
            Err(unknown) => desk.answer(unknown, limit, way, &self.station),
            Ok(number) if raw::write(desk.clerk(), &[number]) == Ok(1) => {
                desk.asked = Some((limit, way));
            }
            Ok(_) => leave(Leave::NoHelper),
        }
    }

    /// A helper has something to say, or is gone.
    fn hear(&mut self, desk: usize) {
        let desk = &mut self.desks[desk];
        match self.inbox.receive(desk.clerk.as_fd(), Wait::Never) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => leave(Leave::NoHelper),
            Ok(_) => match (self.inbox.get(0).bytes, desk.asked) {
                ([_, output @ ..], Some((limit, way))) => {
                    desk.answer(output, limit, way, &self.station);
                }
                _ => leave(Leave::NoHelper),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmsg::{Asked, Sender};

    #[test]
    fn only_this_machine_gets_more_than_it_sent() {
        for (interface, length, most) in [
            (None, 1, LONGEST_REPLY),
            (Some(LOOPBACK), 0, LONGEST_REPLY),
            (Some(LOOPBACK), 9000, LONGEST_REPLY),
            (Some(2), 0, 0),
            (Some(2), 5, 5),
            (Some(2), 1232, 1232),
            (Some(2), 9000, LONGEST_REPLY),
        ] {
            let to = interface.map(|interface| Asked {
                address: std::net::Ipv4Addr::new(10, 0, 0, 1).into(),
                unicast: true,
                interface,
            });
            let request = Arrived {
                from: Sender::Unnamed,
                name: &[],
                to,
                bytes: &vec![b'x'; length],
                cut: false,
            };
            assert_eq!(limit(&request), most, "{interface:?} {length}");
        }
    }
}

//! The datagram worker: one for each socket, for as long as its generation lives.
//!
//! Nothing is forked per datagram, which would be the client's to multiply. It
//! takes what is queued, asks the guard about each, and sends the replies
//! together: two system calls, however many there are. It counts and never logs,
//! so no log can keep it waiting.
//!
//! Word to go is SIGPWR, from the supervisor or by its death. The handler puts
//! /dev/null in the place of the descriptor that is received from, so a
//! receive that waits, or is just about to, fails (recvmmsg(2) is restarted),
//! and no poll(2) is needed to hear it. What is queued is then answered by
//! another descriptor of the same socket, and the worker leaves.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use crate::config::SandboxPolicy;
use crate::daemon::child::{self, Leave, Terms, leave};
use crate::daemon::tally::Tally;
use crate::net::drops::Reason;
use crate::net::udp_guard::{Guard, Local};
use crate::sys::mmsg::{Arrived, Batch, Sender, Wait};
use crate::sys::{lifeline, process, sockopt};

/// Batches answered after word to go, at most: more than the queue can hold, but
/// where nothing makes the socket deaf an end must come.
const LAST_BATCHES: usize = 128;

/// Failures to receive in a row, after which each is followed by a pause.
const TOLERATED: u32 = 8;
/// That pause, in milliseconds.
const PAUSE: u8 = 100;

/// The loopback interface's index, in every network namespace.
const LOOPBACK: u32 = 1;

/// Where a datagram worker works.
pub struct Post<'a> {
    /// Its socket.
    pub socket: BorrowedFd<'a>,
    /// Who is answered; `None` on a Unix socket, where nobody can forge a name.
    pub guard: Option<&'a Guard>,
    /// Where it counts.
    pub tally: &'a Tally,
    /// What the guard's time is counted from.
    pub epoch: Instant,
    /// It has one address, from which all replies leave anyway.
    pub bound: bool,
    /// The word to go was given before it was forked.
    pub last: bool,
}

/// The worker.
pub fn serve(terms: &Terms<'_>, post: &Post<'_>) -> ! {
    child::begin();
    process::set_name(process::DATAGRAMS);
    let Some((batch, own)) = prepare(terms, post) else {
        leave(Leave::NoMemory);
    };
    let copy = terms.print;
    let mut keep = [post.socket; 5];
    keep[1] = own.as_fd();
    keep[2] = terms.null;
    keep[3] = terms.board.bell();
    keep[4] = copy.unwrap_or(post.socket);
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    if terms.sandbox.enter_for_datagrams().is_err() && terms.policy == SandboxPolicy::Strict {
        leave(Leave::NoSandbox);
    }
    let mut worker = Worker {
        terms,
        post,
        own,
        copy,
        batch,
    };
    worker.run()
}

/// Buffers, and a descriptor of the socket that no signal takes away.
fn prepare(terms: &Terms<'_>, post: &Post<'_>) -> Option<(Batch, OwnedFd)> {
    let batch = match (Batch::new().ok()?, post.guard) {
        (batch, Some(_)) => batch,
        (batch, None) => batch.without_control(),
    };
    let own = post.socket.try_clone_to_owned().ok()?;
    lifeline::release_on_parent_death(&[post.socket], terms.null, terms.supervisor).ok()?;
    Some((batch, own))
}

struct Worker<'a> {
    terms: &'a Terms<'a>,
    post: &'a Post<'a>,
    own: OwnedFd,
    copy: Option<BorrowedFd<'a>>,
    batch: Batch,
}

impl Worker<'_> {
    fn run(&mut self) -> ! {
        let mut failures = 0;
        while !self.post.last {
            match self.batch.receive(self.post.socket, Wait::ForOne) {
                Ok(1) if self.is_end_of_file() => break,
                Ok(n) => {
                    failures = 0;
                    self.answer(n);
                }
                Err(Errno::ENOTSOCK) => break,
                Err(errno) => {
                    self.failed(errno);
                    failures += 1;
                    if failures > TOLERATED {
                        let _ = poll(&mut [], PollTimeout::from(PAUSE));
                    }
                }
            }
        }
        self.finish()
    }

    /// A Unix socket that was made deaf ends the wait with an empty datagram from
    /// nobody, a moment before the signal comes.
    fn is_end_of_file(&mut self) -> bool {
        let datagram = self.batch.get(0);
        datagram.from == Sender::Unnamed
            && datagram.bytes.is_empty()
            && sockopt::is_read_shut(self.own.as_fd())
    }

    /// Answers what is in the queue, and leaves.
    fn finish(&mut self) -> ! {
        for _ in 0..LAST_BATCHES {
            match self.batch.receive(self.own.as_fd(), Wait::Never) {
                Ok(n) => self.answer(n),
                Err(Errno::EAGAIN) => break,
                Err(errno) => self.failed(errno),
            }
        }
        leave(Leave::Retired)
    }

    fn failed(&self, errno: Errno) {
        match errno {
            Errno::EINTR | Errno::EAGAIN => {}
            _ if is_fatal(errno) => {
                self.post.tally.fault(errno);
                leave(Leave::Unusable);
            }
            // Somebody's unreachability, told to us: once each.
            _ => self.drop(Reason::not_sent(errno)),
        }
    }

    fn answer(&mut self, n: usize) {
        let guard = self.post.guard;
        let now = match guard {
            Some(guard) if guard.needs_time() => nanoseconds(self.post.epoch),
            _ => 0,
        };
        for i in 0..n {
            let datagram = self.batch.get(i);
            match judge(&datagram, guard, now) {
                Err(reason) => self.drop(reason),
                Ok(()) => {
                    if let Some(copy) = self.copy {
                        print(copy, datagram.bytes);
                    }
                    self.batch.echo(i, self.post.bound);
                }
            }
        }
        let (tally, board) = (self.post.tally, self.terms.board);
        let (sent, bytes) = self.batch.send(self.own.as_fd(), |errno| {
            if tally.drop(Reason::not_sent(errno)) {
                board.ring();
            }
        });
        tally.answered(sent, bytes);
    }

    fn drop(&self, reason: Reason) {
        if self.post.tally.drop(reason) {
            self.terms.board.ring();
        }
    }
}

/// Is this one answered? If not, why.
fn judge(datagram: &Arrived<'_>, guard: Option<&Guard>, now: u64) -> Result<(), Reason> {
    if datagram.cut {
        return Err(Reason::TooLarge);
    }
    let local = datagram.to.map(|to| Local {
        unicast: to.unicast,
        loopback: to.interface == LOOPBACK,
    });
    match (datagram.from, guard) {
        (Sender::Unnamed, _) => Err(Reason::Unnamed),
        (Sender::Inet(from), Some(guard)) => guard.judge(from, local, now),
        _ => Ok(()),
    }
}

/// Trying again would not help.
fn is_fatal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EBADF
            | Errno::ENOTSOCK
            | Errno::EINVAL
            | Errno::EFAULT
            | Errno::EOPNOTSUPP
            | Errno::ENOSYS
    )
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// `--print`: what cannot be written there is not worth a client.
fn print(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

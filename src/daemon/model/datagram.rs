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
//!
//! Where datagrams name commands the same process works as `errand` says.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use super::errand::{self, Desk};
use super::judge::judge;
use super::print::Print;
use crate::config::SandboxPolicy;
use crate::daemon::child::{self, Leave, Terms, leave};
use crate::daemon::confine;
use crate::daemon::tally::Tally;
use crate::net::drops::Reason;
use crate::net::udp_guard::Guard;
use crate::service::AT_ONCE;
use crate::sys::mmsg::{Arrived, Batch, Sender, Wait};
use crate::sys::{lifeline, process, sockopt};

/// Batches answered after word to go, at most: more than the queue can hold, but
/// where nothing makes the socket deaf an end must come.
pub(super) const LAST_BATCHES: usize = 128;

/// Failures to receive in a row, after which each is followed by a pause.
pub(super) const TOLERATED: u32 = 8;
/// That pause, in milliseconds.
pub(super) const PAUSE: u8 = 100;

/// The loopback interface's index, in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Where a datagram worker works.
pub struct Post<'a> {
    /// Its socket.
    pub socket: BorrowedFd<'a>,
    /// Who is answered; `None` on a Unix socket, where nobody can forge a name.
    pub guard: Option<&'a Guard>,
    /// It runs commands; else it echoes.
    pub runs_commands: bool,
    /// Where it counts.
    pub tally: &'a Tally,
    /// What the guard's time is counted from.
    pub epoch: Instant,
    /// It has one address, from which all replies leave anyway.
    pub bound: bool,
    /// That one, if it is an Internet address.
    pub address: Option<IpAddr>,
    /// The word to go was given before it was forked.
    pub last: bool,
}

/// The worker.
pub fn serve(terms: &Terms<'_>, post: &Post<'_>) -> ! {
    child::begin();
    process::set_name(process::DATAGRAMS);
    let Some((mut station, work)) = prepare(terms, post) else {
        leave(Leave::NoMemory);
    };
    station.lock_in(&work);
    match work {
        Work::Echo(batch) => Worker { station, batch }.run(),
        Work::Commands(desks, inbox) => errand::Worker::new(station, *desks, inbox).run(),
    }
}

/// What a worker does, and what it needs for that.
enum Work {
    Echo(Batch),
    Commands(Box<[Desk; AT_ONCE]>, Batch),
}

impl Work {
    /// See [`Batch::without_control`].
    fn without_control(self) -> Self {
        match self {
            Work::Echo(batch) => Work::Echo(batch.without_control()),
            Work::Commands(desks, batch) => Work::Commands(desks, batch.without_control()),
        }
    }
}

/// Buffers, helpers, and a descriptor of the socket that no signal takes away.
fn prepare<'a>(terms: &'a Terms<'a>, post: &'a Post<'a>) -> Option<(Station<'a>, Work)> {
    // Before the handler stands, which the helpers would inherit.
    let work = match post.runs_commands {
        true => {
            let desks = errand::desks(terms.services.command(), terms.null).ok()?;
            Work::Commands(Box::new(desks), Batch::of(1).ok()?)
        }
        false => Work::Echo(Batch::new().ok()?),
    };
    let work = match post.guard {
        Some(_) => work,
        None => work.without_control(),
    };
    let own = post.socket.try_clone_to_owned().ok()?;
    let copy = terms.print.map(Print::new).transpose().ok()?;
    lifeline::release_on_parent_death(&[post.socket], terms.null, terms.supervisor).ok()?;
    let station = Station {
        terms,
        post,
        own,
        copy,
    };
    Some((station, work))
}

/// What every datagram worker has, and how it looks at a datagram.
pub(super) struct Station<'a> {
    pub terms: &'a Terms<'a>,
    pub post: &'a Post<'a>,
    /// The socket, by a descriptor that stays.
    pub own: OwnedFd,
    copy: Option<Print<'a>>,
}

impl Station<'_> {
    /// Closes what the work does not need, and enters the sandbox.
    fn lock_in(&mut self, work: &Work) {
        let desks = match work {
            Work::Commands(desks, _) => &desks[..],
            Work::Echo(_) => &[],
        };
        let mut keep = [self.post.socket; 5 + AT_ONCE];
        keep[1] = self.own.as_fd();
        keep[2] = self.terms.null;
        keep[3] = self.terms.board.bell();
        keep[4] = self.terms.print.unwrap_or(self.post.socket);
        for (kept, desk) in keep[5..].iter_mut().zip(desks) {
            *kept = desk.clerk();
        }
        keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
        process::keep_only(keep);
        let highest = keep[keep.len() - 1].as_raw_fd();
        let (limits, descriptors) = confine::limits(self.terms, highest);
        // Only a Unix socket has no guard, and may be asked by abstract names.
        let names = self.post.guard.is_none();
        let sandbox = self.terms.sandbox;
        let entered = sandbox.enter_for_datagrams(limits, descriptors, names);
        if entered.is_err() && self.terms.policy == SandboxPolicy::Strict {
            leave(Leave::NoSandbox);
        }
    }

    /// The time for [`Station::admit`].
    pub fn now(&self) -> u64 {
        match self.post.guard {
            Some(guard) if guard.needs_time() => nanoseconds(self.post.epoch),
            _ => 0,
        }
    }

    /// Is this one answered? Copies it out if so, counts it as dropped if not.
    pub fn admit(&mut self, datagram: &Arrived<'_>, now: u64) -> bool {
        let policy = self.terms.admission.policy();
        match judge(datagram, policy, self.post.guard, self.post.address, now) {
            Err(reason) => self.drop(reason),
            Ok(()) => {
                if let Some(copy) = &mut self.copy {
                    copy.print(datagram);
                }
                return true;
            }
        }
        false
    }

    /// Sends the answers that are queued.
    pub fn send(&self, batch: &mut Batch) {
        let (sent, bytes) =
            batch.send(self.own.as_fd(), |errno| self.drop(Reason::not_sent(errno)));
        self.post.tally.answered(sent, bytes);
    }

    /// A receive failed.
    pub fn failed(&self, errno: Errno) {
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

    fn drop(&self, reason: Reason) {
        if self.post.tally.drop(reason) {
            self.terms.board.ring();
        }
    }
}

/// Receiving failed so often in a row: a pause after each.
pub(super) fn rest_after(failures: u32) {
    if failures > TOLERATED {
        let _ = poll(&mut [], PollTimeout::from(PAUSE));
    }
}

struct Worker<'a> {
    station: Station<'a>,
    batch: Batch,
}

impl Worker<'_> {
    fn run(&mut self) -> ! {
        let mut failures = 0;
        while !self.station.post.last {
            match self.batch.receive(self.station.post.socket, Wait::ForOne) {
                Ok(1) if self.is_end_of_file() => break,
                Ok(n) => {
                    failures = 0;
                    self.answer(n);
                }
                Err(Errno::ENOTSOCK) => break,
                Err(errno) => {
                    self.station.failed(errno);
                    failures += 1;
                    rest_after(failures);
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
            && sockopt::is_read_shut(self.station.own.as_fd())
    }

    /// Answers what is in the queue, and leaves.
    fn finish(&mut self) -> ! {
        for _ in 0..LAST_BATCHES {
            match self.batch.receive(self.station.own.as_fd(), Wait::Never) {
                Ok(n) => self.answer(n),
                Err(Errno::EAGAIN) => break,
                Err(errno) => self.station.failed(errno),
            }
        }
        leave(Leave::Retired)
    }

    fn answer(&mut self, n: usize) {
        let now = self.station.now();
        for i in 0..n {
            let datagram = self.batch.get(i);
            if self.station.admit(&datagram, now) {
                self.batch.echo(i, self.station.post.bound);
            }
        }
        self.station.send(&mut self.batch);
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

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
//! A Unix socket's answer is sent with this process's rights, and its client's name
//! is looked up from here. So to a path it goes alone, to the very socket that was
//! found to be the sender's (`net::unix_guard`).
//!
//! Where datagrams name commands the same process works as `datagram_commands` says.

use std::ffi::CStr;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::config::SandboxPolicy;
use crate::daemon::datagram::access::judge;
use crate::daemon::datagram::commands::{self as commands, AT_ONCE, Helper};
use crate::daemon::shared::tally::Tally;
use crate::daemon::worker::child::{self, Leave, leave};
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::print::Print;
use crate::daemon::worker::sandbox;
use crate::net::datagram::Guard;
use crate::net::drops::Reason;
use crate::net::unix_guard;
use crate::sys::mmsg::{Arrived, Batch, Sender, Wait};
use crate::sys::{process, sockopt};

/// Batches answered after word to go, at most: more than the queue can hold, but
/// where nothing makes the socket deaf an end must come.
pub(crate) const LAST_BATCHES: usize = 128;

/// Failures to receive in a row, after which each is followed by a pause.
pub(crate) const TOLERATED: u32 = 8;
/// That pause, in milliseconds.
pub(crate) const PAUSE: u8 = 100;

/// The loopback interface's index, in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Where a datagram worker works.
pub struct Post<'a> {
    /// Its socket.
    pub socket: BorrowedFd<'a>,
    /// Who is answered.
    pub guard: &'a Guard,
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
pub fn serve(context: &WorkerContext, post: &Post<'_>) -> ! {
    child::begin();
    process::set_name(process::DATAGRAMS);
    let Some((mut answerer, work)) = prepare(context, post) else {
        leave(Leave::NoMemory);
    };
    answerer.lock_in(&work);
    match work {
        Work::Echo(batch) => Worker { answerer, batch }.run(),
        Work::Commands(helpers, inbox) => commands::Worker::new(answerer, *helpers, inbox).run(),
    }
}

/// What a worker does, and what it needs for that.
enum Work {
    Echo(Batch),
    Commands(Box<[Helper; AT_ONCE]>, Batch),
}

impl Work {
    /// See [`Batch::for_unix`].
    fn for_unix(self) -> Self {
        match self {
            Work::Echo(batch) => Work::Echo(batch.for_unix()),
            Work::Commands(helpers, inbox) => {
                let helpers = helpers.map(Helper::for_unix);
                Work::Commands(Box::new(helpers), inbox.for_unix())
            }
        }
    }
}

/// Buffers, helpers, and a descriptor of the socket that no signal takes away.
fn prepare<'a>(context: &'a WorkerContext, post: &'a Post<'a>) -> Option<(Answerer<'a>, Work)> {
    // Before the handler stands, which the helpers would inherit.
    let work = match post.runs_commands {
        true => {
            let helpers =
                commands::helpers(context.services.command(), context.null.as_fd()).ok()?;
            Work::Commands(Box::new(helpers), Batch::of(1).ok()?)
        }
        false => Work::Echo(Batch::new().ok()?),
    };
    let (work, aside) = match post.guard {
        Guard::Udp(_) => (work, None),
        Guard::Unix(_) => (work.for_unix(), Some(Aside::new().ok()?)),
    };
    let own = post.socket.try_clone_to_owned().ok()?;
    let copy = context.printer().map(Print::new).transpose().ok()?;
    process::release_on_parent_death(&[post.socket], context.null.as_fd(), context.supervisor)
        .ok()?;
    let answerer = Answerer {
        context,
        post,
        own,
        copy,
        aside,
    };
    Some((answerer, work))
}

/// What a Unix socket's answers need that cannot go the usual way.
struct Aside {
    /// A socket without a name.
    nameless: OwnedFd,
    /// Descriptors have names. Without, as in a chroot, what is at a path could
    /// change between the look at it and the answer.
    has_proc: bool,
}

impl Aside {
    fn new() -> Result<Aside, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Aside {
            nameless: socket(AddressFamily::Unix, SockType::Datagram, flags, None)?,
            has_proc: std::path::Path::new(DESCRIPTORS).is_dir(),
        })
    }
}

const DESCRIPTORS: &str = "/proc/self/fd";

/// How an answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the address that was asked.
    Usual,
    /// From no address, if its client takes that.
    Nameless,
}

/// What every datagram worker has, and how it looks at a datagram.
pub(crate) struct Answerer<'a> {
    pub context: &'a WorkerContext,
    pub post: &'a Post<'a>,
    /// The socket, by a descriptor that stays.
    pub own: OwnedFd,
    copy: Option<Print<'a>>,
    /// On a Unix socket.
    aside: Option<Aside>,
}

impl Answerer<'_> {
    /// Closes what the work does not need, and enters the sandbox.
    fn lock_in(&mut self, work: &Work) {
        let helpers = match work {
            Work::Commands(helpers, _) => &helpers[..],
            Work::Echo(_) => &[],
        };
        let mut keep = [self.post.socket; 6 + AT_ONCE];
        keep[1] = self.own.as_fd();
        keep[2] = self.context.null.as_fd();
        keep[3] = self.context.board.waker();
        keep[4] = self
            .context
            .printer()
            .map_or(self.post.socket, |print| print.to);
        if let Some(aside) = &self.aside {
            keep[5] = aside.nameless.as_fd();
        }
        for (kept, helper) in keep[6..].iter_mut().zip(helpers) {
            *kept = helper.way();
        }
        keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
        process::keep_only(keep);
        let highest = keep[keep.len() - 1].as_raw_fd();
        let sandbox = &self.context.sandbox;
        let entered = match self.post.guard {
            Guard::Udp(_) => {
                let (limits, descriptors) = sandbox::limits(self.context, highest);
                sandbox.enter_for_datagrams(limits, descriptors)
            }
            Guard::Unix(_) => {
                let (limits, descriptors) = sandbox::with_one_more(self.context, highest);
                sandbox.enter_for_unix_datagrams(limits, descriptors)
            }
        };
        if entered.is_err() && self.context.config.sandbox == SandboxPolicy::Strict {
            leave(Leave::NoSandbox);
        }
    }

    /// The time for [`Answerer::admit`].
    pub fn now(&self) -> u64 {
        match self.post.guard {
            Guard::Udp(guard) if !guard.needs_time() => 0,
            _ => nanoseconds(self.post.epoch),
        }
    }

    /// Is this one answered, and how? Copies it out if so, counts it as dropped if
    /// not.
    pub fn admit(&mut self, datagram: &Arrived<'_>, now: u64) -> Option<Way> {
        let policy = self.context.access.policy();
        match judge(datagram, policy, self.post.guard, self.post.address, now) {
            Err(reason) => {
                self.drop(reason);
                return None;
            }
            Ok(()) => {
                if let Some(copy) = &mut self.copy {
                    copy.print(datagram);
                }
            }
        }
        match self.post.guard {
            Guard::Unix(guard) if guard.is_nameless(datagram.name, datagram.bytes, now) => {
                Some(Way::Nameless)
            }
            _ => Some(Way::Usual),
        }
    }

    /// Answers that one with what its buffer holds: queued to be sent together, or,
    /// where that is not the way, at once, after what is queued.
    pub fn answer(&self, batch: &mut Batch, i: usize, way: Way) {
        let datagram = batch.get(i);
        let is_path = datagram.name.first().is_some_and(|&byte| byte != 0);
        let aside = match &self.aside {
            Some(aside) if is_path || way == Way::Nameless => aside,
            _ => return batch.echo(i, self.post.bound),
        };
        let found = match is_path.then(|| socket_of(&datagram)).transpose() {
            Ok(found) => found,
            Err(reason) => return self.drop(reason),
        };
        // First what came first.
        self.send(batch);
        if let Some(found) = found.as_ref().filter(|_| aside.has_proc) {
            let mut path = [0; 32];
            let mut rest = &mut path[..];
            let _ = write!(rest, "{DESCRIPTORS}/{}", found.as_raw_fd());
            let left = rest.len();
            batch.redirect(i, &path[..path.len() - left]);
        }
        let nameless = match way {
            Way::Nameless => batch.send_alone(i, aside.nameless.as_fd()),
            Way::Usual => Err(Errno::EPERM),
        };
        let sent = match nameless {
            // It is connected, and hears nobody else: to us, if it hears this.
            Err(Errno::EPERM) => batch.send_alone(i, self.own.as_fd()),
            done => done,
        };
        match sent {
            Ok(bytes) => self.post.tally.answered(1, bytes),
            Err(errno) => self.drop(Reason::not_sent(errno)),
        }
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
            self.context.board.wake();
        }
    }
}

/// Where the path of its sender leads, if that is a socket of theirs.
fn socket_of(datagram: &Arrived<'_>) -> Result<OwnedFd, Reason> {
    let Sender::Unix(uid) = datagram.from else {
        return Err(Reason::Unnamed);
    };
    let mut path = [0; 128];
    let length = datagram.name.len().min(path.len() - 1);
    path[..length].copy_from_slice(&datagram.name[..length]);
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Reason::NotTheirs)?;
    unix_guard::socket_of(path, uid)
}

/// Receiving failed so often in a row: a pause after each.
pub(crate) fn rest_after(failures: u32) {
    if failures > TOLERATED {
        let _ = poll(&mut [], PollTimeout::from(PAUSE));
    }
}

struct Worker<'a> {
    answerer: Answerer<'a>,
    batch: Batch,
}

impl Worker<'_> {
    fn run(&mut self) -> ! {
        let mut failures = 0;
        while !self.answerer.post.last {
            match self.batch.receive(self.answerer.post.socket, Wait::ForOne) {
                Ok(1) if self.is_end_of_file() => break,
                Ok(n) => {
                    failures = 0;
                    self.answer(n);
                }
                Err(Errno::ENOTSOCK) => break,
                Err(errno) => {
                    self.answerer.failed(errno);
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
            && sockopt::is_read_shut(self.answerer.own.as_fd())
    }

    /// Answers what is in the queue, and leaves.
    fn finish(&mut self) -> ! {
        for _ in 0..LAST_BATCHES {
            match self.batch.receive(self.answerer.own.as_fd(), Wait::Never) {
                Ok(n) => self.answer(n),
                Err(Errno::EAGAIN) => break,
                Err(errno) => self.answerer.failed(errno),
            }
        }
        self.answerer.post.tally.retire();
        leave(Leave::Retired)
    }

    fn answer(&mut self, n: usize) {
        let now = self.answerer.now();
        for i in 0..n {
            let datagram = self.batch.get(i);
            if let Some(way) = self.answerer.admit(&datagram, now) {
                self.answerer.answer(&mut self.batch, i, way);
            }
        }
        self.answerer.send(&mut self.batch);
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

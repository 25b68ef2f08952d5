//! The command service by datagram: each names a command, and its output, as much
//! as fits, is the reply.
//!
//! The worker is in the same sandbox as one that echoes. Beside it live helpers,
//! forked before the sandbox shut: each has one command run at a time, by a
//! `service::command` helper of its own, so that a slow one keeps the others waiting only
//! while they are all busy. What comes then stays in the socket's queue. A helper
//! never meets a client: one byte in is a command's number, one message out is its
//! output. It is outside the sandbox, where it must be, and dies with its worker:
//! then the command's own helper, alone, ends the command.
//!
//! An answer may be longer than the question, and a source can be forged. So to
//! another machine a reply is never larger than its request, as with an echo:
//! who wants a longer one sends a longer datagram.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, dup};

use crate::config::Allowed;
use crate::daemon::datagram::answer::{Answerer, LAST_BATCHES, LOOPBACK, Way, rest_after};
use crate::daemon::worker::child::{Leave, leave};
use crate::error::errno_text;
use crate::service::command::{Command, order, start_helper};
use crate::sys::mmsg::{Arrived, Batch, Wait};
use crate::sys::{process, raw, signal, sockopt};

/// How many helpers a worker has, and so how many commands its socket's clients can
/// have run at once.
pub const AT_ONCE: usize = 4;

/// Requests taken after word to go, at most: more than the queue can hold.
const LAST: usize = 32 * LAST_BATCHES;

/// The longest reply: what IPv6 carries everywhere in one piece, 1,280 bytes less
/// its header and UDP's (RFC 8200, 5).
const LONGEST_REPLY: usize = 1232;

/// Output that is kept: a byte more than can be sent, so that it is seen to be
/// too much.
const KEPT: usize = LONGEST_REPLY + 1;

/// Room for the note that a reply was cut, which has two dozen bytes.
const NOTE: usize = 32;

/// A helper, and the request that it works at.
pub(super) struct Helper {
    way: OwnedFd,
    request: Batch,
    /// How long a reply it may have, and how that leaves; `None` while there is
    /// nothing to do.
    asked: Option<(usize, Way)>,
}

impl Helper {
    /// The way to it.
    pub fn way(&self) -> BorrowedFd<'_> {
        self.way.as_fd()
    }

    /// See [`Batch::for_unix`].
    pub fn for_unix(self) -> Helper {
        Helper {
            request: self.request.for_unix(),
            ..self
        }
    }

    fn answer(&mut self, output: &[u8], limit: usize, way: Way, answerer: &Answerer<'_>) {
        let mut reply = [0; LONGEST_REPLY];
        let length = fit(output, limit, &mut reply);
        self.request.replace(0, &reply[..length]);
        answerer.answer(&mut self.request, 0, way);
        answerer.send(&mut self.request);
        self.asked = None;
    }
}

/// All of a worker's.
///
/// # Errors
/// Why there are none.
pub(super) fn helpers(
    commands: &Command,
    null: BorrowedFd<'_>,
) -> Result<[Helper; AT_ONCE], Errno> {
    let helper = || {
        Ok(Helper {
            way: start(commands.allowed(), null)?,
            request: Batch::of(1)?,
            asked: None,
        })
    };
    Ok([helper()?, helper()?, helper()?, helper()?])
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
pub(super) struct CommandWorker<'a> {
    answerer: Answerer<'a>,
    commands: &'a Command,
    helpers: [Helper; AT_ONCE],
    /// For what helpers say.
    said: Batch,
    failures: u32,
    /// Requests that are still taken, once word to go has come.
    last: Option<usize>,
}

impl<'a> CommandWorker<'a> {
    /// A worker with nothing to do yet.
    pub(super) fn new(answerer: Answerer<'a>, helpers: [Helper; AT_ONCE], said: Batch) -> Self {
        CommandWorker {
            commands: answerer.context.services.command(),
            last: answerer.workplace.last.then_some(LAST),
            answerer,
            helpers,
            said,
            failures: 0,
        }
    }

    /// Works until word to go, and then until nothing is left to do.
    pub fn run(&mut self) -> ! {
        loop {
            while let Some(left @ 1..) = self.last
                && let Some(helper) = self.free()
            {
                self.last = Some(left - 1);
                self.take(helper);
            }
            if self.last.is_some() && self.helpers.iter().all(|helper| helper.asked.is_none()) {
                self.answerer.workplace.tally.retire();
                leave(Leave::Retired);
            }
            self.wait();
        }
    }

    fn free(&self) -> Option<usize> {
        self.helpers
            .iter()
            .position(|helper| helper.asked.is_none())
    }

    /// Waits for a helper, or for a request if there is somebody to give it to.
    fn wait(&mut self) {
        let taker = self.free().filter(|_| self.last.is_none());
        let [a, b, c, d] = &self.helpers;
        let look = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let socket = look(self.answerer.workplace.socket);
        let mut fds = [
            look(a.way()),
            look(b.way()),
            look(c.way()),
            look(d.way()),
            socket,
        ];
        let asked = AT_ONCE + usize::from(taker.is_some());
        // A signal ends it too; word to go is then seen at the socket.
        if poll(&mut fds[..asked], PollTimeout::NONE).is_err() {
            return;
        }
        let ready = fds.map(|fd| fd.any() == Some(true));
        for helper in (0..AT_ONCE).filter(|&helper| ready[helper]) {
            self.hear(helper);
        }
        if let Some(helper) = taker.filter(|_| ready[AT_ONCE]) {
            self.take(helper);
        }
    }

    /// The next request, for a helper that is free.
    fn take(&mut self, helper: usize) {
        let source = match self.last {
            None => self.answerer.workplace.socket,
            Some(_) => self.answerer.own.as_fd(),
        };
        match self.helpers[helper].request.receive(source, Wait::Never) {
            Ok(_) => {
                self.failures = 0;
                self.begin(helper);
            }
            Err(Errno::EAGAIN) if self.last.is_some() => self.last = Some(0),
            // A Unix socket that was made deaf is readable for ever.
            Err(Errno::EAGAIN) if !sockopt::is_read_shut(self.answerer.own.as_fd()) => {}
            Err(Errno::EAGAIN | Errno::ENOTSOCK) => self.last = Some(LAST),
            Err(errno) => {
                self.answerer.failed(errno);
                self.failures += 1;
                rest_after(self.failures);
            }
        }
    }

    fn begin(&mut self, helper: usize) {
        let now = self.answerer.now();
        let helper = &mut self.helpers[helper];
        let request = helper.request.get(0);
        let Some(way) = self.answerer.admit(&request, now) else {
            return;
        };
        let limit = limit(&request);
        match self.commands.named_in(request.bytes) {
            Err(unknown) => helper.answer(unknown, limit, way, &self.answerer),
            Ok(number) if raw::write(helper.way(), &[number]) == Ok(1) => {
                helper.asked = Some((limit, way));
            }
            Ok(_) => leave(Leave::NoHelper),
        }
    }

    /// A helper has something to say, or is gone.
    fn hear(&mut self, helper: usize) {
        let helper = &mut self.helpers[helper];
        match self.said.receive(helper.way.as_fd(), Wait::Never) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => leave(Leave::NoHelper),
            Ok(_) => match (self.said.get(0).bytes, helper.asked) {
                ([_, output @ ..], Some((limit, way))) => {
                    helper.answer(output, limit, way, &self.answerer);
                }
                _ => leave(Leave::NoHelper),
            },
        }
    }
}

/// Lays into `reply` as much of `output` as makes a reply of at most `limit`
/// bytes, and returns the length of it. A cut one ends with a note that says
/// `limit`; where not even that fits, it is the beginning of the note.
fn fit(output: &[u8], limit: usize, reply: &mut [u8; LONGEST_REPLY]) -> usize {
    let limit = limit.min(LONGEST_REPLY);
    if output.len() <= limit {
        reply[..output.len()].copy_from_slice(output);
        return output.len();
    }
    let mut room = [0; NOTE];
    let mut rest = &mut room[..];
    let laid = write!(rest, "\n[cut at {limit} bytes]\n");
    let length = laid.map_or(0, |()| NOTE - rest.len());
    let note = &room[..length];
    match limit.checked_sub(length) {
        Some(kept) => {
            reply[..kept].copy_from_slice(&output[..kept]);
            reply[kept..limit].copy_from_slice(note);
        }
        // The note alone needs no line before it.
        None => reply[..limit].copy_from_slice(&note[1..][..limit]),
    }
    limit
}

/// Starts a helper; what is returned is the way to it, which keeps messages apart.
/// One byte out is a command's number. What comes in is a byte to be ignored, so
/// that no message is empty like an end of file, and the output, of which
/// nothing beyond [`LONGEST_REPLY`] counts.
///
/// # Errors
/// socketpair(2)'s and fork(2)'s.
fn start(commands: &[Allowed], null: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let worker = Pid::this();
    process::fork(|| attend(commands, theirs.as_fd(), null, worker))?;
    Ok(ours)
}

fn attend(commands: &[Allowed], worker: BorrowedFd<'_>, null: BorrowedFd<'_>, parent: Pid) -> ! {
    signal::become_worker();
    process::set_name(process::COMMAND);
    // Rather than to notice it: it may be waiting for a command.
    process::die_with_parent(parent);
    let mut keep = [worker, null];
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    // These become 0, 1 and 2, where nothing that matters may come to lie.
    let _standard = [dup(null), dup(null), dup(null)];
    let mut message = [0; 1 + KEPT];
    while let Some(number) = order(worker) {
        let length = match output(commands, number, null, &mut message[1..]) {
            Ok(length) => length,
            Err(errno) => {
                let text = format!("cannot run it: {}\n", errno_text(errno));
                let length = text.len().min(KEPT);
                message[1..=length].copy_from_slice(&text.as_bytes()[..length]);
                length
            }
        };
        if raw::write(worker, &message[..1 + length]).is_err() {
            break;
        }
    }
    process::exit(0)
}

/// Has the command run, to its end or until `kept` is full. Then its own helper is
/// left alone, and ends it.
fn output(
    commands: &[Allowed],
    number: u8,
    null: BorrowedFd<'_>,
    kept: &mut [u8],
) -> Result<usize, Errno> {
    let own = start_helper(commands, null)?;
    raw::write(own.as_fd(), &[number])?;
    let mut length = 0;
    while length < kept.len() {
        match raw::read(own.as_fd(), &mut kept[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::EINTR) => {}
            // Its own helper ends a command long before this timeout.
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
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

    fn fitted(output: &[u8], limit: usize) -> Vec<u8> {
        let mut reply = [0xff; LONGEST_REPLY];
        let length = fit(output, limit, &mut reply);
        reply[..length].to_vec()
    }

    #[test]
    fn what_fits_is_whole() {
        for length in [0, 1, 100, LONGEST_REPLY] {
            let output = vec![b'x'; length];
            for limit in [length, length + 1, 9000] {
                assert_eq!(fitted(&output, limit), output, "{length} in {limit}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_and_that_is_said() {
        let output = vec![b'x'; LONGEST_REPLY + 1];
        let kept = |n: usize, note: &str| [&output[..n], note.as_bytes()].concat();
        for (limit, expected) in [
            (9000, kept(1211, "\n[cut at 1232 bytes]\n")),
            (1232, kept(1211, "\n[cut at 1232 bytes]\n")),
            (100, kept(80, "\n[cut at 100 bytes]\n")),
            (20, kept(1, "\n[cut at 20 bytes]\n")),
            (19, kept(0, "\n[cut at 19 bytes]\n")),
            (18, kept(0, "[cut at 18 bytes]\n")),
            (17, kept(0, "[cut at 17 bytes]")),
            (5, kept(0, "[cut ")),
            (1, kept(0, "[")),
            (0, vec![]),
        ] {
            let got = fitted(&output, limit);
            assert_eq!(got, expected, "{limit}: {}", got.escape_ascii());
        }
    }

    #[test]
    fn a_reply_never_exceeds_its_limit() {
        let output = vec![b'x'; LONGEST_REPLY + 1];
        for limit in 0..=LONGEST_REPLY {
            assert_eq!(fitted(&output, limit).len(), limit);
        }
    }
}

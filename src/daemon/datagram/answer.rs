//! Whether a datagram is answered, and how: what every datagram worker has, and
//! what it asks about each. Nothing is allocated here: it runs in the sandbox.
//!
//! A Unix socket's answer is sent with this process's rights, and its client's name
//! is looked up from here. So to a path it goes alone, to the very socket that was
//! found to be the sender's (`net::guard`).
//!
//! With `--print` each that is answered is copied to standard output as `[peer] data`,
//! by one write(2).

use std::ffi::CStr;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::access::{Client, Policy};
use crate::addr::Peer;
use crate::daemon::worker::child::{Leave, WorkerContext, leave};
use crate::net::connection::Printer;
use crate::net::guard::{self, Guard, Local, Reason, Tally};
use crate::sys::memory::Buffer;
use crate::sys::mmsg::{Arrived, Asked, Batch, LONGEST, Sender};

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
pub struct Workplace<'a> {
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
pub(super) enum Way {
    /// From the address that was asked.
    Usual,
    /// From no address, if its client takes that.
    Nameless,
}

/// What every datagram worker has, and how it looks at a datagram.
pub(super) struct Answerer<'a> {
    pub context: &'a WorkerContext,
    pub workplace: &'a Workplace<'a>,
    /// The socket, by a descriptor that stays.
    pub own: OwnedFd,
    copy: Option<Print<'a>>,
    /// On a Unix socket.
    aside: Option<Aside>,
}

impl<'a> Answerer<'a> {
    /// Opens what the answers need.
    ///
    /// # Errors
    /// When descriptors or memory are short.
    pub fn new(context: &'a WorkerContext, workplace: &'a Workplace<'a>) -> Result<Self, Errno> {
        let aside = match workplace.guard {
            Guard::Udp(_) => None,
            Guard::Unix(_) => Some(Aside::new()?),
        };
        let own = workplace.socket.try_clone_to_owned();
        Ok(Answerer {
            context,
            workplace,
            own: own.map_err(|_| Errno::EMFILE)?,
            copy: context.printer().map(Print::new).transpose()?,
            aside,
        })
    }

    /// The socket without a name, where there is one.
    pub fn nameless(&self) -> Option<BorrowedFd<'_>> {
        self.aside.as_ref().map(|aside| aside.nameless.as_fd())
    }

    /// The time for [`Answerer::admit`].
    pub fn now(&self) -> u64 {
        match self.workplace.guard {
            Guard::Udp(guard) if !guard.needs_time() => 0,
            _ => nanoseconds(self.workplace.epoch),
        }
    }

    /// Is this one answered, and how? Copies it out if so, counts it as dropped if
    /// not.
    pub fn admit(&mut self, datagram: &Arrived<'_>, now: u64) -> Option<Way> {
        let policy = self.context.access.policy();
        match may_be_answered(
            datagram,
            policy,
            self.workplace.guard,
            self.workplace.address,
            now,
        ) {
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
        match self.workplace.guard {
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
            _ => return batch.echo(i, self.workplace.bound),
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
            Ok(bytes) => self.workplace.tally.answered(1, bytes),
            Err(errno) => self.drop(Reason::not_sent(errno)),
        }
    }

    /// Sends the answers that are queued.
    pub fn send(&self, batch: &mut Batch) {
        let (sent, bytes) =
            batch.send(self.own.as_fd(), |errno| self.drop(Reason::not_sent(errno)));
        self.workplace.tally.answered(sent, bytes);
    }

    /// A receive failed.
    pub fn failed(&self, errno: Errno) {
        match errno {
            Errno::EINTR | Errno::EAGAIN => {}
            _ if is_fatal(errno) => {
                self.workplace.tally.fault(errno);
                leave(Leave::Unusable);
            }
            // Somebody's unreachability, told to us: once each.
            _ => self.drop(Reason::not_sent(errno)),
        }
    }

    fn drop(&self, reason: Reason) {
        if self.workplace.tally.drop(reason) {
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
    guard::socket_of(path, uid)
}

/// Where datagrams are copied to, and memory for one with its prefix.
struct Print<'a> {
    to: Printer<'a>,
    line: Buffer,
}

/// Room for `[peer] `; the longest address has a few dozen bytes.
const PREFIX: usize = 96;

impl<'a> Print<'a> {
    /// Maps that memory, which is untouched until the first copy.
    ///
    /// # Errors
    /// mmap(2)'s.
    fn new(to: Printer<'a>) -> Result<Self, Errno> {
        let line = Buffer::new(PREFIX + LONGEST)?;
        Ok(Print { to, line })
    }

    /// Copies it. What cannot be written there is not worth a client.
    fn print(&mut self, datagram: &Arrived<'_>) {
        let peer = match datagram.from {
            Sender::Inet(address) => Peer::Inet(address),
            Sender::Unix(_) | Sender::Unnamed => Peer::Unix,
        };
        let line = self.line.bytes();
        let room = line.len();
        let mut rest = &mut *line;
        let _ = write!(rest, "[{peer}] ");
        let _ = rest.write_all(datagram.bytes);
        let length = room - rest.len();
        self.to.print(&line[..length]);
    }
}

/// Is this one answered? If not, why.
fn may_be_answered(
    datagram: &Arrived<'_>,
    policy: &Policy,
    guard: &Guard,
    own: Option<IpAddr>,
    now: u64,
) -> Result<(), Reason> {
    if datagram.cut {
        return Err(Reason::TooLarge);
    }
    let local = datagram.to.map(|to| local(to, own));
    match (datagram.from, guard) {
        (Sender::Unnamed, _) => Err(Reason::Unnamed),
        // Before the guard: who is refused uses none of the rates.
        (Sender::Inet(from), _) if policy.rules.check(Client::inet(from.ip())).is_err() => {
            Err(Reason::Refused)
        }
        (Sender::Inet(from), Guard::Udp(guard)) => guard.check(from, local, datagram.bytes, now),
        (Sender::Unix(_), Guard::Unix(guard)) => guard.check(datagram.name),
        _ => Err(Reason::Source),
    }
}

/// Where it was sent to. Of an IPv4 datagram that was queued before the socket was
/// handed to us, Linux has noted the address and no more (IP_PKTINFO was off:
/// ip(7)). If the socket is bound to that, there is nothing else it can be.
fn local(to: Asked, own: Option<IpAddr>) -> Local {
    let unnoted = to.interface == 0 && own == Some(to.address);
    Local {
        unicast: to.unicast || unnoted && !is_for_many(to.address),
        loopback: to.interface == LOOPBACK || unnoted && to.address.is_loopback(),
    }
}

/// As far as an address alone tells it: a network's broadcast it does not.
fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || address == Ipv4Addr::BROADCAST
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

/// Receiving failed so often in a row: a pause after each.
pub(super) fn rest_after(failures: u32) {
    if failures > TOLERATED {
        let _ = poll(&mut [], PollTimeout::from(PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_was_sent_to_is_noted_or_the_only_address() {
        let to = |address: &str, unicast, interface| Asked {
            address: address.parse().unwrap(),
            unicast,
            interface,
        };
        for (to, own, unicast, loopback) in [
            // noted by the kernel
            (to("127.0.0.1", true, 1), None, true, true),
            (to("192.0.2.7", true, 2), Some("192.0.2.7"), true, false),
            (to("192.0.2.255", false, 2), None, false, false),
            (
                to("192.0.2.255", false, 2),
                Some("192.0.2.255"),
                false,
                false,
            ),
            // queued before: by what the socket is bound to
            (to("127.0.0.1", false, 0), Some("127.0.0.1"), true, true),
            (to("192.0.2.7", false, 0), Some("192.0.2.7"), true, false),
            (to("192.0.2.7", false, 0), None, false, false),
            (to("192.0.2.255", false, 0), Some("192.0.2.7"), false, false),
            (
                to("255.255.255.255", false, 0),
                Some("255.255.255.255"),
                false,
                false,
            ),
            (to("224.0.0.1", false, 0), Some("224.0.0.1"), false, false),
        ] {
            let own = own.map(|own| own.parse().unwrap());
            let expected = Local { unicast, loopback };
            assert_eq!(local(to, own), expected, "{to:?} {own:?}");
        }
    }
}

//! What keeps a datagram echo from being a weapon: which datagrams are answered, why the
//! others are not ([`Reason`]), and how many there were of each ([`Tally`]). A
//! [`UdpGuard`] decides it where a source can be forged, a [`UnixGuard`] where a name may
//! mean another socket, and both by what has been answered before.
//!
//! What is counted lives in tables of fixed size, in memory that outlives a worker:
//! killing one does not refill a bucket. Which entries a network or a datagram falls on
//! depends on a secret, so nobody can aim at another's. Knows no clock, the caller says
//! what time it is, in nanoseconds; and of all this only [`socket_of`] makes a system
//! call.

use std::ffi::CStr;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed};

use nix::errno::Errno;

use crate::access::Pace;
use crate::config::UdpLimits;
use crate::sys::fd;
use crate::sys::memory::{Line, Shared};

/// Who is answered, as it is decided at a socket of either kind.
pub enum Guard {
    /// Anybody may have forged the sender.
    Udp(UdpGuard),
    /// A name may mean another socket here than where it comes from.
    Unix(UnixGuard),
}

// UDP. A source can be forged, so an answer may hit anybody: another echo server,
// with which it would go on for ever, or a victim (CERT CA-1996-01, VU#417980).
// Ports of such services are refused; each network and all of them together get
// so many answers and no more. An endless exchange carries a constant number of
// datagrams, so the first one that is dropped ends it: by a rate if it is fast,
// and however slow it is because it repeats what was answered, of which one in
// `UDP_EVERY` is withheld.
//
// This machine's own clients, which come by the loopback interface, have no rate,
// unless they repeat what they were answered last.

/// Lines of the table, four entries each: 128 KiB.
const LINES: usize = 2048;
/// How much more than a second's worth may come at once.
const BURST: u64 = 2;
/// Lines with what was last answered, eight addresses and ports each: 64 KiB.
const LAST_LINES: usize = 1024;
/// Of datagrams that are all the same, one in so many is not answered: that ends a
/// loop, and a client sends again.
const UDP_EVERY: u64 = 256;
/// After so many of them none is, for [`PAUSE`]: should several of the same go
/// round together, they all end.
const LONG_RUN: u64 = 4 * UDP_EVERY;
/// How long, in milliseconds.
const PAUSE: u64 = 1000;

/// Where a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// An address of this machine, not of many.
    pub unicast: bool,
    /// It came by the loopback interface.
    pub loopback: bool,
}

/// The guard of one UDP socket.
pub struct UdpGuard {
    rate: Option<Pace>,
    global: Option<Pace>,
    refused: Vec<(u16, u16)>,
    table: Shared,
    secret: RandomState,
    /// Where addresses and ports fall on, what was last answered there.
    last: Shared,
    repeats: Repeats,
}

impl UdpGuard {
    /// A guard that has let nothing pass yet. `own_ports` are refused beside the
    /// listed ones: two of our sockets must not talk to each other.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(limits: &UdpLimits, own_ports: &[u16]) -> Result<Self, Errno> {
        let mut refused = Vec::new();
        if let Some(ports) = &limits.refuse_ports {
            refused.extend_from_slice(&ports.0);
            refused.extend(own_ports.iter().map(|&port| (port, port)));
        }
        Ok(UdpGuard {
            rate: limits.rate.map(|rate| Pace::new(rate, BURST)),
            global: limits.global_rate.map(|rate| Pace::new(rate, BURST)),
            refused,
            table: Shared::apart(1 + LINES)?,
            secret: RandomState::new(),
            last: Shared::apart(LAST_LINES)?,
            repeats: Repeats::new()?,
        })
    }

    /// Do children that are forked from now on share what it counts? Those of other
    /// sockets, and of streams, have no business with it.
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.table.inherited(whether)?;
        self.last.inherited(whether)?;
        self.repeats.inherited(whether)
    }

    /// Does any answer depend on the time?
    pub fn needs_time(&self) -> bool {
        self.rate.is_some() || self.global.is_some()
    }

    /// Whether a datagram is answered; if so, it is counted. `now` is in
    /// nanoseconds since any moment that stays the same.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        from: SocketAddr,
        to: Option<Local>,
        bytes: &[u8],
        now: u64,
    ) -> Result<(), Reason> {
        let to = to
            .filter(|local| local.unicast)
            .ok_or(Reason::Destination)?;
        if !answerable(from.ip(), to.loopback) {
            return Err(Reason::Source);
        }
        let port = from.port();
        if self.refused.iter().any(|&(a, z)| (a..=z).contains(&port)) {
            return Err(Reason::SourcePort);
        }
        let Some(pace) = self.rate else {
            return self.spend_global(now);
        };
        let tag = self.repeats.tag((from.ip(), port), bytes);
        let last = self.last(from);
        self.withhold(tag, now)?;
        let exempt = to.loopback && last.load(Relaxed) != tag;
        let spent = match exempt {
            true => None,
            false => {
                let entry = self.entry(from.ip(), now);
                let next = pace.admit(entry.load(Relaxed), now);
                Some((entry, next.ok_or(Reason::Rate)?))
            }
        };
        // After the source's own: a flood from one network must not use up what
        // belongs to all.
        self.spend_global(now)?;
        if let Some((entry, next)) = spent {
            entry.store(next, Relaxed);
        }
        last.store(tag, Relaxed);
        self.repeats.count(tag, now);
        Ok(())
    }

    fn spend_global(&self, now: u64) -> Result<(), Reason> {
        if let Some(pace) = self.global {
            let all = &self.table[0].0[0];
            let next = pace.admit(all.load(Relaxed), now);
            all.store(next.ok_or(Reason::GlobalRate)?, Relaxed);
        }
        Ok(())
    }

    /// Does it repeat so often what was answered that it may be in a loop?
    fn withhold(&self, tag: u64, now: u64) -> Result<(), Reason> {
        let seen = self.repeats.look(tag, now);
        match seen.times {
            0 => Ok(()),
            n if n % LONG_RUN == 0 && seen.ago < PAUSE => Err(Reason::Repeat),
            n if (n + 1) % UDP_EVERY == 0 => {
                self.repeats.count(tag, now);
                Err(Reason::Repeat)
            }
            _ => Ok(()),
        }
    }

    /// What was last answered to this address and port. Whoever else falls on the
    /// same word forgets it, and is forgotten.
    fn last(&self, to: SocketAddr) -> &AtomicU64 {
        let hash = self.secret.hash_one((to.ip(), to.port())) as usize;
        &self.last[hash / 8 % LAST_LINES].0[hash % 8]
    }

    /// The entry of a source's network. A new network takes the entry that is
    /// due first, and keeps its time: an idle entry says nothing, and a busy one
    /// is shared rather than forgotten, so a flood of forged sources gets no
    /// more than the table holds.
    fn entry(&self, source: IpAddr, now: u64) -> &AtomicU64 {
        let tag = self.secret.hash_one(network(source));
        let line: &Line = &self.table[1 + tag as usize % LINES];
        let mut first = 0;
        for n in 0..4 {
            if line.0[2 * n].load(Relaxed) == tag {
                return &line.0[2 * n + 1];
            }
            let due = |n: usize| line.0[2 * n + 1].load(Relaxed).max(now);
            if due(n) < due(first) {
                first = n;
            }
        }
        line.0[2 * first].store(tag, Relaxed);
        &line.0[2 * first + 1]
    }
}

/// A /24 or a /56: what one customer commonly has.
fn network(source: IpAddr) -> (bool, u64) {
    match source {
        IpAddr::V4(ip) => (false, u64::from(ip.to_bits() >> 8)),
        IpAddr::V6(ip) => (true, (ip.to_bits() >> 72) as u64),
    }
}

/// Can a client be there? Loopback addresses only if it came that way.
fn answerable(source: IpAddr, loopback: bool) -> bool {
    match source {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            first != 0 && first < 224 && (loopback || !ip.is_loopback())
        }
        IpAddr::V6(Ipv6Addr::LOCALHOST) => loopback,
        IpAddr::V6(ip) => !ip.is_multicast() && !embeds_v4(ip),
    }
}

/// `::a.b.c.d`, which `::` is too, or `::ffff:a.b.c.d`: neither is seen on a
/// wire, RFC 4291.
fn embeds_v4(ip: Ipv6Addr) -> bool {
    ip.to_bits() >> 32 == 0 || ip.to_ipv4_mapped().is_some()
}

// Unix sockets. Nobody can forge the name of one, but a name may mean another socket
// here than where it was bound: a path from another directory, mount namespace or
// through a link that has changed since, an abstract name from another network
// namespace. So an answer could go to whom the sender may not write to, or to a
// server that answers it, and so on for ever. A name that is one of our own, or a
// relative path, is not answered at all; whose file a path is `socket_of` looks
// up; and one answer in `UNIX_EVERY` to the same again leaves from a socket without
// a name, which no server can answer. To whoever connected to us, alone of all, the
// kernel refuses that one, and its answers have our name each time.

/// Of answers to the same bytes from the same name, one in so many has no name.
const UNIX_EVERY: u64 = 8;

/// The guard of one Unix socket.
pub struct UnixGuard {
    own: Vec<Vec<u8>>,
    repeats: Repeats,
}

impl UnixGuard {
    /// `own` are the names of all our sockets, as the kernel tells them: none may
    /// be answered.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(own: &[Vec<u8>]) -> Result<Self, Errno> {
        Ok(UnixGuard {
            own: own.to_vec(),
            repeats: Repeats::new()?,
        })
    }

    /// See [`Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.repeats.inherited(whether)
    }

    /// Whether a sender of this name is answered, as far as the name tells.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &[u8]) -> Result<(), Reason> {
        match name {
            _ if self.own.iter().any(|own| own == name) => Err(Reason::Own),
            [b'/' | 0, ..] => Ok(()),
            _ => Err(Reason::NotTheirs),
        }
    }

    /// Is this answer one without a name? Counts it; `now` is in nanoseconds.
    pub fn is_nameless(&self, name: &[u8], bytes: &[u8], now: u64) -> bool {
        let tag = self.repeats.tag(name, bytes);
        let times = self.repeats.look(tag, now).times;
        self.repeats.count(tag, now);
        (times + 1).is_multiple_of(UNIX_EVERY)
    }
}

/// The socket at this path, held, if the user `uid` may be taken to be at home
/// there: it is theirs, or they are root.
///
/// # Errors
/// Why it is not answered.
pub fn socket_of(path: &CStr, uid: Option<u32>) -> Result<OwnedFd, Reason> {
    let found = fd::locate(path).map_err(Reason::not_sent)?;
    let (is_socket, owner) = fd::kind_and_owner(&found).map_err(Reason::not_sent)?;
    match uid {
        Some(uid) if is_socket && (uid == owner || uid == 0) => Ok(found),
        _ => Err(Reason::NotTheirs),
    }
}

// What has been answered before, by whom it came from and all its bytes: what an
// exchange without end is made of, since an echo changes nothing.
//
// Where two services answer each other, each of their datagrams comes back as it
// was sent, as long as both live. Clients send the same again too, so to be a
// repeat is no proof: `Repeats` counts, and the guards say what a number means. What
// is new takes the place of what has been seen once, or long ago, so a flood does not
// hide a loop.

/// Lines of the table, four entries each: 256 KiB.
const REPEAT_LINES: usize = 4096;
/// After this long, in milliseconds, what comes again is new: whatever goes round
/// as slowly hurts nobody.
const WINDOW: u64 = 10_000;
/// An entry's second word: when it came last, and below that how often.
const COUNT_BITS: u32 = 24;
const MOST: u64 = (1 << COUNT_BITS) - 1;

/// What has been answered before.
struct Repeats {
    table: Shared,
    secret: RandomState,
}

/// One datagram's count, not yet changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// How often it came before, each time soon after the time before.
    pub times: u64,
    /// Milliseconds since the last time, if there was one.
    pub ago: u64,
}

impl Repeats {
    /// Nothing was seen yet.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        Ok(Repeats {
            table: Shared::apart(REPEAT_LINES)?,
            secret: RandomState::new(),
        })
    }

    /// See [`Shared::inherited`].
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.table.inherited(whether)
    }

    /// What these bytes from there are known by here. Never 0.
    pub fn tag(&self, from: impl Hash, bytes: &[u8]) -> u64 {
        self.secret.hash_one((from, bytes)) | 1
    }

    /// How often it came.
    pub fn look(&self, tag: u64, now: u64) -> Seen {
        let line = self.line(tag);
        let here = (0..4).find(|&n| tag_of(line, n) == tag);
        here.map_or(NEVER, |n| seen(line, n, now))
    }

    /// It came once more.
    pub fn count(&self, tag: u64, now: u64) {
        let line = self.line(tag);
        let worth = |&n: &usize| match (tag_of(line, n) == tag, seen(line, n, now)) {
            (true, _) => (0, 0),
            (_, NEVER) => (1, 0),
            (_, Seen { times: 1, ago }) => (2, u64::MAX - ago),
            (_, Seen { ago, .. }) => (3, u64::MAX - ago),
        };
        let n = (0..4).min_by_key(worth).unwrap_or(0);
        let times = match tag_of(line, n) == tag {
            true => seen(line, n, now).times,
            false => 0,
        };
        line.0[2 * n].store(tag, Relaxed);
        let word = (now / NS) << COUNT_BITS | (times + 1).min(MOST);
        line.0[2 * n + 1].store(word, Relaxed);
    }

    fn line(&self, tag: u64) -> &Line {
        // Not by the lowest bit, which is always set.
        &self.table[(tag >> 1) as usize % REPEAT_LINES]
    }
}

/// Nanoseconds in a millisecond.
const NS: u64 = 1_000_000;

const NEVER: Seen = Seen { times: 0, ago: 0 };

fn tag_of(line: &Line, n: usize) -> u64 {
    line.0[2 * n].load(Relaxed)
}

/// A time that is still to come, which nobody here has written, counts as none.
fn seen(line: &Line, n: usize, now: u64) -> Seen {
    let word = line.0[2 * n + 1].load(Relaxed);
    match (now / NS).checked_sub(word >> COUNT_BITS) {
        Some(ago @ ..=WINDOW) if word & MOST > 0 => Seen {
            times: word & MOST,
            ago,
        },
        _ => NEVER,
    }
}

// Why a datagram is not answered: the reasons, what each is called in the log, which of
// them an errno of sendmsg(2) is, and how many there were of each.

/// Why a datagram, or the reply to it, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// Its source prefix sends too much.
    Rate,
    /// All of them together do.
    GlobalRate,
    /// It repeats so often what was answered that it may be in a loop.
    Repeat,
    /// It comes from a port that another service would answer from.
    SourcePort,
    /// It comes from an address that no client can have.
    Source,
    /// It was sent to more than one machine.
    Destination,
    /// `--allow` and `--deny` refuse its source.
    Refused,
    /// It does not fit our buffer.
    TooLarge,
    /// Its sender has no name to answer to.
    Unnamed,
    /// It comes from one of our own Unix sockets: an answer of ours.
    Own,
    /// Where the answer would go, as far as can be seen from here, is no socket of
    /// its sender's.
    NotTheirs,
    /// The reply found a queue full or memory short.
    Full,
    /// A filter or permissions forbid the reply.
    Denied,
    /// There is nobody, or no way, where the reply should go.
    Unreachable,
    /// The reply does not fit the way.
    ReplyTooLarge,
    /// The reply failed in an unforeseen way.
    Failed,
}

/// Every reason, in the order of its number.
pub const REASONS: [Reason; 16] = [
    Reason::Rate,
    Reason::GlobalRate,
    Reason::Repeat,
    Reason::SourcePort,
    Reason::Source,
    Reason::Destination,
    Reason::Refused,
    Reason::TooLarge,
    Reason::Unnamed,
    Reason::Own,
    Reason::NotTheirs,
    Reason::Full,
    Reason::Denied,
    Reason::Unreachable,
    Reason::ReplyTooLarge,
    Reason::Failed,
];

impl Reason {
    /// What the failure to send a reply means.
    pub fn not_sent(errno: Errno) -> Reason {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Reason::Full,
            Errno::EPERM | Errno::EACCES => Reason::Denied,
            Errno::ECONNREFUSED
            | Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::EPIPE
            | Errno::ENOTCONN
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::EADDRNOTAVAIL => Reason::Unreachable,
            Errno::EMSGSIZE => Reason::ReplyTooLarge,
            _ => Reason::Failed,
        }
    }

    /// The option that drops it, or what it is, for the log.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rate => "--udp-rate",
            Reason::GlobalRate => "--udp-global-rate",
            Reason::Repeat => "repeats, --udp-rate",
            Reason::SourcePort => "--udp-refuse-port",
            Reason::Source => "impossible source",
            Reason::Destination => "broadcast or multicast",
            Reason::Refused => "--allow and --deny",
            Reason::TooLarge => "too large",
            Reason::Unnamed => "unnamed sender",
            Reason::Own => "our own answers",
            Reason::NotTheirs => "not the sender's socket",
            Reason::Full => "no room for the reply",
            Reason::Denied => "reply denied",
            Reason::Unreachable => "sender unreachable",
            Reason::ReplyTooLarge => "reply too large for the way",
            Reason::Failed => "reply failed",
        }
    }

    /// What is said when it begins.
    pub fn explain(self) -> &'static str {
        match self {
            Reason::Rate => "a network sends more than --udp-rate: the excess is dropped",
            Reason::GlobalRate => "more comes than --udp-global-rate: the excess is dropped",
            Reason::Repeat => {
                "the same comes from the same port again and again, as in a loop: \
                 with --udp-rate one in 256 is dropped"
            }
            Reason::SourcePort => {
                "datagrams from a port that --udp-refuse-port names, or one of our own: dropped"
            }
            Reason::Source => "datagrams from an address that no client can have: dropped",
            Reason::Destination => "datagrams to a broadcast or multicast address: dropped",
            Reason::Refused => "datagrams from a source that --allow and --deny refuse: dropped",
            Reason::TooLarge => "datagrams of more than 65536 bytes: dropped whole",
            Reason::Unnamed => "datagrams from sockets without a name to answer to: dropped",
            Reason::Own => "answers of our own were sent back to us: dropped",
            Reason::NotTheirs => {
                "datagrams from a relative path, or from one that is no socket of the \
                 sender's here: dropped"
            }
            Reason::Full => "queues are full or memory is short: replies are dropped",
            Reason::Denied => "a filter or permissions forbid replies: dropped",
            Reason::Unreachable => "replies find nobody, or no way: dropped",
            Reason::ReplyTooLarge => "replies do not fit the way (EMSGSIZE): dropped",
            Reason::Failed => "replies cannot be sent: dropped",
        }
    }
}

const ANSWERED: usize = 0;
const BYTES: usize = 1;
const SAID: usize = 2;
const FAULT: usize = 3;
const RETIRED: usize = 4;
/// The reasons have the lines after the first.
const FIRST_REASON: usize = 1;

/// The counts of one socket, in memory that its workers share with the supervisor: how
/// many datagrams they answered, and how many they dropped and why.
///
/// As in the scoreboard, to the supervisor it is gossip: numbers for the log. The
/// counts of a socket go on from one worker to the next, and for a moment at a
/// reload two of them count, so each count is one indivisible addition.
pub struct Tally(Shared);

impl Tally {
    /// All zero.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        let lines = REASONS.len().div_ceil(8);
        Ok(Tally(Shared::apart(FIRST_REASON + lines)?))
    }

    /// See [`Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.0.inherited(whether)
    }

    /// Worker: so many were answered, with so many bytes.
    pub fn answered(&self, datagrams: u64, bytes: u64) {
        self.word(ANSWERED).fetch_add(datagrams, Ordering::Relaxed);
        self.word(BYTES).fetch_add(bytes, Ordering::Relaxed);
    }

    /// Worker: one was dropped. True for the first since [`Tally::listen`]: the
    /// supervisor wants to know.
    pub fn drop(&self, reason: Reason) -> bool {
        // Counted, then looked; the supervisor clears, then counts: whichever
        // comes first, one of the two sees the other (hence SeqCst).
        self.count(reason).fetch_add(1, Ordering::SeqCst);
        let said = self.word(SAID);
        said.load(Ordering::SeqCst) & bit(reason) == 0
            && said.fetch_or(bit(reason), Ordering::SeqCst) & bit(reason) == 0
    }

    /// Worker: receiving fails for good.
    pub fn fault(&self, errno: Errno) {
        self.word(FAULT).store(errno as u64, Ordering::Relaxed);
    }

    /// Worker: it has answered what was queued, as it was told, and leaves.
    pub fn retire(&self) {
        self.word(RETIRED).store(1, Ordering::Relaxed);
    }

    /// Supervisor: has one said so, since this was last asked?
    pub fn take_retired(&self) -> bool {
        self.word(RETIRED).swap(0, Ordering::Relaxed) != 0
    }

    /// Supervisor: wants to be told of the next one that is dropped for this
    /// reason. Look at [`Tally::dropped`] after this.
    pub fn listen(&self, reason: Reason) {
        self.word(SAID).fetch_and(!bit(reason), Ordering::SeqCst);
    }

    /// Supervisor: how many were dropped for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.count(reason).load(Ordering::SeqCst)
    }

    /// Supervisor: how many were answered, and their bytes.
    pub fn total(&self) -> (u64, u64) {
        let word = |i| self.word(i).load(Ordering::Relaxed);
        (word(ANSWERED), word(BYTES))
    }

    /// Supervisor: why a worker gave up.
    pub fn why(&self) -> Errno {
        Errno::from_raw(self.word(FAULT).load(Ordering::Relaxed) as i32)
    }

    fn word(&self, i: usize) -> &AtomicU64 {
        &self.0[0].0[i]
    }

    fn count(&self, reason: Reason) -> &AtomicU64 {
        let i = reason as usize;
        &self.0[FIRST_REASON + i / 8].0[i % 8]
    }
}

fn bit(reason: Reason) -> u64 {
    1 << reason as usize
}

#[cfg(test)]
mod tests;

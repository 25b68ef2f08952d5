//! What keeps a UDP echo from being a weapon: which datagrams are answered.
//!
//! A source can be forged, so an answer may hit anybody: another echo server,
//! with which it would go on for ever, or a victim (CERT CA-1996-01, VU#417980).
//! Ports of such services are refused; each network and all of them together get
//! so many answers and no more. An endless exchange carries a constant number of
//! datagrams, so the first one that is dropped ends it: by a rate if it is fast,
//! and however slow it is because it repeats what was answered, of which one in
//! [`EVERY`] is withheld.
//!
//! This machine's own clients, which come by the loopback interface, have no rate,
//! unless they repeat what they were answered last.
//!
//! The rates live in one table of fixed size, in memory that outlives a worker:
//! killing one does not refill a bucket. Which entries a network falls on
//! depends on a secret, so nobody can aim at another's. Knows no clock and makes
//! no system call: the caller says what time it is.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use crate::access::Pace;
use crate::config::UdpLimits;
use crate::net::drops::Reason;
use crate::net::repeats::Repeats;
use crate::sys::memory::{Line, Shared};

/// Lines of the table, four entries each: 128 KiB.
const LINES: usize = 2048;
/// How much more than a second's worth may come at once.
const BURST: u64 = 2;
/// Lines with what was last answered, eight addresses and ports each: 64 KiB.
const LAST_LINES: usize = 1024;
/// Of datagrams that are all the same, one in so many is not answered: that ends a
/// loop, and a client sends again.
pub const EVERY: u64 = 256;
/// After so many of them none is, for [`PAUSE`]: should several of the same go
/// round together, they all end.
const LONG_RUN: u64 = 4 * EVERY;
/// How long, in milliseconds.
pub const PAUSE: u64 = 1000;

/// Where a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// An address of this machine, not of many.
    pub unicast: bool,
    /// It came by the loopback interface.
    pub loopback: bool,
}

/// The guard of one UDP socket.
pub struct Guard {
    rate: Option<Pace>,
    global: Option<Pace>,
    refused: Vec<(u16, u16)>,
    table: Shared,
    secret: RandomState,
    /// Where addresses and ports fall on, what was last answered there.
    last: Shared,
    repeats: Repeats,
}

impl Guard {
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
        Ok(Guard {
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
            n if (n + 1) % EVERY == 0 => {
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

#[cfg(test)]
mod tests;

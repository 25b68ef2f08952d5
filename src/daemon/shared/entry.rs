//! An entry: what a process says of one connection, in the words of a line that
//! the scoreboard and the seats have alike. One writer, and gossip to its reader.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::Peer;
use crate::net::connection::{End, Meter};

/// The words of a line.
pub type Words = [AtomicU64; 8];

/// What its writer does; how it is counted is for each board to say.
pub(super) const STATE: usize = 0;
const END: usize = 1;
const RECEIVED: usize = 2;
const SENT: usize = 3;
const ADDR_HIGH: usize = 4;
const ADDR_LOW: usize = 5;
const WHERE: usize = 6;
/// A word that each board has for itself.
pub(super) const OWN: usize = 7;

/// What a child says of the connection it serves, or served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where its client came from.
    pub peer: Peer,
    /// By which listener.
    pub listener: usize,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// How it ended; `None` if the child did not live to say.
    pub end: Option<End>,
    /// Who serves it: for the log, where the kernel does not tell us.
    pub pid: u64,
}

/// See the module.
#[derive(Clone, Copy)]
pub struct Entry<'a>(&'a Words);

impl<'a> Entry<'a> {
    /// In the words of this line.
    pub fn new(line: &'a Words) -> Self {
        Entry(line)
    }

    /// A connection of `peer` by this listener begins. The state is the caller's to
    /// store, after this and with release ordering.
    pub fn begin(&self, peer: Peer, listener: usize) {
        let (high, low, port) = pack(peer);
        let words = [
            (RECEIVED, 0),
            (SENT, 0),
            (END, 0),
            (ADDR_HIGH, high),
            (ADDR_LOW, low),
            (WHERE, (listener as u64) << 32 | port),
        ];
        for (word, value) in words {
            self.0[word].store(value, Ordering::Relaxed);
        }
    }

    /// How the connection ended.
    pub fn end(&self, end: End) {
        self.0[END].store(end.encode(), Ordering::Relaxed);
    }

    /// The counters, for the one writer.
    pub fn meter(&self) -> Meter<'a> {
        Meter {
            received: &self.0[RECEIVED],
            sent: &self.0[SENT],
        }
    }

    /// What is said there; nothing of a pid.
    pub fn report(&self) -> Report {
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        Report {
            peer: unpack(word(ADDR_HIGH), word(ADDR_LOW), word(WHERE) & 0xffff_ffff),
            listener: (word(WHERE) >> 32) as usize,
            received: word(RECEIVED),
            sent: word(SENT),
            end: End::decode(word(END)),
            pid: 0,
        }
    }
}

/// Address as an IPv6 number, port and family: bit 16 of the last for IPv4,
/// bit 17 for IPv6, neither for Unix.
pub(in crate::daemon) fn pack(peer: Peer) -> (u64, u64, u64) {
    let Peer::Inet(addr) = peer else {
        return (0, 0, 0);
    };
    let (ip, family) = match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 1 << 16),
        IpAddr::V6(ip) => (ip, 1 << 17),
    };
    let bits = ip.to_bits();
    (
        (bits >> 64) as u64,
        bits as u64,
        u64::from(addr.port()) | family,
    )
}

pub(in crate::daemon) fn unpack(high: u64, low: u64, port: u64) -> Peer {
    let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    let ip = match port >> 16 {
        1 => IpAddr::V4(
            ip.to_ipv4_mapped()
                .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
        ),
        2 => IpAddr::V6(ip),
        _ => return Peer::Unix,
    };
    Peer::Inet(SocketAddr::new(ip, port as u16))
}

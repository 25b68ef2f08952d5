//! Listen queues that are full: the kernel drops who comes then, and the client's
//! kernel tries again after a second. No process is told, so the supervisor looks,
//! whenever it is awake anyway.
//!
//! What the kernel has dropped of a listener ([`Listener::dropped`]) says too little:
//! a probe that answers the handshake with a reset, or a stray segment, counts like a
//! client without room. Attempts that met a full queue have a counter, of all
//! listeners in a network namespace together (ListenOverflows, netstat in
//! proc_net(5)). So both must have gone up, and this queue must be full when that is
//! seen, or have been at the look before; where there is no such counter to be read, at
//! both.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::daemon::shared::backoff::Episode;
use crate::net::Listener;
use crate::sys::sockopt;
use crate::values::{self, plural};

/// From one look to the next, at least, while there are places.
const REST: Duration = Duration::from_millis(5);
/// How often the counter is read when there is no need, so that a difference is of about
/// now.
const FRESH: Duration = Duration::from_secs(1);

/// What was seen of the queues of all listeners.
#[derive(Default)]
pub(crate) struct Overflows {
    queues: Vec<Queue>,
    counter: Option<Counter>,
    looked: Option<Instant>,
}

/// The queues of one address; several where sockets share it.
struct Queue {
    name: String,
    sockets: Vec<Socket>,
    /// Is the counter about these, and not about another namespace?
    counted: bool,
    /// Attempts that were dropped.
    lost: Episode,
}

/// One of them, as it was at the last look.
struct Socket {
    listener: usize,
    dropped: u32,
    full: bool,
}

/// What the kernel dropped of a queue from one look to the next, for whatever reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    /// If it was full at one of them.
    some: u64,
    /// If it was full at both.
    all: u64,
}

impl Dropped {
    /// How many of these were clients who found no room: `overflowed` is how many
    /// attempts met any full queue, if that is known.
    fn lost(self, overflowed: Option<u64>) -> u64 {
        overflowed.map_or(self.all, |overflowed| self.some.min(overflowed))
    }
}

/// The counter of the namespace: opened before chroot(2), after which there may be
/// no /proc.
struct Counter {
    file: File,
    /// What it was before an earlier look: what has come since then may be what that one
    /// has found, or a later one.
    seen: u64,
    read: Instant,
}

impl Overflows {
    /// What was dropped until now is no news.
    pub(crate) fn new(listeners: &[Listener]) -> Self {
        let mut queues: Vec<Queue> = Vec::new();
        for (i, listener) in listeners.iter().enumerate().filter(|(_, l)| l.is_tcp()) {
            let socket = Socket {
                listener: i,
                dropped: listener.dropped(),
                full: false,
            };
            match queues.iter_mut().find(|q| q.name == listener.name()) {
                Some(queue) => queue.sockets.push(socket),
                None => queues.push(Queue {
                    name: listener.name().to_owned(),
                    sockets: vec![socket],
                    counted: is_of_this_namespace(listener),
                    lost: Episode::default(),
                }),
            }
        }
        let counter = match queues.iter().any(|queue| queue.counted) {
            true => Counter::open(),
            false => None,
        };
        Overflows {
            queues,
            counter,
            looked: None,
        }
    }

    /// Looks, if it is time to, or if there may be no places, and so no room but by the
    /// next client that is accepted; one line when a queue loses clients, and one
    /// when it has had room for a while.
    pub(super) fn look(&mut self, listeners: &[Option<Listener>], no_places: bool, now: Instant) {
        if no_places || self.looked.is_none_or(|at| now >= at + REST) {
            self.looked = Some(now);
            // Before the queues are looked at: an attempt that is dropped meanwhile is
            // then in what comes after this.
            let before = self.counter.as_ref().and_then(|c| c.before(now));
            let mut overflowed = None;
            for queue in &mut self.queues {
                let dropped = queue.look(listeners, now);
                if dropped == Dropped::default() {
                    continue;
                }
                let counter = self.counter.as_ref().filter(|_| queue.counted);
                let counted = counter.map(|c| *overflowed.get_or_insert_with(|| c.news()));
                queue.lose(dropped.lost(counted), now);
            }
            if let (Some(counter), Some(before)) = (&mut self.counter, before) {
                (counter.seen, counter.read) = (before, now);
            }
        }
        for queue in &mut self.queues {
            queue.end(now);
        }
    }

    /// When an episode may be over.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let ends = self.queues.iter().filter_map(|q| q.lost.wakes_at());
        ends.min()
    }
}

impl Queue {
    fn look(&mut self, listeners: &[Option<Listener>], now: Instant) -> Dropped {
        let mut found = Dropped::default();
        for socket in &mut self.sockets {
            let Some(listener) = &listeners[socket.listener] else {
                continue;
            };
            // A counter of 32 bits that goes round.
            let dropped = listener.dropped().wrapping_sub(socket.dropped);
            socket.dropped = socket.dropped.wrapping_add(dropped);
            let was_full = std::mem::replace(&mut socket.full, listener.queue().is_full());
            if socket.full || was_full {
                found.some += u64::from(dropped);
            }
            if socket.full && was_full {
                found.all += u64::from(dropped);
            }
            if socket.full {
                // Who tries again may do so after more than an episode's quiet.
                self.lost.lasts(now);
            }
        }
        found
    }

    fn lose(&mut self, lost: u64, now: Instant) {
        if lost > 0 && self.lost.add(lost, now) {
            warn!(
                listener = self.name.as_str(), reason = "--backlog";
                "queue of {} is full: the kernel drops who comes, and clients try again \
                 after a second: see --backlog and net.core.somaxconn",
                self.name
            );
        }
    }

    fn end(&mut self, now: Instant) {
        if let Some((lost, lasted)) = self.lost.end(now) {
            let were = if lost == 1 { "was" } else { "were" };
            let attempts = plural(lost, "attempt");
            info!(
                listener = self.name.as_str(), reason = "--backlog", count = lost,
                dur_s = lasted.as_secs_f64();
                "queue of {} has room again: {attempts} {were} dropped in {}",
                self.name,
                values::show(lasted)
            );
        }
    }
}

impl Counter {
    fn open() -> Option<Counter> {
        // By the name of the process: the counters of its namespace, for good.
        let file = File::open("/proc/self/net/netstat").ok()?;
        let seen = read(&file)?;
        Some(Counter {
            file,
            seen,
            read: Instant::now(),
        })
    }

    /// What it is, if what is known of it has become old.
    fn before(&self, now: Instant) -> Option<u64> {
        let old = now >= self.read + FRESH;
        old.then(|| read(&self.file)).flatten()
    }

    /// How many have come since then.
    fn news(&self) -> u64 {
        read(&self.file).map_or(0, |count| count.saturating_sub(self.seen))
    }
}

fn read(file: &File) -> Option<u64> {
    let mut text = vec![0; 16 << 10];
    let mut have = 0;
    while have < text.len() {
        match file.read_at(&mut text[have..], have as u64).ok()? {
            0 => break,
            n => have += n,
        }
    }
    listen_overflows(std::str::from_utf8(&text[..have]).ok()?)
}

/// The counter in the text of netstat: a line of names, and one of numbers below it.
fn listen_overflows(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?.split(' '), lines.next()?.split(' '));
    let mut both = names.zip(numbers);
    both.find(|(name, _)| *name == "ListenOverflows")?
        .1
        .parse()
        .ok()
}

/// One that was handed over may have been opened elsewhere.
fn is_of_this_namespace(listener: &Listener) -> bool {
    !listener.is_handed() || sockopt::is_of_this_namespace(listener.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_the_overflows_of_others_lose_nobody() {
        for (some, all, overflowed, expected) in [
            // Stray segments at a queue that is full to the last place.
            (5, 5, Some(0), 0),
            // Another's.
            (0, 0, Some(70), 0),
            (5, 0, Some(5), 5),
            (5, 5, Some(5), 5),
            // With some strays, and beside another's.
            (5, 5, Some(2), 2),
            (5, 5, Some(70), 5),
            // Without /proc.
            (5, 5, None, 5),
            (5, 0, None, 0),
        ] {
            let got = Dropped { some, all }.lost(overflowed);
            assert_eq!(got, expected, "{some} {all} {overflowed:?}");
        }
    }

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\n\
                    TcpExt: 3 70 71\n\
                    IpExt: InNoRoutes ListenOverflows\n\
                    IpExt: 1 2\n";
        assert_eq!(listen_overflows(text), Some(70));
        for text in [
            "",
            "TcpExt: ListenOverflows\n",
            "TcpExt: A B\nTcpExt: 1 2\n",
        ] {
            assert_eq!(listen_overflows(text), None, "{text}");
        }
        assert!(Counter::open().is_some(), "this kernel's");
    }
}

//! Listen queues that are full: the kernel drops who comes then, and the client's
//! kernel tries again after a second. No process is told, so the supervisor looks,
//! whenever it is awake anyway, and at most once a second: see [`Listener::dropped`].

use std::time::{Duration, Instant};

use log::{info, warn};

use super::backoff::Episode;
use crate::net::Listener;
use crate::values;

/// From one look to the next, at least.
const REST: Duration = Duration::from_secs(1);

/// What was seen of the queues of all listeners.
pub struct Overflows {
    seen: Vec<u32>,
    looked: Option<Instant>,
    episode: Episode,
    dropped: u64,
}

impl Overflows {
    /// What was dropped until now is no news.
    pub fn new(listeners: &[Option<Listener>]) -> Self {
        Overflows {
            seen: listeners.iter().map(dropped).collect(),
            looked: None,
            episode: Episode::default(),
            dropped: 0,
        }
    }

    /// Looks, if it is time to; one line when drops begin, and one when there
    /// have been none for a while.
    pub fn look(&mut self, listeners: &[Option<Listener>], now: Instant) {
        if self.looked.is_none_or(|at| now >= at + REST) {
            self.looked = Some(now);
            self.count(listeners, now);
        }
        if let Some((_, lasted)) = self.episode.end(now) {
            let n = std::mem::take(&mut self.dropped);
            info!(
                "queues have room again: {n} attempts were dropped in {}",
                values::show(lasted)
            );
        }
    }

    fn count(&mut self, listeners: &[Option<Listener>], now: Instant) {
        for (listener, seen) in listeners.iter().zip(&mut self.seen) {
            // A counter of 32 bits that goes round.
            let new = dropped(listener).wrapping_sub(*seen);
            if new == 0 || listener.is_none() {
                continue;
            }
            *seen = seen.wrapping_add(new);
            self.dropped += u64::from(new);
            if self.episode.begin(now) {
                let name = listener.as_ref().map_or("?", Listener::name);
                warn!(
                    "queue of {name} is full: the kernel drops who comes, and clients try \
                     again after a second: see --backlog and net.core.somaxconn"
                );
            }
        }
    }

    /// When the episode may be over.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.episode.wakes_at()
    }
}

fn dropped(listener: &Option<Listener>) -> u32 {
    listener.as_ref().map_or(0, Listener::dropped)
}

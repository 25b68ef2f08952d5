//! Many clients at once in a closed loop: each thread has one connection at a
//! time and starts the next when it ends.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::client::{Client, is_timeout, pattern};

/// How many connections ended in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Every byte came back, then end of file.
    pub complete: u64,
    /// Nobody listened: no connection was made, none was lost.
    pub refused: u64,
    /// The connection was made and then reset.
    pub reset: u64,
    /// The end of file came too early, after an exact prefix.
    pub short: u64,
    /// What came back is not what was sent.
    pub corrupt: u64,
    /// Nothing happened until the deadline.
    pub timeout: u64,
    /// Errors by their text, for a failed test's message.
    pub errors: BTreeMap<String, u64>,
}

impl Outcomes {
    /// Adds another thread's counts.
    fn add(&mut self, other: &Outcomes) {
        self.complete += other.complete;
        self.refused += other.refused;
        self.reset += other.reset;
        self.short += other.short;
        self.corrupt += other.corrupt;
        self.timeout += other.timeout;
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
    }

    /// Connections that were made and did not end as they should.
    pub fn lost(&self) -> u64 {
        self.reset + self.short + self.corrupt + self.timeout
    }

    /// Panics unless nothing was lost and nothing refused.
    #[track_caller]
    pub fn assert_all_complete(&self) {
        assert_eq!(self.lost() + self.refused, 0, "{self:?}");
    }

    fn note(&mut self, error: &io::Error, connected: bool) {
        let counter = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound if !connected => {
                &mut self.refused
            }
            _ if is_timeout(error) => &mut self.timeout,
            _ => &mut self.reset,
        };
        *counter += 1;
        let text = format!("{} {error}", if connected { "io" } else { "connect" });
        *self.errors.entry(text).or_default() += 1;
    }

    /// One conversation, counted.
    fn converse(&mut self, addr: &str, bytes: &[u8]) {
        let mut client = match Client::try_connect(addr) {
            Ok(client) => client,
            Err(error) => return self.note(&error, false),
        };
        let mut got = Vec::with_capacity(bytes.len());
        let mut exchange = || {
            client.write_all(bytes)?;
            client.shutdown_write()?;
            client.read_to_end(&mut got)
        };
        match exchange() {
            Err(error) => self.note(&error, true),
            Ok(_) if got == bytes => self.complete += 1,
            Ok(_) if bytes.starts_with(&got) => self.short += 1,
            Ok(_) => self.corrupt += 1,
        }
    }
}

/// Clients at work until told to stop, or until nobody listens any more.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Outcomes>>,
}

impl Load {
    /// Starts `parallel` clients that send `bytes` bytes (64 KiB at most) each.
    pub fn start(addr: &str, parallel: usize, bytes: usize) -> Load {
        Load::limited(addr, u64::MAX, parallel, bytes)
    }

    fn limited(addr: &str, limit: u64, parallel: usize, bytes: usize) -> Load {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let begun = Arc::<AtomicU64>::default();
        let client = |n: usize| {
            let (stop, done, begun) = (stop.clone(), done.clone(), begun.clone());
            let addr = addr.to_owned();
            let work = move || {
                let mut outcomes = Outcomes::default();
                let bytes = pattern(n as u64 * 131, bytes);
                while !stop.load(Ordering::Relaxed)
                    && outcomes.refused == 0
                    && begun.fetch_add(1, Ordering::Relaxed) < limit
                {
                    outcomes.converse(&addr, &bytes);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                outcomes
            };
            let small = thread::Builder::new().stack_size(256 << 10);
            small.spawn(work).expect("a client thread")
        };
        let threads = (0..parallel).map(client).collect();
        Load {
            stop,
            done,
            threads,
        }
    }

    /// Conversations ended so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets each client finish its conversation, and adds up.
    pub fn stop(self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(self) -> Outcomes {
        let mut sum = Outcomes::default();
        for thread in self.threads {
            sum.add(&thread.join().expect("a client thread"));
        }
        sum
    }
}

/// `n` conversations of `bytes` bytes (64 KiB at most), `parallel` at a time.
pub fn many(addr: &str, n: u64, parallel: usize, bytes: usize) -> Outcomes {
    Load::limited(addr, n, parallel, bytes).join()
}

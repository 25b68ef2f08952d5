//! A supervisor watched from outside: its zombies, descriptors and memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::card::Row;
pub use crate::common::proc::quick_children as children;
use crate::common::proc::{self, Stat};
use crate::common::{Daemon, holds_within};

/// Between two looks; a zombie seen in both is older than this.
const SAMPLE: Duration = Duration::from_millis(100);

/// How far a supervisor's resident memory may seem to grow: the kernel adds it
/// up lazily, and a burst's list stays allocated. In KiB.
const RSS_NOISE: i64 = 512;

/// Looks at a supervisor every 100 ms until it is asked for what it saw.
#[derive(Debug)]
pub struct Watch {
    pid: i32,
    before: (Option<usize>, Option<u64>, usize),
    stop: Arc<AtomicBool>,
    zombies: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Begins once the daemon is at rest.
    pub fn start(daemon: &Daemon) -> Watch {
        let pid = daemon.pid();
        let (stop, zombies) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, count) = (stop.clone(), zombies.clone());
        let look = move || {
            let mut known = HashSet::new();
            let mut counted = HashSet::new();
            while !told.load(Ordering::Relaxed) {
                let dead = |stat: &Stat| stat.state == 'Z' && stat.ppid == pid;
                let found = children(pid).into_iter().filter_map(proc::stat);
                let now: HashSet<(i32, u64)> =
                    found.filter(dead).map(|s| (s.pid, s.start)).collect();
                counted.extend(now.intersection(&known).copied());
                known = now;
                count.store(counted.len() as u64, Ordering::Relaxed);
                thread::sleep(SAMPLE);
            }
        };
        Watch {
            pid,
            before: rest(pid),
            stop,
            zombies,
            thread: thread::spawn(look),
        }
    }

    /// Waits until the last children are reaped, and fills in the row.
    pub fn finish(self, row: &mut Row) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler");
        row.zombies = self.zombies.load(Ordering::Relaxed);
        let (fds, rss, workers) = self.before;
        // Where connections are passed there is one for each worker that waits.
        let settled = || {
            let (now, _, left) = rest(self.pid);
            let same = |a: usize, b: usize| a <= b || a - b <= left.saturating_sub(workers);
            fds.zip(now).is_none_or(|(fds, now)| same(now, fds))
        };
        let settled = holds_within(Duration::from_secs(15), settled);
        let (fds_now, rss_now, _) = rest(self.pid);
        let gain = |now: Option<u64>, then: Option<u64>| {
            now.zip(then)
                .map_or(0, |(now, then)| now as i64 - then as i64)
        };
        let fds = gain(fds_now.map(|n| n as u64), fds.map(|n| n as u64));
        let rss = gain(rss_now, rss);
        row.growth = Some((fds, rss));
        if !settled {
            row.fail("descriptors");
        }
        if rss > RSS_NOISE {
            row.fail("memory");
        }
    }
}

/// Descriptors (where we may look), resident KiB, and children.
fn rest(pid: i32) -> (Option<usize>, Option<u64>, usize) {
    let workers = children(pid).len();
    (proc::fd_count(pid), proc::rss_kib(pid), workers)
}

//! Who is let in, as whoever accepts decides it: the supervisor, a worker, the
//! main thread of one. What it keeps is in memory that all of them share, so it
//! outlives each: killing one refills no rate and forgets no count.
//!
//! `--allow` and `--deny` need the client alone, and are judged wherever it is
//! accepted. The rate needs one process that accepts, and how many connections
//! a source has only that process knows: the supervisor's `Places`, and the threads'
//! `seats`.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use crate::access::{Client, Pace, Policy, Source};
use crate::addr::Peer;
use crate::daemon::shared::refusals::{Refusals, Why};
use crate::daemon::shared::scoreboard::Scoreboard;
use crate::net;
use crate::net::Accepted;
use crate::sys::memory::Shared;

/// See the module.
pub struct AccessControl {
    policy: Policy,
    /// `None` where everybody is let in: a mapping is something that fork(2) has
    /// to copy.
    refusals: Option<Refusals>,
    rate: Option<Bucket>,
}

/// The rate.
struct Bucket {
    pace: Pace,
    /// In its first word, when the next connection is due.
    due: Shared,
    epoch: Instant,
}

impl AccessControl {
    /// Nobody came yet.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(policy: &Policy) -> Result<Self, Errno> {
        let on = !policy.is_off();
        let bucket = |rate| {
            Ok(Bucket {
                pace: Pace::new(rate, 1),
                due: Shared::apart(1)?,
                epoch: Instant::now(),
            })
        };
        Ok(AccessControl {
            policy: policy.clone(),
            refusals: on.then(|| Refusals::new(policy)).transpose()?,
            rate: policy.rate.map(bucket).transpose()?,
        })
    }

    /// Does a child that is forked from now on keep to the rate, by accepting itself?
    /// No other can refill it, or use it up.
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        let rate = self.rate.as_ref();
        rate.map_or(Ok(()), |rate| rate.due.inherited(whether))
    }

    /// Is everybody let in?
    pub fn is_off(&self) -> bool {
        self.refusals.is_none()
    }

    /// What was asked for.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is counted; `None` where everybody is let in.
    pub fn refusals(&self) -> Option<&Refusals> {
        self.refusals.as_ref()
    }

    /// Do `--allow` and `--deny` let the client in that has just been accepted?
    /// If they do not, it is gone when this returns.
    pub fn screen(&self, accepted: Accepted, board: &Scoreboard) -> Option<Accepted> {
        if self.is_off() {
            return Some(accepted);
        }
        let Some(client) = client(accepted.conn.as_fd(), accepted.peer, &self.policy) else {
            return Some(accepted);
        };
        match self.policy.rules.check(client) {
            Ok(()) => Some(accepted),
            Err(refusal) => {
                self.refuse(accepted, Why::Listed(refusal, client), board);
                None
            }
        }
    }

    /// The source of this client, and how many connections it may have, if that is
    /// limited.
    pub fn share(&self, peer: Peer) -> Option<(Source, usize)> {
        let limit = self.policy.per_source?;
        Some((self.policy.source(peer)?, limit.most as usize))
    }

    /// Lets a client in that was screened, unless its source is `full`: the next one may
    /// have to wait for the rate.
    pub fn admit(
        &self,
        accepted: Accepted,
        full: Option<Source>,
        board: &Scoreboard,
    ) -> Option<Accepted> {
        if let Some(source) = full {
            self.refuse(accepted, Why::Full(source), board);
            return None;
        }
        self.spend(accepted.peer);
        Some(accepted)
    }

    /// Ends a connection before it is one, and counts it.
    fn refuse(&self, accepted: Accepted, why: Why, board: &Scoreboard) {
        let counts = self.refusals.as_ref();
        if counts.is_some_and(|counts| counts.count(accepted.peer, why, accepted.listener)) {
            board.wake();
        }
        net::overflow_reset(accepted.conn);
    }

    /// How long until the rate lets another connection in; `None` is now.
    pub fn wait(&self) -> Option<Duration> {
        self.rate.as_ref()?.wait()
    }

    /// A client is let in: the next one may have to wait.
    pub fn spend(&self, peer: Peer) {
        if let Some(bucket) = &self.rate
            && self.policy.is_counted(peer)
        {
            bucket.spend();
        }
    }
}

impl Bucket {
    fn wait(&self) -> Option<Duration> {
        self.pace
            .wait(self.due().load(Ordering::Relaxed), self.now())
    }

    /// Who is let in beyond the rate (a stop does not wait) finds it used up.
    fn spend(&self) {
        let due = self.due();
        if let Some(next) = self.pace.admit(due.load(Ordering::Relaxed), self.now()) {
            due.store(next, Ordering::Relaxed);
        }
    }

    fn due(&self) -> &AtomicU64 {
        &self.due[0].0[0]
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Who is at the other end, as far as any rule asks. A client whose identity the
/// kernel will not tell has none that a rule could name.
pub fn client(conn: BorrowedFd<'_>, peer: Peer, policy: &Policy) -> Option<Client> {
    match peer {
        Peer::Inet(addr) => Some(Client::inet(addr.ip())),
        Peer::Unix if !policy.rules.ask_identity() => None,
        Peer::Unix => {
            let peer = getsockopt(&conn, sockopt::PeerCredentials);
            let (uid, gid) = peer.map_or((u32::MAX, u32::MAX), |p| (p.uid(), p.gid()));
            Some(Client::Unix { uid, gid })
        }
    }
}

//! Whether to fork now, and how fast. [`Forks`] is for fork(2) that fails: when to try
//! again, and whether there is memory. [`RespawnLimiter`] is for workers that are born
//! and die before they serve.
//!
//! Clocks without a clock, like `backoff`: the caller says what time it is.

use std::time::{Duration, Instant};

use log::error;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::daemon::shared::backoff::{self, Backoff, Episode};
use crate::daemon::shared::connection_log::Gone;
use crate::error::errno_text;
use crate::net::connection::End;
use crate::sys::memory::OomScore;

/// How long memory counts as short after the kernel has killed for it.
const SHORT_FOR: Duration = Duration::from_secs(60);
/// Children more, at the least, until room is looked for again.
const STEP: usize = 4;

/// A worker that dies younger than this may have been born sick.
const YOUTH: Duration = Duration::from_secs(1);
/// So many young deaths one after the other may be somebody's kill(1).
const TOLERATED: usize = 32;
/// Wait after a first sick birth, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// When fork(2) has failed, and whether it is likely to.
pub(super) struct Forks {
    wait: Backoff,
    trouble: Episode,
    /// When the kernel last killed a child for its memory, and how many processes it
    /// had killed by then.
    last_kill: Option<Instant>,
    kills: u64,
    /// For how many children there was room.
    proven_for: usize,
}

impl Forks {
    /// None has failed.
    pub(super) fn new(oom: Option<&OomScore>) -> Self {
        Forks {
            wait: Backoff::new(backoff::FIRST_WAIT, backoff::LONGEST_FORK_WAIT),
            trouble: Episode::default(),
            last_kill: None,
            kills: oom.map_or(0, OomScore::kills),
            proven_for: 0,
        }
    }

    /// Has one failed, too lately for another?
    pub(super) fn wait(&self, now: Instant) -> bool {
        self.wait.waits(now)
    }

    /// One has worked, or a process is gone: perhaps the one whose place fork(2)
    /// wanted.
    pub(super) fn may_work(&mut self) {
        self.wait.reset();
    }

    /// One has failed.
    pub(super) fn failed(&mut self, errno: Errno, now: Instant) {
        self.wait.fail(now);
        self.say("fork", errno, now);
    }

    /// A worker could not start a thread.
    pub(super) fn thread_failed(&mut self, errno: Errno, now: Instant) {
        self.say("clone", errno, now);
    }

    fn say(&mut self, call: &str, errno: Errno, now: Instant) {
        if self.trouble.begin(now) {
            error!(
                "{call}: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// Once a turn of the loop: is the trouble over?
    pub(super) fn look(&mut self, now: Instant) {
        if self.wait.waits(now) {
            // For longer than an episode has to be quiet to be over.
            self.trouble.lasts(now);
        }
        self.trouble.say_end("fork works again", now);
    }

    /// When that may be, or the next may be tried.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.wait.wakes_at(now), self.trouble.wakes_at()];
        times.into_iter().flatten().min()
    }

    /// Is there memory for one, beside so many children? Asked where it may be short:
    /// for a while after the kernel has killed for it, and now and then as children
    /// become more. If there is none, it has failed.
    pub(super) fn have_memory(
        &mut self,
        oom: Option<&OomScore>,
        children: usize,
        now: Instant,
    ) -> bool {
        let Some(oom) = oom else {
            return true;
        };
        let since = self.last_kill.map(|at| now.saturating_duration_since(at));
        let is_short = since.is_some_and(|since| since < SHORT_FOR);
        if !is_short && children < self.proven_for {
            return true;
        }
        if oom.proves_room() {
            self.proven_for = children + STEP.max(children / 64);
            return true;
        }
        self.last_kill = Some(now);
        self.failed(Errno::ENOMEM, now);
        false
    }

    /// A child is gone, killed by nobody here knows whom: by the kernel, for its memory?
    /// Where its status is not seen, its silence says so.
    pub(super) fn note_kill(
        &mut self,
        oom: Option<&OomScore>,
        gone: Gone,
        end: Option<End>,
        now: Instant,
    ) {
        let killed = match gone {
            Gone::Killed(signal) => signal == Signal::SIGKILL,
            Gone::Untold => end.is_none(),
            Gone::Exited(_) => false,
        };
        if let Some(oom) = oom.filter(|_| killed) {
            let kills = oom.kills();
            if kills != std::mem::replace(&mut self.kills, kills) {
                self.last_kill = Some(now);
            }
        }
    }
}

/// Workers that die before they serve: a broken build, a sandbox that forbids
/// too much, a library that makes a new call. Forking them again at once would
/// be a fork bomb that serves nobody.
///
/// Whoever lives to see a client makes it forget everything.
pub(super) struct RespawnLimiter {
    wait: Backoff,
    counted: Option<Instant>,
    row: usize,
    trouble: Episode,
}

impl Default for RespawnLimiter {
    fn default() -> Self {
        RespawnLimiter {
            wait: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            counted: None,
            row: 0,
            trouble: Episode::default(),
        }
    }
}

impl RespawnLimiter {
    /// The same as [`RespawnLimiter::died`]; true if the death is worth a line. What
    /// happens again and again is said once.
    pub(super) fn note_death(&mut self, born: Instant, now: Instant, starting: bool) -> bool {
        if !self.died(born, now, starting) {
            return true;
        }
        let begins = self.trouble.begin(now);
        if begins {
            error!("degraded: workers die before they serve: forking one at a time, slowly");
        }
        begins
    }

    /// Once a turn of the loop: have none died for a while?
    pub(super) fn look(&mut self, now: Instant) {
        let was_on = self.trouble.is_on();
        self.trouble.say_end("workers live again", now);
        if was_on && !self.trouble.is_on() {
            self.well();
        }
    }

    /// A worker has died without a client; `starting` if it did not even get as
    /// far as waiting for one. True if the next are to be forked slowly.
    ///
    /// Workers that were alive together when one died count as one death: five
    /// hundred killed at once are one accident.
    fn died(&mut self, born: Instant, now: Instant, starting: bool) -> bool {
        if self.counted.is_none_or(|at| born >= at) {
            self.counted = Some(now);
            let young = now.saturating_duration_since(born) < YOUTH;
            self.row = if young { self.row + 1 } else { 0 };
            if starting || self.row > TOLERATED {
                self.wait.fail(now);
            }
        }
        self.wait.failed()
    }

    /// A worker has got as far as a client, or none has died for a while.
    pub(super) fn well(&mut self) {
        self.wait.reset();
        self.row = 0;
    }

    /// How many of `n` workers may be forked now. In trouble one at a time, each
    /// after a wait: the first that lives will tell.
    pub(super) fn allowed(&self, n: usize, now: Instant) -> usize {
        match (self.wait.failed(), self.wait.waits(now)) {
            (_, true) => 0,
            (true, false) => n.min(1),
            (false, false) => n,
        }
    }

    /// When [`RespawnLimiter::allowed`] will say more, or the trouble may be over.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.wait.wakes_at(now), self.trouble.wakes_at()];
        times.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_sick_birth_is_followed_by_one_at_a_time() {
        let born = Instant::now();
        let mut limiter = RespawnLimiter::default();
        assert_eq!(limiter.allowed(8, born), 8);
        let died = born + MS;
        for _ in 0..8 {
            assert!(limiter.died(born, died, true), "eight of one birth");
        }
        assert_eq!(limiter.allowed(8, died + 99 * MS), 0);
        assert_eq!(limiter.wakes_at(died), Some(died + 100 * MS));
        let again = died + 100 * MS;
        assert_eq!(limiter.allowed(8, again), 1);
        assert!(limiter.died(again, again + MS, true));
        assert_eq!(limiter.wakes_at(again), Some(again + 201 * MS));
        limiter.well();
        assert_eq!(limiter.allowed(8, again), 8);
    }

    #[test]
    fn deaths_while_waiting_are_forgiven_until_they_do_not_end() {
        let mut now = Instant::now();
        let mut limiter = RespawnLimiter::default();
        for n in 0..40 {
            let slowly = limiter.died(now, now + MS, false);
            assert_eq!(slowly, n >= TOLERATED, "{n}");
            now += 2 * MS;
        }
        // An old one shows that workers can live.
        let mut limiter = RespawnLimiter::default();
        for _ in 0..40 {
            assert!(!limiter.died(now, now + 2 * YOUTH, false));
            now += 3 * YOUTH;
        }
    }

    #[test]
    fn a_massacre_is_one_death() {
        let born = Instant::now();
        let mut limiter = RespawnLimiter::default();
        for n in 1..500 {
            assert!(!limiter.died(born, born + n * MS, false));
        }
        assert_eq!(limiter.allowed(500, born + 500 * MS), 500);
    }
}

//! The supervisor's hands: how many workers there are to be, and forking them.
//!
//! Reserve a slot, fork, commit; on failure cancel. `burial` releases it.

use std::time::{Duration, Instant};

use log::{error, info};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::{Model, Overflow};
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::shared::generation::Generation;
use crate::daemon::shared::pool::{Census, Move};
use crate::daemon::shared::scoreboard::{Said, Slot};
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::children::{Child, Reserved, Role};
use crate::daemon::supervisor::datagrams::Crew;
use crate::daemon::threads::worker;
use crate::daemon::worker::child;
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::prefork;
use crate::daemon::worker::serve;
use crate::daemon::worker::strategy::AcceptStrategy;
use crate::error::errno_text;
use crate::net::Accepted;
use crate::net::connection::End;
use crate::sys::process;
use crate::values;

/// How long memory counts as short after the kernel has killed for it.
const SHORT_FOR: Duration = Duration::from_secs(60);
/// Children more, at the least, until room is looked for again.
const STEP: usize = 4;

impl Supervisor {
    /// Does what is due: a client held for want of a process, the pool's size,
    /// the end of troubles.
    pub(crate) fn maintain(&mut self, now: Instant) {
        let sick = self.troubles.sick.is_on();
        self.look_at_waiters(now);
        if self.fork_wait.waits(now) {
            // For longer than an episode has to be quiet to be over.
            self.troubles.fork.lasts(now);
        }
        self.close_episodes(now);
        self.look_at_print();
        if sick && !self.troubles.sick.is_on() {
            self.births.well();
        }
        if !self.fork_wait.waits(now)
            && let Some(accepted) = self.pending.take()
        {
            self.serve(accepted, now);
        }
        if self.phase.serves() && !self.fork_wait.waits(now) {
            self.size_pool(now);
        }
        self.man_posts(now);
        if self.refusal_log.as_ref().is_some_and(|log| log.is_due(now)) {
            self.look_at_refusals(now, false);
        }
        if self.crew.is_due(now) {
            self.crew.look(now);
        }
        self.pass_waiting(now);
        self.take_queue(now);
    }

    fn size_pool(&mut self, now: Instant) {
        let Some(mut pool) = self.pool else { return };
        let census = Census {
            idle: self.waiting(),
            alive: self.children.alive(),
            max: self.context.config.child_slots(),
            lost: std::mem::take(&mut self.idle_lost),
        };
        let starting = !std::mem::replace(&mut self.started, true);
        let moved = if starting {
            Move::Fork(pool.start(census))
        } else {
            pool.decide(census)
        };
        match moved {
            Move::Stay => {}
            Move::Retire(n) => self.generation.retire(n),
            Move::Fork(n) => {
                let allowed = 0..self.births.allowed(n, now);
                let forked = allowed.take_while(|_| self.fork_worker(now)).count();
                if forked < n {
                    self.idle_lost = census.lost.saturating_sub(forked);
                }
            }
        }
        self.pool = Some(pool);
        if self.context.seats.is_none() && !self.tells_roles() {
            self.set_wakeups();
        }
    }

    /// Workers that serve many wake us only when the pool could do something.
    fn set_wakeups(&self) {
        let Some(limits) = self
            .pool
            .as_ref()
            .map(crate::daemon::shared::pool::Pool::limits)
        else {
            return;
        };
        let full = self.children.full();
        let (below, above) = match (full, self.context.config.overflow) {
            (false, _) => (limits.min_spare, limits.max_spare),
            // That clients wait then is seen in the queue.
            (true, Overflow::Queue) => (0, limits.max_spare),
            (true, _) => (1, 0),
        };
        self.context.board.wake_outside(below, above);
    }

    /// Workers of this generation that wait, and were not asked to go.
    pub(crate) fn waiting(&self) -> usize {
        self.idle().saturating_sub(self.generation.retiring())
    }

    /// Workers of this generation that wait.
    pub(crate) fn idle(&self) -> usize {
        if self.tells_roles() {
            return self.children.idle();
        }
        let waits = |slot: &Slot| {
            self.context.board.said(*slot) != Said::Serving
                && self
                    .children
                    .get(*slot)
                    .is_some_and(|c| c.role == Role::Idle && c.generation == self.generation.number)
        };
        self.children.slots().filter(waits).count()
    }

    fn per_child(&self) -> Option<u64> {
        match self.context.config.model {
            Model::Prefork { per_child, .. } => per_child,
            Model::Iterative | Model::Thread | Model::Prethread { .. } => None,
            Model::Fork(_) => Some(1),
        }
    }

    pub(crate) fn serves_many(&self) -> bool {
        self.per_child() != Some(1)
    }

    /// Does every worker say when it takes a connection, and when it waits again?
    /// Those that serve many keep a count of their own instead, but for those
    /// that are passed their connections.
    pub(crate) fn tells_roles(&self) -> bool {
        !self.serves_many() || self.passing.is_some()
    }

    fn fork_worker(&mut self, now: Instant) -> bool {
        if !self.has_memory(now) {
            return false;
        }
        let Some(reserved) = self.children.reserve() else {
            return false;
        };
        let slot = reserved.slot();
        let limit = self.per_child();
        self.context.board.clear(slot);
        self.context.board.count_waiting(1);
        let channel = self.passing.as_mut().map(|passing| passing.open(slot));
        let forked = channel.transpose().and_then(|channel| {
            let (context, generation) = (&self.context, &self.generation);
            let (crew, buffer) = (&self.crew, &mut self.buffer);
            let first = self.born;
            let strategy = || AcceptStrategy::new(context, generation, channel.as_ref(), first);
            if limit == Some(1) && generation.lock().is_none() {
                let serve = || {
                    match &channel {
                        Some(channel) => child::keep_for_channel(context, generation, channel),
                        None => close_supervisors(crew, generation),
                    }
                    prefork::serve_one(context, slot, strategy(), buffer.bytes())
                };
                return context.fork(Some(slot), || process::fork_bare(serve));
            }
            lend(context, generation, true)?;
            let lasting = || {
                // Those that serve several keep by number what they need.
                if context.seats.is_some() {
                    worker::serve(context, slot, generation.pipe_of_death(), first)
                }
                if limit == Some(1) {
                    close_supervisors(crew, generation);
                    prefork::serve_one(context, slot, strategy(), buffer.bytes())
                }
                prefork::serve_many(context, slot, strategy(), buffer.bytes(), limit)
            };
            context.fork(Some(slot), || process::fork(lasting))
        });
        let _ = lend(&self.context, &self.generation, false);
        match forked {
            Ok(_) => self.born = self.born.wrapping_add(1),
            Err(_) => self.context.board.count_waiting(-1),
        }
        let forked = self.settle_fork(reserved, forked, Role::Idle, now);
        if let Some(passing) = &mut self.passing {
            if forked {
                passing.free(slot);
            } else {
                passing.close(slot);
            }
        }
        forked
    }

    /// Forks a process for an accepted client; keeps the client if that fails.
    pub(crate) fn serve(&mut self, accepted: Accepted, now: Instant) {
        if !self.has_memory(now) {
            self.pending = Some(accepted);
            return;
        }
        let Some(reserved) = self.children.reserve() else {
            self.pending = Some(accepted);
            return;
        };
        let slot = reserved.slot();
        let Ok(seat) = self.take_seat(slot) else {
            self.children.cancel(reserved);
            self.pending = Some(accepted);
            return;
        };
        let channel = self
            .channels
            .as_mut()
            .map(|channels| channels.open(slot))
            .transpose();
        let forked = channel.and_then(|channel| {
            let Accepted { peer, listener, .. } = accepted;
            self.context.board.clear(slot);
            self.context.board.serving(slot, peer, listener);
            let (context, buffer) = (&self.context, &mut self.buffer);
            let accepted = || accepted.inherited();
            context.fork(Some(slot), || match &channel {
                None => process::fork_bare(|| {
                    serve::serve_as_child(context, slot, buffer.bytes(), accepted())
                }),
                Some(end) => process::fork(|| {
                    serve::serve_as_grandchild(context, slot, buffer.bytes(), accepted(), end)
                }),
            })
        });
        if forked.is_err()
            && let Some(channels) = &mut self.channels
        {
            channels.close(slot);
        }
        if self.settle_fork(reserved, forked, Role::Busy, now) {
            self.occupy(slot, accepted.peer);
        } else {
            self.pending = Some(accepted);
            self.give_back(seat);
        }
    }

    /// Is there memory for a fork? Asked where it may be short: for a while after the
    /// kernel has killed for it, and now and then as children become more.
    fn has_memory(&mut self, now: Instant) -> bool {
        let Some(oom) = &self.context.oom else {
            return true;
        };
        let since = self.last_kill.map(|at| now.saturating_duration_since(at));
        let is_short = since.is_some_and(|since| since < SHORT_FOR);
        let alive = self.children.alive();
        let grows = alive >= self.proven_for;
        if !is_short && !grows {
            return true;
        }
        if oom.proves_room() {
            self.proven_for = alive + STEP.max(alive / 64);
            return true;
        }
        self.last_kill = Some(now);
        self.fork_failed(Errno::ENOMEM, now);
        false
    }

    /// A child is gone, killed by nobody here knows whom: by the kernel, for its memory?
    /// Where its status is not seen, its silence says so.
    pub(crate) fn note_kill(&mut self, gone: Gone, told: bool, end: Option<End>, now: Instant) {
        let killed = match gone {
            Gone::Killed(signal) => signal == Signal::SIGKILL,
            Gone::Untold => end.is_none(),
            Gone::Exited(_) => false,
        };
        if let Some(oom) = self.context.oom.as_ref().filter(|_| killed && !told) {
            let kills = oom.kills();
            if kills != std::mem::replace(&mut self.kills, kills) {
                self.last_kill = Some(now);
            }
        }
    }

    fn settle_fork(
        &mut self,
        reserved: Reserved,
        forked: Result<Pid, Errno>,
        role: Role,
        now: Instant,
    ) -> bool {
        let pid = match forked {
            Ok(pid) => pid,
            Err(errno) => {
                self.children.cancel(reserved);
                self.fork_failed(errno, now);
                return false;
            }
        };
        self.fork_wait.reset();
        self.outlive(pid, now);
        let pid = self.channels.is_none().then_some(pid);
        let generation = self.generation.number;
        self.children.commit(
            reserved,
            Child {
                pid,
                role,
                generation,
                since: now,
                told: false,
            },
        );
        true
    }

    /// Said once, whatever it is: who looks at standard output sees the rest.
    fn look_at_print(&mut self) {
        if !self.context.config.print || self.troubles.print {
            return;
        }
        if let Some(errno) = self.context.board.print_failure() {
            self.troubles.print = true;
            error!(
                "--print: write to standard output: {}: clients are served, and not all is copied",
                errno_text(errno)
            );
        }
    }

    fn close_episodes(&mut self, now: Instant) {
        let troubles = &mut self.troubles;
        for (episode, what) in [
            (&mut troubles.fork, "fork works again"),
            (&mut troubles.sick, "workers live again"),
            (&mut troubles.accept, "accept works again"),
        ] {
            if let Some((count, lasted)) = episode.end(now) {
                let (times, lasted) = (values::plural(count, "time"), values::show(lasted));
                info!("{what}: {times} in {lasted}");
            }
        }
    }
}

/// Whether a child that is forked from now on shares what workers take turns and
/// seats by.
fn lend(context: &WorkerContext, generation: &Generation, whether: bool) -> Result<(), Errno> {
    context.inherited(whether)?;
    let lock = generation.lock();
    lock.map_or(Ok(()), |lock| lock.inherited(whether))
}

/// In a worker for one client, which closes all the rest when it has it: lets go
/// of what would keep others from hearing that the supervisor is gone.
fn close_supervisors(crew: &Crew, generation: &Generation) {
    crew.close_inherited();
    if let Some(order_end) = generation.order_end() {
        process::close_inherited(order_end);
    }
}

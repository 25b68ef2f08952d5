//! The supervisor: one thread, one loop, for every design.
//!
//! It owns the sockets, the pool, the limits and the log, and never reads a
//! client's byte. Each turn of the loop: do what is due, wait, note what came.
//! Signals are read from a descriptor like the rest (`sys::signal`). What it waits
//! for is in `sleep`, what children are born with in `context`. Forking is in
//! `workforce`, the dead are in `burial`, clients it accepts itself in `intake`,
//! orders in `orders`, the stop in `stop`.

pub(crate) mod access;
pub mod channels;
pub mod children;
pub(crate) mod crashes;
pub(crate) mod datagrams;
pub(crate) mod drop_log;
pub(crate) mod exits;
pub(crate) mod handover;
pub(crate) mod listeners;
pub(crate) mod orders;
pub(crate) mod overflows;
pub(crate) mod passing;
pub(crate) mod posts;
pub mod reap;
pub(crate) mod report;
pub mod respawn;
pub(crate) mod sleep;
pub(crate) mod sources;
pub mod state;
pub(crate) mod stop;
pub(crate) mod threaded;
pub(crate) mod waiters;
pub(crate) mod workers;

use std::time::Instant;

use log::debug;
use nix::sys::signal::Signal;

use crate::config::{Accept, Model, PoolLimits, Reap};
use crate::daemon::shared::backoff::{
    Backoff, Episode, FIRST_WAIT, LONGEST_ACCEPT_WAIT, LONGEST_FORK_WAIT,
};
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::shared::generation::Generation;
use crate::daemon::shared::pool::Pool;
use crate::daemon::shared::refusals::RefusalLog;
use crate::daemon::start::notify::{Notify, Word};
use crate::daemon::supervisor::channels::Channels;
use crate::daemon::supervisor::children::Children;
use crate::daemon::supervisor::datagrams::Crew;
use crate::daemon::supervisor::overflows::Overflows;
use crate::daemon::supervisor::passing::Passing;
use crate::daemon::supervisor::reap::{Dead, Reaper};
use crate::daemon::supervisor::respawn::Births;
use crate::daemon::supervisor::sleep::{BOARD, CHANNELS, LISTENERS, SIGNALS};
use crate::daemon::supervisor::sources::Sources;
use crate::daemon::supervisor::state::Phase;
use crate::daemon::supervisor::waiters::{UNHEARD, Waiters};
use crate::daemon::worker::acceptor::Turn;
use crate::daemon::worker::context::WorkerContext;
use crate::error::{Error, Exit, Result};
use crate::net::Accepted;
use crate::net::connection::BUFFER;
use crate::sys::memory::OomScore;
use crate::sys::shm::Buffer;
use crate::sys::signal::{self, Signals, Terminal};
use crate::sys::wait::Wait;

/// Stretches of trouble, each logged when it begins and when it is over.
#[derive(Default)]
pub(crate) struct Troubles {
    pub fork: Episode,
    pub sick: Episode,
    pub accept: Episode,
    /// `--print` fails, and that was said.
    pub print: bool,
}

/// See the module.
pub struct Supervisor {
    pub(crate) context: WorkerContext,
    pub(crate) names: Vec<String>,
    pub(crate) buffer: Buffer,
    pub(crate) signals: Signals,
    /// When the last TERM came.
    pub(crate) last_term: Option<Instant>,
    pub(crate) children: Children,
    pub(crate) reaper: Reaper,
    pub(crate) channels: Option<Channels>,
    pub(crate) passing: Option<Passing>,
    pub(crate) sources: Option<Sources>,
    pub(crate) refusal_log: Option<RefusalLog>,
    pub(crate) pool: Option<Pool>,
    pub(crate) generation: Generation,
    pub(crate) crew: Crew,
    /// Accepted, and waits for a process.
    pub(crate) pending: Option<Accepted>,
    pub(crate) phase: Phase,
    pub(crate) fork_wait: Backoff,
    pub(crate) accept_wait: Backoff,
    pub(crate) troubles: Troubles,
    pub(crate) started: bool,
    /// When the kernel last killed a child for its memory, and how many processes it
    /// had killed by then; for how many children there was room.
    pub(crate) last_kill: Option<Instant>,
    pub(crate) kills: u64,
    pub(crate) proven_for: usize,
    pub(crate) idle_lost: usize,
    pub(crate) births: Births,
    /// Which listener's turn it is, where we accept.
    pub(crate) turn: Turn,
    /// Workers forked so far: none is looked at first by all of them.
    pub(crate) born: usize,
    pub(crate) overflows: Overflows,
    /// Who waits for want of a place, or for the rate; who was turned away.
    pub(crate) places: Waiters,
    pub(crate) paces: Waiters,
    pub(crate) unheard: Waiters,
    pub(crate) turned_away: Episode,
    pub(crate) cut: usize,
    pub(crate) exit: Exit,
    /// The terminal whose end ends us, if there is one.
    pub(crate) terminal: Option<Terminal>,
    /// The service manager, if there is one.
    pub(crate) notify: Option<Notify>,
    dead: Dead,
    pub(crate) wait: Wait,
}

impl Supervisor {
    /// Everything but the children.
    ///
    /// # Errors
    /// When memory or descriptors are short.
    pub(crate) fn new(
        context: WorkerContext,
        crew: Crew,
        overflows: Overflows,
        signals: Signals,
    ) -> Result<Self> {
        let os = |op: &str| {
            let op = op.to_owned();
            move |errno| Error::os(&op, "", errno)
        };
        let slots = context.config.child_slots();
        let accept = context.config.model.accept();
        let (reap, pool) = match context.config.model {
            Model::Fork(reap) => (reap, None),
            Model::Prefork { pool, .. } => (Reap::Wait, Some(pool)),
            Model::Iterative | Model::Thread | Model::Prethread { .. } => (
                Reap::Wait,
                Some(PoolLimits {
                    start: 1,
                    min_spare: 1,
                    max_spare: 1,
                }),
            ),
        };
        if reap == Reap::Ignore {
            // Not before here: the sandbox's probe has waited for its child.
            signal::let_kernel_reap().map_err(os("sigaction"))?;
        }
        let channels = (reap == Reap::DoubleFork)
            .then(|| Channels::new(slots))
            .transpose()
            .map_err(os("epoll_create1"))?;
        let passing = (accept == Accept::Pass).then(|| {
            let one_each = matches!(
                context.config.model,
                Model::Prefork {
                    per_child: Some(1),
                    ..
                }
            );
            Passing::new(slots, one_each)
        });
        let access = &context.access;
        let counts_sources = access.policy().per_source.is_some();
        let sources = counts_sources.then(|| Sources::new(slots));
        let refusal_log = access.refusals().map(RefusalLog::new);
        let kills = context.oom.as_ref().map_or(0, OomScore::kills);
        Ok(Supervisor {
            sources: sources.transpose().map_err(os("mmap"))?,
            refusal_log: refusal_log.transpose().map_err(os("mmap"))?,
            names: context
                .listeners
                .iter()
                .flatten()
                .map(|l| l.name().to_owned())
                .collect(),
            buffer: Buffer::new(BUFFER).map_err(os("mmap"))?,
            children: Children::new(slots).map_err(os("mmap"))?,
            generation: Generation::new(1, accept)?,
            reaper: Reaper::new(reap),
            wait: Wait::new(LISTENERS + context.listeners.len()).map_err(os("mmap"))?,
            channels,
            passing: passing.transpose().map_err(os("epoll_create1"))?,
            // Without a listener there is nobody to wait for.
            pool: pool
                .filter(|_| !context.listeners.is_empty())
                .map(Pool::new),
            crew,
            overflows,
            context,
            signals,
            last_term: None,
            pending: None,
            phase: Phase::Running,
            fork_wait: Backoff::new(FIRST_WAIT, LONGEST_FORK_WAIT),
            accept_wait: Backoff::new(FIRST_WAIT, LONGEST_ACCEPT_WAIT),
            troubles: Troubles::default(),
            started: false,
            last_kill: None,
            kills,
            proven_for: 0,
            idle_lost: 0,
            births: Births::default(),
            turn: Turn::default(),
            born: 0,
            places: Waiters::new(3),
            unheard: Waiters::new(UNHEARD),
            paces: Waiters::new(1),
            turned_away: Episode::default(),
            cut: 0,
            exit: Exit::Ok,
            terminal: None,
            notify: None,
            dead: Dead::new(slots, (0, Gone::Untold)).map_err(os("mmap"))?,
        })
    }

    /// Serves until told to stop. `ready` is called once, when clients can
    /// connect; before the first fork, so that no child keeps what it closes.
    pub fn run(mut self, ready: impl FnOnce(&[String])) -> Exit {
        // First: a manager must know a daemon's pid before its starter ends.
        self.say(Word::Ready);
        ready(&self.context.addresses);
        loop {
            let now = Instant::now();
            if self.step(now) {
                return self.exit;
            }
            self.maintain(now);
            self.report(now);
            let woken = self.sleep(now);
            let now = Instant::now();
            // Before anybody is accepted, which makes room in the queue.
            self.look_at_queues(now);
            // Taken before the wakeups and the dead: what comes later is seen at
            // the next wait, which it ends at once.
            if woken && self.wait.came(SIGNALS) {
                self.signals.hear();
            }
            let child_died = self.signals.take(Signal::SIGCHLD);
            self.obey(now);
            if woken && self.wait.came(BOARD) {
                self.note_taken(now);
                self.crew.look(now);
            }
            if woken && self.wait.came(CHANNELS) {
                self.note_closed_channels(now);
                self.note_passed();
            }
            self.reap(child_died, now);
            if woken {
                self.accept(now);
            }
        }
    }

    fn reap(&mut self, child_died: bool, now: Instant) {
        let generation = self.generation.number;
        if child_died {
            self.crew.reap(generation, now);
        }
        self.bury_dead(child_died, now);
        while let Some((pid, gone)) = self.reaper.stranger() {
            if !self.crew.bury(pid, gone, generation, now) {
                debug!("reaped process {pid}, which holds no slot");
            }
        }
        if child_died {
            self.left_alone();
            // A process slot is free, perhaps the one that fork(2) wanted.
            self.fork_wait.reset();
        }
    }

    /// Everything that is known of ends by now, looked for at once and not when
    /// the loop comes to it.
    pub(crate) fn catch_up(&mut self, now: Instant) {
        if self.channels.is_some() {
            self.note_closed_channels(now);
        }
        if self.passing.is_some() {
            self.note_passed();
        }
        self.bury_dead(true, now);
    }

    fn bury_dead(&mut self, child_died: bool, now: Instant) {
        let (children, board) = (&self.children, &self.context.board);
        self.reaper
            .reap(child_died, now, children, board, &mut self.dead);
        if !self.dead.is_empty() {
            // What the dead said last, before it is judged what they have done.
            self.note_passed();
        }
        while let Some((slot, gone)) = self.dead.pop() {
            self.bury(slot, gone, now);
        }
    }
}

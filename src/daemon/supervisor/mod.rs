//! The supervisor: one thread, one loop, for every design.
//!
//! It owns the sockets, the pool, the limits and the log, and never reads a
//! client's byte. Each turn of the loop: do what is due, wait, hand what came to the
//! part that it is for. Signals are read from a descriptor like the rest
//! (`sys::signal`).
//!
//! The parts keep their own state, and answer with what is to be done. What takes two
//! of them is here: the loop and orders in this file, clients that the supervisor
//! accepts itself in `clients`, what children say and their ends in `exits`, the stop in
//! `stop`.

mod children;
mod clients;
pub(crate) mod datagrams;
mod design;
mod exits;
mod fd_passing;
mod forks;
mod generation;
pub mod notify;
mod orders;
pub(crate) mod overflows;
mod reap;
mod report;
mod state;
mod stop;
mod waiters;

use std::os::fd::AsFd;
use std::time::Instant;

use log::{error, info, warn};

use crate::config::{Model, Reap};
use crate::daemon::supervisor::notify::{Notify, Status, Word};
use crate::daemon::worker::child::WorkerContext;
use crate::error::{Error, Exit, Result};
use crate::net::Intake;
use crate::sys::fd::Wait;

use children::Places;
use clients::Accepting;
use datagrams::DatagramWorkers;
use forks::Forks;
use generation::Generation;
use orders::Order;
use overflows::Overflows;
use reap::Reaper;
use report::Report;
use state::{Input, Phase};
use stop::Stop;
use waiters::Watch;

pub(crate) use orders::Orders;

// Places in the wait.
const ORDERS: usize = 0;
const BOARD: usize = 1;
const DESIGN: usize = 2;
const LISTENERS: usize = 3;

/// See the module.
pub struct Supervisor {
    /// Signals and the terminal.
    orders: Orders,
    /// What was configured: listeners, design and its children, access, services.
    generation: Generation,
    /// From which each child takes one.
    places: Places,
    /// Whether fork(2) is likely to work.
    forks: Forks,
    /// Finds dead children.
    reaper: Reaper,
    /// The turn of each listener, where the supervisor accepts.
    accepting: Accepting,
    /// One for each datagram socket.
    datagrams: DatagramWorkers,
    /// Where in its life it is.
    stop: Stop,
    /// What is said of how things are.
    report: Report,
    wait: Wait,
}

impl Supervisor {
    /// Everything but the children.
    ///
    /// # Errors
    /// When memory or descriptors are short.
    pub(crate) fn new(
        context: WorkerContext,
        datagrams: DatagramWorkers,
        overflows: Overflows,
        orders: Orders,
        notify: Option<Notify>,
    ) -> Result<Self> {
        let mmap = |errno| Error::os("mmap", "", errno);
        let slots = context.config.child_slots();
        let listeners = context.listeners.len();
        let by_source = context.access.policy().per_source.is_some();
        let reap = match context.config.model {
            Model::Fork(reap) => reap,
            Model::Prefork { .. } | Model::Iterative | Model::Thread | Model::Prethread { .. } => {
                Reap::Wait
            }
        };
        Ok(Supervisor {
            orders,
            places: Places::new(slots, by_source).map_err(mmap)?,
            forks: Forks::new(context.oom.as_ref()),
            reaper: Reaper::new(reap, slots).map_err(mmap)?,
            accepting: Accepting::new(),
            datagrams,
            stop: Stop::new(),
            report: Report::new(&context.config, &context.access, overflows, notify)?,
            wait: Wait::new(LISTENERS + listeners).map_err(mmap)?,
            generation: Generation::new(context, slots)?,
        })
    }

    /// Serves until told to stop. `ready` is called once, when clients can
    /// connect; before the first fork, so that no child keeps what it closes.
    pub fn run(mut self, ready: impl FnOnce()) -> Exit {
        // First: a manager must know a daemon's pid before its starter ends.
        self.report.say(Word::Ready);
        ready();
        loop {
            let now = Instant::now();
            if let Some(exit) = self.step(now) {
                return exit;
            }
            self.maintain(now);
            self.report
                .tell(|| status(&self.generation, &self.stop), now);
            let woken = self.sleep(now);
            let now = Instant::now();
            // Before anybody is accepted, which makes room in the queue.
            self.look_at_queues(now);
            // Taken before word from children and the dead: what comes later is seen at
            // the next wait, which it ends at once.
            if woken && self.wait.came(ORDERS) {
                self.orders.hear();
            }
            let child_died = self.orders.child_died();
            self.obey(now);
            if woken && self.wait.came(BOARD) {
                self.note_news(now);
            }
            if woken && self.wait.came(DESIGN) {
                self.note_closed_channels(now);
                self.generation.note_passed(&mut self.places);
            }
            self.reap(child_died, now);
            if woken {
                self.accept(now);
            }
        }
    }

    /// Does what is due: a client kept for want of a process, the pool's size,
    /// the end of troubles.
    fn maintain(&mut self, now: Instant) {
        self.look_at_waiters(now);
        self.forks.look(now);
        self.generation.look(now);
        self.accepting.look(now);
        if self.generation.context.config.print {
            self.report.look_at_print(&self.generation.context.board);
        }
        self.serve_pending(now);
        if self.stop.phase().serves() && !self.forks.wait(now) {
            let (places, forks) = (&mut self.places, &mut self.forks);
            self.generation
                .size_pool(places, forks, &self.datagrams, now);
        }
        self.fork_datagram_workers(now);
        if self.report.refusals_are_due(now) {
            self.look_at_refusals(now, false);
        }
        self.datagrams.look_in_time(now);
        self.pass_waiting(now);
        self.take_queue(now);
    }

    /// Forks the datagram workers that are missing. During a stop too, while a
    /// queue has not been answered: its worker was killed.
    fn fork_datagram_workers(&mut self, now: Instant) {
        if self.stop.phase().cuts() {
            return;
        }
        let (number, last) = (self.generation.number(), !self.stop.phase().serves());
        while !self.forks.wait(now)
            && let Some(socket) = self.datagrams.without_worker(number, now)
            && let Some(forked) =
                self.generation
                    .fork_datagram_worker(&self.datagrams, socket, last)
        {
            match forked {
                Err(errno) => self.forks.failed(errno, now),
                Ok(pid) => {
                    self.outlive(pid, now);
                    self.datagrams.add(socket, pid, number, now);
                }
            }
        }
    }

    /// Sleeps; true if a descriptor woke us, false for the time.
    fn sleep(&mut self, now: Instant) -> bool {
        // Asked once: that it is just over must not be missed by whoever would
        // have to wake us.
        let pause = self.pause();
        let watches = self.report.waits.watches(self.may_wait(), now);
        let accepts = self.stop.phase().serves()
            && !self.accepting.waits(now)
            && self.intake() != Intake::Leave;
        let listening = (pause.is_none() && accepts) || watches.contains(&Watch::Queues);
        self.wait.clear();
        self.wait.add(Some(self.orders.wakeup()));
        self.wait.add(Some(self.generation.context.board.wakeup()));
        self.wait.add(self.generation.design.wakeup());
        for listener in &self.generation.context.listeners {
            self.wait
                .add(listener.as_ref().filter(|_| listening).map(AsFd::as_fd));
        }
        let timeout = self
            .wakes_at(now)
            .into_iter()
            .chain(pause.map(|pause| now + pause))
            .chain(watches.into_iter().filter_map(Watch::until))
            .min()
            .map(|at| at.saturating_duration_since(now));
        self.wait.sleep(timeout)
    }

    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let phase = self.stop.phase();
        [
            phase.wakes_at(),
            self.forks.wakes_at(now),
            self.generation.wakes_at(now),
            self.accepting.wakes_at(now),
            self.reaper.wakes_at(),
            self.datagrams.wakes_at(self.generation.number(), now),
            self.report.wakes_at(phase.serves(), phase.welcomes()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Have clients found a listen queue full? A stop drops newcomers itself.
    fn look_at_queues(&mut self, now: Instant) {
        if self.stop.phase().welcomes() {
            let no_places = self.may_lack_places();
            let listeners = &self.generation.context.listeners;
            self.report.look_at_queues(listeners, no_places, now);
        }
    }

    fn obey(&mut self, now: Instant) {
        while let Some(order) = self.orders.next(now) {
            match order {
                Order::Stop(how) => {
                    self.advance(how, now);
                }
                // The first word of it alone, for both the kernel and a shell may bring
                // it.
                Order::HangUp => {
                    if self.stop.phase() == Phase::Running {
                        info!("the terminal is gone");
                        self.advance(Input::Term, now);
                    }
                }
                Order::Renew => self.reload(),
                Order::Reopen => match self.reopen_log() {
                    None => info!("USR1: this log is no file, and stays open"),
                    // They have the old file, and open none.
                    Some(true) if self.generation.workers_log() && self.stop.phase().welcomes() => {
                        self.renew();
                    }
                    Some(_) => {}
                },
                Order::Upgrade => warn!("USR2: this version cannot upgrade itself; ignored"),
                Order::More => self.generation.resize(true),
                Order::Fewer => self.generation.resize(false),
            }
        }
    }

    /// HUP.
    fn reload(&mut self) {
        // A stop that has begun is the last word.
        let running = self.stop.phase() == Phase::Running;
        if running {
            self.report.say(Word::Reloading);
        }
        self.reopen_log();
        self.generation.set_listeners_again();
        if self.is_without_workers() {
            info!("HUP: no worker waits to be replaced");
        } else if self.stop.phase().welcomes() {
            self.renew();
        }
        if running {
            self.report.say(Word::Ready);
        }
    }

    /// Whether that went well; `None` where there is nothing to reopen.
    fn reopen_log(&mut self) -> Option<bool> {
        match self.generation.context.log.reopen() {
            Ok(false) => return None,
            Ok(true) => info!("log reopened"),
            Err(e) => {
                error!("{e}");
                return Some(false);
            }
        }
        Some(true)
    }

    /// Is there nobody to replace, since workers are forked for their client?
    fn is_without_workers(&self) -> bool {
        !self.generation.design.has_pool() && self.datagrams.is_gone()
    }

    /// New workers, and nobody is cut.
    fn renew(&mut self) {
        if self.is_without_workers() || !self.stop.phase().serves() {
            return;
        }
        match self.generation.renew() {
            Ok(()) => {
                self.datagrams.dismiss();
                let number = self.generation.number();
                info!("generation {number}: new workers, nobody is cut");
            }
            Err(error) => error!("{error}; the old workers stay"),
        }
    }
}

/// How things are, for a service manager.
fn status(generation: &Generation, stop: &Stop) -> Status {
    Status {
        serves: stop.phase().serves(),
        clients: generation.busy(),
        idle: generation.idle_in_pool(),
    }
}

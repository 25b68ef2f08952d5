//! A generation: all that a configuration brings into being. What its workers are born
//! with, the design with its table of children, and the pipe of death that ends it.
//!
//! It forks workers and knows what they do; who is accepted, and what else a death
//! means, is for the loop. Reserve a place, fork, commit; on failure cancel. A place is
//! given back when the kernel (or, double-forked, the channel) says that the child is
//! gone: `exits`.

use std::time::Instant;

use log::{info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::Overflow;
use crate::daemon::datagram;
use crate::daemon::shared::connection_log;
use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::pool::{Census, Move, Pool, Shift};
use crate::daemon::shared::scoreboard::{Said, Slot};
use crate::daemon::shared::seats::Seats;
use crate::daemon::threads::worker;
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::prefork::{self, AcceptStrategy};
use crate::daemon::worker::{child, serve};
use crate::error::{Error, Result, errno_text};
use crate::net::connection::BUFFER;
use crate::net::{Accepted, Intake, Listener};
use crate::sys::process;
use crate::sys::shm::Buffer;

use super::children::{Child, Children, Reserved, Role};
use super::datagrams::DatagramWorkers;
use super::design::{Design, Prefork, Roles, Threads, Tie, WhoAccepts};
use super::fd_passing::Passed;
use super::forks::Forks;
use super::places::Places;
use super::respawn::RespawnLimiter;

mod exits;

pub(super) use exits::{ChildExit, Clients};

/// See the module.
pub(super) struct Generation {
    /// What its workers are born with.
    pub(super) context: WorkerContext,
    /// What the listeners are called, those that are closed too.
    names: Vec<String>,
    death: PipeOfDeath,
    pub(super) design: Design,
    children: Children,
    respawn: RespawnLimiter,
    buffer: Buffer,
    /// Workers forked so far: none is looked at first by all of them.
    born: usize,
    /// The pool was sized once.
    started: bool,
    /// Idle workers that are to be replaced, whatever the limits say.
    lost: usize,
}

/// A process that was forked for a client, and not told of yet.
pub(super) struct Newborn {
    reserved: Reserved,
    pub(super) pid: Pid,
}

/// Why a client has no process yet.
pub(super) enum NotForked {
    /// There is no place for it.
    NoPlace,
    /// fork(2) or the channel to the child failed.
    Failed(Errno),
}

impl Generation {
    /// The first: no child yet, with `slots` for them.
    ///
    /// # Errors
    /// When memory or descriptors are short.
    pub(super) fn new(context: WorkerContext, slots: usize) -> Result<Self> {
        let mmap = |errno| Error::os("mmap", "", errno);
        let names = context.listeners.iter().flatten();
        Ok(Generation {
            names: names.map(|listener| listener.name().to_owned()).collect(),
            death: PipeOfDeath::new(1, context.config.model.accept())?,
            design: Design::new(&context.config, !context.listeners.is_empty(), slots)?,
            children: Children::new(slots).map_err(mmap)?,
            respawn: RespawnLimiter::default(),
            buffer: Buffer::new(BUFFER).map_err(mmap)?,
            born: 0,
            started: false,
            lost: 0,
            context,
        })
    }

    /// Counts up with each HUP.
    pub(super) fn number(&self) -> u32 {
        self.death.number
    }

    /// The table of its children.
    pub(super) fn table(&self) -> &Children {
        &self.children
    }

    /// What the listeners are called.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// What this listener is called, whatever a child says that it is.
    pub(super) fn name_of(&self, listener: usize) -> &str {
        self.names.get(listener).map_or("?", String::as_str)
    }

    /// HUP: idle workers of the old pipe leave, busy ones serve their client to its end.
    ///
    /// # Errors
    /// When descriptors are short: everything is as it was.
    pub(super) fn renew(&mut self) -> Result<()> {
        let number = self.death.number.wrapping_add(1);
        let next = PipeOfDeath::new(number, self.context.config.model.accept())?;
        self.children.leave_idle();
        if let Some(passing) = self.design.passing() {
            passing.none_free();
        }
        self.death = next;
        Ok(())
    }

    /// A stop: idle workers accept what they were woken for, or leave.
    pub(super) fn end(&mut self) {
        self.death.end();
    }

    /// Is nobody left: no listener, no child and no client that waits for one?
    pub(super) fn is_empty(&self) -> bool {
        self.children.alive() == 0 && self.design.waiting().next().is_none() && self.is_deaf()
    }

    /// Once a turn of the loop: have workers lived for a while?
    pub(super) fn look(&mut self, now: Instant) {
        self.respawn.look(now);
    }

    /// When that may be, or more workers may be forked.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.respawn.wakes_at(now)
    }

    // What its children do.

    /// Workers that wait and have not been told to go with the pipe before.
    pub(super) fn idle(&self) -> usize {
        let waits = |slot: &Slot| {
            let is =
                |child: &Child| child.role == Role::Idle && child.generation == self.death.number;
            self.context.board.said(*slot) != Said::Serving
                && self.children.get(*slot).is_some_and(is)
        };
        match self.design.roles() {
            Roles::Table => self.children.idle(),
            Roles::Board | Roles::Seats(_) => self.children.slots().filter(waits).count(),
        }
    }

    /// Those of them that were not asked to go.
    pub(super) fn waiting(&self) -> usize {
        self.idle().saturating_sub(self.death.retiring())
    }

    /// Workers that wait, where there is a pool of them and not of threads.
    pub(super) fn idle_in_pool(&self) -> Option<usize> {
        match &self.design {
            Design::Datagrams | Design::Fork(_) | Design::Threads(_) => None,
            Design::Prefork(_) | Design::Iterative(_) => Some(self.idle()),
        }
    }

    /// Clients being served: every child that does not wait, but for threads.
    pub(super) fn busy(&self) -> usize {
        match self.design.roles() {
            Roles::Seats(seats) => seats.occupied(),
            Roles::Table | Roles::Board => self.children.alive().saturating_sub(self.idle()),
        }
    }

    /// Clients being served, as far as their children say, and of those who have not
    /// said that they have nothing more to do.
    pub(super) fn serving(&self) -> usize {
        let busy = |slot| {
            self.children
                .get(slot)
                .is_some_and(|c| c.role == Role::Busy)
        };
        let says = |slot| self.context.board.said(slot) == Said::Serving;
        match self.design.roles() {
            Roles::Seats(seats) => seats.occupied(),
            Roles::Table => self.count_serving(busy),
            Roles::Board => self.count_serving(says),
        }
    }

    fn count_serving(&self, serves: impl Fn(Slot) -> bool) -> usize {
        let serving = self.children.slots().filter(|&slot| serves(slot)).count();
        let mut ended = 0;
        self.context
            .board
            .ended(|slot| ended += usize::from(serves(slot)));
        serving.saturating_sub(ended)
    }

    /// Clients that wait to be accepted, or to be passed to a worker; of a Unix
    /// socket's the kernel says no more than whether there are any.
    pub(super) fn queued(&self) -> usize {
        let open = self.context.listeners.iter().flatten();
        let queued: usize = open.map(|listener| listener.queue().waiting as usize).sum();
        queued + self.design.waiting().count()
    }

    /// What is done about a client that comes.
    pub(super) fn intake(&self, places: &Places) -> Intake {
        let (takes, full) = self.design.places(places.full(), || self.idle());
        Intake::decide(takes, full, self.context.config.overflow)
    }

    /// Is there room for a process that serves one more client? If not, a child wakes
    /// us or SIGCHLD comes when there may be.
    pub(super) fn has_room(&self, places: &Places) -> bool {
        if places.full() {
            return false;
        }
        // No child is the owner of this one: it goes back at once.
        let seat = self.design.take_seat(places.all());
        seat.is_ok_and(|seat| {
            self.design.give_back(seat);
            true
        })
    }

    // Its workers.

    /// Forks as many workers as are missing, or asks those beyond to go.
    pub(super) fn size_pool(
        &mut self,
        places: &mut Places,
        forks: &mut Forks,
        datagrams: &DatagramWorkers,
        now: Instant,
    ) {
        if !self.design.has_pool() {
            return;
        }
        let census = Census {
            idle: self.waiting(),
            alive: places.taken(),
            max: places.all(),
            lost: std::mem::take(&mut self.lost),
        };
        let starting = !std::mem::replace(&mut self.started, true);
        let Some(pool) = self.design.pool() else {
            return;
        };
        let moved = match starting {
            true => Move::Fork(pool.start(census)),
            false => pool.decide(census),
        };
        match moved {
            Move::Stay => {}
            Move::Retire(n) => self.death.retire(n),
            Move::Fork(n) => {
                let allowed = 0..self.respawn.allowed(n, now);
                let forks = |_: &usize| self.fork_worker(places, forks, datagrams, now);
                let forked = allowed.take_while(forks).count();
                if forked < n {
                    self.lost = census.lost.saturating_sub(forked);
                }
            }
        }
        if self.design.is_counted_by_board() {
            self.say_when_to_wake(places.full());
        }
    }

    /// Workers that serve many wake us only when the pool could do something.
    fn say_when_to_wake(&mut self, full: bool) {
        let overflow = self.context.config.overflow;
        let Some(limits) = self.design.pool().map(|pool| pool.limits()) else {
            return;
        };
        let (below, above) = match (full, overflow) {
            (false, _) => (limits.min_spare, limits.max_spare),
            // That clients wait then is seen in the queue.
            (true, Overflow::Queue) => (0, limits.max_spare),
            (true, _) => (1, 0),
        };
        self.context.board.wake_outside(below, above);
    }

    /// Do workers write lines of their own?
    pub(super) fn workers_log(&self) -> bool {
        self.context.config.model.reuses() && connection_log::start_of_conn().is_some()
    }

    /// All workers that wait are woken by word to go for one of them, if that has not
    /// been done; true if it is now.
    pub(super) fn wake_all_for_one(&mut self) -> bool {
        let wakes = self.death.retiring() == 0 && self.idle() > 0;
        if wakes {
            self.death.retire(1);
        }
        wakes
    }

    /// A worker more than the limits ask for.
    pub(super) fn replace_one(&mut self) {
        self.lost += 1;
    }

    /// TTIN and TTOU: moves the pool's limits, and the workers by one.
    pub(super) fn resize(&mut self, more: bool) {
        let max = self.context.config.max_clients;
        let Some(pool) = self.design.movable_pool() else {
            info!("TTIN and TTOU: this design has no pool of workers");
            return;
        };
        let (shift, end) = match more {
            true => (
                pool.grow(max),
                "as many workers wait as --max-clients allows",
            ),
            false => (Pool::shrink(pool), "one worker waits, which is the least"),
        };
        let limits = pool.limits();
        let least = limits.min_spare;
        match shift {
            Shift::Moved => {
                let most = limits.max_spare.min(max);
                info!("{least} to {most} workers wait from now on");
                match more {
                    // One more, even where as many wait as the limits ask for.
                    true => self.lost += 1,
                    false if self.waiting() > least => self.death.retire(1),
                    false => {}
                }
            }
            Shift::End => info!("{end}"),
            Shift::StillAtEnd => {}
        }
    }

    /// Forks one worker: what each design's is, side by side. False if it could not.
    fn fork_worker(
        &mut self,
        places: &mut Places,
        forks: &mut Forks,
        datagrams: &DatagramWorkers,
        now: Instant,
    ) -> bool {
        if !forks.have_memory(self.context.oom.as_ref(), places.taken(), now) {
            return false;
        }
        let Some(reserved) = self.children.reserve(places) else {
            return false;
        };
        let slot = reserved.slot();
        let first = self.born;
        let (context, death, buffer) = (&self.context, &self.death, &mut self.buffer);
        context.board.clear(slot);
        if self.design.is_counted_by_board() {
            context.board.count_waiting(1);
        }
        let strategy = || AcceptStrategy::new(context, death, None, first);
        // In a worker for one client, which closes all the rest when it has it: lets go
        // of what would keep others from hearing that the supervisor is gone.
        let close_supervisors = || {
            datagrams.close_inherited();
            death.close_order_end();
        };
        let forked = match &mut self.design {
            // Their children are forked for a client.
            Design::Datagrams | Design::Fork(_) => Err(Errno::ECHILD),
            Design::Prefork(prefork) => match (&mut prefork.accepts, prefork.per_child) {
                (WhoAccepts::Workers, Some(1)) => {
                    let serve = || {
                        close_supervisors();
                        prefork::serve_one(context, slot, strategy(), buffer.bytes())
                    };
                    match death.lock() {
                        None => context.fork(Some(slot), || process::fork_bare(serve)),
                        Some(_) => fork_lasting(context, death, None, slot, serve),
                    }
                }
                (WhoAccepts::Workers, limit) => fork_lasting(context, death, None, slot, || {
                    prefork::serve_many(context, slot, strategy(), buffer.bytes(), limit)
                }),
                (WhoAccepts::Supervisor(passing), limit) => {
                    passing.open(slot).and_then(|channel| match limit {
                        Some(1) => context.fork(Some(slot), || {
                            process::fork_bare(|| {
                                child::keep_for_channel(context, death, &channel);
                                let strategy =
                                    AcceptStrategy::new(context, death, Some(&channel), first);
                                prefork::serve_one(context, slot, strategy, buffer.bytes())
                            })
                        }),
                        limit => fork_lasting(context, death, None, slot, || {
                            let strategy =
                                AcceptStrategy::new(context, death, Some(&channel), first);
                            prefork::serve_many(context, slot, strategy, buffer.bytes(), limit)
                        }),
                    })
                }
            },
            Design::Iterative(_) => fork_lasting(context, death, None, slot, || {
                prefork::serve_many(context, slot, strategy(), buffer.bytes(), None)
            }),
            Design::Threads(Threads { seats, .. }) => {
                fork_lasting(context, death, Some(seats), slot, || {
                    worker::serve(context, slot, seats, death.watched(), first)
                })
            }
        };
        match forked {
            Ok(pid) => {
                self.born = self.born.wrapping_add(1);
                if let Some(passing) = self.design.passing() {
                    passing.free(slot);
                }
                forks.may_work();
                self.commit(Newborn { reserved, pid }, Role::Idle, now);
                true
            }
            Err(errno) => {
                if let Some(passing) = self.design.passing() {
                    passing.close(slot);
                }
                if self.design.is_counted_by_board() {
                    self.context.board.count_waiting(-1);
                }
                self.children.cancel(reserved, places);
                forks.failed(errno, now);
                false
            }
        }
    }

    /// Forks a process for an accepted client, in `fork` and, at a stop, in every
    /// design. The child is to be [`Generation::commit`]ted.
    pub(super) fn fork_for(
        &mut self,
        accepted: &Accepted,
        places: &mut Places,
    ) -> Result<Newborn, NotForked> {
        let reserved = self.children.reserve(places).ok_or(NotForked::NoPlace)?;
        let slot = reserved.slot();
        let Ok(seat) = self.design.take_seat(slot) else {
            self.children.cancel(reserved, places);
            return Err(NotForked::NoPlace);
        };
        let (context, buffer) = (&self.context, &mut self.buffer);
        context.board.clear(slot);
        context
            .board
            .serving(slot, accepted.peer, accepted.listener);
        let accepted = || accepted.inherited();
        let forked = match &mut self.design {
            Design::Fork(Tie::Channels(channels)) => {
                let forked = channels.open(slot).and_then(|end| {
                    context.fork(Some(slot), || {
                        process::fork(|| {
                            let buffer = buffer.bytes();
                            serve::serve_as_grandchild(context, slot, buffer, accepted(), &end)
                        })
                    })
                });
                if forked.is_err() {
                    channels.close(slot);
                }
                forked
            }
            Design::Fork(Tie::Parent | Tie::Kernel)
            | Design::Datagrams
            | Design::Prefork(_)
            | Design::Iterative(_)
            | Design::Threads(_) => context.fork(Some(slot), || {
                process::fork_bare(|| {
                    serve::serve_as_child(context, slot, buffer.bytes(), accepted())
                })
            }),
        };
        match forked {
            Ok(pid) => Ok(Newborn { reserved, pid }),
            Err(errno) => {
                self.children.cancel(reserved, places);
                self.design.give_back(seat);
                Err(NotForked::Failed(errno))
            }
        }
    }

    /// A child that was forked has a place in the table from now on.
    pub(super) fn commit(&mut self, newborn: Newborn, role: Role, now: Instant) -> Slot {
        let slot = newborn.reserved.slot();
        let is_inits = self.design.channels().is_some();
        let child = Child {
            pid: (!is_inits).then_some(newborn.pid),
            role,
            generation: self.death.number,
            since: now,
            told: false,
        };
        self.children.commit(newborn.reserved, child);
        slot
    }

    /// Kills every child whose pid the kernel still holds for us, for a worker
    /// hears no order; a double-forked one gets its order by its channel.
    pub(super) fn kill_all(&mut self) {
        let slots: Vec<_> = self.children.slots().collect();
        for slot in slots {
            self.children.told(slot);
            if let Some(channels) = self.design.channels() {
                channels.order_stop(slot);
            }
            if let Some(pid) = self.children.get(slot).and_then(|child| child.pid) {
                process::signal_child(pid, Signal::SIGKILL);
            }
        }
    }

    /// Forks the worker of a datagram socket, which has no place: it is nobody's client.
    /// `last` says that it is to answer what is queued, and to leave. `None` if the
    /// socket is closed.
    pub(super) fn fork_datagram_worker(
        &self,
        datagrams: &DatagramWorkers,
        socket: usize,
        last: bool,
    ) -> Option<Result<Pid, Errno>> {
        let workplace = datagrams.workplace(socket, last)?;
        let serve = || {
            self.death.close_order_end();
            datagram::worker::serve(&self.context, &workplace)
        };
        let forked = datagrams
            .inherited(socket, true)
            .and_then(|()| self.context.fork(None, || process::fork(serve)));
        let _ = datagrams.inherited(socket, false);
        Some(forked)
    }

    // Fd passing.

    /// Passes a client to a worker that is free: the slot of who has it, and counts as
    /// busy from now on, so that its replacement is forked at once. Else it waits; an
    /// errno says what the kernel lacks.
    pub(super) fn pass(&mut self, accepted: Accepted, now: Instant) -> Result<Option<Slot>, Errno> {
        let Some(passing) = self.design.passing() else {
            return Ok(None);
        };
        match passing.pass(accepted, &self.context.board) {
            Passed::To(slot) => {
                self.children.taken(slot, now);
                Ok(Some(slot))
            }
            Passed::NotYet => Ok(None),
            Passed::Short(errno) => Err(errno),
        }
    }

    /// What workers say of clients: who took the one that was passed to it, and who
    /// waits for another; or, where they accept, who has one now.
    pub(super) fn note_taken(&mut self, places: &mut Places, now: Instant) {
        self.respawn.well();
        match self.design.passing() {
            Some(_) => self.note_passed(places),
            None => {
                let children = &mut self.children;
                self.context.board.drain_taken(|slot| {
                    children.taken(slot, now);
                });
            }
        }
    }

    /// The same, of clients that were passed to them.
    pub(super) fn note_passed(&mut self, places: &mut Places) {
        let Design::Prefork(Prefork {
            accepts: WhoAccepts::Supervisor(passing),
            ..
        }) = &mut self.design
        else {
            return;
        };
        self.context.board.drain_taken(|slot| passing.taken(slot));
        while let Some(slot) = passing.next_asking() {
            places.vacate(slot);
            if self.children.again(slot, self.death.number) {
                passing.free(slot);
            }
        }
    }

    // Its listeners.

    /// The one with this index, if it is open.
    pub(super) fn listener(&self, listener: usize) -> Option<&Listener> {
        self.context.listeners.get(listener)?.as_ref()
    }

    /// It is of no use any more; false if that was known.
    pub(super) fn give_up_listener(&mut self, listener: usize) -> bool {
        self.context.listeners[listener].take().is_some()
    }

    /// Sets the listeners' options once more: at a reload, and when a worker that kept
    /// them has died as none should.
    pub(super) fn set_listeners_again(&self) {
        for listener in self.context.listeners.iter().flatten() {
            if let Err(errno) = listener.set_again(&self.context.config.timeouts) {
                let name = listener.name();
                warn!("setsockopt {name}: {}: left as it is", errno_text(errno));
            }
        }
    }

    /// No more gets into the queues. One that cannot keep newcomers out is closed.
    pub(super) fn refuse_new(&mut self) {
        for listener in 0..self.context.listeners.len() {
            let Some(open) = &self.context.listeners[listener] else {
                continue;
            };
            if let Err(errno) = open.refuse_new() {
                // Multipath TCP, say. A plain close resets who is queued, but a
                // queue that never ends would be worse.
                let name = open.name();
                warn!(
                    "SO_ATTACH_FILTER {name}: {}: closed at once",
                    errno_text(errno)
                );
                self.close_listener(listener);
            }
        }
    }

    /// A Unix socket can refuse newcomers and keep its queue; it would wake waiting
    /// workers for ever, so not before they are told to go. One that was handed over is
    /// left with its queue to whoever has it next.
    pub(super) fn shut_listeners(&mut self) {
        for listener in 0..self.context.listeners.len() {
            let Some(listener) = self.keep_ours(listener) else {
                continue;
            };
            if let Err(errno) = listener.shut() {
                warn!("shutdown {}: {}", listener.name(), errno_text(errno));
            }
        }
    }

    /// In a stop: the listener with this index if it is open and ours. One that was
    /// handed over is closed.
    pub(super) fn keep_ours(&mut self, listener: usize) -> Option<&Listener> {
        let open = self.context.listeners[listener].as_ref()?;
        if open.is_handed() {
            info!(
                "{}: left, with its queue, to whoever opened it",
                open.name()
            );
            self.close_listener(listener);
        }
        self.context.listeners[listener].as_ref()
    }

    /// Closes a listener, and unlinks its path if that is still ours.
    pub(super) fn close_listener(&mut self, listener: usize) {
        let Some(open) = self.context.listeners[listener].take() else {
            return;
        };
        if let Err(errno) = open.unlink() {
            warn!("unlink {}: {}: left behind", open.name(), errno_text(errno));
        }
    }

    /// Is none of them open?
    pub(super) fn is_deaf(&self) -> bool {
        self.context.listeners.iter().all(Option::is_none)
    }
}

/// Forks a worker that lives on, and so shares what only such have business with: what
/// they take turns and seats by, and the rate. A process for one client, taken over,
/// reaches the scoreboard and no more.
fn fork_lasting(
    context: &WorkerContext,
    death: &PipeOfDeath,
    seats: Option<&Seats>,
    slot: Slot,
    serve: impl FnOnce() -> i32,
) -> Result<Pid, Errno> {
    let lend = |whether| {
        context.inherited(whether)?;
        seats.map_or(Ok(()), |seats| seats.inherited(whether))?;
        death.lock().map_or(Ok(()), |lock| lock.inherited(whether))
    };
    let forked = lend(true).and_then(|()| context.fork(Some(slot), || process::fork(serve)));
    let _ = lend(false);
    forked
}

//! Forking: as many workers as are missing, and processes for clients that were accepted.
//! Reserve a place, fork, commit; on failure cancel.

use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::config::Overflow;
use crate::daemon::datagram;
use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::pool::{Census, Move};
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::shared::seats::Seats;
use crate::daemon::supervisor::children::{Child, Places, Reserved, Role};
use crate::daemon::supervisor::datagrams::DatagramWorkers;
use crate::daemon::supervisor::design::{Design, Threads, Tie, WhoAccepts};
use crate::daemon::supervisor::forks::Forks;
use crate::daemon::threads;
use crate::daemon::worker::child::{self, WorkerContext};
use crate::daemon::worker::prefork::{self, AcceptStrategy};
use crate::daemon::worker::serve;
use crate::error::Result;
use crate::net::Accepted;
use crate::sys::process;

use super::Generation;

/// A process that was forked for a client, and not told of yet.
pub(in super::super) struct Newborn {
    reserved: Reserved,
    pub(in super::super) pid: Pid,
}

/// Why a client has no process yet.
pub(in super::super) enum NotForked {
    /// There is no place for it.
    NoPlace,
    /// fork(2) or the channel to the child failed.
    Failed(Errno),
}

impl Generation {
    /// Forks as many workers as are missing, or asks those beyond to go.
    pub(in super::super) fn size_pool(
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
                    threads::serve(context, slot, seats, death.watched(), first)
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
    pub(in super::super) fn fork_for(
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
    pub(in super::super) fn commit(&mut self, newborn: Newborn, role: Role, now: Instant) -> Slot {
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

    /// Forks the worker of a datagram socket, which has no place: it is nobody's client.
    /// `last` says that it is to answer what is queued, and to leave. `None` if the
    /// socket is closed.
    pub(in super::super) fn fork_datagram_worker(
        &self,
        datagrams: &DatagramWorkers,
        socket: usize,
        last: bool,
    ) -> Option<Result<Pid, Errno>> {
        let workplace = datagrams.workplace(socket, last)?;
        let serve = || {
            self.death.close_order_end();
            datagram::serve(&self.context, &workplace)
        };
        let forked = datagrams
            .inherited(socket, true)
            .and_then(|()| self.context.fork(None, || process::fork(serve)));
        let _ = datagrams.inherited(socket, false);
        Some(forked)
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

//! A generation: all that a configuration brings into being. What its workers are born
//! with, listeners among it, the design with its table of children, and the pipe of death
//! that ends it.
//!
//! It forks workers (`fork`) and knows what they do, and what they did when they are gone
//! (`exits`): the kernel says so or, double-forked, the channel. Who is accepted, and what
//! else a death means, is for the loop.

use std::time::Instant;

use log::{info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::daemon::shared::connection_log;
use crate::daemon::shared::pipe_of_death::PipeOfDeath;
use crate::daemon::shared::pool::{Pool, Shift};
use crate::daemon::shared::scoreboard::{Said, Slot};
use crate::daemon::worker::child::WorkerContext;
use crate::error::{Error, Result, errno_text};
use crate::net::connection::BUFFER;
use crate::net::{Accepted, Intake, Listener};
use crate::sys::memory::Buffer;
use crate::sys::process;

use super::children::{Child, Children, Places, Role};
use super::design::{Design, Prefork, Roles, WhoAccepts};
use super::fd_passing::Passed;
use super::forks::RespawnLimiter;

mod exits;
mod fork;

pub(super) use exits::{ChildExit, Clients};
pub(super) use fork::NotForked;

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
    /// Workers forked so far: no listener is looked at first by all of them.
    born: usize,
    /// The pool was sized once.
    started: bool,
    /// Idle workers that are to be replaced, whatever the limits say.
    lost: usize,
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
        self.children.alive() == 0
            && self.design.waiting().next().is_none()
            && self.has_no_listener()
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

    // Its listeners: what is said to them all, and how each is closed without loss.

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
    pub(super) fn has_no_listener(&self) -> bool {
        self.context.listeners.iter().all(Option::is_none)
    }
}

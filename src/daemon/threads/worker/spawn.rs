//! Starting threads: one for a client, or as many as the pool wants.
//!
//! What a thread is to have (a client, a seat) is never lost when none can be
//! started: it is kept, or given back, and tried again after a pause that grows.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Instant;

use nix::errno::Errno;

use crate::config::{PoolLimits, ThreadAccept};
use crate::daemon::shared::pool::{Census, Move};
use crate::daemon::shared::seats::{Seat, Waiter};
use crate::daemon::threads::prethread::{self, WaitsAt};
use crate::daemon::threads::worker::MainThread;
use crate::net::Accepted;
use crate::net::connection::BUFFER;
use crate::sys::shm::Buffer;

/// A thread's stack: an echo needs next to none, a log line some KiB.
const STACK: usize = 128 * 1024;

impl<'scope> MainThread<'scope, '_> {
    /// Starts the threads that are missing, as far as there are seats.
    pub(super) fn start_threads(&mut self, now: Instant) {
        if self.thread_wait.waits(now) {
            return;
        }
        if let Some((client, seat)) = self.pending.take() {
            self.start_for(client, seat, now);
        }
        let (idle, alive, sealed) = {
            let counts = self.pool.counts();
            (counts.idle, counts.alive, counts.sealed)
        };
        let Some(spares) = self.spares.as_mut().filter(|_| !sealed) else {
            return;
        };
        let census = Census {
            idle,
            alive,
            max: self.seats.count(),
            lost: 0,
        };
        let wanted = if std::mem::replace(&mut spares.started, true) {
            match spares.size.decide(census) {
                Move::Fork(n) => n,
                // Threads retire by themselves, when they come back and enough wait.
                Move::Stay | Move::Retire(_) => 0,
            }
        } else {
            spares.size.start(census)
        };
        let (limits, accept) = (spares.limits, spares.accept);
        for _ in 0..wanted {
            if !self.start_in_pool(limits, accept, now) {
                return;
            }
        }
    }

    /// A seat for the next client or thread; room to be told of if there is none.
    pub(super) fn claim(&mut self) -> Option<Seat> {
        let (slot, from) = (self.slot, &mut self.look_from);
        let seat = self.seats.claim_or_wait(slot, from, Waiter::Worker);
        self.seatless = seat.is_none();
        seat
    }

    fn start_in_pool(&mut self, limits: PoolLimits, accept: ThreadAccept, now: Instant) -> bool {
        let Some(seat) = self.claim() else {
            return false;
        };
        let waits_at = match accept {
            ThreadAccept::Shared => WaitsAt::Shared(self.acceptor.beside(self.born)),
            ThreadAccept::Mutex => WaitsAt::Mutex(self.turn),
            ThreadAccept::Pass => WaitsAt::Pass(self.handoff),
        };
        self.born = self.born.wrapping_add(1);
        let (pool, most) = (self.pool, self.seats.count());
        pool.counts().idle += 1;
        let work = move |seat| prethread::work(pool, waits_at, seat, limits, most);
        let Err((seat, errno)) = self.start(seat, work) else {
            self.thread_wait.reset();
            return true;
        };
        pool.counts().idle -= 1;
        seat.into_iter().for_each(|seat| pool.release(seat));
        self.put_off(errno, now);
        false
    }

    /// `thread`: a thread for a client, which is kept if there can be none now.
    pub(super) fn start_for(&mut self, client: Accepted, seat: Seat, now: Instant) {
        let pool = self.pool;
        let work = move |(client, seat): (Accepted, Seat)| {
            let mut buffer = Buffer::new(BUFFER);
            let memory = buffer.as_mut().map(Buffer::bytes).map_err(|errno| *errno);
            pool.serve(client, &seat, memory);
            pool.leave(seat, false);
        };
        match self.start((client, seat), work) {
            Ok(()) => self.thread_wait.reset(),
            Err((pending, errno)) => {
                self.pending = pending;
                self.put_off(errno, now);
            }
        }
    }

    /// Starts a thread, or gives back what it was to have.
    fn start<T: Send + 'scope>(
        &self,
        load: T,
        work: impl FnOnce(T) + Send + 'scope,
    ) -> Result<(), (Option<T>, Errno)> {
        fn unload<T>(load: &Mutex<Option<T>>) -> Option<T> {
            load.lock().unwrap_or_else(PoisonError::into_inner).take()
        }
        if self.pool.counts().alive >= self.most_threads {
            return Err((Some(load), Errno::ENOMEM));
        }
        // Shared, because what a closure owns is lost with it when no thread
        // can be had.
        let load = Arc::new(Mutex::new(Some(load)));
        let theirs = Arc::clone(&load);
        self.pool.counts().alive += 1;
        let run = move || {
            if let Some(load) = unload(&theirs) {
                work(load);
            }
        };
        match Builder::new()
            .stack_size(STACK)
            .spawn_scoped(self.scope, run)
        {
            Ok(_) => Ok(()),
            Err(error) => {
                self.pool.counts().alive -= 1;
                let errno = error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw);
                Err((unload(&load), errno))
            }
        }
    }

    fn put_off(&mut self, errno: Errno, now: Instant) {
        self.thread_wait.fail(now);
        self.seats.say_short(errno);
        self.context.board.wake();
    }
}

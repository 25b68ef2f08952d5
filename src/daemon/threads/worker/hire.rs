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
use crate::daemon::threads::prethread::{self, Place};
use crate::daemon::threads::worker::Post;
use crate::net::Accepted;
use crate::net::connection::BUFFER;
use crate::sys::shm::Buffer;

/// A thread's stack: an echo needs next to none, a log line some KiB.
const STACK: usize = 128 * 1024;

impl<'scope> Post<'scope, '_> {
    /// Starts the threads that are missing, as far as there are seats.
    pub(crate) fn start_threads(&mut self, now: Instant) {
        if self.thread_wait.waits(now) {
            return;
        }
        if let Some((client, seat)) = self.held.take() {
            self.start_for(client, seat, now);
        }
        let (idle, alive, sealed) = {
            let roster = self.crew.roster();
            (roster.idle, roster.alive, roster.sealed)
        };
        let Some(staff) = self.staff.as_mut().filter(|_| !sealed) else {
            return;
        };
        let census = Census {
            idle,
            alive,
            max: self.seats.count(),
            lost: 0,
        };
        let wanted = if std::mem::replace(&mut staff.started, true) {
            match staff.pool.decide(census) {
                Move::Fork(n) => n,
                // Threads retire by themselves, when they come back and enough wait.
                Move::Stay | Move::Retire(_) => 0,
            }
        } else {
            staff.pool.start(census)
        };
        let (limits, accept) = (staff.limits, staff.accept);
        for _ in 0..wanted {
            if !self.start_in_pool(limits, accept, now) {
                return;
            }
        }
    }

    /// A seat for the next client or thread; room to be told of if there is none.
    pub(crate) fn claim(&mut self) -> Option<Seat> {
        let (slot, from) = (self.slot, &mut self.look_from);
        let seat = self.seats.claim_or_wait(slot, from, Waiter::Worker);
        self.seatless = seat.is_none();
        seat
    }

    fn start_in_pool(&mut self, limits: PoolLimits, accept: ThreadAccept, now: Instant) -> bool {
        let Some(seat) = self.claim() else {
            return false;
        };
        let place = match accept {
            ThreadAccept::Shared => Place::Shared(self.acceptor.beside(self.hired)),
            ThreadAccept::Mutex => Place::Mutex(self.turn),
            ThreadAccept::Pass => Place::Pass(self.hand),
        };
        self.hired = self.hired.wrapping_add(1);
        let (crew, most) = (self.crew, self.seats.count());
        crew.roster().idle += 1;
        let work = move |seat| prethread::work(crew, place, seat, limits, most);
        let Err((seat, errno)) = self.start(seat, work) else {
            self.thread_wait.reset();
            return true;
        };
        crew.roster().idle -= 1;
        seat.into_iter().for_each(|seat| crew.release(seat));
        self.put_off(errno, now);
        false
    }

    /// `thread`: a thread for a client, which is kept if there can be none now.
    pub(crate) fn start_for(&mut self, client: Accepted, seat: Seat, now: Instant) {
        let crew = self.crew;
        let work = move |(client, seat): (Accepted, Seat)| {
            let mut buffer = Buffer::new(BUFFER);
            let memory = buffer.as_mut().map(Buffer::bytes).map_err(|errno| *errno);
            crew.serve(client, &seat, memory);
            crew.leave(seat, false);
        };
        match self.start((client, seat), work) {
            Ok(()) => self.thread_wait.reset(),
            Err((held, errno)) => {
                self.held = held;
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
        if self.crew.roster().alive >= self.most_threads {
            return Err((Some(load), Errno::ENOMEM));
        }
        // Shared, because what a closure owns is lost with it when no thread
        // can be had.
        let load = Arc::new(Mutex::new(Some(load)));
        let theirs = Arc::clone(&load);
        self.crew.roster().alive += 1;
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
                self.crew.roster().alive -= 1;
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

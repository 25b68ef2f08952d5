//! A pool of threads in one worker, and the three ways in which they come by a
//! client (UNP rows 7 and 8, and serv09 of the tutorials).
//!
//! - *shared*: each idle thread waits at one epoll of all of them, is woken
//!   alone, and accepts.
//! - *mutex*: one idle thread waits and accepts, holding a mutex; the others
//!   wait for that. It is freed by its holder alone, for threads do not die
//!   alone: what kills one ends the process.
//! - *pass*: the main thread accepts when a thread is idle, and hands over.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::addr::Peer;
use crate::config::PoolLimits;
use crate::daemon::shared::seats::{Seat, Seats};
use crate::daemon::threads::pool::ThreadPool;
use crate::daemon::worker::acceptor::{Acceptor, Next};
use crate::net::Accepted;
use crate::net::connection::BUFFER;
use crate::sys::process;
use crate::sys::shm::Buffer;

/// Where a thread of the pool waits for clients.
pub enum WaitsAt<'a> {
    /// At the listeners.
    Shared(Acceptor<'a>),
    /// For its turn at the listeners.
    Mutex(&'a Mutex<Acceptor<'a>>),
    /// For the main thread.
    Pass(&'a Handoff),
}

/// Clients that the main thread has accepted, each for a thread that was idle.
#[derive(Default)]
pub struct Handoff {
    clients: Mutex<VecDeque<Accepted>>,
    given: Condvar,
}

impl Handoff {
    /// Main thread: `client` is for one of the idle threads, which is idle no
    /// more.
    pub fn give(&self, pool: &ThreadPool<'_>, client: Accepted) {
        pool.counts().idle -= 1;
        self.clients().push_back(client);
        self.given.notify_one();
    }

    /// Main thread: all are to go, which the counts say already.
    pub fn wake_all(&self) {
        drop(self.clients());
        self.given.notify_all();
    }

    /// Main thread: how many clients, given or being served, are such ones. Under
    /// the lock under which a client goes from here to its seat, so that none is
    /// counted twice or not at all.
    pub fn count_of(&self, seats: &Seats, is: impl Fn(Peer) -> bool) -> usize {
        let clients = self.clients();
        let given = clients.iter().filter(|client| is(client.peer)).count();
        given + seats.count_of(is)
    }

    fn take(&self, pool: &ThreadPool<'_>, seat: &Seat) -> Next {
        let mut clients = self.clients();
        loop {
            if let Some(client) = clients.pop_front() {
                pool.seat(seat, &client);
                return Next::Accepted(client);
            }
            if pool.counts().sealed {
                return Next::Retire;
            }
            let woken = self.given.wait(clients);
            clients = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, VecDeque<Accepted>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitsAt<'_> {
    /// The next client, in the thread's seat.
    fn next(&mut self, pool: &ThreadPool<'_>, seat: &Seat) -> Next {
        let next = match self {
            WaitsAt::Shared(acceptor) => acceptor.next(|| {}),
            WaitsAt::Mutex(acceptor) => {
                let mut turn = acceptor.lock().unwrap_or_else(PoisonError::into_inner);
                turn.next(|| {})
            }
            WaitsAt::Pass(handoff) => return handoff.take(pool, seat),
        };
        if let Next::Accepted(client) = &next {
            pool.seat(seat, client);
        }
        next
    }

    /// Is it the thread that takes the client, and not the main one for it?
    fn takes(&self) -> bool {
        !matches!(self, WaitsAt::Pass(_))
    }
}

/// A thread of the pool, from its first wait, as idle, to its end.
pub fn work(
    pool: &ThreadPool<'_>,
    mut waits_at: WaitsAt<'_>,
    seat: Seat,
    limits: PoolLimits,
    most: usize,
) {
    let mut buffer = Buffer::new(BUFFER);
    let was_idle = loop {
        process::set_name(process::IDLE);
        let client = match waits_at.next(pool, &seat) {
            Next::Accepted(client) => client,
            Next::Retire => break true,
            Next::Unusable(listener, errno) => {
                pool.counts().unusable = Some((listener, errno));
                pool.wake();
                break true;
            }
        };
        note_taken(pool, &waits_at, limits, most);
        let memory = buffer.as_mut().map(Buffer::bytes).map_err(|errno| *errno);
        pool.serve(client, &seat, memory);
        match pool.back(limits.max_spare) {
            None => break false,
            // The main thread had nobody to accept for.
            Some(1) if !waits_at.takes() => pool.wake(),
            Some(_) => {}
        }
    };
    pool.leave(seat, was_idle);
}

/// One fewer waits: the main thread may have to start more, or say that the
/// limit is reached, or turn away whom nobody waits for.
fn note_taken(pool: &ThreadPool<'_>, waits_at: &WaitsAt<'_>, limits: PoolLimits, most: usize) {
    let mut counts = pool.counts();
    counts.idle -= usize::from(waits_at.takes());
    let wanted = counts.idle < limits.min_spare && (counts.alive < most || counts.idle == 0);
    drop(counts);
    if wanted {
        pool.wake();
    }
}

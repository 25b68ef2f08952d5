//! What the threads of one worker share: who they are, whom they serve, and for
//! how long they may; and in `prethread`, how they come by a client.
//!
//! A thread is counted before it starts and until it has let go of its client
//! and its seat. Whether it goes on after a client is decided under the lock
//! under which the main thread tells all of them to go, so that none waits at a
//! listener that is about to be closed. Serving is the same as in a process of
//! its own, but for two things: the end of a lifetime comes from the main
//! thread, by shutdown(2), since SIGALRM would end everybody; and the
//! connection's line is written here, since the process lives on.
//!
//! A client comes in one of three ways (UNP rows 7 and 8, and serv09 of the
//! tutorials):
//!
//! - *shared*: each idle thread waits at one epoll of all of them, is woken
//!   alone, and accepts.
//! - *mutex*: one idle thread waits and accepts, holding a mutex; the others
//!   wait for that. It is freed by its holder alone, for threads do not die
//!   alone: what kills one ends the process.
//! - *pass*: the main thread accepts when a thread is idle, and hands over.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, shutdown};

use crate::addr::Peer;
use crate::config::PoolLimits;
use crate::daemon::shared::connection_log;
use crate::daemon::shared::seats::{Seat, Seats};
use crate::daemon::worker::acceptor::{Acceptor, Next};
#[cfg(debug_assertions)]
use crate::daemon::worker::child;
use crate::daemon::worker::child::WorkerContext;
use crate::daemon::worker::serve::Serving;
use crate::net::Accepted;
use crate::net::connection::{BUFFER, End};
use crate::sys::memory::Buffer;
use crate::sys::process;

/// The threads, by number.
#[derive(Debug, Default)]
pub struct Counts {
    /// Those that wait for a client, and have none on the way.
    pub idle: usize,
    /// All of them.
    pub alive: usize,
    /// They were told to go.
    pub sealed: bool,
    /// A listener that cannot be accepted on, found by one of them.
    pub unusable: Option<(usize, Errno)>,
}

impl Counts {
    /// A thread has served its client: it is one of so many that wait for
    /// another, or is to leave.
    fn back(&mut self, most_idle: usize) -> Option<usize> {
        (!self.sealed && self.idle < most_idle).then(|| {
            self.idle += 1;
            self.idle
        })
    }
}

/// See the module.
pub struct ThreadPool<'a> {
    context: &'a WorkerContext,
    seats: &'a Seats,
    counts: Mutex<Counts>,
    wakeup: EventFd,
    lives: Lives,
}

impl<'a> ThreadPool<'a> {
    /// Nobody yet.
    ///
    /// # Errors
    /// eventfd(2)'s.
    pub fn new(context: &'a WorkerContext, seats: &'a Seats) -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(ThreadPool {
            context,
            seats,
            counts: Mutex::default(),
            wakeup: EventFd::from_value_and_flags(0, flags)?,
            lives: Lives::new(context.config.timeouts.lifetime),
        })
    }

    /// The threads' numbers, locked. A panic ends the process: no poison.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when the main thread should look at the counts.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// Main thread: clears the wakeup, before it looks.
    pub fn clear_wakeup(&self) {
        let _ = self.wakeup.read();
    }

    /// Wakes the main thread.
    pub fn wake(&self) {
        let _ = self.wakeup.write(1);
    }

    /// Ends connections whose lifetime is over; when the next one's will be.
    pub fn end_lives(&self, now: Instant) -> Option<Instant> {
        self.lives.end(now)
    }

    /// A thread has served its client: how many wait now, with it; `None` if it
    /// is to leave.
    pub fn back(&self, most_idle: usize) -> Option<usize> {
        self.counts().back(most_idle)
    }

    /// The last a thread does: its seat is free, and it is counted no more.
    pub fn leave(&self, seat: Seat, was_idle: bool) {
        self.release(seat);
        let mut counts = self.counts();
        counts.alive -= 1;
        counts.idle -= usize::from(was_idle);
        if counts.sealed {
            self.wake();
        }
    }

    /// Gives a seat back, and tells the supervisor if it waits for one.
    pub fn release(&self, seat: Seat) {
        if self.seats.release(seat) {
            self.context.board.wake();
        }
    }

    /// Whoever takes a client says so at once, before the limit is looked at.
    pub fn seat(&self, seat: &Seat, client: &Accepted) {
        self.seats.serving(seat, client.peer, client.listener);
    }

    /// Serves a client that has its seat, to the end, and writes its line.
    pub fn serve(&self, client: Accepted, seat: &Seat, buffer: Result<&mut [u8], Errno>) {
        process::set_name(process::SERVING);
        let started = connection_log::start_of_conn();
        let entry = self.seats.entry(seat);
        let client = Arc::new(client);
        let life = self.lives.begin(&client, || self.wake());
        let serving = Serving::new(self.context, &client, entry);
        let served = buffer.and_then(|buffer| {
            // It is locked in already.
            serving.serve(buffer, |_| {
                #[cfg(debug_assertions)]
                child::fault_at("serve");
                Ok(())
            })
        });
        let mut end = served.unwrap_or_else(End::Error);
        if !self.lives.over(life) {
            end = End::MaxLifetime;
        }
        let report = entry.report();
        self.seats.over(seat);
        drop(client);
        if let Some(started) = started {
            self.context.log_connection(report, end, started.elapsed());
        }
    }
}

/// `--max-lifetime`: the connections alive, oldest first. All have the same
/// time, so the oldest is always the next to end.
struct Lives {
    limit: Option<Duration>,
    alive: Mutex<(u64, BTreeMap<u64, Life>)>,
}

struct Life {
    ends: Instant,
    client: Arc<Accepted>,
}

impl Lives {
    fn new(limit: Option<Duration>) -> Self {
        Lives {
            limit,
            alive: Mutex::default(),
        }
    }

    fn alive(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Life>)> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection begins; `first` is called if no other is alive, since nobody
    /// watches the time then.
    fn begin(&self, client: &Arc<Accepted>, first: impl FnOnce()) -> Option<u64> {
        let ends = Instant::now().checked_add(self.limit?)?;
        let client = Arc::clone(client);
        let mut guard = self.alive();
        let (last, alive) = &mut *guard;
        *last += 1;
        if alive.is_empty() {
            first();
        }
        alive.insert(*last, Life { ends, client });
        Some(*last)
    }

    /// A connection is over; false if its time was.
    fn over(&self, life: Option<u64>) -> bool {
        life.is_none_or(|life| self.alive().1.remove(&life).is_some())
    }

    /// Shuts down what has lived long enough, which its thread sees as an end;
    /// when the next will have. The lock keeps each descriptor open meanwhile.
    fn end(&self, now: Instant) -> Option<Instant> {
        self.limit?;
        let mut guard = self.alive();
        let alive = &mut guard.1;
        while let Some(oldest) = alive.first_entry() {
            if oldest.get().ends > now {
                return Some(oldest.get().ends);
            }
            let _ = shutdown(oldest.remove().client.conn.as_raw_fd(), Shutdown::Both);
        }
        None
    }
}

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

    fn clients(&self) -> MutexGuard<'_, VecDeque<Accepted>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_thread_goes_on_unless_enough_wait_or_all_are_to_go() {
        for (idle, sealed, expected) in [
            (0, false, Some(1)),
            (2, false, Some(3)),
            (3, false, None),
            (4, false, None),
            (0, true, None),
        ] {
            let mut counts = Counts {
                idle,
                sealed,
                ..Counts::default()
            };
            assert_eq!(counts.back(3), expected, "{idle} {sealed}");
            assert_eq!(counts.idle, expected.unwrap_or(idle));
        }
    }

    #[test]
    fn lives_end_in_their_order_and_only_theirs() {
        let second = Duration::from_secs(1);
        let lives = Lives::new(Some(second));
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let mut ids = Vec::new();
        let mut firsts = 0;
        for (ours, _) in &pairs {
            let client = Arc::new(Accepted {
                conn: ours.try_clone().unwrap().into(),
                peer: Peer::Unix,
                listener: 0,
            });
            ids.push(lives.begin(&client, || firsts += 1));
        }
        assert_eq!(firsts, 1);
        let now = Instant::now();
        assert!(lives.end(now).is_some_and(|next| next > now));
        assert!(lives.over(ids[1]), "it ended by itself");
        assert_eq!(lives.end(now + 2 * second), None);
        assert!(!lives.over(ids[0]) && !lives.over(ids[2]));
        let mut theirs = &pairs[0].1;
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        assert!(Lives::new(None).over(None), "no limit, no end");
    }
}

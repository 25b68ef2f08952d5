//! One process that serves many clients at once, a thread for each: the worker, and
//! its main thread, which serves nobody.
//!
//! In `thread` it accepts each client and starts a thread for it (UNP row 6). In
//! `prethread` it keeps a pool of threads as large as the spare limits ask for,
//! and the threads accept (see `pool`). In both it watches the supervisor's
//! pipe of death, ends connections whose lifetime is over, and at the limit turns
//! clients away if it is told to. A client is accepted only when it has a seat,
//! and never lost for want of a thread: what a thread is to have is kept, or given
//! back, and tried again after a pause that grows.
//!
//! Told to go, it lets the idle threads leave, closes the listeners, and leaves
//! when the last client has: what is queued is the next worker's, or at a stop
//! the supervisor's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope, scope};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::config::{Model, Overflow, PoolLimits, SandboxPolicy, ThreadAccept};
use crate::daemon::shared::backoff::Backoff;
use crate::daemon::shared::pool::{Census, Move, Pool};
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::shared::seats::{Seat, Seats, Waiter};
use crate::daemon::threads::pool::{Handoff, ThreadPool, WaitsAt};
use crate::daemon::worker::acceptor::{Acceptor, Answer};
use crate::daemon::worker::child::{self, Leave, WorkerContext, leave};
use crate::daemon::worker::sandbox;
use crate::net::connection::{BUFFER, End};
use crate::net::{Accepted, Intake};
use crate::sys::memory::Buffer;
use crate::sys::process;

mod pool;

/// How long to keep away from what failed, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The worker.
pub fn serve(
    context: &WorkerContext,
    slot: Slot,
    seats: &Seats,
    pipe_of_death: BorrowedFd<'_>,
    first: usize,
) -> ! {
    child::begin_with_threads();
    child::follow(context);
    process::set_name(process::THREADED);
    let left = work(context, slot, seats, pipe_of_death, first);
    // What cannot be opened is short for the moment: as a worker that dies young.
    process::exit_all(left.map_or(1, |how| how as i32))
}

fn work(
    context: &WorkerContext,
    slot: Slot,
    seats: &Seats,
    pipe_of_death: BorrowedFd<'_>,
    first: usize,
) -> Result<Leave, Errno> {
    let listeners = context.listeners.iter().flatten().map(AsFd::as_fd);
    // Read while files can be opened yet.
    let most_threads = most_threads(mappings());
    let (worker, descriptors) = sandbox::let_go(context, listeners, [pipe_of_death, seats.room()]);
    let worker = sandbox::with_threads(worker, seats.count());
    let pool = ThreadPool::new(context, seats)?;
    // The threads' own pipe of death: its end of file tells the idle ones to go.
    let (told, order_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut acceptor = Acceptor::new(context, told.as_fd(), first);
    let model = context.config.model;
    if waits_at_listeners(model) {
        acceptor.open()?;
    }
    let entered = context
        .sandbox
        .enter_for_threads(worker, descriptors)
        .is_ok();
    if !entered && context.config.sandbox == SandboxPolicy::Strict {
        leave(Leave::NoSandbox);
    }
    let handoff = Handoff::default();
    let turn = Mutex::new(acceptor.beside(0));
    let spares = match model {
        Model::Prethread { pool, accept } => Some(Spares {
            size: Pool::new(pool),
            limits: pool,
            accept,
            started: false,
        }),
        _ => None,
    };
    context.board.idle(slot);
    Ok(scope(|scope| {
        let mut main = MainThread {
            scope,
            context,
            slot,
            seats,
            pool: &pool,
            turn: &turn,
            handoff: &handoff,
            acceptor,
            spares,
            seat: None,
            look_from: 0,
            born: 0,
            seatless: false,
            early: false,
            pending: None,
            most_threads,
            thread_wait: Backoff::new(PAUSE, LONGEST_PAUSE),
            accept_wait: Backoff::new(PAUSE, LONGEST_PAUSE),
        };
        let how = main.keep(pipe_of_death);
        main.end(order_end);
        how
    }))
}

/// The main thread of the worker.
struct MainThread<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    context: &'env WorkerContext,
    slot: Slot,
    seats: &'env Seats,
    pool: &'env ThreadPool<'env>,
    turn: &'env Mutex<Acceptor<'env>>,
    handoff: &'env Handoff,
    acceptor: Acceptor<'env>,
    spares: Option<Spares>,
    /// `thread`: taken, for the next client.
    seat: Option<Seat>,
    look_from: usize,
    /// Threads of the pool so far: each looks at another listener first.
    born: usize,
    /// The last look for a seat found none.
    seatless: bool,
    /// A client waits for the rate, and the supervisor knows.
    early: bool,
    /// `thread`: accepted, and no thread could be started for it.
    pending: Option<(Accepted, Seat)>,
    /// More could not live.
    most_threads: usize,
    thread_wait: Backoff,
    accept_wait: Backoff,
}

/// `prethread`: the pool.
struct Spares {
    size: Pool,
    limits: PoolLimits,
    accept: ThreadAccept,
    started: bool,
}

impl<'scope, 'env> MainThread<'scope, 'env> {
    /// Until told to go, or until a listener is of no use.
    fn keep(&mut self, pipe_of_death: BorrowedFd<'_>) -> Leave {
        loop {
            let now = Instant::now();
            let life = self.pool.end_lives(now);
            self.start_threads(now);
            // Asked once: that it is just over must not be missed by whoever would
            // have to wake us.
            let pause = self.context.access.wait();
            let intake = match pause {
                Some(_) if self.early => Intake::Leave,
                _ => self.intake(now),
            };
            let due = [
                life,
                self.thread_wait.wakes_at(now),
                self.accept_wait.wakes_at(now),
                pause.map(|pause| now + pause),
                // Word of room may have gone to an old worker that was taken over.
                self.seatless.then(|| now + LONGEST_PAUSE),
            ];
            let woken = self.wait(
                Some(pipe_of_death),
                intake,
                due.into_iter().flatten().min(),
                now,
            );
            if woken.told && is_told(pipe_of_death) {
                return Leave::Retired;
            }
            if woken.listeners {
                self.accept_some(now);
            }
            let unusable = self.pool.counts().unusable;
            if let Some((listener, errno)) = unusable {
                let board = &self.context.board;
                board.serving(self.slot, crate::addr::Peer::Unix, listener);
                board.entry(self.slot).end(End::Error(errno));
                board.idle(self.slot);
                return Leave::Unusable;
            }
        }
    }

    /// Lets everybody finish. Until the idle threads have gone, one of them may
    /// be about to accept: the listeners stay until then.
    fn end(&mut self, order_end: OwnedFd) {
        self.pool.counts().sealed = true;
        drop(order_end);
        self.handoff.wake_all();
        if let Some(seat) = self.seat.take() {
            self.pool.release(seat);
        }
        self.wait_until(|pool| pool.counts().idle == 0);
        // What told us of room may have been meant for the next worker.
        self.seats.wake_worker();
        for listener in self.context.listeners.iter().flatten() {
            process::close_inherited(listener.as_fd());
        }
        self.wait_until(|pool| pool.counts().alive == 0);
    }

    /// Goes on with all but new clients.
    fn wait_until(&mut self, done: impl Fn(&ThreadPool<'_>) -> bool) {
        while self.pending.is_some() || !done(self.pool) {
            let now = Instant::now();
            let life = self.pool.end_lives(now);
            self.start_threads(now);
            if done(self.pool) && self.pending.is_none() {
                return;
            }
            let due = [life, self.thread_wait.wakes_at(now)];
            self.wait(None, Intake::Leave, due.into_iter().flatten().min(), now);
        }
    }

    /// Without a pipe of death it is being obeyed already, and seats are no matter.
    fn wait(
        &self,
        pipe_of_death: Option<BorrowedFd<'_>>,
        intake: Intake,
        due: Option<Instant>,
        now: Instant,
    ) -> Woken {
        let mut fds = vec![PollFd::new(self.pool.wakeup(), PollFlags::POLLIN)];
        if let Some(pipe_of_death) = pipe_of_death {
            fds.push(PollFd::new(self.seats.room(), PollFlags::POLLIN));
            fds.push(PollFd::new(pipe_of_death, PollFlags::POLLIN));
        }
        let first = fds.len();
        let open = self.context.listeners.iter().flatten();
        fds.extend(
            open.filter(|_| intake != Intake::Leave)
                .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = due.map(|at| TimeSpec::from(at.saturating_duration_since(now)));
        if !matches!(ppoll(&mut fds, timeout, None), Ok(n) if n > 0) {
            return Woken::default();
        }
        let came = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if came(&fds[0]) {
            self.pool.clear_wakeup();
        }
        if first > 1 && came(&fds[1]) {
            self.seats.clear_room();
        }
        Woken {
            told: first > 1 && came(&fds[2]),
            listeners: fds[first..].iter().any(came),
        }
    }
}

/// What ended the main thread's wait, beside its wakeups.
#[derive(Default)]
struct Woken {
    told: bool,
    listeners: bool,
}

/// Do idle threads wait for the listeners, and not for the main one?
fn waits_at_listeners(model: Model) -> bool {
    let Model::Prethread { accept, .. } = model else {
        return false;
    };
    matches!(accept, ThreadAccept::Shared | ThreadAccept::Mutex)
}

/// The supervisor's word to go: end-of-file, or the one byte that is there.
fn is_told(pipe_of_death: BorrowedFd<'_>) -> bool {
    matches!(nix::unistd::read(pipe_of_death, &mut [0]), Ok(0 | 1))
}

// What the main thread does about clients that come: nothing where the pool's
// threads accept, else it accepts them, or at the limit turns them away.

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

impl MainThread<'_, '_> {
    fn intake(&mut self, now: Instant) -> Intake {
        if self.pending.is_some() || self.accept_wait.waits(now) {
            return Intake::Leave;
        }
        if self.is_full() {
            return Intake::decide(false, true, self.context.config.overflow);
        }
        let takes = match &self.spares {
            None => true,
            Some(spares) => spares.accept == ThreadAccept::Pass && self.pool.counts().idle > 0,
        };
        Intake::decide(takes, false, self.context.config.overflow)
    }

    /// Are all seats taken, and does nobody wait for a client?
    fn is_full(&mut self) -> bool {
        if self.spares.is_some() {
            let counts = self.pool.counts();
            return counts.idle == 0 && (self.seatless || counts.alive == self.seats.count());
        }
        if self.seat.is_none() {
            self.seat = self.claim();
        }
        self.seat.is_none()
    }

    /// A listener is readable. What is to be done may have changed meanwhile.
    fn accept_some(&mut self, now: Instant) {
        for n in 0..BATCH {
            if self.context.access.wait().is_some() {
                if n == 0 {
                    // What woke us is a client that must wait for the rate.
                    self.early = true;
                    self.context.board.early();
                }
                return;
            }
            let intake = self.intake(now);
            if intake == Intake::Leave || !self.accept(intake, now) {
                return;
            }
        }
    }

    /// Accepts once; false if there was nobody.
    fn accept(&mut self, intake: Intake, now: Instant) -> bool {
        let client = match self.acceptor.try_accept() {
            Answer::Accepted(client) => client,
            Answer::Refused => return true,
            Answer::Nobody => return false,
            Answer::Short(_) => {
                self.accept_wait.fail(now);
                return false;
            }
            Answer::Denied(_) => {
                self.accept_wait.fail_for_long(now);
                return false;
            }
            Answer::Unusable(listener, errno) => {
                self.pool.counts().unusable = Some((listener, errno));
                return false;
            }
        };
        self.accept_wait.reset();
        self.early = false;
        let Some(client) = self.let_in(client) else {
            return true;
        };
        match (intake, self.seat.take()) {
            (Intake::TurnAway, seat) => {
                self.seat = seat;
                if self.seats.say_turned_away() {
                    self.context.board.wake();
                }
                if self.context.config.overflow == Overflow::Reset {
                    crate::net::overflow_reset(client.conn);
                }
            }
            (_, Some(seat)) => {
                self.pool.seat(&seat, &client);
                self.start_for(client, seat, now);
            }
            (_, None) => self.handoff.give(self.pool, client),
        }
        true
    }

    /// The limits that depend on other clients. They count for the supervisor
    /// and for other workers too: all have their seats in the same memory.
    fn let_in(&self, client: Accepted) -> Option<Accepted> {
        let WorkerContext { access, board, .. } = self.context;
        let full = access.share(client.peer).filter(|&(source, most)| {
            let is = |peer| access.policy().source(peer) == Some(source);
            self.handoff.count_of(self.seats, is) >= most
        });
        access.admit(client, full.map(|(source, _)| source), board)
    }
}

// Starting threads: one for a client, or as many as the pool wants.

/// A thread's stack: an echo needs next to none, a log line some KiB.
const STACK: usize = 128 * 1024;

impl<'scope> MainThread<'scope, '_> {
    /// Starts the threads that are missing, as far as there are seats.
    fn start_threads(&mut self, now: Instant) {
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
    fn claim(&mut self) -> Option<Seat> {
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
        let work = move |seat| pool::work(pool, waits_at, seat, limits, most);
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
    fn start_for(&mut self, client: Accepted, seat: Seat, now: Instant) {
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

/// A thread's stack, its stack for signals, a guard to each, and its buffer; and
/// what a process has anyway.
pub(crate) const MAPPINGS_PER_THREAD: u64 = 5;
pub(crate) const MAPPINGS: u64 = 100;
/// What vm.max_map_count is unless somebody changed it.
const USUAL_MAPPINGS: u64 = 65_530;

/// vm.max_map_count, proc_sys_vm(5).
pub(crate) fn mappings() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    text.trim().parse().ok()
}

/// How many threads a worker may start with so many `mappings`. One more could be
/// started and then fail to map its stack for signals, which the library answers by
/// ending the process, and with it everybody's connection.
pub(crate) fn most_threads(mappings: Option<u64>) -> usize {
    let mappings = mappings.unwrap_or(USUAL_MAPPINGS);
    (mappings.saturating_sub(MAPPINGS) / MAPPINGS_PER_THREAD) as usize
}

#[cfg(test)]
mod tests {
    use super::most_threads;

    #[test]
    fn row_23_a_worker_starts_no_thread_that_cannot_be_mapped() {
        for (mappings, most) in [
            (Some(65_530), 13_086),
            (None, 13_086),
            (Some(105), 1),
            (Some(104), 0),
            (Some(0), 0),
        ] {
            assert_eq!(most_threads(mappings), most, "{mappings:?}");
        }
    }
}

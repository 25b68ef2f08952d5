//! One worker process that serves with threads: its main thread, which serves
//! nobody.
//!
//! In `thread` it accepts each client and starts a thread for it (UNP row 6). In
//! `prethread` it keeps a pool of threads as large as the spare limits ask for,
//! and the threads accept (see `prethread`). In both it watches the supervisor's
//! pipe of death, ends connections whose lifetime is over, and at the limit turns
//! clients away if it is told to. A client is accepted only when it has a seat,
//! and never lost for want of a thread.
//!
//! Told to go, it lets the idle threads leave, closes the listeners, and leaves
//! when the last client has: what is queued is the next worker's, or at a stop
//! the supervisor's.

mod intake;
mod spawn;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::thread::{Scope, scope};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::config::{Model, PoolLimits, SandboxPolicy, ThreadAccept};
use crate::daemon::shared::backoff::Backoff;
use crate::daemon::shared::pool::Pool;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::shared::seats::{Seat, Seats};
use crate::daemon::threads;
use crate::daemon::threads::pool::ThreadPool;
use crate::daemon::threads::prethread::Handoff;
use crate::daemon::worker::acceptor::Acceptor;
use crate::daemon::worker::child::{self, Leave, leave};
use crate::daemon::worker::context::WorkerContext;
use crate::daemon::worker::sandbox;
use crate::net::Accepted;
use crate::net::Intake;
use crate::net::connection::End;
use crate::sys::process;

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
    let most_threads = threads::most_threads(threads::mappings());
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

//! Runs a plan: threads, each with its share of the connections, and the sum of
//! what they saw.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::addr::Target;
use crate::error::{Error, Exit, Result};
use crate::load::board::{Board, Progress, Stage};
use crate::load::plan::{Bound, Mode, Plan};
use crate::load::run::{Outcome, Outcomes, Run};
use crate::load::server::{self, Sample, Server};
use crate::load::worker::{Done, Worker};

/// Descriptors that are not connections: standard ones, an epoll for each
/// thread, and what libc opens.
const SPARE_FILES: u64 = 16;
/// This share of a processor's time, and a thread never waited.
const LIMITED: f64 = 0.9;

/// Hears of a plan, how far it is, and what is new.
pub type Tell<'a> = dyn Fn(&Plan, Stage, Progress) + 'a;

/// Who else takes part in a run.
#[derive(Default)]
pub struct Around<'a> {
    /// Where units that fail are written down.
    pub outcomes: Option<&'a Outcomes>,
    /// How often, and whom, to tell how it goes.
    pub watcher: Option<(Duration, &'a Tell<'a>)>,
    /// When to tell next, and of how many rounds how many are over.
    pub next: Cell<Option<Instant>>,
    /// See there.
    pub rounds: Cell<(u64, u64)>,
    /// A signal ends the run, with whatever is on its way.
    pub interrupt: Arc<AtomicUsize>,
    /// Whose processor time to tell, where that is known.
    pub servers: Vec<(Target, Server)>,
}

/// Runs `plan` to its end. Failures of the server, and of this side once the
/// run goes, are in the tally.
///
/// # Errors
/// The descriptor limit is too low (78), a thread cannot be made (71).
pub fn run(plan: &Plan, around: &Around) -> Result<Run> {
    raise_files(plan)?;
    let mut looks = Looks::new(plan, around);
    if plan.lead().is_zero() {
        looks.look();
    }
    let watched = around.watcher.is_some();
    let board = Board::new(plan, around.outcomes, watched, &around.interrupt);
    let done = in_threads(plan, &board, around, &mut looks)?;
    looks.look();
    // The time in which a thread was held up passed for nobody.
    let end = |pick: fn(&Done) -> Instant| done.iter().map(|done| pick(done) - done.held_up).max();
    let held_up = done.iter().map(|done| done.held_up).max();
    let held_up = held_up.unwrap_or_default();
    let end = match (board.until(), plan.bound) {
        // As long as was asked, and until the last of those begun in time.
        (Some(until), _) if !board.stopped() => end(|done| done.last_complete).max(Some(until)),
        (None, Bound::Count(_)) if !board.interrupted() => end(|done| done.last),
        _ => Some(Instant::now() - held_up),
    };
    let elapsed = end.zip(board.from());
    let mut run = Run {
        elapsed: elapsed.map_or(Duration::ZERO, |(end, from)| {
            end.saturating_duration_since(from)
        }),
        held_up,
        interrupted: u8::try_from(around.interrupt.load(Relaxed)).unwrap_or_default(),
        ..Run::default()
    };
    let mut held = 0;
    for one in done {
        run.client_cpu += one.cpu;
        run.limited |= one.busy >= LIMITED;
        held += one.held;
        run.waited = run.waited.max(one.waited);
        run.tally.merge(one.tally);
    }
    run.tail = Duration::from_nanos(run.tally.latency.value_at_quantile(0.1));
    let connections = match plan.mode {
        Mode::Crr => run.tally.count(Outcome::Complete),
        _ => run.tally.connected,
    };
    run.server_cpu = server::used(&looks.samples, connections);
    run.server_cpu_seen = server::seen(&looks.samples);
    run.held = (plan.mode == Mode::Hold).then_some(held);
    Ok(run)
}

/// The looks at the server's processes: when the figures begin, a few under
/// load, and at the end.
struct Looks<'a> {
    server: Option<&'a Server>,
    samples: Vec<Sample>,
    /// Until the next one, from the beginning.
    next: Duration,
    /// How long the last one took.
    cost: Duration,
}

/// The first look under load comes after this time, each later one at 64
/// times that: even a short run has one, and a long one is not disturbed.
const LOOK: Duration = Duration::from_millis(30);
/// Among twenty thousand processes a look takes a second of a processor: it is
/// put off until that is this small a part of the run.
const SHARE: u32 = 100;

impl<'a> Looks<'a> {
    fn new(plan: &Plan, around: &'a Around) -> Self {
        let mut servers = around.servers.iter();
        Looks {
            server: servers
                .find(|(target, _)| *target == plan.target)
                .map(|(_, server)| server),
            samples: Vec::new(),
            next: LOOK,
            cost: Duration::ZERO,
        }
    }

    fn look(&mut self) {
        let began = Instant::now();
        let sample = self.server.and_then(Server::sample);
        self.cost = began.elapsed();
        // One that cannot be taken makes the others worthless.
        match sample {
            Some(sample) => self.samples.push(sample),
            None => self.server = None,
        }
        if self.server.is_none() {
            self.samples.clear();
        }
    }

    /// When to look next, the figures having begun at `from`.
    fn due(&self, from: Instant) -> Option<Instant> {
        self.server?;
        match self.samples.is_empty() {
            true => Some(from),
            false => Some(from + self.next.max(self.cost * SHARE)),
        }
    }

    fn take(&mut self) {
        if !self.samples.is_empty() {
            self.next *= 64;
        }
        self.look();
    }
}

fn in_threads(plan: &Plan, board: &Board, around: &Around, looks: &mut Looks) -> Result<Vec<Done>> {
    let (over, ends) = channel::<()>();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..plan.workers() {
            let over = over.clone();
            let work = move || {
                // A departure of an open loop is 50 us late without this; see
                // PR_SET_TIMERSLACK(2const). It is of the calling thread.
                let _ = set_timerslack(1);
                let done = Worker::new(plan, board, number).and_then(Worker::run);
                if done.is_err() {
                    board.stop();
                }
                drop(over);
                done
            };
            let spawned = thread::Builder::new().spawn_scoped(scope, work);
            threads.push(spawned.map_err(|error| {
                board.stop();
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                Error::os("start", "a thread", errno).hint("a smaller -t")
            })?);
        }
        drop(over);
        let every = around.watcher.map(|(every, _)| every);
        let first = || every.map(|every| Instant::now() + every);
        let mut tick = around.next.get().or_else(first);
        // The threads send nothing: the end of the last one is an event.
        loop {
            let due = board.from().and_then(|from| looks.due(from));
            let next = [tick, due].into_iter().flatten().min();
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            match ends.recv_timeout(left.unwrap_or(Duration::from_secs(3600))) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
            let now = Instant::now();
            if due.is_some_and(|at| at <= now) {
                looks.take();
            }
            if let (Some(at), Some((every, tell))) = (tick, around.watcher)
                && at <= now
            {
                tick = Some((at + every).max(now));
                if let Some(progress) = &board.progress {
                    let news = std::mem::take(&mut *progress.lock().expect("no panic with it"));
                    tell(plan, board.stage(around.rounds.get()), news);
                }
            }
        }
        around.next.set(tick);
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|done| done.expect("a thread that panics ends the program"))
            .collect()
    })
}

/// Makes room for the connections' descriptors.
fn raise_files(plan: &Plan) -> Result<()> {
    let need = plan.slots() + plan.workers() + SPARE_FILES;
    let limit = |errno| Error::os("limit", "open files", errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(limit)?;
    if soft >= need {
        return Ok(());
    }
    if hard < need {
        let hint = format!("{need} open files are needed, ulimit -Hn allows {hard}");
        let subject = format!("-c {}", plan.connections);
        return Err(Error::usage(subject, hint).exit(Exit::Config));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(limit)
}

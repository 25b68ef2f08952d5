//! One thread of a run: an epoll loop over its share of the connections.
//!
//! The loop does what is due, waits (`Poller`), and gives each connection that has
//! an event its turn: a unit is begun when it is its time, sent, back, ended or failed.
//! What comes next for its connection is the load's: see [`Mode`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeSpec, TimeVal};

use crate::error::{Error, Result};
use crate::load::board::{Board, Progress};
use crate::load::plan::{Mode, Pattern, Plan, Timetable};
use crate::load::run::{Failure, Fault, Outcome, Tally};
use crate::load::slot::{self, Io, Phase, Pumped, Slot};

/// Events taken at a time.
const EVENTS: usize = 256;
/// Between two looks for connections that are late.
const TICK: Duration = Duration::from_millis(100);
/// The same where somebody is told how it goes, also in a short round.
const WATCHED: Duration = Duration::from_millis(20);
/// Before a full queue is tried again, and between looks at other threads.
const SOON: Duration = Duration::from_millis(1);
/// A thread that does nothing for so long, with something to do, was stopped, or
/// had no processor. What other threads of a busy machine take is shorter.
const HELD_UP: Duration = Duration::from_millis(50);

/// What one thread did.
pub struct Done {
    /// What it saw.
    pub tally: Tally,
    /// Connections it held open at once, for `hold`.
    pub held: u64,
    /// Its processor time since the warm-up.
    pub cpu: Duration,
    /// The same, as a share of the time that passed.
    pub busy: f64,
    /// How long it was ready to run and had no processor, if that is known.
    pub waited: Option<Duration>,
    /// How long it was held up since the warm-up.
    pub held_up: Duration,
    /// The end of its last unit, complete or not.
    pub last: Instant,
    /// The end of its last complete unit.
    pub last_complete: Instant,
}

/// One thread's work.
pub struct Worker<'a> {
    plan: &'a Plan,
    board: &'a Board<'a>,
    io: Io<'a>,
    poller: Poller,
    number: u64,
    /// The number of the first connection.
    first: u64,
    slots: Vec<Slot>,
    /// Slots that are not closed.
    live: usize,
    /// Slots to look at again at a time of their own.
    later: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Slots that had their turn and would go on.
    busy: VecDeque<usize>,
    table: Option<Timetable>,
    departures: u64,
    /// When the figures begin; `None` until the load does.
    from: Option<Instant>,
    /// When no new unit begins.
    until: Option<Instant>,
    /// Slots that were begun, of a `hold` or before an open loop; that may be
    /// begun now; and that are open and wait.
    opened: usize,
    free: u64,
    parked: usize,
    /// The others know that all are.
    told: bool,
    holding: bool,
    /// When a `hold` whose connections are all open echoes on them again.
    release: Option<Instant>,
    ending: bool,
    progress: Progress,
    cpu: Option<(Instant, Duration)>,
    /// How long it had waited for a processor then.
    waited: Option<Duration>,
    /// The time, and its processor time, when it was last marked; and how long
    /// it has slept since.
    mark: (Instant, Duration),
    slept: Duration,
    done: Done,
}

impl<'a> Worker<'a> {
    /// Thread number `number`.
    ///
    /// # Errors
    /// epoll_create(2)'s.
    pub fn new(plan: &'a Plan, board: &'a Board<'a>, number: u64) -> Result<Self> {
        let share = plan.share(number);
        let (first, count) = (share.start, share.end - share.start);
        let poller = Poller::new()?;
        let io = Io::new(plan);
        let now = io.now;
        Ok(Worker {
            plan,
            board,
            poller,
            number,
            first,
            slots: share.map(|_| Slot::new(&plan.target, now)).collect(),
            live: count as usize,
            io,
            later: BinaryHeap::new(),
            busy: VecDeque::new(),
            table: None,
            departures: 0,
            from: None,
            until: None,
            opened: 0,
            free: 0,
            parked: 0,
            told: false,
            holding: false,
            release: None,
            ending: false,
            progress: Progress::default(),
            cpu: None,
            waited: None,
            mark: (now, thread_time()?),
            slept: Duration::ZERO,
            done: Done {
                tally: Tally::default(),
                held: 0,
                cpu: Duration::ZERO,
                busy: 0.0,
                waited: None,
                held_up: Duration::ZERO,
                last: now,
                last_complete: now,
            },
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// epoll's, ppoll(2)'s or getrusage(2)'s.
    pub fn run(mut self) -> Result<Done> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let watched = self.board.progress.is_some();
        let most = if watched { WATCHED } else { TICK };
        let tick = (self.plan.timeout / 4).clamp(SOON, most);
        let mut look = self.io.now + tick;
        self.begin()?;
        while self.live > 0 && !self.cut_short() {
            self.clock(Duration::ZERO);
            self.measure()?;
            self.depart();
            self.awake();
            self.open_more();
            for _ in 0..self.busy.len() {
                let slot = self.busy.pop_front().expect("counted");
                self.turn(slot);
            }
            self.phases()?;
            if self.live == 0 {
                break;
            }
            let count = self.wait(&mut events, look)?;
            self.measure()?;
            for event in &events[..count] {
                let slot = event.data() as usize;
                self.slots[slot].event(event.events());
                self.turn(slot);
            }
            self.take_bytes();
            // After what has come: nobody is late whose answer is there.
            if self.io.now >= look {
                look = self.io.now + tick;
                self.look();
            }
        }
        self.clock(Duration::ZERO);
        let begun = |slot: &&Slot| matches!(slot.phase, Phase::Echo | Phase::Finish);
        self.done.tally.unfinished += self.slots.iter().filter(begun).count() as u64;
        self.tell();
        if let Some((since, cpu)) = self.cpu {
            self.done.cpu = thread_time()? - cpu;
            let waited = thread_wait().zip(self.waited);
            self.done.waited = waited.map(|(now, then)| now.saturating_sub(then));
            let passed = self.io.now - since;
            self.done.busy = self.done.cpu.as_secs_f64() / passed.as_secs_f64().max(1e-6);
        }
        Ok(self.done)
    }

    /// Each connection's first step.
    fn begin(&mut self) -> Result<()> {
        match self.board.start() {
            Some(start) if self.plan.mode != Mode::Hold => self.begin_load(start),
            start => {
                self.from = start;
                self.measure()?;
                self.open_first();
                Ok(())
            }
        }
    }

    /// The load begins.
    fn begin_load(&mut self, start: Instant) -> Result<()> {
        (self.from, self.until) = (self.board.from(), self.board.until());
        self.clock(Duration::ZERO);
        self.measure()?;
        if let Some(rate) = self.plan.rate {
            // One is due when the figures begin.
            let (ramp_up, warmup) = (self.plan.ramp_up, self.plan.warmup);
            let before = (ramp_up / 2 + warmup).as_secs_f64() * rate;
            let first = Duration::from_secs_f64(before.fract() / rate);
            let (workers, slots) = (self.plan.workers(), self.slots.len() as u64);
            let table = Timetable::new(start + first, rate, self.number, workers, slots);
            self.table = Some(table.growing(ramp_up));
        }
        let slots = self.slots.len();
        if self.table.is_some() || self.plan.ramp_up.is_zero() {
            (0..slots).for_each(|slot| self.next(slot));
            return Ok(());
        }
        let step = self.plan.ramp_up.as_secs_f64() / self.plan.slots() as f64;
        for slot in 0..slots {
            let after = Duration::from_secs_f64(step * (self.first + slot as u64) as f64);
            self.later.push(Reverse((start + after, slot)));
        }
        Ok(())
    }

    /// Is the run over, with whatever is on its way, because somebody said so?
    fn cut_short(&mut self) -> bool {
        match self.plan.mode {
            Mode::Hold if self.board.interrupted() => {
                self.let_go();
                false
            }
            _ => self.board.interrupted(),
        }
    }

    /// Looks at the clock. What passed since it was looked at last, and is not
    /// the time that was `slept`, was for one step of work; if it is too long
    /// for one, this thread was stopped or starved. Nothing of that is the
    /// server's: all that is due, late or under way becomes so much later.
    fn clock(&mut self, slept: Duration) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.io.now);
        self.slept += passed.min(slept);
        let held = passed.saturating_sub(slept);
        self.io.now = now;
        if held < HELD_UP {
            return;
        }
        // A long message is work, and work is no hold-up.
        let held = held.min(self.idle());
        self.mark();
        if held < HELD_UP {
            return;
        }
        match &mut self.from {
            Some(from) if *from <= now => self.done.held_up += held,
            Some(from) => *from += held,
            None => {}
        }
        if let Some(until) = &mut self.until {
            *until += held;
        }
        if let Some(table) = &mut self.table {
            table.shift(held);
        }
        self.slots.iter_mut().for_each(|slot| slot.held_up(held));
    }

    /// How long the thread neither worked nor slept since the last mark.
    fn idle(&self) -> Duration {
        let (since, cpu) = self.mark;
        let worked = thread_time().map_or(Duration::ZERO, |now| now.saturating_sub(cpu));
        let passed = self.io.now.saturating_duration_since(since);
        passed.saturating_sub(worked + self.slept)
    }

    fn mark(&mut self) {
        self.mark = (self.io.now, thread_time().unwrap_or_default());
        self.slept = Duration::ZERO;
    }

    /// May connections have nothing to do before the end?
    fn waits(&self) -> bool {
        self.table.is_some() || !self.plan.think.is_zero()
    }

    /// When whatever is still on its way is late: a server that always sends a
    /// little more would else have the run go on for ever.
    fn over(&self) -> bool {
        let end = self.until.map(|until| until + 2 * self.plan.timeout);
        end.is_some_and(|end| self.io.now >= end)
    }

    /// Do the figures count what began `at` then? Connections that are opened
    /// before the load are no warm-up.
    fn counts(&self, at: Instant) -> bool {
        match self.from {
            Some(from) => at >= from || self.plan.lead().is_zero(),
            None => self.plan.lead().is_zero(),
        }
    }

    /// Notes when the figures begin. What was moved before does not count.
    fn measure(&mut self) -> Result<()> {
        if self.cpu.is_none() && self.from.is_some_and(|from| self.io.now >= from) {
            self.cpu = Some((self.io.now, thread_time()?));
            self.waited = thread_wait();
            (self.io.sent, self.io.received, self.io.duplicates) = (0, 0, 0);
        }
        Ok(())
    }

    fn take_bytes(&mut self) {
        if self.cpu.is_some() {
            self.done.tally.sent += std::mem::take(&mut self.io.sent);
            self.done.tally.received += std::mem::take(&mut self.io.received);
            self.done.tally.duplicates += std::mem::take(&mut self.io.duplicates);
        }
    }

    /// Begins what the timetable says, on those that are not held up.
    fn depart(&mut self) {
        let Some(table) = self.table else { return };
        while table.due(self.departures) <= self.io.now {
            let slot = table.slot(self.departures);
            self.departures += 1;
            if self.slots[slot].phase == Phase::Idle {
                self.next(slot);
            }
        }
    }

    fn awake(&mut self) {
        while let Some(Reverse((at, slot))) = self.later.peek().copied() {
            if at > self.io.now {
                break;
            }
            self.later.pop();
            match self.slots[slot].phase {
                Phase::Idle => self.next(slot),
                Phase::Open | Phase::Echo => self.turn(slot),
                Phase::Finish | Phase::Closed => {}
            }
        }
    }

    /// What happens to all connections at once.
    fn phases(&mut self) -> Result<()> {
        let late = self.until.is_some_and(|end| self.io.now >= end);
        if self.plan.opens_first() && self.table.is_none() {
            return self.open_loop();
        }
        match self.plan.mode {
            Mode::Stream if !self.ending && (late || self.board.stopped()) => {
                self.ending = true;
                for slot in 0..self.slots.len() {
                    let state = &mut self.slots[slot];
                    if state.phase == Phase::Echo {
                        state.size = state.sent.max(1);
                        self.turn(slot);
                    }
                }
            }
            Mode::Hold if !self.holding => self.hold(),
            // Connections that had nothing more to do.
            Mode::Rr | Mode::Crr if late && !self.ending && self.waits() => {
                self.ending = true;
                for slot in 0..self.slots.len() {
                    if self.slots[slot].phase == Phase::Idle {
                        self.next(slot);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks for those that are late, and for a run that was stopped.
    fn look(&mut self) {
        let stopped = self.board.stopped() || self.board.exhausted();
        let loading = self.plan.mode != Mode::Hold && self.from.is_some();
        let over = self.over();
        for slot in 0..self.slots.len() {
            let state = &self.slots[slot];
            match state.phase {
                Phase::Idle if stopped && loading => self.next(slot),
                Phase::Idle | Phase::Closed => {}
                _ if over || self.io.now >= state.deadline => {
                    let fault = state.late(&self.io);
                    self.failed(slot, fault);
                }
                _ => {}
            }
        }
        self.mark();
        self.tell();
    }

    /// Hands over what somebody watches.
    fn tell(&mut self) {
        self.take_bytes();
        if let Some(progress) = &self.board.progress {
            let mut all = progress.lock().expect("no thread panics with it");
            all.merge(std::mem::take(&mut self.progress));
        }
    }

    /// Waits for events, until something is due.
    fn wait(&mut self, events: &mut [EpollEvent], look: Instant) -> Result<usize> {
        self.clock(Duration::ZERO);
        let mut until = look;
        if let Some(Reverse((at, _))) = self.later.peek() {
            until = until.min(*at);
        }
        let ends = self.plan.mode == Mode::Stream || self.waits();
        if let (true, false, Some(end)) = (ends, self.ending, self.until) {
            until = until.min(end);
        }
        if self.ending && self.plan.mode == Mode::Hold && !self.holding {
            until = until.min(self.release.unwrap_or(self.io.now + SOON));
        }
        if self.told && self.from.is_none() {
            until = until.min(self.io.now + SOON);
        }
        let mut exact = false;
        if let Some(table) = &self.table {
            let due = table.due(self.departures);
            exact = due < until;
            until = until.min(due);
        }
        let left = match self.busy.is_empty() {
            true => until.saturating_duration_since(self.io.now),
            false => Duration::ZERO,
        };
        let count = self.poller.wait(events, left, exact)?;
        self.clock(left);
        Ok(count)
    }
}

// What a thread waits in: epoll, and what each connection asks of it.

/// The connections of one thread, each by its number.
struct Poller(Epoll);

impl Poller {
    /// One with nothing to wait for.
    ///
    /// # Errors
    /// epoll_create(2)'s.
    fn new() -> Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map(Poller)
            .map_err(|errno| Error::os("epoll_create", "", errno))
    }

    /// Asks for what `slot` waits for, if that is not known yet.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    fn arm(&self, slot: &mut Slot, number: usize) -> Result<()> {
        let Some((flags, new)) = slot.interest() else {
            return Ok(());
        };
        let event = EpollEvent::new(flags, number as u64);
        let fd = slot.fd().expect("it has an interest");
        let result = match new {
            true => self.0.add(fd, event),
            false => self.0.modify(fd, &mut event.clone()),
        };
        result.map_err(|errno| Error::os("epoll_ctl", "", errno))
    }

    /// Waits for events for as long as `left`, `exact`ly if something departs
    /// then, and says how many came.
    ///
    /// # Errors
    /// ppoll(2)'s or epoll_wait(2)'s.
    fn wait(&self, events: &mut [EpollEvent], left: Duration, exact: bool) -> Result<usize> {
        let mut timeout = EpollTimeout::ZERO;
        if exact && !left.is_zero() {
            // epoll_wait(2) counts in milliseconds, a departure is due to the
            // microsecond.
            let mut fds = [PollFd::new(self.0.0.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::os("ppoll", "", errno)),
            }
        } else if !left.is_zero() {
            let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            timeout = millis.into();
        }
        match self.0.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(Error::os("epoll_wait", "", errno)),
        }
    }
}

// What a run costs this process.

/// How long the calling thread was ready to run and had no processor, so far,
/// where the kernel counts that: see sched_schedstats in proc_sys_kernel(5), and
/// /proc/PID/schedstat.
pub fn thread_wait() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_whitespace().nth(1)?;
    nanos.parse().ok().map(Duration::from_nanos)
}

/// Processor time of the calling thread so far.
///
/// # Errors
/// getrusage(2)'s (71).
fn thread_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)
        .map_err(|errno| Error::os("getrusage", "echoload", errno))?;
    let time = |time: TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

// A unit's life, and what comes next for its connection.

/// After a refused connect, so that a dead server is not called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

impl Worker<'_> {
    /// Begins the next unit of a connection that has none, if there is to be
    /// one and it is due.
    fn next(&mut self, slot: usize) {
        let now = self.io.now;
        let nth = self.slots[slot].nth;
        let Some(table) = self.table else {
            // Each connection makes one attempt, however short the time.
            let ended = nth > 0 && self.until.is_some_and(|until| now >= until);
            return match !ended && self.take(now) {
                true => self.start(slot, now),
                false => self.retire(slot),
            };
        };
        let due = table.due_of(slot, nth);
        if self.board.stopped() || self.board.exhausted() {
            return self.retire(slot);
        }
        if let Some(until) = self.until {
            // Overdue ones are sent after the end too, while anybody would wait.
            if due < until && now > until + self.plan.timeout {
                self.drop_overdue(due, until, table.step());
                return self.retire(slot);
            }
            if due >= until && now >= until {
                return self.retire(slot);
            }
            if due >= until {
                return; // it stays open to the end
            }
        }
        if due > now {
            return; // depart() will
        }
        match self.take(due) {
            true => self.start(slot, due),
            false => self.retire(slot),
        }
    }

    /// May a unit begin that begins, or was due, `at` then? Those of the warm-up
    /// are not counted.
    fn take(&self, at: Instant) -> bool {
        !self.board.stopped() && (!self.counts(at) || self.board.take())
    }

    /// What was due from `due` on, each `step`, and will not be sent.
    fn drop_overdue(&mut self, due: Instant, until: Instant, step: Duration) {
        let from = self.from.unwrap_or(due);
        let first = match due >= from {
            true => due,
            false => due + step.mul_f64(((from - due).as_secs_f64() / step.as_secs_f64()).ceil()),
        };
        if first < until {
            let count = ((until - first).as_secs_f64() / step.as_secs_f64()).ceil() as u64;
            let late = self.io.now - first;
            self.done.tally.dropped(count, late, step);
        }
    }

    /// Opens a connection, with nothing to send on it yet.
    fn open(&mut self, slot: usize) {
        match self.slots[slot].open(&mut self.io) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    fn start(&mut self, slot: usize, begun: Instant) {
        let id = self.first + slot as u64;
        let state = &mut self.slots[slot];
        let pattern = Pattern::new(id, state.nth);
        let size = match self.plan.mode {
            Mode::Stream => match self.plan.messages(id) {
                Some(messages) => messages.saturating_mul(*self.plan.size.end()),
                None => u64::MAX,
            },
            _ => pattern.pick(&self.plan.size),
        };
        let pattern = match self.plan.lines {
            true => pattern.line(size),
            false => pattern,
        };
        state.begun = begun;
        match state.start(&mut self.io, pattern, size) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// Lets a connection go as far as it can.
    fn turn(&mut self, slot: usize) {
        if matches!(self.slots[slot].phase, Phase::Idle | Phase::Closed) {
            return; // what came is for the next message to find
        }
        self.clock(Duration::ZERO);
        let pumped = self.slots[slot].pump(&mut self.io);
        if self.slots[slot].fresh {
            self.connected(slot);
        }
        match pumped {
            Ok(Pumped::Blocked) => self.arm(slot),
            Ok(Pumped::Busy) => {
                self.arm(slot);
                self.busy.push_back(slot);
            }
            Ok(Pumped::Open) => {
                self.slots[slot].phase = Phase::Idle;
                self.opened_one();
                self.arm(slot);
            }
            Ok(Pumped::Full) => self.later.push(Reverse((self.io.now + SOON, slot))),
            Ok(Pumped::Back) => self.back(slot),
            Ok(Pumped::Ended) => self.ended(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// One is open, or could not be opened: there is room for the next.
    fn opened_one(&mut self) {
        self.parked += 1;
        self.free += 1;
    }

    fn arm(&mut self, slot: usize) {
        if let Err(error) = self.poller.arm(&mut self.slots[slot], slot) {
            let outcome = Outcome::Other;
            self.failed(slot, Fault { outcome, error });
        }
    }

    fn connected(&mut self, slot: usize) {
        let now = Instant::now();
        let state = &mut self.slots[slot];
        state.fresh = false;
        // A datagram socket "connects" to a server that is not there.
        if self.plan.target.is_datagram() {
            return;
        }
        self.board.connected();
        self.done.tally.connected += 1;
        let dialled = state.dialled;
        if self.counts(dialled) {
            self.done
                .tally
                .connect(now.saturating_duration_since(dialled));
        }
        if self.table.is_none() && matches!(self.plan.mode, Mode::Rr | Mode::Hold) {
            self.slots[slot].begun = now;
        }
    }

    /// A message is back.
    fn back(&mut self, slot: usize) {
        self.clock(Duration::ZERO);
        let datagram = self.plan.target.is_datagram();
        if datagram && self.done.tally.connected == 0 {
            self.board.connected();
            self.done.tally.connected += 1;
        }
        match self.plan.mode {
            Mode::Rr => {
                self.complete(slot);
                self.rest(slot);
            }
            Mode::Crr if datagram => self.ended(slot),
            Mode::Crr | Mode::Stream => self.finish(slot),
            Mode::Hold => {
                let begun = self.slots[slot].begun;
                let took = self.io.now.saturating_duration_since(begun);
                self.done.tally.echoed(took);
                match self.slots[slot].nth {
                    1 => {
                        self.slots[slot].phase = Phase::Idle;
                        self.opened_one();
                        self.board.holds_another();
                        self.arm(slot);
                    }
                    _ => self.finish(slot),
                }
            }
        }
    }

    /// A connection is free for its next unit.
    fn rest(&mut self, slot: usize) {
        self.slots[slot].phase = Phase::Idle;
        match self.plan.think.is_zero() {
            true => self.next(slot),
            false => self
                .later
                .push(Reverse((self.io.now + self.plan.think, slot))),
        }
        // What comes now is for the next message to find.
        if self.slots[slot].phase == Phase::Idle {
            self.arm(slot);
        }
    }

    fn finish(&mut self, slot: usize) {
        match self.slots[slot].finish(&self.io) {
            Ok(()) => self.turn(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    /// End of file, where it belongs.
    fn ended(&mut self, slot: usize) {
        self.clock(Duration::ZERO);
        self.slots[slot].close();
        match self.plan.mode {
            Mode::Rr => self.closed(slot),
            Mode::Crr => {
                self.complete(slot);
                self.rest(slot);
            }
            Mode::Stream | Mode::Hold => {
                self.done.tally.complete();
                self.progress.complete += 1;
                self.noted(true);
                self.closed(slot);
            }
        }
    }

    fn complete(&mut self, slot: usize) {
        let begun = self.slots[slot].begun;
        let took = self.io.now.saturating_duration_since(begun);
        if self.counts(begun) {
            self.done.tally.complete();
            self.done.tally.echoed(took);
            self.noted(true);
        }
        if self.board.progress.is_some() {
            self.progress.complete(took);
        }
    }

    fn failed(&mut self, slot: usize, fault: Fault) {
        let state = &mut self.slots[slot];
        let connecting = !state.is_connected() || self.done.tally.connected == 0;
        if let Some(outcomes) = self.board.outcomes {
            outcomes.write(&Failure {
                outcome: fault.outcome,
                local: state.fd().map_or_else(|| "-".to_owned(), slot::local),
                target: &self.plan.target,
                sent: state.sent,
                back: state.back,
            });
        }
        let (finishing, opening) = (state.phase == Phase::Finish, state.phase == Phase::Open);
        state.close();
        if connecting {
            self.board.refused();
        }
        if fault.outcome == Outcome::Other {
            self.board.stop();
        }
        self.done.tally.fault(fault);
        self.progress.failed += 1;
        self.noted(false);
        match self.plan.mode {
            _ if opening => {
                self.slots[slot].phase = Phase::Idle;
                self.opened_one();
            }
            Mode::Rr if finishing => self.closed(slot),
            Mode::Rr | Mode::Crr if connecting => {
                self.slots[slot].phase = Phase::Idle;
                self.later.push(Reverse((self.io.now + PAUSE, slot)));
            }
            // Later, so that a server that always fails is no recursion.
            Mode::Rr | Mode::Crr => {
                self.slots[slot].phase = Phase::Idle;
                self.later.push(Reverse((self.io.now, slot)));
            }
            Mode::Stream => self.closed(slot),
            Mode::Hold => {
                if self.slots[slot].nth <= 1 {
                    self.free += 1;
                }
                self.closed(slot);
            }
        }
    }

    fn noted(&mut self, complete: bool) {
        self.done.last = self.io.now;
        if complete {
            self.done.last_complete = self.io.now;
        }
    }

    /// There is no more for this connection to do.
    fn retire(&mut self, slot: usize) {
        let kept = self.slots[slot].is_connected() && !self.plan.target.is_datagram();
        match kept {
            true => self.finish(slot),
            false => self.closed(slot),
        }
    }

    fn closed(&mut self, slot: usize) {
        self.slots[slot].close();
        self.slots[slot].phase = Phase::Closed;
        self.live -= 1;
    }
}

// Opening all connections, a few at a time, before an open loop begins, or to
// hold them: then each echoes once when it is open, and again when every thread
// has had all of its own open for as long as was asked.

/// Connections on their way at once: more would overflow the queue of a server
/// that forks for each.
const OPENING: u64 = 64;

impl Worker<'_> {
    /// Opens as many as may be on their way at once.
    fn open_first(&mut self) {
        self.free = (OPENING / self.plan.workers()).max(1);
        self.open_more();
    }

    /// Opens more, if any are left, in the place of those that are open.
    fn open_more(&mut self) {
        while self.free > 0 && self.opened < self.slots.len() {
            let slot = self.opened;
            debug_assert_eq!(self.slots[slot].nth, 0);
            self.opened += 1;
            match self.plan.mode {
                Mode::Hold if self.board.stopped() => self.closed(slot),
                _ if self.board.stopped() => self.parked += 1,
                Mode::Hold => {
                    self.free -= 1;
                    self.start(slot, self.io.now);
                }
                _ => {
                    self.free -= 1;
                    self.open(slot);
                }
            }
        }
    }

    /// When all threads have all connections open, the open loop begins. One
    /// that could not be opened is tried again when its first request is due.
    ///
    /// # Errors
    /// getrusage(2)'s.
    fn open_loop(&mut self) -> Result<()> {
        if self.parked == self.slots.len() && !self.told {
            self.told = true;
            self.board.opened();
        }
        match self.board.start() {
            Some(start) if self.told => self.begin_load(start),
            _ => Ok(()),
        }
    }

    /// Whoever is told to end while it holds some echoes on those again, and
    /// gives up the others.
    fn let_go(&mut self) {
        if self.holding {
            return;
        }
        for slot in 0..self.slots.len() {
            let begun = matches!(self.slots[slot].phase, Phase::Echo);
            self.done.tally.unfinished += u64::from(begun);
            if begun || slot >= self.opened {
                self.closed(slot);
            }
        }
        self.opened = self.slots.len();
        (self.ending, self.release) = (true, Some(self.io.now));
        self.hold();
    }

    /// When all threads have had all connections open for as long as was asked,
    /// echoes on each again.
    fn hold(&mut self) {
        if self.opened == self.slots.len() && self.parked == self.live && !self.ending {
            self.ending = true;
            self.board.opened();
        }
        if self.ending && self.release.is_none() && self.board.all_opened() {
            self.release = Some(self.io.now + self.plan.keep());
        }
        let over = self.release.is_some_and(|at| self.io.now >= at);
        if !self.ending || !(over || self.board.stopped()) {
            return;
        }
        self.holding = true;
        self.done.held = self.parked as u64;
        for slot in 0..self.slots.len() {
            if self.slots[slot].phase == Phase::Idle {
                self.clock(Duration::ZERO);
                self.start(slot, self.io.now);
            }
        }
    }
}

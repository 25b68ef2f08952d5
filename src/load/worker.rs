//! One thread of a run: an epoll loop over its share of the connections.
//!
//! The loop does what is due, waits, and gives each connection that has an
//! event its turn. What follows when a message is back, or a connection has
//! ended or failed, is the load's: see [`Mode`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::load::board::Board;
use crate::load::outcomes::Failure;
use crate::load::pattern::Pattern;
use crate::load::plan::{Mode, Plan};
use crate::load::slot::{Io, Phase, Pumped, Slot};
use crate::load::socket;
use crate::load::stats::{Fault, Outcome, Progress, Tally};
use crate::load::timetable::Timetable;
use crate::load::usage::thread_time;

/// Events taken at a time.
const EVENTS: usize = 256;
/// Between two looks for connections that are late.
const TICK: Duration = Duration::from_millis(100);
/// After a refused connect, so that a dead server is not called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);
/// Before a full queue is tried again, and between looks at other threads.
const SOON: Duration = Duration::from_millis(1);
/// Connections that a `hold` has on their way at once: more would overflow the
/// queue of a server that forks for each.
const OPENING: u64 = 64;

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
    epoll: Epoll,
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
    /// Slots of a `hold` that were begun, and those that are open and wait.
    opened: usize,
    parked: usize,
    holding: bool,
    /// When a `hold` whose connections are all open echoes on them again.
    release: Option<Instant>,
    ending: bool,
    progress: Progress,
    cpu: Option<(Instant, Duration)>,
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
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::os("epoll_create", "", errno))?;
        let io = Io::new(plan);
        let now = io.now;
        let table = plan
            .rate
            .map(|rate| Timetable::new(board.begun, rate, number, plan.workers(), count));
        Ok(Worker {
            plan,
            board,
            epoll,
            first,
            slots: share.map(|_| Slot::new(&plan.target, now)).collect(),
            live: count as usize,
            io,
            later: BinaryHeap::new(),
            busy: VecDeque::new(),
            table,
            departures: 0,
            opened: 0,
            parked: 0,
            holding: false,
            release: None,
            ending: false,
            progress: Progress::default(),
            cpu: None,
            done: Done {
                tally: Tally::default(),
                held: 0,
                cpu: Duration::ZERO,
                busy: 0.0,
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
        let tick = (self.plan.timeout / 4).clamp(SOON, TICK);
        let mut look = self.io.now + tick;
        self.measure()?;
        self.begin();
        while self.live > 0 {
            self.io.now = Instant::now();
            self.measure()?;
            self.depart();
            self.awake();
            for _ in 0..self.busy.len() {
                let slot = self.busy.pop_front().expect("counted");
                self.turn(slot);
            }
            if self.io.now >= look {
                look = self.io.now + tick;
                self.look();
            }
            self.phases();
            if self.live == 0 {
                break;
            }
            let count = self.wait(&mut events, look)?;
            self.io.now = Instant::now();
            self.measure()?;
            for event in &events[..count] {
                let slot = event.data() as usize;
                self.slots[slot].event(event.events());
                self.turn(slot);
            }
            self.take_bytes();
        }
        self.io.now = Instant::now();
        self.tell();
        if let Some((since, cpu)) = self.cpu {
            self.done.cpu = thread_time()? - cpu;
            let passed = self.io.now - since;
            self.done.busy = self.done.cpu.as_secs_f64() / passed.as_secs_f64().max(1e-6);
        }
        Ok(self.done)
    }

    /// Each connection's first step.
    fn begin(&mut self) {
        match self.plan.mode {
            Mode::Hold => {
                for _ in 0..(OPENING / self.plan.workers()).max(1) {
                    self.open_another();
                }
            }
            _ => (0..self.slots.len()).for_each(|slot| self.next(slot)),
        }
    }

    /// Notes when the figures begin. What was moved before does not count.
    fn measure(&mut self) -> Result<()> {
        if self.cpu.is_none() && self.io.now >= self.board.from {
            self.cpu = Some((self.io.now, thread_time()?));
            (self.io.sent, self.io.received) = (0, 0);
        }
        Ok(())
    }

    fn take_bytes(&mut self) {
        if self.cpu.is_some() {
            self.done.tally.sent += std::mem::take(&mut self.io.sent);
            self.done.tally.received += std::mem::take(&mut self.io.received);
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
                Phase::Echo => self.turn(slot),
                Phase::Finish | Phase::Closed => {}
            }
        }
    }

    /// Begins the next unit of a connection that has none, if there is to be
    /// one and it is due.
    fn next(&mut self, slot: usize) {
        let now = self.io.now;
        let nth = self.slots[slot].nth;
        let begun = match self.table {
            None => now,
            Some(table) => table.due_of(slot, nth),
        };
        // Overdue ones are sent after the end too, while anybody would wait.
        let given_up = |until| now > until + self.plan.timeout;
        if self.board.until.is_some_and(given_up) {
            return self.retire(slot);
        }
        if begun > now && !self.board.stopped() && self.board.until.is_none_or(|end| begun < end) {
            return; // depart() will
        }
        match self.board.take(nth, begun) {
            true => self.start(slot, begun),
            false => self.retire(slot),
        }
    }

    fn start(&mut self, slot: usize, begun: Instant) {
        let id = self.first + slot as u64;
        let state = &mut self.slots[slot];
        let pattern = Pattern::new(id, state.nth);
        let size = match self.plan.mode {
            Mode::Stream => match self.plan.messages(id) {
                Some(messages) => messages * self.plan.size.end(),
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
            Ok(Pumped::Full) => self.later.push(Reverse((self.io.now + SOON, slot))),
            Ok(Pumped::Back) => self.back(slot),
            Ok(Pumped::Ended) => self.ended(slot),
            Err(fault) => self.failed(slot, fault),
        }
    }

    fn arm(&mut self, slot: usize) {
        let Some((flags, new)) = self.slots[slot].interest() else {
            return;
        };
        let event = EpollEvent::new(flags, slot as u64);
        let fd = self.slots[slot].fd().expect("it has an interest");
        let result = match new {
            true => self.epoll.add(fd, event),
            false => self.epoll.modify(fd, &mut event.clone()),
        };
        if let Err(errno) = result {
            let error = Error::os("epoll_ctl", "", errno);
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
        if state.dialled >= self.board.from {
            self.done.tally.connect(now - state.dialled);
        }
        if self.table.is_none() && matches!(self.plan.mode, Mode::Rr | Mode::Hold) {
            state.begun = now;
        }
    }

    /// A message is back.
    fn back(&mut self, slot: usize) {
        self.io.now = Instant::now();
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
                let took = self.io.now - self.slots[slot].begun;
                self.done.tally.echoed(took);
                match self.slots[slot].nth {
                    1 => {
                        self.slots[slot].phase = Phase::Idle;
                        self.parked += 1;
                        self.arm(slot);
                        self.open_another();
                    }
                    _ => self.finish(slot),
                }
            }
        }
    }

    /// A connection is free for its next unit.
    fn rest(&mut self, slot: usize) {
        self.slots[slot].phase = Phase::Idle;
        self.next(slot);
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
        self.io.now = Instant::now();
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
        if begun >= self.board.from {
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
                local: state.fd().map_or_else(|| "-".to_owned(), socket::local),
                target: &self.plan.target,
                sent: state.sent,
                back: state.back,
            });
        }
        let finishing = state.phase == Phase::Finish;
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
                let opening = self.slots[slot].nth <= 1;
                self.closed(slot);
                if opening {
                    self.open_another();
                }
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

    /// `hold`: opens one more, if one is left.
    fn open_another(&mut self) {
        while let Some(state) = self.slots.get(self.opened) {
            let slot = self.opened;
            debug_assert_eq!(state.nth, 0);
            self.opened += 1;
            if !self.board.stopped() {
                // One that fails opens the next itself.
                return self.start(slot, self.io.now);
            }
            self.closed(slot);
        }
    }

    /// What happens to all connections at once.
    fn phases(&mut self) {
        let late = self.board.until.is_some_and(|end| self.io.now >= end);
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
            _ => {}
        }
    }

    /// `hold`: when all threads have had all connections open for as long as was
    /// asked, echoes on each again.
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
                self.io.now = Instant::now();
                self.start(slot, self.io.now);
            }
        }
    }

    /// Looks for those that are late, and for a run that was stopped.
    fn look(&mut self) {
        let stopped = self.board.stopped();
        for slot in 0..self.slots.len() {
            let state = &self.slots[slot];
            match state.phase {
                Phase::Echo | Phase::Finish if self.io.now >= state.deadline => {
                    let fault = state.late(&self.io);
                    self.failed(slot, fault);
                }
                Phase::Idle if stopped && self.plan.mode != Mode::Hold => self.next(slot),
                _ => {}
            }
        }
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
        let mut until = look;
        if let Some(Reverse((at, _))) = self.later.peek() {
            until = until.min(*at);
        }
        if let (Mode::Stream, false, Some(end)) = (self.plan.mode, self.ending, self.board.until) {
            until = until.min(end);
        }
        if self.plan.mode == Mode::Hold && self.ending && !self.holding {
            until = until.min(self.release.unwrap_or(self.io.now + SOON));
        }
        let mut exact = false;
        if let Some(table) = &self.table {
            let due = table.due(self.departures);
            exact = due < until;
            until = until.min(due);
        }
        let left = match self.busy.is_empty() {
            true => until.saturating_duration_since(Instant::now()),
            false => Duration::ZERO,
        };
        let mut timeout = EpollTimeout::ZERO;
        if exact && !left.is_zero() {
            // epoll_wait(2) counts in milliseconds, a departure is due to the
            // microsecond.
            let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::os("ppoll", "", errno)),
            }
        } else if !left.is_zero() {
            let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            timeout = millis.into();
        }
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(Error::os("epoll_wait", "", errno)),
        }
    }
}

//! One thread of a run: an epoll loop over its share of the connections.
//!
//! The loop does what is due, waits, and gives each connection that has an
//! event its turn: see `poller`. What a turn is, and what follows when a message
//! is back, or a connection has ended or failed, is in `unit`, and what `hold`
//! does otherwise in `hold`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollEvent;

use crate::error::Result;
use crate::load::board::Board;
use crate::load::plan::{Mode, Plan};
use crate::load::progress::Progress;
use crate::load::slot::{Io, Phase, Slot};
use crate::load::stats::Tally;
use crate::load::timetable::Timetable;
use crate::load::usage::thread_time;

mod hold;
mod poller;
mod unit;

use poller::Poller;

/// Events taken at a time.
const EVENTS: usize = 256;
/// Between two looks for connections that are late.
const TICK: Duration = Duration::from_millis(100);
/// Before a full queue is tried again, and between looks at other threads.
const SOON: Duration = Duration::from_millis(1);

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
    poller: Poller,
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
        let poller = Poller::new()?;
        let io = Io::new(plan);
        let now = io.now;
        let table = plan
            .rate
            .map(|rate| Timetable::new(board.begun, rate, number, plan.workers(), count));
        Ok(Worker {
            plan,
            board,
            poller,
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
            Mode::Hold => self.open_first(),
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
        self.poller.wait(events, left, exact)
    }
}

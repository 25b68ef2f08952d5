//! Clients that the supervisor accepts itself: all of them in `fork` and where it passes
//! them on, those beyond the limit where `--overflow` turns them away, and at a stop, in
//! every design, what is left in the queue. And those that it lets wait.

use std::time::{Duration, Instant};

use log::{debug, error};
use nix::errno::Errno;

use crate::access::Source;
use crate::addr::Peer;
use crate::config::Overflow;
use crate::daemon::shared::backoff::{Backoff, Episode, FIRST_WAIT, LONGEST_ACCEPT_WAIT};
use crate::daemon::worker::acceptor::{Answer, Turn, accept_from};
use crate::daemon::worker::child::WorkerContext;
use crate::error::errno_text;
use crate::net::{self, Accepted, Intake};

use super::children::Role;
use super::generation::NotForked;
use super::waiters::{Found, MayWait};
use super::{LISTENERS, Supervisor};

/// Clients accepted in one go, before orders are looked at again.
const BATCH: usize = 16;

/// The supervisor as whoever accepts: at which listener, when to try again, and the one
/// client that may wait for a process.
pub(super) struct Accepting {
    turn: Turn,
    wait: Backoff,
    trouble: Episode,
    /// Accepted, and waits for a process.
    pending: Option<Accepted>,
}

impl Accepting {
    /// Nobody has come.
    pub(super) fn new() -> Self {
        Accepting {
            turn: Turn::default(),
            wait: Backoff::new(FIRST_WAIT, LONGEST_ACCEPT_WAIT),
            trouble: Episode::default(),
            pending: None,
        }
    }

    /// A client, from whichever listener that `may` yield one.
    pub(super) fn accept(
        &mut self,
        context: &WorkerContext,
        may: impl FnMut(usize) -> bool,
        now: Instant,
    ) -> Answer {
        let answer = self.turn.accept(context, may);
        self.heed(answer, now)
    }

    /// The same, from the listener with this index, whoever's turn it is.
    pub(super) fn accept_from(
        &mut self,
        context: &WorkerContext,
        listener: usize,
        now: Instant,
    ) -> Answer {
        self.heed(accept_from(context, listener), now)
    }

    /// Whose turn it is, of so many.
    pub(super) fn next(&mut self, listeners: usize) -> usize {
        self.turn.next(listeners)
    }

    /// What an answer means for the next try.
    fn heed(&mut self, answer: Answer, now: Instant) -> Answer {
        match answer {
            Answer::Accepted(_) | Answer::Refused => self.wait.reset(),
            Answer::Short(errno) => {
                self.wait.fail(now);
                self.say_trouble(errno, now);
            }
            Answer::Denied(errno) => {
                self.wait.fail_for_long(now);
                self.say_trouble(errno, now);
            }
            Answer::Nobody | Answer::Unusable(..) => {}
        }
        answer
    }

    /// accept(2) lacks something, here or in a worker: once an episode.
    pub(super) fn say_trouble(&mut self, errno: Errno, now: Instant) {
        if self.trouble.begin(now) {
            error!(
                "accept: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// So does what passes a client on.
    pub(super) fn fail(&mut self, errno: Errno, now: Instant) {
        self.wait.fail(now);
        self.say_trouble(errno, now);
    }

    /// One was passed on.
    pub(super) fn succeed(&mut self) {
        self.wait.reset();
    }

    /// Has it failed too lately to try again?
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.wait.waits(now)
    }

    /// Once a turn of the loop: is the trouble over?
    pub(super) fn look(&mut self, now: Instant) {
        self.trouble.say_end("accept works again", now);
    }

    /// When that may be, or the next may be tried.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.wait.wakes_at(now), self.trouble.wakes_at()];
        times.into_iter().flatten().min()
    }

    /// No process could be forked for this one yet.
    pub(super) fn keep(&mut self, accepted: Accepted) {
        self.pending = Some(accepted);
    }

    /// The one that waits.
    pub(super) fn pending(&self) -> Option<&Accepted> {
        self.pending.as_ref()
    }

    /// The same; it does not any more.
    pub(super) fn take_pending(&mut self) -> Option<Accepted> {
        self.pending.take()
    }
}

impl Supervisor {
    /// What the supervisor would do now about a client.
    pub(super) fn intake(&self) -> Intake {
        match self.accepting.pending().is_some() || self.generation.design.has_waiting() {
            true => Intake::Leave,
            false => self.generation.intake(&self.places),
        }
    }

    /// How long no client may be accepted, for `--connection-rate`. A stop does
    /// not wait for it.
    pub(super) fn pause(&self) -> Option<Duration> {
        let wait = self.generation.context.access.wait();
        wait.filter(|_| self.stop.phase().serves())
    }

    /// Listeners may be readable: one client from each that is, in turn, so that
    /// none waits for another's crowd to end.
    pub(super) fn accept(&mut self, now: Instant) {
        if self.intake() == Intake::TurnAway {
            // Nobody is turned away for a place whose client is gone.
            self.catch_up(now);
        }
        for _ in 0..BATCH {
            let intake = self.intake();
            if intake == Intake::Leave || self.pause().is_some() {
                // Nobody's turn is used up.
                return;
            }
            let (context, wait) = (&self.generation.context, &mut self.wait);
            let may = |listener| wait.came(LISTENERS + listener);
            let answer = self.accepting.accept(context, may, now);
            match self.admit_any(answer, now) {
                Answer::Accepted(accepted) if intake == Intake::TurnAway => {
                    self.turn_away(accepted, now);
                }
                Answer::Accepted(accepted) if self.generation.design.passing().is_some() => {
                    self.pass(accepted, now)
                }
                Answer::Accepted(accepted) => self.serve(accepted, now),
                Answer::Refused => {}
                Answer::Nobody | Answer::Short(_) | Answer::Denied(_) => return,
                Answer::Unusable(listener, errno) => return self.give_up_listener(listener, errno),
            }
        }
    }

    /// From the listener with this index, whoever's turn it is.
    pub(super) fn accept_from(&mut self, listener: usize, now: Instant) -> Answer {
        let context = &self.generation.context;
        let answer = self.accepting.accept_from(context, listener, now);
        self.admit_any(answer, now)
    }

    fn turn_away(&mut self, accepted: Accepted, now: Instant) {
        self.report.waits.count_turned_away(1, now);
        if self.generation.context.config.overflow == Overflow::Reset {
            net::overflow_reset(accepted.conn);
        }
    }

    // Who is let in. Nothing of it costs anything where no option of echod(8), ACCESS,
    // is given.

    /// If a client was accepted: is it let in? If not, it is gone.
    fn admit_any(&mut self, answer: Answer, now: Instant) -> Answer {
        let Answer::Accepted(accepted) = answer else {
            return answer;
        };
        let share = self.generation.context.access.share(accepted.peer);
        let full = share.filter(|&(source, most)| self.has_its_share(source, most, now));
        let full = full.map(|(source, _)| source);
        let (access, board) = (
            &self.generation.context.access,
            &self.generation.context.board,
        );
        let admitted = access.admit(accepted, full, board);
        admitted.map_or(Answer::Refused, Answer::Accepted)
    }

    fn source(&self, peer: Peer) -> Option<Source> {
        self.generation.context.access.policy().source(peer)
    }

    /// Does this source have all the connections it may? Before that is believed,
    /// the dead are looked for: who is refused shall not have been so for one
    /// that is gone.
    fn has_its_share(&mut self, source: Source, most: usize, now: Instant) -> bool {
        if self.connections(source, now) < most {
            return false;
        }
        if self.stop.phase().serves() {
            self.catch_up(now);
        }
        self.connections(source, now) >= most
    }

    /// Connections of a source: those that children of ours serve or crashed of,
    /// those that wait for one, and those of threads.
    fn connections(&self, source: Source, now: Instant) -> usize {
        let is = |peer: Peer| self.source(peer) == Some(source);
        let waiting = self.generation.design.waiting();
        let waiting = waiting.chain(self.accepting.pending());
        self.places.count(source, now)
            + waiting.filter(|accepted| is(accepted.peer)).count()
            + self
                .generation
                .design
                .seats()
                .map_or(0, |seats| seats.count_of(is))
    }

    // Who serves them.

    /// Forks a process for a client; keeps the client if that fails.
    pub(super) fn serve(&mut self, accepted: Accepted, now: Instant) {
        let oom = self.generation.context.oom.as_ref();
        if !self.forks.have_memory(oom, self.places.taken(), now) {
            return self.accepting.keep(accepted);
        }
        match self.generation.fork_for(&accepted, &mut self.places) {
            Ok(newborn) => {
                self.forks.may_work();
                self.outlive(newborn.pid, now);
                let slot = self.generation.commit(newborn, Role::Busy, now);
                self.places.occupy(slot, self.source(accepted.peer));
            }
            Err(why) => {
                if let NotForked::Failed(errno) = why {
                    self.forks.failed(errno, now);
                }
                self.accepting.keep(accepted);
            }
        }
    }

    /// Passes a client to a worker, or lets it wait for one.
    fn pass(&mut self, accepted: Accepted, now: Instant) {
        let source = self.source(accepted.peer);
        match self.generation.pass(accepted, now) {
            Ok(Some(slot)) => {
                self.places.occupy(slot, source);
                self.accepting.succeed();
            }
            Ok(None) => {}
            Err(errno) => self.accepting.fail(errno, now),
        }
    }

    /// The one that was kept for want of a process.
    pub(super) fn serve_pending(&mut self, now: Instant) {
        if !self.forks.wait(now)
            && let Some(accepted) = self.accepting.take_pending()
        {
            self.serve(accepted, now);
        }
    }

    /// Clients that could not be passed, or came back from a worker that died:
    /// to whoever is free now or, in a stop, to a process of their own.
    pub(super) fn pass_waiting(&mut self, now: Instant) {
        let serves = self.stop.phase().serves();
        while !self.accepting.waits(now)
            && self.accepting.pending().is_none()
            && (match serves {
                true => self
                    .generation
                    .design
                    .passing()
                    .is_some_and(|p| p.has_free()),
                false => !self.places.full(),
            })
            && let Some(accepted) = self.generation.design.next_waiting()
        {
            match serves {
                true => self.pass(accepted, now),
                false => self.serve(accepted, now),
            }
        }
    }

    /// A stop: serves what is queued as far as there is room, and closes each
    /// listener whose queue is empty.
    pub(super) fn take_queue(&mut self, now: Instant) {
        if self.stop.phase().serves() {
            return;
        }
        let mut nobody = 0;
        let listeners = self.generation.context.listeners.len();
        while nobody < listeners
            && self.accepting.pending().is_none()
            && self.generation.has_room(&self.places)
            && !self.accepting.waits(now)
        {
            let listener = self.accepting.next(listeners);
            nobody += 1;
            if self.generation.listener(listener).is_none() {
                continue;
            }
            match self.accept_from(listener, now) {
                Answer::Accepted(accepted) => self.serve(accepted, now),
                Answer::Refused => {}
                Answer::Nobody | Answer::Unusable(..) => {
                    self.generation.close_listener(listener);
                    continue;
                }
                Answer::Short(_) | Answer::Denied(_) => return,
            }
            nobody = 0;
        }
    }

    // Who has to wait.

    /// For what a client that comes now might have to wait.
    pub(super) fn may_wait(&self) -> MayWait {
        let serves = self.stop.phase().serves();
        MayWait {
            place: self.may_lack_places(),
            time: self.is_paced() || self.generation.context.board.is_early(),
            worker: serves && self.generation.design.may_not_hear(),
        }
    }

    /// Might a client that comes now have to wait for a place?
    pub(super) fn may_lack_places(&self) -> bool {
        self.generation.context.config.overflow == Overflow::Queue
            && self.stop.phase().serves()
            && (self.generation.design.seats().is_some() || self.places.full())
    }

    /// Would we take a client, but for the rate?
    fn is_paced(&self) -> bool {
        self.pause().is_some() && self.intake() != Intake::Leave
    }

    /// Looks who waits, if it is time to, and says what has begun or is over.
    pub(super) fn look_at_waiters(&mut self, now: Instant) {
        let serves = self.stop.phase().serves();
        let may = self.may_wait();
        let due = self.report.waits.is_due(may, now);
        if due.place {
            let found = self.look_for_places(now);
            self.report.waits.note_place(found, now);
        }
        if due.time {
            let told = self.generation.context.board.take_early();
            let waits = told || (self.is_paced() && self.generation.queued() > 0);
            let found = Found::waiting(waits && serves);
            self.report.waits.note_time(found, now);
        }
        if due.worker {
            let found = Found::waiting(may.worker && self.generation.queued() > 0);
            if self.report.waits.note_worker(found, now) {
                self.send_somebody();
            }
        }
        self.report.waits.look(serves, now);
    }

    /// A client waits whom no worker hears: one more looks at the queues, or where
    /// there is no room for it, all that wait are woken by word to go for one.
    fn send_somebody(&mut self) {
        if !self.places.full() {
            debug!("a client waits and no worker comes: one more");
            self.generation.replace_one();
        } else if self.generation.wake_all_for_one() {
            debug!("a client waits and no worker comes: all of them look");
        }
    }

    /// Do more clients wait than there are places for? A place is not taken by a
    /// worker that waits, is being born or leaves, nor by one that is dead or has
    /// said that it has nothing more to do.
    fn look_for_places(&mut self, now: Instant) -> Found {
        if !self.stop.phase().serves() || self.generation.queued() == 0 {
            return Found::Nobody;
        }
        self.catch_up(now);
        let places = self.generation.context.config.max_clients;
        match self.generation.queued() > places.saturating_sub(self.generation.serving()) {
            true => Found::Waiting,
            false => Found::Passing,
        }
    }
}

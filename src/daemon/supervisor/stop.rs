//! Stopping without losing anyone: where in its life the supervisor is, and what each
//! step of `state` does.

use std::time::Instant;

use log::{debug, error, info, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::StopTimes;
use crate::daemon::supervisor::notify::Word;
use crate::daemon::worker::acceptor::Answer;
use crate::error::Exit;
use crate::net;
use crate::values::{plural, show};

use super::Supervisor;
use super::state::{Action, Input, Phase, advance};

/// Where it is, and what it will have come to.
pub(super) struct Stop {
    phase: Phase,
    /// Clients that were not left to finish.
    cut: usize,
    exit: Exit,
}

impl Stop {
    /// It serves.
    pub(super) fn new() -> Self {
        Stop {
            phase: Phase::Running,
            cut: 0,
            exit: Exit::Ok,
        }
    }

    /// Where it is.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// So many more clients were cut.
    pub(super) fn count_cut(&mut self, clients: usize) {
        self.cut += clients;
    }

    /// The one place where the phase changes: what is to be done, and whether a stop
    /// has begun.
    fn advance(&mut self, input: Input, now: Instant, times: &StopTimes) -> (Action, bool) {
        let before = self.phase;
        let (phase, action) = advance(before, input, now, times);
        if phase != before {
            debug!("{} on {input:?}: {}", before.name(), phase.name());
        }
        self.phase = phase;
        (action, before == Phase::Running && phase != before)
    }
}

impl Supervisor {
    /// Takes the steps that time and emptiness allow; the exit status when it is over.
    pub(super) fn step(&mut self, now: Instant) -> Option<Exit> {
        loop {
            let before = self.stop.phase;
            if self.advance(Input::Tick, now) {
                return Some(self.stop.exit);
            }
            if before == self.stop.phase {
                break;
            }
        }
        self.take_queue(now);
        if !self.stop.phase.serves() {
            self.datagrams.close(self.stop.phase.cuts());
        }
        let empty = self.generation.is_empty()
            && self.accepting.pending().is_none()
            && self.datagrams.is_gone();
        (empty && self.advance(Input::Empty, now)).then_some(self.stop.exit)
    }

    /// Time, emptiness or an order changes the phase; true when it is over.
    pub(super) fn advance(&mut self, input: Input, now: Instant) -> bool {
        let times = self.generation.context.config.stop;
        let (action, begins) = self.stop.advance(input, now, &times);
        if begins {
            self.report.say(Word::Stopping);
        }
        match action {
            Action::None => {}
            Action::Announce => info!("stopping: still accepting for {}", show(times.delay)),
            Action::RefuseNew => {
                let busy = self.generation.busy() as u64;
                let are = if busy == 1 { "is" } else { "are" };
                info!("stopping: {} {are} left to finish", plural(busy, "client"));
                self.generation.refuse_new();
            }
            Action::TakeQueue => {
                self.generation.shut_listeners();
                self.datagrams.deafen();
                self.datagrams.dismiss();
                self.generation.end();
            }
            Action::Cut => self.cut_all(now),
            Action::Exit => {
                self.say_goodbye();
                return true;
            }
        }
        false
    }

    /// Stops if nothing is left to serve at; says whether it did.
    pub(super) fn left_alone(&mut self) -> bool {
        let alone = self.generation.has_no_listener()
            && self.datagrams.is_gone()
            && self.stop.phase.welcomes();
        if alone {
            error!("no listener is left");
            self.stop.exit = Exit::Os;
            self.advance(Input::Interrupt, Instant::now());
        }
        alone
    }

    fn cut_all(&mut self, now: Instant) {
        let queued = self.cut_queue(now);
        if queued > 0 {
            let were = if queued == 1 { "was" } else { "were" };
            let clients = plural(queued as u64, "client");
            warn!("{clients} {were} still queued: reset");
        }
        self.stop.count_cut(queued);
        self.generation.end();
        self.datagrams.tell(Signal::SIGKILL);
        self.generation.kill_all();
    }

    /// The deadline: resets everybody who waits, and closes every listener. Returns how
    /// many were reset.
    fn cut_queue(&mut self, now: Instant) -> usize {
        let mut cut = 0;
        while let Some(accepted) = self.generation.design.next_waiting() {
            net::overflow_reset(accepted.conn);
            cut += 1;
        }
        if let Some(accepted) = self.accepting.take_pending() {
            net::overflow_reset(accepted.conn);
            cut += 1;
        }
        for listener in 0..self.generation.context.listeners.len() {
            self.generation.keep_ours(listener);
            loop {
                match self.accept_from(listener, now) {
                    Answer::Accepted(accepted) => net::overflow_reset(accepted.conn),
                    Answer::Refused => continue,
                    _ => break,
                }
                cut += 1;
            }
            self.generation.close_listener(listener);
        }
        cut
    }

    fn say_goodbye(&mut self) {
        let table = self.generation.table();
        for child in table.slots().filter_map(|slot| table.get(slot)) {
            let pid = child.pid.map_or(0, Pid::as_raw);
            error!("process {pid} will not die");
        }
        for listener in 0..self.generation.context.listeners.len() {
            self.generation.close_listener(listener);
        }
        self.look_at_refusals(Instant::now(), true);
        match self.stop.cut {
            0 => info!("stopped; no client was cut"),
            1 => warn!("stopped; 1 client was cut"),
            n => warn!("stopped; {n} clients were cut"),
        }
    }
}

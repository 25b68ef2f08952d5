//! What children tell of themselves, and what their end means for the other parts.

use std::time::Instant;

use log::{debug, error};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::access::Source;
use crate::config::{Model, Reap};
use crate::daemon::shared::connection_log::Gone;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::worker::acceptor::Answer;
use crate::daemon::worker::child::Leave;
use crate::error::errno_text;
use crate::net::{self, Accepted};

use super::Supervisor;
use super::children::{COUNTS_FOR, is_crash};
use super::generation::{ChildExit, Clients};

impl Supervisor {
    /// A child woke us: who has a connection now, who could not accept, and who was
    /// turned away or refused.
    pub(super) fn note_news(&mut self, now: Instant) {
        let Supervisor {
            generation,
            places,
            forks,
            accepting,
            report,
            ..
        } = self;
        generation.context.board.clear_wakeup();
        generation.note_taken(places, now);
        if let Some(errno) = generation.context.board.take_trouble() {
            accepting.say_trouble(errno, now);
        }
        if let Some(seats) = generation.design.seats() {
            let turned_away = seats.take_turned_away();
            if turned_away > 0 {
                report.waits.count_turned_away(turned_away, now);
            }
            if let Some(errno) = seats.take_short() {
                forks.thread_failed(errno, now);
            }
        }
        self.look_at_refusals(now, false);
        self.datagrams.look(now);
    }

    pub(super) fn look_at_refusals(&mut self, now: Instant, last: bool) {
        let (access, names) = (&self.generation.context.access, self.generation.names());
        self.report.look_at_refusals(access, names, now, last);
    }

    /// Everything that is known of ends by now, looked for at once and not when
    /// the loop comes to it.
    pub(super) fn catch_up(&mut self, now: Instant) {
        self.note_closed_channels(now);
        self.generation.note_passed(&mut self.places);
        self.note_dead(true, now);
    }

    /// Double-forked children whose channel has ended.
    pub(super) fn note_closed_channels(&mut self, now: Instant) {
        while let Some(channels) = self.generation.design.channels()
            && let Some(slot) = channels.next_gone()
        {
            self.note_exit(slot, Gone::Untold, now);
        }
    }

    /// Whoever is dead, if SIGCHLD came or it is time to look.
    pub(super) fn reap(&mut self, child_died: bool, now: Instant) {
        let number = self.generation.number();
        if child_died {
            self.datagrams.reap(number, now);
        }
        self.note_dead(child_died, now);
        while let Some((pid, gone)) = self.reaper.stranger() {
            if !self.datagrams.note_exit(pid, gone, number, now) {
                debug!("reaped process {pid}, which holds no slot");
            }
        }
        if child_died {
            self.left_alone();
            // A process slot is free, perhaps the one that fork(2) wanted.
            self.forks.may_work();
        }
    }

    fn note_dead(&mut self, child_died: bool, now: Instant) {
        let (children, board) = (self.generation.table(), &self.generation.context.board);
        if self.reaper.reap(child_died, now, children, board) {
            // What the dead said last, before it is judged what they have done.
            self.generation.note_passed(&mut self.places);
        }
        while let Some((slot, gone)) = self.reaper.next_dead() {
            self.note_exit(slot, gone, now);
        }
    }

    /// With `--reap ignore` a new child may have the pid of one that the kernel
    /// has reaped and we have not missed yet.
    pub(super) fn outlive(&mut self, pid: Pid, now: Instant) {
        if self.generation.context.config.model != Model::Fork(Reap::Ignore) {
            return;
        }
        if let Some(slot) = self.generation.table().find(pid) {
            self.note_exit(slot, Gone::Untold, now);
        }
        let number = self.generation.number();
        self.datagrams.note_exit(pid, Gone::Untold, number, now);
    }

    /// The child of `slot` is gone: what it had is free, and its clients accounted for.
    fn note_exit(&mut self, slot: Slot, gone: Gone, now: Instant) {
        let Some((exit, clients)) = self.generation.release(slot, gone, &mut self.places) else {
            return;
        };
        let reuses = self.generation.context.config.model.reuses();
        if reuses && !exit.left(Leave::Served) && !exit.left(Leave::Retired) {
            self.generation.set_listeners_again();
        }
        if !exit.child.told {
            let oom = self.generation.context.oom.as_ref();
            self.forks.note_kill(oom, gone, exit.report.end, now);
        }
        match clients {
            Clients::One => {
                let cut = self.generation.note_end(&exit, now);
                self.stop.count_cut(usize::from(cut));
                self.note_crash(exit.source, gone, now);
            }
            Clients::Many(clients) => {
                let cut = self.generation.note_ends(&exit, &clients);
                self.stop.count_cut(cut);
            }
            Clients::Untaken(accepted) => {
                self.take_back(accepted);
                self.note_idle_exit(&exit, now);
            }
            Clients::None => self.note_idle_exit(&exit, now),
        }
    }

    fn note_idle_exit(&mut self, exit: &ChildExit, now: Instant) {
        if !self.generation.note_idle_exit(exit) {
            return;
        }
        if exit.left(Leave::Unusable) && self.lost_listener(exit.report.listener, now) {
            return;
        }
        self.generation.replace(exit, now);
    }

    /// A worker died before it took this client. Nobody has spoken with it: it is
    /// passed to another, or, once clients are being cut, reset.
    fn take_back(&mut self, accepted: Accepted) {
        if self.stop.phase().cuts() {
            net::overflow_reset(accepted.conn);
            self.stop.count_cut(1);
        } else {
            self.generation.design.wait(accepted);
        }
    }

    /// A child that served a client from there is gone: a crash keeps its place.
    fn note_crash(&mut self, source: Option<Source>, gone: Gone, now: Instant) {
        let Gone::Killed(signal) = gone else { return };
        let limit = self.generation.context.access.policy().per_source;
        let (Some(source), Some(limit)) = (source, limit) else {
            return;
        };
        if is_crash(signal) && self.places.crashed(source, now) == limit.most as usize {
            error!(
                "{} from {} in {} minutes: refusing it until fewer count",
                match limit.most {
                    1 => "1 crash".to_owned(),
                    most => format!("{most} crashes"),
                },
                limit.network(source),
                COUNTS_FOR.as_secs() / 60,
            );
        }
    }

    /// A worker says that its listener cannot be accepted on. One that was taken
    /// over could say so to end the service, so we try ourselves; false if it
    /// was not true.
    fn lost_listener(&mut self, listener: usize, now: Instant) -> bool {
        if self.accepting.pending().is_some() || self.pause().is_some() {
            return false;
        }
        match self.accept_from(listener, now) {
            Answer::Unusable(_, errno) => {
                self.give_up_listener(listener, errno);
                true
            }
            Answer::Accepted(accepted) => {
                self.serve(accepted, now);
                false
            }
            // Given up already, on another's word.
            Answer::Nobody => matches!(self.generation.context.listeners.get(listener), Some(None)),
            Answer::Refused | Answer::Short(_) | Answer::Denied(_) => false,
        }
    }

    /// accept(2) cannot work on that listener: no process will change it.
    pub(super) fn give_up_listener(&mut self, listener: usize, errno: Errno) {
        if listener >= self.generation.context.listeners.len() {
            return;
        }
        if self.generation.give_up_listener(listener) {
            let name = self.generation.name_of(listener);
            error!("accept {name}: {}: given up", errno_text(errno));
        }
        if !self.left_alone() {
            self.renew();
        }
    }
}

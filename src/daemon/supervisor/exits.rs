//! What children tell of themselves, and their end.
//!
//! A slot is released when the kernel (or, double-forked, the channel) says that
//! the child is gone, so `--max-clients` is exact on every path.

use std::time::Instant;

use log::error;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::daemon::shared::connection_log::{self, Ended, Gone};
use crate::daemon::shared::scoreboard::{Said, Slot};
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::channels::Channels;
use crate::daemon::supervisor::children::{Child, Role};
use crate::daemon::worker::acceptor::Answer;
use crate::daemon::worker::child::Leave;
use crate::error::errno_text;
use crate::net::connection::End;

impl Supervisor {
    /// A child woke us: who has taken a connection, and who could not accept.
    pub(crate) fn note_taken(&mut self, now: Instant) {
        self.context.board.clear_wakeup();
        self.births.well();
        if self.passing.is_some() {
            self.note_passed();
        } else {
            let children = &mut self.children;
            self.context.board.drain_taken(|slot| {
                children.taken(slot, now);
            });
        }
        if let Some(errno) = self.context.board.take_trouble() {
            self.accept_trouble(errno, now);
        }
        self.note_seats(now);
        self.look_at_refusals(now, false);
    }

    pub(crate) fn note_closed_channels(&mut self, now: Instant) {
        while let Some(slot) = self.channels.as_ref().and_then(Channels::next_gone) {
            if let Some(channels) = &mut self.channels {
                channels.close(slot);
            }
            self.bury(slot, Gone::Untold, now);
        }
    }

    /// The child of `slot` is gone: account for it, free the slot.
    pub(crate) fn bury(&mut self, slot: Slot, gone: Gone, now: Instant) {
        let Some(child) = self.children.release(slot) else {
            return;
        };
        let source = self.vacate(slot);
        if let Some(channels) = &mut self.channels {
            channels.close(slot);
        }
        let leave = |how: Leave| gone == Gone::Exited(how as i32);
        if self.serves_many() && !leave(Leave::Served) && !leave(Leave::Retired) {
            self.set_listeners_again();
        }
        let end = self.context.board.report(slot).end;
        self.note_kill(gone, child.told, end, now);
        let said = self.context.board.said(slot);
        let serving = said == Said::Serving;
        if !self.tells_roles() && !serving {
            self.context.board.count_waiting(-1);
        }
        if self.context.seats.is_some() {
            return self.bury_threaded(slot, &child, gone, now);
        }
        let untaken = self.passing.as_mut().and_then(|p| p.close(slot));
        if let Some(accepted) = untaken
            && !serving
        {
            self.take_back(accepted);
            return self.bury_idle(slot, &child, gone, said, now);
        }
        if serving || child.role == Role::Busy {
            self.bury_busy(slot, &child, gone, now);
            self.note_crash(source, gone, now);
        } else {
            self.bury_idle(slot, &child, gone, said, now);
        }
    }

    pub(crate) fn bury_busy(&mut self, slot: Slot, child: &Child, gone: Gone, now: Instant) {
        self.births.well();
        let report = self.context.board.report(slot);
        let lasted = now.saturating_duration_since(child.since);
        let lifetime = self.context.config.timeouts.lifetime;
        let end = connection_log::verdict(gone, report.end, child.told, lifetime, lasted);
        if end == End::Stop {
            self.cut += 1;
        }
        let pid = child.pid.map_or(0, Pid::as_raw);
        match (gone, end) {
            (_, End::Killed(signal)) => {
                let hint = connection_log::hint(signal);
                error!(
                    "process {pid} died of {signal} while serving {}{hint}",
                    report.peer
                );
            }
            (Gone::Exited(status), End::Lost) => {
                error!(
                    "process {pid} left with status {status} while serving {}",
                    report.peer
                );
            }
            _ => {}
        }
        if self.serves_many() && gone == Gone::Exited(Leave::Served as i32) {
            return; // it has written its last connection's line like the others
        }
        let listener = self.names.get(report.listener).map_or("?", String::as_str);
        connection_log::log_conn(&Ended {
            pid: child.pid,
            report,
            listener,
            lasted,
            end,
        });
    }

    pub(crate) fn bury_idle(
        &mut self,
        slot: Slot,
        child: &Child,
        gone: Gone,
        said: Said,
        now: Instant,
    ) {
        if child.generation == self.generation.number {
            self.generation.one_gone();
        }
        let leave = |how: Leave| gone == Gone::Exited(how as i32);
        if leave(Leave::Retired) || leave(Leave::Served) || child.told {
            return;
        }
        if leave(Leave::Unusable) && self.lost_listener(slot, now) {
            return;
        }
        let pid = child.pid.map_or(0, Pid::as_raw);
        self.idle_lost += 1;
        if self.births.died(child.since, now, said == Said::Starting) {
            // It will happen again: slowly, and said once.
            if !self.troubles.sick.begin(now) {
                return;
            }
            error!("degraded: workers die before they serve: forking one at a time, slowly");
        }
        match gone {
            Gone::Killed(signal) => {
                let hint = connection_log::hint(signal);
                error!("idle process {pid} died of {signal}{hint}");
            }
            Gone::Exited(status) => error!("idle process {pid} left with status {status}"),
            Gone::Untold => {}
        }
    }

    /// A worker says that its listener cannot be accepted on. One that was taken
    /// over could say so to end the service, so we try ourselves; false if it
    /// was not true.
    fn lost_listener(&mut self, slot: Slot, now: Instant) -> bool {
        if self.pending.is_some() {
            return false;
        }
        let listener = self.context.board.report(slot).listener;
        if self.pause().is_some() {
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
            Answer::Nobody => matches!(self.context.listeners.get(listener), Some(None)),
            Answer::Refused | Answer::Short(_) | Answer::Denied(_) => false,
        }
    }

    /// accept(2) cannot work on that listener: no process will change it.
    pub(crate) fn give_up_listener(&mut self, listener: usize, errno: Errno) {
        let Some(open) = self.context.listeners.get_mut(listener) else {
            return;
        };
        if open.take().is_some() {
            error!(
                "accept {}: {}: given up",
                self.names[listener],
                errno_text(errno)
            );
        }
        if !self.left_alone() {
            self.renew();
        }
    }
}

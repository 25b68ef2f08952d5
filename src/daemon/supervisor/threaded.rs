//! The supervisor's side of a worker that serves with threads: seats for the
//! clients it takes itself at a stop, news of the limit, and, when such a worker
//! dies, the end of every client it had.

use std::time::Instant;

use log::error;

use crate::daemon::shared::connection_log::{self, Ended, Gone};
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::shared::seats::{Seat, Waiter};
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::children::{Child, Role};
use crate::error::errno_text;
use crate::net::connection::End;
use crate::values::plural;

/// Every seat is taken.
pub(crate) struct NoSeat;

impl Supervisor {
    /// Is there room for a process that serves one more client? If not, a wakeup
    /// or SIGCHLD comes when there may be.
    pub(crate) fn has_room(&self) -> bool {
        if self.children.full() {
            return false;
        }
        // No child is the owner of this one: it goes back at once.
        match self.take_seat(self.context.config.child_slots()) {
            Ok(seat) => {
                self.give_back(seat);
                true
            }
            Err(NoSeat) => false,
        }
    }

    /// A seat for the child of `slot`, in the designs that have them.
    pub(crate) fn take_seat(&self, slot: Slot) -> Result<Option<Seat>, NoSeat> {
        let Some(seats) = &self.context.seats else {
            return Ok(None);
        };
        let seat = seats.claim_or_wait(slot, &mut 0, Waiter::Supervisor);
        seat.map(Some).ok_or(NoSeat)
    }

    /// The child that it was for was not forked. One that was keeps it until
    /// [`Supervisor::bury_threaded`].
    pub(crate) fn give_back(&self, seat: Option<Seat>) {
        if let (Some(seats), Some(seat)) = (&self.context.seats, seat) {
            // Nobody else but us would have to be told.
            let _ = seats.release(seat);
        }
    }

    /// A worker woke us: was anybody turned away, and can threads be started?
    pub(crate) fn note_seats(&mut self, now: Instant) {
        let Some(seats) = &self.context.seats else {
            return;
        };
        let turned_away = seats.take_turned_away();
        let short = seats.take_short();
        if turned_away > 0 {
            self.count_turned_away(turned_away, now);
        }
        if let Some(errno) = short
            && self.troubles.fork.begin(now)
        {
            error!(
                "clone: {}: clients wait in the queue; trying again",
                errno_text(errno)
            );
        }
    }

    /// The worker of `slot` is gone, and with it every client it had; or a child
    /// that served one.
    pub(crate) fn bury_threaded(&mut self, slot: Slot, child: &Child, gone: Gone, now: Instant) {
        let mut left = Vec::new();
        if let Some(seats) = &self.context.seats {
            let lives = |slot| self.children.get(slot).is_some();
            seats.vacate(slot, lives, |one| left.push(one));
        }
        if child.role == Role::Busy {
            return self.bury_busy(slot, child, gone, now);
        }
        for one in &left {
            // Its seat said nothing of an end, so the kernel's word is all.
            let end = connection_log::verdict(gone, None, child.told, None, one.lasted);
            self.cut += usize::from(end == End::Stop);
            let listener = self.names.get(one.report.listener);
            connection_log::log_conn(&Ended {
                pid: child.pid,
                report: one.report,
                listener: listener.map_or("?", String::as_str),
                lasted: one.lasted,
                end,
            });
        }
        if left.is_empty() {
            let said = self.context.board.said(slot);
            return self.bury_idle(slot, child, gone, said, now);
        }
        self.births.well();
        let pid = child.pid.map_or(0, nix::unistd::Pid::as_raw);
        let clients = plural(left.len() as u64, "client");
        match gone {
            _ if child.told => {}
            Gone::Killed(signal) => {
                let hint = connection_log::hint(signal);
                error!("process {pid} died of {signal} while serving {clients}{hint}");
            }
            Gone::Exited(status) => {
                error!("process {pid} left with status {status} while serving {clients}");
            }
            Gone::Untold => {}
        }
    }
}

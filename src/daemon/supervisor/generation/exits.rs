//! What is known of a child that is gone, and what that says of its clients.

use std::time::Instant;

use log::error;
use nix::unistd::Pid;

use crate::access::Source;
use crate::daemon::shared::connection_log::{self, Ended, Gone, Report};
use crate::daemon::shared::scoreboard::{Said, Slot};
use crate::daemon::shared::seats::Left;
use crate::daemon::supervisor::children::{Child, Places, Role};
use crate::daemon::supervisor::design::{Design, Threads, Tie, WhoAccepts};
use crate::daemon::worker::child::Leave;
use crate::net::Accepted;
use crate::net::connection::End;
use crate::values::plural;

use super::Generation;

/// A child that is gone.
pub(in super::super) struct ChildExit {
    pub(in super::super) child: Child,
    pub(in super::super) gone: Gone,
    /// What it said of itself last, and of its connection.
    pub(in super::super) report: Report,
    said: Said,
    /// Whose client it had, if that counts.
    pub(in super::super) source: Option<Source>,
}

/// Its clients.
pub(in super::super) enum Clients {
    /// It waited, or was on its way to.
    None,
    /// One was passed to it, with which it did not come to speak.
    Untaken(Accepted),
    /// It served one.
    One,
    /// It had threads for these.
    Many(Vec<Left>),
}

impl ChildExit {
    /// Did it leave in this way?
    pub(in super::super) fn left(&self, how: Leave) -> bool {
        self.gone == Gone::Exited(how as i32)
    }

    fn pid(&self) -> i32 {
        self.child.pid.map_or(0, Pid::as_raw)
    }
}

impl Generation {
    /// The child of `slot` is gone: its place and all that it had are free.
    pub(in super::super) fn release(
        &mut self,
        slot: Slot,
        gone: Gone,
        places: &mut Places,
    ) -> Option<(ChildExit, Clients)> {
        let child = self.children.release(slot, places)?;
        let board = &self.context.board;
        let said = board.said(slot);
        let serving = said == Said::Serving;
        let one = match serving || child.role == Role::Busy {
            true => Clients::One,
            false => Clients::None,
        };
        let clients = match &mut self.design {
            Design::Datagrams | Design::Fork(Tie::Parent | Tie::Kernel) => one,
            Design::Fork(Tie::Channels(channels)) => {
                channels.close(slot);
                one
            }
            Design::Prefork(prefork) => match (&mut prefork.accepts, prefork.per_child) {
                (WhoAccepts::Supervisor(passing), _) => match passing.close(slot) {
                    Some(accepted) if !serving => Clients::Untaken(accepted),
                    _ => one,
                },
                (WhoAccepts::Workers, _) => one,
            },
            Design::Iterative(_) => one,
            Design::Threads(Threads { seats, .. }) => {
                let mut left = Vec::new();
                let lives = |slot| self.children.get(slot).is_some();
                seats.vacate(slot, lives, |client| left.push(client));
                match child.role {
                    Role::Busy => Clients::One,
                    _ if left.is_empty() => Clients::None,
                    _ => Clients::Many(left),
                }
            }
        };
        if self.design.is_counted_by_board() && !serving {
            board.count_waiting(-1);
        }
        let exit = ChildExit {
            child,
            gone,
            report: board.report(slot),
            said,
            source: places.vacate(slot),
        };
        Some((exit, clients))
    }

    /// The end of the one client that it had; true if it was cut by our order.
    pub(in super::super) fn note_end(&mut self, exit: &ChildExit, now: Instant) -> bool {
        self.respawn.well();
        let ChildExit {
            child,
            gone,
            report,
            ..
        } = *exit;
        let lasted = now.saturating_duration_since(child.since);
        let lifetime = self.context.config.timeouts.lifetime;
        let end = connection_log::verdict(gone, report.end, child.told, lifetime, lasted);
        let pid = exit.pid();
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
        // One that serves several has written its last connection's line like the
        // others.
        if !(self.context.config.model.reuses() && exit.left(Leave::Served)) {
            connection_log::log_conn(&Ended {
                pid: child.pid,
                report,
                listener: self.name_of(report.listener),
                lasted,
                end,
            });
        }
        end == End::Stop
    }

    /// The end of the clients of its threads; how many of them were cut by our order.
    pub(in super::super) fn note_ends(&mut self, exit: &ChildExit, clients: &[Left]) -> usize {
        self.respawn.well();
        let mut cut = 0;
        for client in clients {
            // Its seat said nothing of an end, so the kernel's word is all.
            let told = exit.child.told;
            let end = connection_log::verdict(exit.gone, None, told, None, client.lasted);
            cut += usize::from(end == End::Stop);
            connection_log::log_conn(&Ended {
                pid: exit.child.pid,
                report: client.report,
                listener: self.name_of(client.report.listener),
                lasted: client.lasted,
                end,
            });
        }
        let pid = exit.pid();
        let clients = plural(clients.len() as u64, "client");
        match exit.gone {
            _ if exit.child.told => {}
            Gone::Killed(signal) => {
                let hint = connection_log::hint(signal);
                error!("process {pid} died of {signal} while serving {clients}{hint}");
            }
            Gone::Exited(status) => {
                error!("process {pid} left with status {status} while serving {clients}");
            }
            Gone::Untold => {}
        }
        cut
    }

    /// It had none, and is missing: true if nobody meant it to go.
    pub(in super::super) fn note_idle_exit(&mut self, exit: &ChildExit) -> bool {
        if exit.child.generation == self.death.number {
            self.death.one_gone();
        }
        !exit.left(Leave::Retired) && !exit.left(Leave::Served) && !exit.child.told
    }

    /// It had none, and should not have gone: another comes in its place.
    pub(in super::super) fn replace(&mut self, exit: &ChildExit, now: Instant) {
        self.lost += 1;
        let starting = exit.said == Said::Starting;
        if !self.respawn.note_death(exit.child.since, now, starting) {
            return;
        }
        let pid = exit.pid();
        match exit.gone {
            Gone::Killed(signal) => {
                let hint = connection_log::hint(signal);
                error!("idle process {pid} died of {signal}{hint}");
            }
            Gone::Exited(status) => error!("idle process {pid} left with status {status}"),
            Gone::Untold => {}
        }
    }
}

//! The designs side by side: what each has beside the table of children, and the
//! questions that each answers in its own way. How its workers are forked is in
//! `generation`.

use std::os::fd::BorrowedFd;

use crate::config::{Accept, Config, Model, PoolLimits, Reap};
use crate::daemon::shared::pool::Pool;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::shared::seats::{Seat, Seats, Waiter};
use crate::error::{Error, Result};
use crate::net::Accepted;
use crate::sys::signal;

use super::fd_passing::FdPassing;
use super::reap::Channels;

/// Which design serves.
pub(super) enum Design {
    /// None: there are datagram sockets alone, whose workers are no matter here.
    Datagrams,
    /// The supervisor accepts, and forks a child for each client (UNP row 1).
    Fork(Tie),
    /// Workers forked in advance, as many as the limits ask for (UNP rows 2 to 5).
    Prefork(Prefork),
    /// One of them, which serves one client after the other (UNP row 0).
    Iterative(Pool),
    /// One worker, whose threads serve (UNP rows 6 to 8).
    Threads(Threads),
}

/// How the supervisor of `fork` hears that a child is gone.
pub(super) enum Tie {
    /// It is its parent: SIGCHLD and waitpid(2).
    Parent,
    /// The kernel reaps: SIGCHLD, and waitpid(2) knows it no more.
    Kernel,
    /// init reaps: by the end of a channel.
    Channels(Channels),
}

/// See [`Design::Prefork`].
pub(super) struct Prefork {
    pub(super) pool: Pool,
    /// Clients in a worker's life; `None` is no limit.
    pub(super) per_child: Option<u64>,
    pub(super) accepts: WhoAccepts,
}

/// See [`Prefork`].
pub(super) enum WhoAccepts {
    Workers,
    Supervisor(FdPassing),
}

/// See [`Design::Threads`].
pub(super) struct Threads {
    pub(super) pool: Pool,
    /// One for each client that may be served at once.
    pub(super) seats: Seats,
}

/// Where it stands what the workers do.
pub(super) enum Roles<'a> {
    /// In the table of children: each says when it has a client, and when it waits
    /// again.
    Table,
    /// On the scoreboard: workers that serve many keep a count of their own, and wake
    /// the supervisor only when the pool could do something.
    Board,
    /// In the seats, each of which is a client.
    Seats(&'a Seats),
}

/// Every seat is taken.
pub(super) struct NoSeat;

/// One worker, which is replaced.
const ONE: PoolLimits = PoolLimits {
    start: 1,
    min_spare: 1,
    max_spare: 1,
};

impl Design {
    /// As asked for, with `slots` for children.
    ///
    /// # Errors
    /// When memory or descriptors are short.
    pub(super) fn new(config: &Config, has_listeners: bool, slots: usize) -> Result<Self> {
        let os = |op: &str| {
            let op = op.to_owned();
            move |errno| Error::os(&op, "", errno)
        };
        if config.model == Model::Fork(Reap::Ignore) {
            // Not before here: the sandbox's probe has waited for its child.
            signal::let_kernel_reap().map_err(os("sigaction"))?;
        }
        Ok(match config.model {
            // Without a listener there is nobody to wait for.
            _ if !has_listeners => Design::Datagrams,
            Model::Fork(Reap::Wait) => Design::Fork(Tie::Parent),
            Model::Fork(Reap::Ignore) => Design::Fork(Tie::Kernel),
            Model::Fork(Reap::DoubleFork) => {
                let channels = Channels::new(slots).map_err(os("epoll_create1"))?;
                Design::Fork(Tie::Channels(channels))
            }
            Model::Prefork {
                pool,
                per_child,
                accept,
            } => Design::Prefork(Prefork {
                pool: Pool::new(pool),
                per_child,
                accepts: match accept {
                    Accept::Pass => {
                        let passing = FdPassing::new(slots, per_child == Some(1));
                        WhoAccepts::Supervisor(passing.map_err(os("epoll_create1"))?)
                    }
                    Accept::Shared | Accept::Fcntl | Accept::Mutex | Accept::Reuseport => {
                        WhoAccepts::Workers
                    }
                },
            }),
            Model::Iterative => Design::Iterative(Pool::new(ONE)),
            Model::Thread | Model::Prethread { .. } => Design::Threads(Threads {
                pool: Pool::new(ONE),
                seats: Seats::new(config.max_clients)
                    .map_err(|errno| Error::os("map", "the scoreboard", errno))?,
            }),
        })
    }

    /// The workers that are to wait, where any are.
    pub(super) fn pool(&mut self) -> Option<&mut Pool> {
        match self {
            Design::Datagrams | Design::Fork(_) => None,
            Design::Prefork(prefork) => Some(&mut prefork.pool),
            Design::Iterative(pool) => Some(pool),
            Design::Threads(threads) => Some(&mut threads.pool),
        }
    }

    /// Are workers forked before their client comes?
    pub(super) fn has_pool(&self) -> bool {
        !matches!(self, Design::Datagrams | Design::Fork(_))
    }

    /// The pool that TTIN and TTOU move.
    pub(super) fn movable_pool(&mut self) -> Option<&mut Pool> {
        match self {
            Design::Prefork(prefork) => Some(&mut prefork.pool),
            Design::Datagrams | Design::Fork(_) | Design::Iterative(_) | Design::Threads(_) => None,
        }
    }

    /// Who is to have a client that comes: is there a place for it with the
    /// supervisor, and has nobody one? `full` says that no further process may be
    /// forked.
    pub(super) fn places(&self, full: bool, idle: impl Fn() -> usize) -> (bool, bool) {
        match self {
            Design::Datagrams | Design::Fork(_) => (!full, full),
            Design::Prefork(Prefork {
                accepts: WhoAccepts::Supervisor(passing),
                ..
            }) => (passing.has_free(), full),
            Design::Prefork(_) | Design::Iterative(_) | Design::Threads(_) => {
                (false, full && idle() == 0)
            }
        }
    }

    /// Where it stands who waits and who serves.
    pub(super) fn roles(&self) -> Roles<'_> {
        match self {
            Design::Datagrams | Design::Fork(_) => Roles::Table,
            Design::Prefork(prefork) => match (&prefork.accepts, prefork.per_child) {
                (WhoAccepts::Supervisor(_), _) | (_, Some(1)) => Roles::Table,
                (WhoAccepts::Workers, _) => Roles::Board,
            },
            Design::Iterative(_) => Roles::Board,
            Design::Threads(threads) => Roles::Seats(&threads.seats),
        }
    }

    /// Do workers keep count of those that wait themselves?
    pub(super) fn is_counted_by_board(&self) -> bool {
        matches!(self.roles(), Roles::Board)
    }

    /// May a worker be woken for a client and not come, while others wait?
    pub(super) fn may_not_hear(&self) -> bool {
        match self {
            Design::Prefork(prefork) => matches!(prefork.accepts, WhoAccepts::Workers),
            Design::Datagrams | Design::Fork(_) | Design::Iterative(_) | Design::Threads(_) => {
                false
            }
        }
    }

    /// Readable when a child says something that is not on the scoreboard.
    pub(super) fn wakeup(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Design::Fork(Tie::Channels(channels)) => Some(channels.wakeup()),
            Design::Prefork(Prefork {
                accepts: WhoAccepts::Supervisor(passing),
                ..
            }) => passing.wakeup(),
            Design::Datagrams
            | Design::Fork(_)
            | Design::Prefork(_)
            | Design::Iterative(_)
            | Design::Threads(_) => None,
        }
    }

    /// The ties to children that are init's.
    pub(super) fn channels(&mut self) -> Option<&mut Channels> {
        match self {
            Design::Fork(Tie::Channels(channels)) => Some(channels),
            _ => None,
        }
    }

    /// Where the supervisor accepts for workers.
    pub(super) fn passing(&mut self) -> Option<&mut FdPassing> {
        match self {
            Design::Prefork(Prefork {
                accepts: WhoAccepts::Supervisor(passing),
                ..
            }) => Some(passing),
            _ => None,
        }
    }

    /// Clients that were accepted and wait for a worker.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Accepted> {
        let passing = match self {
            Design::Prefork(Prefork {
                accepts: WhoAccepts::Supervisor(passing),
                ..
            }) => Some(passing),
            _ => None,
        };
        passing.into_iter().flat_map(FdPassing::waiting)
    }

    /// The one that has waited longest.
    pub(super) fn next_waiting(&mut self) -> Option<Accepted> {
        self.passing()?.next_waiting()
    }

    /// One that is to wait.
    pub(super) fn wait(&mut self, accepted: Accepted) {
        if let Some(passing) = self.passing() {
            passing.wait(accepted);
        }
    }

    /// Are there any?
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting().next().is_some()
    }

    /// The seats, in the designs that have them.
    pub(super) fn seats(&self) -> Option<&Seats> {
        match self {
            Design::Threads(threads) => Some(&threads.seats),
            Design::Datagrams | Design::Fork(_) | Design::Prefork(_) | Design::Iterative(_) => None,
        }
    }

    /// A seat for the child of `slot`, where there are any: the supervisor takes it for
    /// a client that it serves itself, at a stop.
    pub(super) fn take_seat(&self, slot: Slot) -> Result<Option<Seat>, NoSeat> {
        let Some(seats) = self.seats() else {
            return Ok(None);
        };
        let seat = seats.claim_or_wait(slot, &mut 0, Waiter::Supervisor);
        seat.map(Some).ok_or(NoSeat)
    }

    /// The child that it was for was not forked. One that was keeps it until it is
    /// gone.
    pub(super) fn give_back(&self, seat: Option<Seat>) {
        if let (Some(seats), Some(seat)) = (self.seats(), seat) {
            // Nobody else but us would have to be told.
            let _ = seats.release(seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::echod::parse;

    #[test]
    fn each_design_has_what_it_needs_and_no_more() {
        // Not `--reap ignore`, which is the whole process's.
        for (typed, pool, moves, roles, unheard, wakes) in [
            ("-m fork", false, false, "table", false, false),
            (
                "-m fork --reap double-fork",
                false,
                false,
                "table",
                false,
                true,
            ),
            ("-m prefork", true, true, "table", true, false),
            (
                "-m prefork --accept mutex",
                true,
                true,
                "table",
                true,
                false,
            ),
            (
                "-m prefork --accept pass",
                true,
                true,
                "table",
                false,
                false,
            ),
            (
                "--accept pass --max-connections-per-child 0",
                true,
                true,
                "table",
                false,
                true,
            ),
            (
                "--max-connections-per-child 9",
                true,
                true,
                "board",
                true,
                false,
            ),
            ("-m iterative", true, false, "board", false, false),
            ("-m thread", true, false, "seats", false, false),
            (
                "-m prethread --accept pass",
                true,
                false,
                "seats",
                false,
                false,
            ),
        ] {
            let argv = ["echod"].into_iter().chain(typed.split(' '));
            let config = parse(argv.map(Into::into)).expect(typed);
            let mut design = Design::new(&config, true, 4).expect(typed);
            assert_eq!(design.has_pool(), pool, "{typed}");
            assert_eq!(design.pool().is_some(), pool, "{typed}");
            assert_eq!(design.movable_pool().is_some(), moves, "{typed}");
            let stands = match design.roles() {
                Roles::Table => "table",
                Roles::Board => "board",
                Roles::Seats(_) => "seats",
            };
            assert_eq!(stands, roles, "{typed}");
            assert_eq!(design.may_not_hear(), unheard, "{typed}");
            assert_eq!(design.wakeup().is_some(), wakes, "{typed}");
            let (takes, nobody) = design.places(false, || 0);
            assert_eq!((takes, nobody), (!pool, false), "{typed}");
            let without = Design::new(&config, false, 4).expect(typed);
            assert!(matches!(without, Design::Datagrams) && !without.has_pool());
        }
    }
}

//! Orders: signals, as in the table of echod(8), SIGNALS, and the end of the terminal.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::sys::signal::{Signals, Terminal};

use super::state::Input;

/// How long one TERM may take to come twice.
const TWICE: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// To stop, in one of three ways.
    Stop(Input),
    /// The same: the terminal is gone.
    HangUp,
    /// HUP: new workers, and logs reopened.
    Renew,
    /// USR1: logs reopened.
    Reopen,
    /// USR2: another program in this one's place.
    Upgrade,
    /// TTIN: a worker more.
    More,
    /// TTOU: a worker fewer.
    Fewer,
}

/// Where they come from.
pub(crate) struct Orders {
    signals: Signals,
    /// Whose end is TERM, if there is one.
    terminal: Option<Terminal>,
    /// When the last TERM came.
    last_term: Option<Instant>,
}

impl Orders {
    /// None has come.
    pub(crate) fn new(signals: Signals, terminal: Option<Terminal>) -> Self {
        Orders {
            signals,
            terminal,
            last_term: None,
        }
    }

    /// Readable when a signal has come.
    pub(super) fn wakeup(&self) -> BorrowedFd<'_> {
        self.signals.wakeup()
    }

    /// Reads which.
    pub(super) fn hear(&mut self) {
        self.signals.hear();
    }

    /// Has a child died, of those heard of?
    pub(super) fn child_died(&mut self) -> bool {
        self.signals.take(Signal::SIGCHLD)
    }

    /// The next one, of those heard.
    pub(super) fn next(&mut self, now: Instant) -> Option<Order> {
        for (signal, order) in [
            (Signal::SIGINT, Order::Stop(Input::Interrupt)),
            (Signal::SIGTERM, Order::Stop(Input::Term)),
            (Signal::SIGQUIT, Order::Stop(Input::Quit)),
            (Signal::SIGHUP, Order::Renew),
            (Signal::SIGUSR1, Order::Reopen),
            (Signal::SIGUSR2, Order::Upgrade),
            (Signal::SIGTTIN, Order::More),
            (Signal::SIGTTOU, Order::Fewer),
        ] {
            if !self.signals.take(signal) {
                continue;
            }
            match order {
                Order::Stop(Input::Term) if self.came_twice(now) => {}
                Order::Renew if self.is_hung_up() => return Some(Order::HangUp),
                _ => return Some(order),
            }
        }
        None
    }

    /// timeout(1) sends its TERM to us and at once to its process group, which is
    /// ours; a script that was sent one with the rest of the group hands it on. That
    /// is one order, and not a second one that cuts clients.
    fn came_twice(&mut self, now: Instant) -> bool {
        let last = self.last_term.replace(now);
        let just = last.is_some_and(|at| now.saturating_duration_since(at) < TWICE);
        just && self.signals.is_term_from_our_group()
    }

    /// The end of our terminal is TERM, as for any program in the foreground: both
    /// the kernel and a shell may bring it.
    fn is_hung_up(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::is_gone)
    }
}

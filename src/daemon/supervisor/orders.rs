//! Orders: one signal after the other, as in the table of echod(8), SIGNALS.

use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::sys::signal::Signal;

use crate::config::Model;
use crate::daemon::shared::connection_log;
use crate::daemon::shared::generation::Generation;
use crate::daemon::shared::pool::{Pool, Shift};
use crate::daemon::start::notify::Word;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::state::{Input, Phase};
use crate::sys::signal::Terminal;

/// How long one TERM may take to come twice.
const TWICE: Duration = Duration::from_millis(100);

impl Supervisor {
    pub(crate) fn obey(&mut self, now: Instant) {
        for (signal, input) in [
            (Signal::SIGINT, Input::Interrupt),
            (Signal::SIGTERM, Input::Term),
            (Signal::SIGQUIT, Input::Quit),
        ] {
            if self.signals.take(signal) && !(input == Input::Term && self.came_twice(now)) {
                self.advance(input, now);
            }
        }
        if self.signals.take(Signal::SIGHUP) && !self.hung_up(now) {
            // A stop that has begun is the last word.
            let running = self.phase == Phase::Running;
            if running {
                self.say(Word::Reloading);
            }
            self.reopen_log();
            self.set_listeners_again();
            if self.is_without_workers() {
                info!("HUP: no worker waits to be replaced");
            } else if self.phase.welcomes() {
                self.renew();
            }
            if running {
                self.say(Word::Ready);
            }
        }
        if self.signals.take(Signal::SIGUSR1) {
            match self.reopen_log() {
                None => info!("USR1: this log is no file, and stays open"),
                // They have the old file, and open none.
                Some(true) if self.workers_log() && self.phase.welcomes() => self.renew(),
                Some(_) => {}
            }
        }
        if self.signals.take(Signal::SIGUSR2) {
            warn!("USR2: this version cannot upgrade itself; ignored");
        }
        if self.signals.take(Signal::SIGTTIN) {
            // One more, even where as many wait as the limits ask for.
            let max = self.context.config.max_clients;
            let end = "as many workers wait as --max-clients allows";
            let more = self.resize(|pool| pool.grow(max), end);
            self.idle_lost += usize::from(more.is_some());
        }
        if self.signals.take(Signal::SIGTTOU) {
            let least = self.resize(Pool::shrink, "one worker waits, which is the least");
            if least.is_some_and(|least| self.waiting() > least) {
                self.generation.retire(1);
            }
        }
    }

    /// timeout(1) sends its TERM to us and at once to its process group, which is
    /// ours; a script that was sent one with the rest of the group hands it on. That
    /// is one order, and not a second one that cuts clients.
    fn came_twice(&mut self, now: Instant) -> bool {
        let last = self.last_term.replace(now);
        let just = last.is_some_and(|at| now.saturating_duration_since(at) < TWICE);
        just && self.signals.is_term_from_our_group()
    }

    /// The end of our terminal is TERM, as for any program in the foreground: the
    /// first word of it alone, for both the kernel and a shell may bring it.
    fn hung_up(&mut self, now: Instant) -> bool {
        let gone = self.terminal.as_ref().is_some_and(Terminal::is_gone);
        if gone && self.phase == Phase::Running {
            info!("the terminal is gone");
            self.advance(Input::Term, now);
        }
        gone
    }

    /// Whether that went well; `None` where there is nothing to reopen.
    fn reopen_log(&mut self) -> Option<bool> {
        match self.context.log.reopen() {
            Ok(false) => return None,
            Ok(true) => info!("log reopened"),
            Err(e) => {
                error!("{e}");
                return Some(false);
            }
        }
        Some(true)
    }

    /// Do workers write lines of their own?
    fn workers_log(&self) -> bool {
        let model = &self.context.config.model;
        (model.reuses() || model.is_threaded()) && connection_log::start_of_conn().is_some()
    }

    /// Is there nobody to replace, since workers are forked for their client?
    fn is_without_workers(&self) -> bool {
        self.pool.is_none() && self.crew.is_gone()
    }

    /// HUP: idle workers of the old generation leave, busy ones serve their
    /// client to its end.
    pub(crate) fn renew(&mut self) {
        if self.is_without_workers() || !self.phase.serves() {
            return;
        }
        let number = self.generation.number.wrapping_add(1);
        match Generation::new(number, self.context.config.model.accept()) {
            Ok(next) => {
                self.children.leave_idle();
                if let Some(passing) = &mut self.passing {
                    passing.none_free();
                }
                self.generation = next;
                self.crew.dismiss();
                info!(
                    "generation {}: new workers, nobody is cut",
                    self.generation.number
                );
            }
            Err(error) => error!("{error}; the old workers stay"),
        }
    }

    /// Moves the pool's limits; the new least number of idle workers, if there is
    /// a pool to move and it could be.
    fn resize(&mut self, change: impl Fn(&mut Pool) -> Shift, end: &str) -> Option<usize> {
        let pooled = matches!(self.context.config.model, Model::Prefork { .. });
        let Some(pool) = self.pool.as_mut().filter(|_| pooled) else {
            info!("TTIN and TTOU: this design has no pool of workers");
            return None;
        };
        let shift = change(pool);
        let (limits, max) = (pool.limits(), self.context.config.max_clients);
        let least = limits.min_spare;
        match shift {
            Shift::Moved => {
                let most = limits.max_spare.min(max);
                info!("{least} to {most} workers wait from now on");
                Some(least)
            }
            Shift::End => {
                info!("{end}");
                None
            }
            Shift::StillAtEnd => None,
        }
    }
}

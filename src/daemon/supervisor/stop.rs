//! Stopping without losing anyone: what each step of `state` does.

use std::time::Instant;

use log::{error, info, warn};
use nix::sys::signal::Signal;

use crate::daemon::start::notify::Word;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::supervisor::state::{Action, Input, Phase, advance};
use crate::error::errno_text;
use crate::sys::process;
use crate::values::plural;

impl Supervisor {
    /// Takes the steps that time and emptiness allow; true when it is over.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        loop {
            let before = self.phase;
            if self.advance(Input::Tick, now) {
                return true;
            }
            if before == self.phase {
                break;
            }
        }
        self.take_queue(now);
        if !self.phase.serves() {
            self.crew.close(matches!(self.phase, Phase::Ending { .. }));
        }
        let empty = self.children.alive() == 0
            && self.pending.is_none()
            && self.crew.is_gone()
            && !self.has_waiting()
            && self.context.listeners.iter().all(Option::is_none);
        empty && self.advance(Input::Empty, now)
    }

    /// The one place where the phase changes; true when it is over.
    pub(crate) fn advance(&mut self, input: Input, now: Instant) -> bool {
        let (phase, action) = advance(self.phase, input, now, &self.context.config.stop);
        if phase != self.phase {
            log::debug!("{} on {input:?}: {}", self.phase.name(), phase.name());
            if self.phase == Phase::Running {
                self.say(Word::Stopping);
            }
            self.phase = phase;
        }
        match action {
            Action::None => {}
            Action::Announce => {
                let delay = crate::values::show(self.context.config.stop.delay);
                info!("stopping: still accepting for {delay}");
            }
            Action::RefuseNew => self.refuse_new(),
            Action::TakeQueue => self.retire_all(),
            Action::Cut => self.end_all(now),
            Action::Exit => {
                self.say_goodbye();
                return true;
            }
        }
        false
    }

    fn refuse_new(&mut self) {
        let busy = self.busy() as u64;
        let are = if busy == 1 { "is" } else { "are" };
        info!("stopping: {} {are} left to finish", plural(busy, "client"));
        for listener in 0..self.context.listeners.len() {
            let Some(open) = &self.context.listeners[listener] else {
                continue;
            };
            if let Err(errno) = open.refuse_new() {
                // Multipath TCP, say. A plain close resets who is queued, but a
                // queue that never ends would be worse.
                let name = open.name();
                warn!(
                    "SO_ATTACH_FILTER {name}: {}: closed at once",
                    errno_text(errno)
                );
                self.close_listener(listener);
            }
        }
    }

    /// Idle workers accept what they were woken for, or leave; from here on the
    /// supervisor takes what is queued. A Unix socket can refuse newcomers and
    /// keep its queue; it would wake waiting workers for ever, so not before. One
    /// that was handed over is left with its queue to whoever has it next.
    fn retire_all(&mut self) {
        for listener in 0..self.context.listeners.len() {
            let Some(listener) = self.keep_ours(listener) else {
                continue;
            };
            if let Err(errno) = listener.shut() {
                warn!("shutdown {}: {}", listener.name(), errno_text(errno));
            }
        }
        self.crew.deafen();
        self.crew.dismiss();
        self.generation.end();
    }

    fn end_all(&mut self, now: Instant) {
        let queued = self.cut_queue(now);
        if queued > 0 {
            let were = if queued == 1 { "was" } else { "were" };
            let clients = plural(queued as u64, "client");
            warn!("{clients} {were} still queued: reset");
        }
        self.cut += queued;
        self.generation.end();
        self.kill_all();
    }

    /// Kills every child whose pid the kernel still holds for us, for a worker
    /// hears no order; a double-forked one gets its order by its channel.
    fn kill_all(&mut self) {
        self.crew.tell(Signal::SIGKILL);
        let slots: Vec<_> = self.children.slots().collect();
        for slot in slots {
            self.children.told(slot);
            if let Some(channels) = &self.channels {
                channels.order_stop(slot);
            }
            let Some(pid) = self.children.get(slot).and_then(|child| child.pid) else {
                continue;
            };
            process::signal_child(pid, Signal::SIGKILL);
        }
    }

    fn say_goodbye(&mut self) {
        for slot in self.children.slots() {
            let pid = self.children.get(slot).and_then(|child| child.pid);
            error!(
                "process {} will not die",
                pid.map_or(0, nix::unistd::Pid::as_raw)
            );
        }
        for listener in 0..self.context.listeners.len() {
            self.close_listener(listener);
        }
        self.look_at_refusals(Instant::now(), true);
        match self.cut {
            0 => info!("stopped; no client was cut"),
            1 => warn!("stopped; 1 client was cut"),
            n => warn!("stopped; {n} clients were cut"),
        }
    }
}

//! Its listeners: what is said to them all, and how each is closed without loss.

use log::{info, warn};

use crate::error::errno_text;
use crate::net::Listener;

use super::Generation;

impl Generation {
    /// The one with this index, if it is open.
    pub(in super::super) fn listener(&self, listener: usize) -> Option<&Listener> {
        self.context.listeners.get(listener)?.as_ref()
    }

    /// It is of no use any more; false if that was known.
    pub(in super::super) fn give_up_listener(&mut self, listener: usize) -> bool {
        self.context.listeners[listener].take().is_some()
    }

    /// Sets the listeners' options once more: at a reload, and when a worker that kept
    /// them has died as none should.
    pub(in super::super) fn set_listeners_again(&self) {
        for listener in self.context.listeners.iter().flatten() {
            if let Err(errno) = listener.set_again(&self.context.config.timeouts) {
                let name = listener.name();
                warn!("setsockopt {name}: {}: left as it is", errno_text(errno));
            }
        }
    }

    /// No more gets into the queues. One that cannot keep newcomers out is closed.
    pub(in super::super) fn refuse_new(&mut self) {
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

    /// A Unix socket can refuse newcomers and keep its queue; it would wake waiting
    /// workers for ever, so not before they are told to go. One that was handed over is
    /// left with its queue to whoever has it next.
    pub(in super::super) fn shut_listeners(&mut self) {
        for listener in 0..self.context.listeners.len() {
            let Some(listener) = self.keep_ours(listener) else {
                continue;
            };
            if let Err(errno) = listener.shut() {
                warn!("shutdown {}: {}", listener.name(), errno_text(errno));
            }
        }
    }

    /// In a stop: the listener with this index if it is open and ours. One that was
    /// handed over is closed.
    pub(in super::super) fn keep_ours(&mut self, listener: usize) -> Option<&Listener> {
        let open = self.context.listeners[listener].as_ref()?;
        if open.is_handed() {
            info!(
                "{}: left, with its queue, to whoever opened it",
                open.name()
            );
            self.close_listener(listener);
        }
        self.context.listeners[listener].as_ref()
    }

    /// Closes a listener, and unlinks its path if that is still ours.
    pub(in super::super) fn close_listener(&mut self, listener: usize) {
        let Some(open) = self.context.listeners[listener].take() else {
            return;
        };
        if let Err(errno) = open.unlink() {
            warn!("unlink {}: {}: left behind", open.name(), errno_text(errno));
        }
    }

    /// Is none of them open?
    pub(in super::super) fn is_deaf(&self) -> bool {
        self.context.listeners.iter().all(Option::is_none)
    }
}

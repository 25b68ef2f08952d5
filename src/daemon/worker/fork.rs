//! One child per accepted connection (UNP row 1). The supervisor accepts; what
//! differs is who reaps.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;

use crate::config::Orphans;
use crate::daemon::shared::scoreboard::Slot;
use crate::daemon::worker::child::{self, Leave, leave};
use crate::daemon::worker::context::WorkerContext;
use crate::net::Accepted;
use crate::sys::{parent_death, process};

/// The child serves, and is reaped by the supervisor or by the kernel.
pub fn serve(context: &WorkerContext, slot: Slot, buffer: &mut [u8], accepted: Accepted) -> ! {
    child::begin();
    child::follow(context);
    child::serve_only(context, slot, buffer, accepted, None)
}

/// The child forks again and leaves; the grandchild, which init will reap,
/// serves. It has no parent whose death the kernel would tell it, and no pid the
/// supervisor could trust: `channel` is its only tie, and its end is how the
/// supervisor learns that the slot is free.
pub fn serve_as_grandchild(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: &OwnedFd,
) -> ! {
    child::begin();
    // If the second fork fails, the client is served all the same, by this
    // process: its channel is as good, and it is reaped like any child.
    let mut serve = Some((buffer, accepted));
    let grandchild = process::fork(|| match serve.take() {
        Some((buffer, accepted)) => serve_tied(context, slot, buffer, accepted, channel),
        None => leave(Leave::Served),
    });
    match serve {
        Some((buffer, accepted)) if grandchild.is_err() => {
            serve_tied(context, slot, buffer, accepted, channel)
        }
        _ => leave(Leave::Served),
    }
}

fn serve_tied(
    context: &WorkerContext,
    slot: Slot,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: &OwnedFd,
) -> ! {
    context.board.sign(slot, Pid::this());
    let _ = parent_death::obey_channel(
        channel.as_fd(),
        context.config.orphans == Orphans::Terminate,
    );
    child::serve_only(context, slot, buffer, accepted, Some(channel))
}

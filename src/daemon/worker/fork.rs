//! One child per accepted connection (UNP row 1). The supervisor accepts; what
//! differs is who reaps.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::config::Orphans;
use crate::daemon::worker::child::{self, Leave, Terms, leave};
use crate::net::Accepted;
use crate::sys::{parent_death, process};

/// The child serves, and is reaped by the supervisor or by the kernel.
pub fn serve(terms: &Terms<'_>, buffer: &mut [u8], accepted: Accepted) -> ! {
    child::begin();
    child::follow(terms);
    child::serve_only(terms, buffer, accepted, None)
}

/// The child forks again and leaves; the grandchild, which init will reap,
/// serves. It has no parent whose death the kernel would tell it, and no pid the
/// supervisor could trust: `channel` is its only tie, and its end is how the
/// supervisor learns that the slot is free.
pub fn serve_as_grandchild(
    terms: &Terms<'_>,
    buffer: &mut [u8],
    accepted: Accepted,
    channel: &OwnedFd,
) -> ! {
    child::begin();
    // If the second fork fails, the client is served all the same, by this
    // process: its channel is as good, and it is reaped like any child.
    let mut serve = Some((buffer, accepted));
    let grandchild = process::fork(|| match serve.take() {
        Some((buffer, accepted)) => serve_tied(terms, buffer, accepted, channel),
        None => leave(Leave::Served),
    });
    match serve {
        Some((buffer, accepted)) if grandchild.is_err() => {
            serve_tied(terms, buffer, accepted, channel)
        }
        _ => leave(Leave::Served),
    }
}

fn serve_tied(terms: &Terms<'_>, buffer: &mut [u8], accepted: Accepted, channel: &OwnedFd) -> ! {
    terms.board.sign(terms.slot, Pid::this());
    let _ = parent_death::obey_channel(
        std::os::fd::AsFd::as_fd(channel),
        terms.orphans == Orphans::Terminate,
    );
    child::serve_only(terms, buffer, accepted, Some(channel))
}

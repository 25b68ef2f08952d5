//! The helper beside a datagram worker that runs commands: it lives as long as
//! the worker does, and has one command run at a time, by a [`runner`] of its
//! own.
//!
//! Like the runner it never meets a client: one byte in is a command's number,
//! one message out is its output. It is outside the sandbox, where it must be,
//! and dies with its worker: then its runner, alone, ends the command.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, dup};

use super::reply::LONGEST_REPLY;
use super::runner;
use crate::allowed::Allowed;
use crate::error::errno_text;
use crate::sys::{lifeline, process, raw, signal};

/// How many a datagram worker has, and so how many commands its socket's
/// clients can have run at once.
pub const AT_ONCE: usize = 4;

/// Output that is kept: a byte more than can be sent, so that it is seen to be
/// too much.
const KEPT: usize = LONGEST_REPLY + 1;

/// Starts one; what is returned is the way to it, which keeps messages apart.
/// One byte out is a command's number. What comes in is a byte to be ignored, so
/// that no message is empty like an end of file, and the output, of which
/// nothing beyond [`LONGEST_REPLY`] counts.
///
/// # Errors
/// socketpair(2)'s and fork(2)'s.
pub fn start(commands: &[Allowed], null: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let worker = Pid::this();
    process::fork(|| attend(commands, theirs.as_fd(), null, worker))?;
    Ok(ours)
}

fn attend(commands: &[Allowed], worker: BorrowedFd<'_>, null: BorrowedFd<'_>, parent: Pid) -> ! {
    signal::become_worker();
    process::set_name(process::COMMAND);
    // Rather than to notice it: it may be waiting for a command.
    lifeline::die_with_parent(parent);
    let mut keep = [worker, null];
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    // These become 0, 1 and 2, where nothing that matters may come to lie.
    let _standard = [dup(null), dup(null), dup(null)];
    let mut message = [0; 1 + KEPT];
    while let Some(number) = runner::order(worker) {
        let length = match output(commands, number, null, &mut message[1..]) {
            Ok(length) => length,
            Err(errno) => {
                let text = format!("cannot run it: {}\n", errno_text(errno));
                let length = text.len().min(KEPT);
                message[1..=length].copy_from_slice(&text.as_bytes()[..length]);
                length
            }
        };
        if raw::write(worker, &message[..1 + length]).is_err() {
            break;
        }
    }
    process::exit(0)
}

/// Has the command run, to its end or until `kept` is full. Then the runner is
/// left alone, and ends it.
fn output(
    commands: &[Allowed],
    number: u8,
    null: BorrowedFd<'_>,
    kept: &mut [u8],
) -> Result<usize, Errno> {
    let runner = runner::start(commands, null)?;
    raw::write(runner.as_fd(), &[number])?;
    let mut length = 0;
    while length < kept.len() {
        match raw::read(runner.as_fd(), &mut kept[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::EINTR) => {}
            // The runner ends a command long before this timeout.
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}

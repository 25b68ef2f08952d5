//! The helper beside a sandboxed process of the command service: runs one
//! command of the table, and ends it.
//!
//! It never meets a client: one byte comes from the process that does, and any
//! that is no command's number ends it. It holds a socket to that process and
//! nothing else, so it learns at once when that process is gone. Whatever
//! happens, it leaves no process of the command behind: not one that is still
//! running, not one that the command started and left.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::config::Allowed;
use crate::error::errno_text;
use crate::sys::run::{self, Caps, Waited};
use crate::sys::{process, raw, signal};

/// How long a command may take, by the clock on the wall.
pub const WALL: Duration = Duration::from_secs(10);
/// How much longer the sandboxed process waits, should the helper be killed while
/// something keeps the command's output open.
const GRACE: Duration = Duration::from_secs(5);
/// What a command may use.
const CAPS: Caps = Caps {
    cpu_seconds: 10,
    memory: 512 << 20,
    files: 64,
};

/// Starts the helper; what is returned is the way to it. One byte out is a
/// command's number, what comes in is its output, and the end of file is its
/// end.
///
/// # Errors
/// socketpair(2)'s, setsockopt(2)'s and fork(2)'s.
pub fn start(commands: &[Allowed], null: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    let patience = (WALL + GRACE).as_secs().try_into().unwrap_or(i64::MAX);
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(patience, 0))?;
    // In the sandbox nobody can be waited for.
    signal::let_kernel_discard_children()?;
    process::fork(|| attend(commands, theirs.as_fd(), null))?;
    Ok(ours)
}

fn attend(commands: &[Allowed], sandboxed: BorrowedFd<'_>, null: BorrowedFd<'_>) -> ! {
    // Deaf again to what its worker hears, whose handlers it has.
    signal::become_worker();
    process::set_name(process::COMMAND);
    raw::default_signal(nix::libc::SIGCHLD);
    run::adopt_orphans();
    let mut keep = [sandboxed, null];
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    let command = order(sandboxed).and_then(|number| commands.get(usize::from(number)));
    if let Some(command) = command {
        attend_to(command, sandboxed, null);
    }
    process::exit(0)
}

/// Waits for the number of a command; `None` if the other side left without.
pub fn order(sandboxed: BorrowedFd<'_>) -> Option<u8> {
    let mut number = [0];
    loop {
        match raw::read(sandboxed, &mut number) {
            Ok(1) => return Some(number[0]),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

fn attend_to(command: &Allowed, sandboxed: BorrowedFd<'_>, null: BorrowedFd<'_>) {
    // The command's output is no way for the other side to talk to the command.
    let _ = shutdown(sandboxed.as_raw_fd(), Shutdown::Read);
    let us = Pid::this();
    let run = || {
        let (program, argv) = (&command.program, &command.argv);
        let errno = run::run(program, argv, null, sandboxed, us, &CAPS);
        say(
            sandboxed,
            &format!("cannot run it: {}\n", errno_text(errno)),
        );
        127
    };
    match process::fork(run) {
        Err(errno) => say(
            sandboxed,
            &format!("cannot run it: {}\n", errno_text(errno)),
        ),
        Ok(pid) => {
            let waited = run::wait_for(pid, sandboxed, Instant::now() + WALL);
            run::end_all_of(pid);
            if waited == Waited::TooLong {
                // Where the command's own last line ended is not known here.
                say(sandboxed, &format!("\nstopped after {WALL:?}\n"));
            }
        }
    }
    // A process that got away would keep the output open.
    let _ = shutdown(sandboxed.as_raw_fd(), Shutdown::Both);
}

fn say(to: BorrowedFd<'_>, text: &str) {
    let _ = raw::write(to, text.as_bytes());
}

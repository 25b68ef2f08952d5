//! Running a program that is not ours: what a forked child does before
//! execve(2), and how another waits for it and ends all of it.
//!
//! The program gets three descriptors, no variable, `/`, no terminal, small
//! limits, and dies with whoever forked it. Which program, and why, is not known
//! here.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, chdir, execve, setsid};

use crate::sys::{process, signal, startup};

/// setrlimit(2)'s, beside no files written and no core. Not RLIMIT_NPROC: the
/// kernel counts a user's processes there, echod's own among them.
pub struct Caps {
    /// Processor time of each process.
    pub cpu_seconds: u64,
    /// Bytes of address space.
    pub memory: u64,
    /// Open files.
    pub files: u64,
}

/// Becomes `program`; returns only why it cannot. `null` becomes its standard
/// input, `out` the other two; both must be 3 or above, and closed on exec like
/// whatever else is open (`process::keep_only` saw to that). `parent` is who forked
/// this child, noted before.
pub fn run(
    program: &CString,
    argv: &[CString],
    null: BorrowedFd<'_>,
    out: BorrowedFd<'_>,
    parent: Pid,
    caps: &Caps,
) -> Errno {
    let steps = || {
        // A session has no terminal, and a group that can be killed whole.
        setsid()?;
        process::die_with_parent(parent);
        chdir("/")?;
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        for (from, to) in [(null, 0), (out, 1), (out, 2)] {
            // SAFETY: two numbers; 0 to 2 have no owner in Rust that runs a drop
            // in this process, which ends in execve(2) or exit.
            Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) })?;
        }
        for (resource, most) in [
            (Resource::RLIMIT_CPU, caps.cpu_seconds),
            (Resource::RLIMIT_AS, caps.memory),
            (
                Resource::RLIMIT_NOFILE,
                caps.files.min(startup::files_at_start()),
            ),
            (Resource::RLIMIT_FSIZE, 0),
            (Resource::RLIMIT_CORE, 0),
        ] {
            let (_, hard) = getrlimit(resource)?;
            let most = most.min(hard);
            setrlimit(resource, most, most)?;
        }
        signal::default_all();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        let no_variables: [CString; 0] = [];
        execve(program, argv, &no_variables)
    };
    match steps() {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}

/// Makes this process the parent of whatever its descendants leave behind, so
/// that [`end_all_of`] finds it. Best effort.
pub fn adopt_orphans() {
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// What a wait for a child came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The child is dead; nobody has reaped it.
    Dead,
    /// The other end of the socket is closed.
    HungUp,
    /// Neither, and the time is up.
    TooLong,
}

/// How often a child is asked about where there are no pidfds.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until the child is dead, `socket`'s other end closed, or `until`.
pub fn wait_for(pid: Pid, socket: BorrowedFd<'_>, until: Instant) -> Waited {
    let pidfd = pidfd(pid);
    loop {
        if !is_alive(pid) {
            return Waited::Dead;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Waited::TooLong;
        }
        let nap = if pidfd.is_some() {
            left
        } else {
            left.min(LOOK)
        };
        // Rounded up: a nap of nothing would spin.
        let nap = PollTimeout::try_from(nap + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // No event is asked for on the socket: a hang-up always counts, poll(2).
        let mut fds = [
            PollFd::new(socket, PollFlags::empty()),
            PollFd::new(
                pidfd.as_ref().map_or(socket, AsFd::as_fd),
                PollFlags::empty(),
            ),
        ];
        if pidfd.is_some() {
            fds[1].set_events(PollFlags::POLLIN);
        }
        let _ = poll(&mut fds, nap);
        if fds[0].any() == Some(true) {
            return Waited::HungUp;
        }
    }
}

fn pidfd(pid: Pid) -> Option<OwnedFd> {
    // SAFETY: two integers in, a new descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } as libc::c_int;
    // SAFETY: just made, for us alone.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_alive(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(
        waitid(Id::Pid(pid), flags),
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
    )
}

/// Rounds of killing what has left its group: each takes a generation, and what
/// forks faster than that has its limits.
const ROUNDS: usize = 64;

/// Kills our unreaped child `pid`, the group it leads and, where /proc lists
/// them, those of its descendants that left the group and came to us
/// ([`adopt_orphans`]). Reaps them.
pub fn end_all_of(pid: Pid) {
    // Its number is its own until it is reaped. The group may not exist yet, and
    // then there is nobody else in it.
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = kill(pid, Signal::SIGKILL);
    while let Err(Errno::EINTR) = waitpid(pid, None) {}
    for _ in 0..ROUNDS {
        let left = children();
        if left.is_empty() {
            break;
        }
        for child in left {
            let _ = kill(child, Signal::SIGKILL);
            while let Err(Errno::EINTR) = waitpid(child, None) {}
        }
    }
}

/// Our children, dead ones included: nobody else can have their pids until we
/// reap them.
fn children() -> Vec<Pid> {
    let path = format!("/proc/self/task/{}/children", Pid::this());
    let list = std::fs::read_to_string(path).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;
    use std::os::unix::net::UnixStream;

    /// In a forked child, whose children are no other test's.
    #[test]
    fn a_death_a_hang_up_and_the_time_are_told_apart_and_nothing_is_left() {
        let alone = process::fork(|| {
            let Ok((ours, theirs)) = UnixStream::pair() else {
                return 1;
            };
            adopt_orphans();
            let forever = || {
                loop {
                    nix::unistd::pause();
                }
            };
            let soon = || Instant::now() + Duration::from_millis(30);
            let Ok(pid) = process::fork(forever) else {
                return 2;
            };
            if wait_for(pid, ours.as_fd(), soon()) != Waited::TooLong {
                return 3;
            }
            let _ = kill(pid, Signal::SIGKILL);
            let late = Instant::now() + Duration::from_secs(20);
            if wait_for(pid, ours.as_fd(), late) != Waited::Dead {
                return 4;
            }
            let _ = theirs.shutdown(std::net::Shutdown::Both);
            // A grandchild that left every group, and came to us.
            let parent = process::fork(|| {
                let _ = process::fork(|| {
                    let _ = setsid();
                    forever()
                });
                0
            });
            let Ok(parent) = parent else { return 5 };
            let waited = wait_for(parent, ours.as_fd(), late);
            if !matches!(waited, Waited::HungUp | Waited::Dead) {
                return 6;
            }
            end_all_of(pid);
            i32::from(waitpid(None, None) != Err(Errno::ECHILD)) * 7
        });
        let status = waitpid(alone.unwrap(), None).unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
}

//! THE fork, once by the C library and once without it, how a forked process leaves,
//! and what ties it to the life of its parent; and running a program that is not ours:
//! what a forked child does before execve(2), and how another waits for it and ends all
//! of it. Which program, and why, is not known here.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, execve, setsid};

use crate::sys::{raw, signal, startup};

/// Exit status of a child that was told to stop.
pub const STOPPED: i32 = 75;
/// Exit status of a child whose time was up (`--max-lifetime`).
pub const EXPIRED: i32 = 76;
/// Exit status of a child that panicked (EX_SOFTWARE).
const PANICKED: i32 = 70;

/// Forks; the child runs `child` and leaves with the status it returns, without
/// running destructors, exit handlers or stdio flushes of the parent's.
///
/// The caller must be single-threaded and must hold every signal it handles
/// blocked (see `signal(7)`): a signal that reached the child before it reset
/// its dispositions would run the parent's handlers there.
///
/// # Errors
/// fork(2)'s: EAGAIN at a process limit, ENOMEM.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: the caller is single-threaded (the supervisor starts no thread,
    // ever), so no lock can be held by a thread that does not exist in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => exit(child()),
    }
}

/// [`fork`] by the bare system call, for a child that will do nothing but make
/// system calls until it leaves.
///
/// The C library is not told, and so does not run in the child, where glibc's
/// fork(3) writes to three pages of its own and lies apart from the rest of the
/// program: four page faults of thirteen, and 6 to 8 % of the processor time of a
/// connection, whichever design forks. What it does not know there: the child's thread id,
/// and its list of robust mutexes (the kernel starts each process with none). So
/// the child must take no mutex of pthreads', start no thread and not call
/// raise(3). It may fork by [`fork`], which makes all of that good.
///
/// # Errors
/// As for [`fork`].
pub fn fork_bare(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: as for `fork`; the rest is the caller's, above.
    match unsafe { raw::fork() }? {
        0 => exit(child()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Does a child that does this still leave of its own will, and find it true?
///
/// # Errors
/// fork(2)'s.
pub fn survives(this: impl Fn() -> bool) -> Result<bool, Errno> {
    let child = fork(|| i32::from(!this()))?;
    loop {
        match waitpid(child, None) {
            Ok(status) => return Ok(status == WaitStatus::Exited(child, 0)),
            Err(Errno::EINTR) => {}
            // SIGCHLD was ignored by whoever started us: no status to be had.
            Err(_) => return Ok(false),
        }
    }
}

/// Puts a new and empty session keyring in the place of the one that we were started
/// with, which programs we run could read as long as they have it, whoever they are
/// (`session-keyring(7)`). Where keyctl(2) is forbidden or missing, it is so for them
/// too.
///
/// # Errors
/// keyctl(2)'s others: ENOMEM, EDQUOT.
pub fn leave_session_keyring() -> Result<(), Errno> {
    let (join, anonymous) = (libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>());
    // SAFETY: a command, and no name.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, join, anonymous) }) {
        Ok(_) | Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Leaves, without running anything of the parent's.
pub fn exit(status: i32) -> ! {
    raw::exit(status)
}

/// Leaves with every thread of the process: where there are several, [`exit`]
/// would end the calling one alone.
pub fn exit_all(status: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) takes an integer and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// In a child: closes a descriptor of the supervisor's. Its owner, inherited with
/// it, must not be dropped here, and never is: a child ends in [`exit`].
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: nothing in this process uses or closes that number afterwards.
    unsafe { raw::close(fd.as_raw_fd()) };
}

/// In a child: takes over a descriptor that it inherited with its owner, on the
/// same terms.
pub fn inherited(fd: &OwnedFd) -> OwnedFd {
    // SAFETY: open, since `fd` owns it; and no other owner is dropped here.
    unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) }
}

/// Signals our unreaped child `pid`, and never a stranger who was given its
/// number since: where the kernel reaps (SIGCHLD ignored), a pid in our table may
/// be somebody else's by now. A pidfd opened before the child was seen alive can
/// be the child's alone (`pidfd_open(2)`).
pub fn signal_child(pid: Pid, signal: Signal) {
    let pidfd = pidfd(pid);
    // WNOWAIT: a dead child stays for the reaper to find.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if waitid(Id::Pid(pid), flags) != Ok(WaitStatus::StillAlive) {
        return;
    }
    let _ = match &pidfd {
        // SAFETY: a descriptor we own, integers, and no siginfo.
        Some(pidfd) => unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0)
        },
        // No pidfd on this kernel or in this container.
        None => kill(pid, signal).map_or(-1, |()| 0),
    };
}

/// In a process with threads a panic in one ends them all, at once. A thread that
/// vanished alone would leave its client connected to nobody.
pub fn panic_means_exit_all() {
    std::panic::set_hook(Box::new(|_| exit_all(PANICKED)));
}

/// Before the first thread of a process: has the C library do what it does at
/// that one only, so that a sandbox entered afterwards need not allow it. glibc
/// installs a handler, and counts the processors in /sys to know how many heaps
/// it may have: one will do, for threads that hardly allocate.
pub fn prepare_for_threads() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    // Where not even one can be started, the caller will find that out itself.
    let one = std::thread::Builder::new().spawn(|| {});
    let _ = one.map(std::thread::JoinHandle::join);
}

thread_local! {
    /// Lies in the page of thread-local storage, which fork(2) itself makes the
    /// child's own.
    static IS_CHILD: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic in a child ends it at once, silently: it must neither
/// unwind into the supervisor's frames nor write to any descriptor. Elsewhere a
/// panic stays what it was.
pub fn guard_children_against_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if IS_CHILD.get() {
            exit(PANICKED);
        }
        usual(info);
    }));
}

/// This is a child, see [`guard_children_against_panic`].
pub fn become_child() {
    IS_CHILD.set(true);
}

/// The name ps(1) shows, of the supervisor.
pub const SUPERVISOR: &CStr = c"echod";
/// A worker that waits.
pub const IDLE: &CStr = c"echod-idle";
/// A process that serves.
pub const SERVING: &CStr = c"echod-conn";
/// The main thread of a process that serves with threads.
pub const THREADED: &CStr = c"echod-thread";
/// A worker of a datagram socket.
pub const DATAGRAMS: &CStr = c"echod-udp";
/// The helper that runs a command for one that serves.
pub const COMMAND: &CStr = c"echod-cmd";

/// Sets the name ps(1) shows.
pub fn set_name(name: &CStr) {
    let _ = prctl::set_name(name);
}

/// Closes every descriptor but those of `keep`, which must be in rising order.
/// For a child that ends in [`exit`]: the owners of what is closed here never
/// run their drop.
pub fn keep_only<'a>(keep: impl IntoIterator<Item = BorrowedFd<'a>>) {
    let mut first = 0;
    for fd in keep {
        let fd = fd.as_raw_fd().unsigned_abs();
        if first < fd {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

/// As [`keep_only`], by rising numbers.
pub fn keep_numbers(keep: &[RawFd]) {
    // SAFETY: not used but as numbers; one that is not open is as good.
    let borrowed = |&fd: &RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
    keep_only(keep.iter().map(borrowed));
}

/// Copies `fd` to each number below `bound` that is free, so that what is opened
/// from now on gets none of them. Where a limit forbids even that, nothing will be
/// opened either.
pub fn fill_gaps(bound: u32, fd: BorrowedFd<'_>) {
    while let Ok(copy) = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0)) {
        if copy.unsigned_abs() >= bound {
            // SAFETY: made just now, and nobody knows its number.
            unsafe { raw::close(copy) };
            return;
        }
    }
}

/// `close_range(2)`, or one by one where the kernel or a container's filter
/// lacks it. `keep_only` says what becomes of the owners.
fn close_range(first: u32, last: u32) {
    if raw::close_range(first, last).is_err() {
        crate::sys::fd::close_each(first, last);
    }
}

// What ties a child to the supervisor's life: PR_SET_PDEATHSIG, and the
// signal handlers that act on it without leaving the sandbox.
//
// The pipe of death is the guarantee (EOF); these are the fast path. What a
// handler obeys is who sent the signal, and not that it came: see si_pid and
// si_code in sigaction(2).

/// Kills this process when its parent dies, and at once if that has happened
/// already: `parent` is who forked us, noted before the fork. KILL, because a
/// worker hears nothing else.
///
/// Must come after every change of credentials, which clears it
/// (`PR_SET_PDEATHSIG(2const)`).
pub fn die_with_parent(parent: Pid) {
    if is_orphaned(Signal::SIGKILL, parent) {
        // Not raise(3): after a bare fork the C library may take us for another.
        let _ = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
    }
}

/// Asks for `signal` when the parent dies; has it already?
fn is_orphaned(signal: Signal, parent: Pid) -> bool {
    let _ = nix::sys::prctl::set_pdeathsig(signal);
    nix::unistd::getppid() != parent
}

/// What to let go of, and on whose word. One a process.
struct Listeners {
    fds: Vec<RawFd>,
    null: RawFd,
    parent: Pid,
}

static LISTENERS: OnceLock<Listeners> = OnceLock::new();

/// In a worker that keeps its listeners while it serves: lets go of them the
/// moment the supervisor dies, or says so by a SIGPWR, so that the address is free
/// at once and the client is served on. `null` (open on /dev/null) takes their
/// place, so every descriptor stays valid and owned. A SIGPWR of anybody else's
/// does nothing.
///
/// # Errors
/// sigaction(2)'s.
pub fn release_on_parent_death(
    listeners: &[BorrowedFd<'_>],
    null: BorrowedFd<'_>,
    parent: Pid,
) -> Result<(), Errno> {
    let listeners = LISTENERS.get_or_init(|| Listeners {
        fds: listeners.iter().map(AsRawFd::as_raw_fd).collect(),
        null: null.as_raw_fd(),
        parent,
    });
    // SAFETY: the handler reads what was written above, takes no lock, allocates
    // nothing, makes one async-signal-safe call per listener and keeps errno.
    unsafe { signal::handle(Signal::SIGPWR, heard_of_parent) }?;
    if is_orphaned(Signal::SIGPWR, parent) {
        listeners.release();
    }
    Ok(())
}

/// The kernel sends a PDEATHSIG in the name of the parent that dies, as if by
/// kill(2); another process can use neither that pid nor this code.
extern "C" fn heard_of_parent(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo to a handler with SA_SIGINFO, and one
    // of SI_USER has a pid.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    if let Some(listeners) = LISTENERS.get()
        && code == libc::SI_USER
        && sender == listeners.parent.as_raw()
    {
        let errno = Errno::last();
        listeners.release();
        errno.set();
    }
}

impl Listeners {
    fn release(&self) {
        for &fd in &self.fds {
            // SAFETY: dup3(2) is async-signal-safe; both descriptors are open for
            // the worker's life, and replacing `fd` keeps it owned and open.
            unsafe { libc::dup3(self.null, fd, libc::O_CLOEXEC) };
        }
    }
}

/// In a double-forked child, which has no parent to die: any event on the
/// `channel` raises SIGIO, and its handler reads what happened. A byte is the
/// order to stop; the end of the stream means that the supervisor is gone,
/// which ends the child only if `with_supervisor`. A SIGIO that somebody sends
/// finds nothing there. read(2), exit(2) and sigreturn(2) are what seccomp's
/// strict mode allows.
///
/// # Errors
/// fcntl(2)'s.
pub fn obey_channel(channel: BorrowedFd<'_>, with_supervisor: bool) -> Result<(), Errno> {
    let fd = channel.as_raw_fd();
    let obey = move || {
        let mut order = 0u8;
        // SAFETY: one byte into a live local; read(2) is async-signal-safe.
        let got = unsafe { libc::read(fd, (&raw mut order).cast(), 1) };
        if got == 1 || (got == 0 && with_supervisor) {
            exit(STOPPED);
        }
    };
    // SAFETY: the handler makes two async-signal-safe calls, takes no lock and
    // allocates nothing.
    unsafe { signal_hook::low_level::register(libc::SIGIO, obey) }
        .map_err(|e| e.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
    // SAFETY: F_SETOWN takes a pid by value.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) })?;
    fcntl(
        channel,
        FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK),
    )?;
    SigSet::from(Signal::SIGIO).thread_unblock()?;
    // What came before the flag was set raised nothing.
    obey();
    Ok(())
}

// A program that is not ours. It gets three descriptors, no variable, `/`, no terminal,
// small limits, and dies with whoever forked it.

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
/// whatever else is open ([`keep_only`] saw to that). `parent` is who forked
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
        die_with_parent(parent);
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
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_bare_child_is_a_process_of_its_own() {
        let mut ours = 1;
        let pid = fork_bare(|| {
            ours += 41;
            ours
        })
        .unwrap();
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 42)));
        assert_eq!(ours, 1);
    }

    /// In a forked child, whose children are no other test's.
    #[test]
    fn a_death_a_hang_up_and_the_time_are_told_apart_and_nothing_is_left() {
        let alone = fork(|| {
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
            let Ok(pid) = fork(forever) else {
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
            let parent = fork(|| {
                let _ = fork(|| {
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

//! The forbidden acts: system calls that somebody who had taken over a serving
//! process would try, by name.
//!
//! An act is made with nothing but registers and memory that is there anyway:
//! the process it is made in can allocate no more than an echo can.

use std::ffi::{CStr, c_long};
use std::sync::atomic::{AtomicI32, Ordering};

/// One call. [`TARGET`] stands for the supervisor's pid.
pub struct Act {
    pub name: &'static str,
    number: c_long,
    args: [Arg; 6],
}

/// An argument.
#[derive(Clone, Copy)]
enum Arg {
    Number(i64),
    Text(&'static CStr),
    Target,
    /// Zeroed memory.
    Zeroes,
    /// Each descriptor that may be there, one after the other: listener, log, wakeup.
    Each,
    /// One part of one byte, for pwritev2(2).
    Part,
    /// SO_LINGER's 1 and 0, a reset at each end.
    AtOnce,
    /// SO_RCVTIMEO's shortest.
    Moment,
}

use Arg::{AtOnce, Each, Moment, Number, Part, Target, Text, Zeroes};

/// The supervisor, as the client says.
static TARGET: AtomicI32 = AtomicI32::new(0);
/// Descriptors to try.
static DESCRIPTORS: AtomicI32 = AtomicI32::new(0);
static ZEROES: [u64; 64] = [0; 64];
static AT_ONCE: [i32; 2] = [1, 0];
static MOMENT: [i64; 2] = [0, 1];

struct Parts([libc::iovec; 1]);
// SAFETY: it is read by the kernel alone.
unsafe impl Sync for Parts {}
static PART: Parts = Parts([libc::iovec {
    iov_base: (&raw const ZEROES).cast_mut().cast(),
    iov_len: 1,
}]);

/// Whom the acts that have a target are for, and how many descriptors the acts on
/// each are to try.
pub fn aim(target: i32, descriptors: u8) {
    TARGET.store(target, Ordering::Relaxed);
    DESCRIPTORS.store(descriptors.into(), Ordering::Relaxed);
}

impl Act {
    /// Makes the call, on each descriptor if it is meant for each: what it returned
    /// in the end, or the errno.
    pub fn commit(&self) -> Result<i64, i32> {
        let mut last = self.commit_on(-1);
        if self.args.iter().any(|arg| matches!(arg, Each)) {
            for fd in 0..DESCRIPTORS.load(Ordering::Relaxed) {
                last = self.commit_on(fd);
            }
        }
        last
    }

    fn commit_on(&self, fd: i32) -> Result<i64, i32> {
        let value = |arg: Arg| match arg {
            Each => fd.into(),
            Part => PART.0.as_ptr() as i64,
            AtOnce => AT_ONCE.as_ptr() as i64,
            Moment => MOMENT.as_ptr() as i64,
            Number(n) => n,
            Text(text) => text.as_ptr() as i64,
            Target => i64::from(TARGET.load(Ordering::Relaxed)),
            Zeroes => ZEROES.as_ptr() as i64,
        };
        let [a, b, c, d, e, f] = self.args.map(value);
        // SAFETY: no act here lets the kernel write to our memory, and what it
        // reads is static; what an act does to the process is the point.
        let done = unsafe { libc::syscall(self.number, a, b, c, d, e, f) };
        if done == 0 && PROCESS_STARTERS.contains(&self.number) {
            // The child that should not be.
            // SAFETY: exit(2) takes an integer and does not return.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        if done == -1 {
            return Err(nix::errno::Errno::last_raw());
        }
        Ok(done)
    }
}

const PROCESS_STARTERS: [c_long; 2] = [libc::SYS_clone, libc::SYS_clone3];

/// The number of the act that starts a process by a call that a filter cannot
/// look into; workers with threads are told that there is no such call.
pub fn is_clone3(act: &Act) -> bool {
    act.number == libc::SYS_clone3
}

/// Does it end the process when it succeeds?
pub fn is_exec(act: &Act) -> bool {
    matches!(act.number, libc::SYS_execve | libc::SYS_execveat)
}

const HERE: Arg = Number(libc::AT_FDCWD as i64);
const NONE: Arg = Number(0);
const NO_FD: Arg = Number(-1);
const ROOT: Arg = Number(0);
const PAGE: Arg = Number(4096);
const AWAY: Arg = Text(c"/nonexistent/echod-test");
const PASSWD: Arg = Text(c"/etc/passwd");
const SLASH: Arg = Text(c"/");
const TMP: Arg = Text(c"/tmp");
const TRUE: Arg = Text(c"/bin/true");
const SOCKET: Arg = Number(libc::SOL_SOCKET as i64);
/// Not in the libc crate.
const RWF_NOAPPEND: i32 = 0x20;
const EXEC: i64 = (libc::PROT_READ | libc::PROT_EXEC) as i64;
const ANONYMOUS: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;

const fn act<const N: usize>(name: &'static str, number: c_long, first: [Arg; N]) -> Act {
    let mut args = [NONE; 6];
    let mut i = 0;
    while i < N {
        args[i] = first[i];
        i += 1;
    }
    Act { name, number, args }
}

const fn n(value: i32) -> Arg {
    Number(value as i64)
}

/// All of them. None is among what any worker is permitted.
pub static ACTS: &[Act] = &[
    // Files.
    act("open a file", libc::SYS_openat, [HERE, PASSWD]),
    act(
        "create a file",
        libc::SYS_openat,
        [HERE, TMP, n(libc::O_TMPFILE | libc::O_RDWR), n(0o600)],
    ),
    act(
        "open by openat2",
        libc::SYS_openat2,
        [HERE, PASSWD, Zeroes, Number(24)],
    ),
    act(
        "stat a path",
        libc::SYS_statx,
        [HERE, PASSWD, NONE, NONE, NONE],
    ),
    act("access a path", libc::SYS_faccessat, [HERE, PASSWD, NONE]),
    act("remove a file", libc::SYS_unlinkat, [HERE, AWAY]),
    act("make a directory", libc::SYS_mkdirat, [HERE, AWAY, NONE]),
    act("rename", libc::SYS_renameat2, [HERE, AWAY, HERE, AWAY]),
    act("link", libc::SYS_linkat, [HERE, AWAY, HERE, AWAY]),
    act(
        "link symbolically",
        libc::SYS_symlinkat,
        [SLASH, HERE, AWAY],
    ),
    act("change a mode", libc::SYS_fchmodat, [HERE, AWAY, NONE]),
    act(
        "change an owner",
        libc::SYS_fchownat,
        [HERE, AWAY, NONE, NONE],
    ),
    act("change directory", libc::SYS_chdir, [TMP]),
    act("copy a descriptor", libc::SYS_dup, [NO_FD]),
    act("truncate a file", libc::SYS_ftruncate, [Each]),
    act(
        "allocate a file's blocks",
        libc::SYS_fallocate,
        [Each, NONE, NONE, PAGE],
    ),
    act("move in a file", libc::SYS_lseek, [Each]),
    act(
        "write into a file",
        libc::SYS_pwrite64,
        [Each, Zeroes, Number(1)],
    ),
    act(
        "write into a file by parts",
        libc::SYS_pwritev2,
        [Each, Part, Number(1), NONE, NONE, n(libc::RWF_NOWAIT)],
    ),
    act(
        "write where a file begins, not append",
        libc::SYS_pwritev2,
        [Each, Part, Number(1), NONE, NONE, n(RWF_NOAPPEND)],
    ),
    act(
        "map a file",
        libc::SYS_mmap,
        [NONE, PAGE, n(libc::PROT_READ), n(libc::MAP_SHARED), Each],
    ),
    act(
        "no longer append",
        libc::SYS_fcntl,
        [Each, n(libc::F_SETFL), NONE],
    ),
    act(
        "copy a descriptor by fcntl",
        libc::SYS_fcntl,
        [Each, n(libc::F_DUPFD)],
    ),
    act("seal a file", libc::SYS_fcntl, [Each, n(libc::F_ADD_SEALS)]),
    act(
        "copy a range to a file",
        libc::SYS_copy_file_range,
        [Each, NONE, Each, NONE, Number(1)],
    ),
    act(
        "splice to a file",
        libc::SYS_splice,
        [Each, NONE, Each, NONE, Number(1)],
    ),
    act("copy a file to a file", libc::SYS_sendfile, [NO_FD, NO_FD]),
    act("make a file in memory", libc::SYS_memfd_create, [SLASH]),
    // The network.
    act(
        "make a socket",
        libc::SYS_socket,
        [n(libc::AF_INET), n(libc::SOCK_STREAM)],
    ),
    act(
        "make a raw socket",
        libc::SYS_socket,
        [n(libc::AF_INET), n(libc::SOCK_RAW), n(1)],
    ),
    act("connect", libc::SYS_connect, [NO_FD, Zeroes, Number(16)]),
    act("bind", libc::SYS_bind, [Each, Zeroes, Number(16)]),
    act("listen", libc::SYS_listen, [Each]),
    act(
        "end listening",
        libc::SYS_shutdown,
        [Each, n(libc::SHUT_RD)],
    ),
    act(
        "let a listener's connections end by a reset",
        libc::SYS_setsockopt,
        [Each, SOCKET, n(libc::SO_LINGER), AtOnce, Number(8)],
    ),
    act(
        "give a listener's connections no time to read",
        libc::SYS_setsockopt,
        [Each, SOCKET, n(libc::SO_RCVTIMEO), Moment, Number(16)],
    ),
    act(
        "give a listener's connections no time to write",
        libc::SYS_setsockopt,
        [Each, SOCKET, n(libc::SO_SNDTIMEO), Moment, Number(16)],
    ),
    act(
        "put a listener's urgent bytes out of line",
        libc::SYS_setsockopt,
        [Each, SOCKET, n(libc::SO_OOBINLINE), Zeroes, Number(4)],
    ),
    act(
        "give a listener a connection's number",
        libc::SYS_dup3,
        [Each, Number(60)],
    ),
    act(
        "let a listener block",
        libc::SYS_ioctl,
        [Each, Number(libc::FIONBIO as i64), Zeroes],
    ),
    act(
        "send to an address",
        libc::SYS_sendto,
        [NO_FD, Zeroes, Number(1), NONE, Zeroes, Number(16)],
    ),
    act("send a descriptor", libc::SYS_sendmsg, [NO_FD, Zeroes]),
    act(
        "attach a socket filter",
        libc::SYS_setsockopt,
        [NO_FD, n(libc::SOL_SOCKET), n(libc::SO_ATTACH_FILTER)],
    ),
    act(
        "mark packets",
        libc::SYS_setsockopt,
        [NO_FD, n(libc::SOL_SOCKET), n(libc::SO_MARK)],
    ),
    // Processes.
    act("fork", libc::SYS_clone, [n(libc::SIGCHLD)]),
    act("fork by clone3", libc::SYS_clone3, [Zeroes, Number(64)]),
    act("execute", libc::SYS_execve, [TRUE, Zeroes, Zeroes]),
    act(
        "execute by execveat",
        libc::SYS_execveat,
        [HERE, TRUE, Zeroes, Zeroes],
    ),
    act("signal the supervisor", libc::SYS_kill, [Target]),
    act("signal everybody", libc::SYS_kill, [Number(-1)]),
    act(
        "signal a thread of the supervisor",
        libc::SYS_tgkill,
        [Target, Target],
    ),
    act("open the supervisor by pid", libc::SYS_pidfd_open, [Target]),
    act("signal by descriptor", libc::SYS_pidfd_send_signal, [NO_FD]),
    act(
        "trace the supervisor",
        libc::SYS_ptrace,
        [n(libc::PTRACE_SEIZE as i32), Target],
    ),
    act(
        "read the supervisor's memory",
        libc::SYS_process_vm_readv,
        [Target],
    ),
    act(
        "write the supervisor's memory",
        libc::SYS_process_vm_writev,
        [Target],
    ),
    act(
        "wait for a child",
        libc::SYS_wait4,
        [Number(-1), NONE, n(libc::WNOHANG)],
    ),
    act("leave the session", libc::SYS_setsid, []),
    act(
        "change the scheduler",
        libc::SYS_setpriority,
        [NONE, NONE, Number(19)],
    ),
    // Memory.
    act(
        "map memory to execute",
        libc::SYS_mmap,
        [NONE, PAGE, Number(EXEC), Number(ANONYMOUS), NO_FD],
    ),
    act(
        "make memory executable",
        libc::SYS_mprotect,
        [NONE, PAGE, Number(EXEC)],
    ),
    act("lock memory", libc::SYS_mlockall, [n(libc::MCL_CURRENT)]),
    act("share memory", libc::SYS_shmget, [NONE, PAGE]),
    act("handle page faults", libc::SYS_userfaultfd, [Number(1)]),
    // Privilege.
    act("become root", libc::SYS_setresuid, [ROOT, ROOT, ROOT]),
    act(
        "become root's group",
        libc::SYS_setresgid,
        [ROOT, ROOT, ROOT],
    ),
    act("join groups", libc::SYS_setgroups, [NONE, NONE]),
    act("take capabilities", libc::SYS_capset, [Zeroes, Zeroes]),
    act(
        "become dumpable",
        libc::SYS_prctl,
        [n(libc::PR_SET_DUMPABLE), Number(1)],
    ),
    act(
        "outlive the supervisor",
        libc::SYS_prctl,
        [n(libc::PR_SET_PDEATHSIG), NONE],
    ),
    act(
        "raise a limit",
        libc::SYS_prlimit64,
        [NONE, n(libc::RLIMIT_NOFILE as i32), Zeroes],
    ),
    act("change personality", libc::SYS_personality, [Number(-1)]),
    act(
        "load another filter",
        libc::SYS_seccomp,
        [Number(1), NONE, NONE],
    ),
    // The system.
    act("mount", libc::SYS_mount, [AWAY, AWAY, NONE]),
    act("unmount", libc::SYS_umount2, [AWAY]),
    act("change root", libc::SYS_chroot, [SLASH]),
    act("pivot root", libc::SYS_pivot_root, [AWAY, AWAY]),
    act(
        "unshare a name space",
        libc::SYS_unshare,
        [n(libc::CLONE_NEWUSER)],
    ),
    act("enter a name space", libc::SYS_setns, [NO_FD, NONE]),
    act(
        "type into the terminal",
        libc::SYS_ioctl,
        [NONE, Number(libc::TIOCSTI as i64), Zeroes],
    ),
    act(
        "load a BPF program",
        libc::SYS_bpf,
        [NONE, Zeroes, Number(32)],
    ),
    act(
        "watch performance events",
        libc::SYS_perf_event_open,
        [Zeroes, NONE, NO_FD, NO_FD],
    ),
    act("set up a ring", libc::SYS_io_uring_setup, [Number(1), NONE]),
    act(
        "add a key",
        libc::SYS_add_key,
        [AWAY, AWAY, NONE, NONE, NONE],
    ),
    act("load a module", libc::SYS_finit_module, [NO_FD, SLASH]),
    act("set the clock", libc::SYS_clock_settime, [NONE, NONE]),
    act(
        "name the machine",
        libc::SYS_sethostname,
        [AWAY, Number(-1)],
    ),
    act("switch swap on", libc::SYS_swapon, [AWAY]),
];

//! Which system calls each kind of worker may make, and with which arguments.
//!
//! Each list is what its worker was seen to need, and no more: echod(8) gives
//! their lengths, and a test holds that table to these lists.

use libc::{c_int, c_long};

/// A call and what its arguments must be: every test must hold.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: c_long,
    /// By argument, from 0.
    pub tests: &'static [(u8, Test)],
}

/// A test of one argument.
#[derive(Clone, Copy, Debug)]
pub enum Test {
    /// One of these.
    Among(&'static [u64]),
    /// All of these bits.
    Has(u64),
    /// None of these bits.
    Lacks(u64),
    /// A descriptor that the worker was born with.
    Born,
    /// One that came later: a connection.
    Came,
    /// The one open on /dev/null.
    Null,
}

/// The numbers that tell one descriptor of a worker from another, see [`Test`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptors {
    /// What the worker was born with lies below this number, and no connection ever
    /// does.
    pub born_below: u32,
    /// Open on /dev/null.
    pub null: u32,
}

/// A kind of worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process for one connection.
    One,
    /// A process for connections one after another.
    Many,
    /// A process with threads.
    Threads,
    /// A UDP socket's.
    Datagrams,
    /// A Unix datagram socket's.
    UnixDatagrams,
}

/// What a worker of several connections asks for beyond the least; each widens
/// its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It accepts.
    Accept,
    /// It is sent its connections.
    Message,
    /// It lets go of its listeners when the supervisor dies.
    Release,
    /// It times its connections.
    Alarm,
    /// It writes log lines.
    Log,
    /// It takes record locks.
    RecordLock,
    /// It takes a mutex that other processes hold.
    Mutex,
    /// It asks who the client of a Unix socket is.
    PeerIdentity,
    /// It keeps to a rate.
    Clock,
}

const fn any(number: c_long) -> Call {
    Call { number, tests: &[] }
}

const fn with(number: c_long, tests: &'static [(u8, Test)]) -> Call {
    Call { number, tests }
}

const fn one(value: c_int) -> u64 {
    value as u64
}

/// poll(2), which newer architectures know by one name only.
#[cfg(target_arch = "x86_64")]
const POLL: Call = any(libc::SYS_poll);
#[cfg(not(target_arch = "x86_64"))]
const POLL: Call = any(libc::SYS_ppoll);

/// The four calls of strict mode.
const SERVE: [Call; 4] = [
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_exit),
    any(libc::SYS_rt_sigreturn),
];

/// Between connections. restart_syscall(2) is the kernel's own, after a stop and
/// a continue in the middle of a wait. What is set on a listener is set for all who
/// accept there, and inherited by their connections: no worker may.
const GO_ON: [Call; 4] = [
    any(libc::SYS_restart_syscall),
    any(libc::SYS_close),
    with(
        libc::SYS_setsockopt,
        &[
            (0, Test::Came),
            (1, Test::Among(&[one(libc::SOL_SOCKET)])),
            (2, Test::Among(&CONNECTION_OPTIONS)),
        ],
    ),
    with(
        libc::SYS_prctl,
        &[(0, Test::Among(&[one(libc::PR_SET_NAME)]))],
    ),
];

/// What is set on a connection that has inherited none of it, and on one that is
/// turned away.
const CONNECTION_OPTIONS: [u64; 4] = [
    one(libc::SO_RCVTIMEO),
    one(libc::SO_SNDTIMEO),
    one(libc::SO_OOBINLINE),
    one(libc::SO_LINGER),
];

/// A log line: memory, the sink's lock and state, the time, and the sink: a file,
/// a pipe, or a socket as by send(2), with no address, so to nobody but whom it is
/// connected to.
const LOG: [Call; 12] = [
    any(libc::SYS_brk),
    MMAP,
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_futex),
    any(libc::SYS_getpid),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_fstat),
    POLL,
    PWRITEV2,
    with(libc::SYS_sendto, &[(4, Test::Among(&[0]))]),
];

/// As write(2) does: anywhere else in the file, or with RWF_NOAPPEND, it would
/// rewrite the log.
const PWRITEV2: Call = with(
    libc::SYS_pwritev2,
    &[
        (3, Test::Among(&[u64::MAX])),
        (5, Test::Among(&[one(libc::RWF_NOWAIT)])),
    ],
);

/// Memory of its own; that can be executed is nobody's need.
const MMAP: Call = with(
    libc::SYS_mmap,
    &[
        (2, Test::Lacks(libc::PROT_EXEC as u64)),
        (3, Test::Has(libc::MAP_ANONYMOUS as u64)),
    ],
);
const MPROTECT: Call = with(
    libc::SYS_mprotect,
    &[(2, Test::Lacks(libc::PROT_EXEC as u64))],
);

/// The clone(2) flags that make a thread and not a process.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;

/// What starting, ending and timing threads needs on top, by the C library and
/// by Rust's: stacks, thread-local storage, locks. clone3(2) passes here, for a
/// filter of its own to answer: its flags are in memory, where none can look.
const THREADS: [Call; 20] = [
    with(libc::SYS_clone, &[(0, Test::Has(THREAD))]),
    any(libc::SYS_clone3),
    any(libc::SYS_exit_group),
    any(libc::SYS_futex),
    MMAP,
    MPROTECT,
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_brk),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    with(libc::SYS_shutdown, &[(0, Test::Came)]),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_ppoll),
];

/// Letting go of a descriptor: /dev/null takes its place. A copy of anything else
/// would have a number that is taken for a connection's.
const RELEASE: Call = with(libc::SYS_dup3, &[(0, Test::Null), (1, Test::Born)]);

/// A datagram worker: it is born with its one socket.
const DATAGRAMS: [Call; 9] = [
    any(libc::SYS_recvmmsg),
    any(libc::SYS_sendmmsg),
    RELEASE,
    POLL,
    any(libc::SYS_write),
    any(libc::SYS_exit),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_clock_gettime),
];

/// What a worker of Unix datagrams needs on top, for whose socket a path is: a
/// descriptor that nothing can be read from (O_PATH, open(2)).
const WHOSE: [Call; 3] = [
    with(libc::SYS_openat, &[(2, Test::Has(libc::O_PATH as u64))]),
    with(libc::SYS_fstat, &[(0, Test::Came)]),
    with(libc::SYS_close, &[(0, Test::Came)]),
];

// What musl does in its own way: a key of thread-local storage is made with signals
// kept out, and open(2) is the old call where there is one.
#[cfg(target_env = "musl")]
const MUSL_LOG: &[Call] = &[any(libc::SYS_rt_sigprocmask)];
#[cfg(not(target_env = "musl"))]
const MUSL_LOG: &[Call] = &[];
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
const MUSL_WHOSE: &[Call] = &[
    with(libc::SYS_open, &[(1, Test::Has(libc::O_PATH as u64))]),
    MUSL_CLOSES_ON_EXEC,
];
#[cfg(all(target_env = "musl", not(target_arch = "x86_64")))]
const MUSL_WHOSE: &[Call] = &[MUSL_CLOSES_ON_EXEC];
#[cfg(not(target_env = "musl"))]
const MUSL_WHOSE: &[Call] = &[];
/// For kernels that do not know O_CLOEXEC.
#[cfg(target_env = "musl")]
const MUSL_CLOSES_ON_EXEC: Call = with(libc::SYS_fcntl, &[(1, Test::Among(&[one(libc::F_SETFD)]))]);

/// Record locks, taken and waited for.
const LOCKS: [u64; 2] = [one(libc::F_SETLK), one(libc::F_SETLKW)];

/// Who is at the other end of a Unix socket, unix(7).
const PEER_IDENTITY: [(u8, Test); 2] = [
    (1, Test::Among(&[one(libc::SOL_SOCKET)])),
    (2, Test::Among(&[one(libc::SO_PEERCRED)])),
];

impl Need {
    fn calls(self) -> Vec<Call> {
        match self {
            Need::Accept => vec![any(libc::SYS_accept4), any(libc::SYS_epoll_pwait), POLL],
            Need::Message => vec![any(libc::SYS_recvmsg), POLL],
            Need::Release => vec![RELEASE],
            Need::Alarm => vec![any(libc::SYS_setitimer)],
            Need::Log => LOG.into_iter().chain(MUSL_LOG.iter().copied()).collect(),
            Need::RecordLock => vec![with(libc::SYS_fcntl, &[(1, Test::Among(&LOCKS))])],
            Need::Mutex => vec![
                any(libc::SYS_futex),
                // musl tells the kernel of robust mutexes when it takes the first.
                #[cfg(target_env = "musl")]
                any(libc::SYS_set_robust_list),
            ],
            Need::PeerIdentity => vec![with(libc::SYS_getsockopt, &PEER_IDENTITY)],
            Need::Clock => vec![any(libc::SYS_clock_gettime)],
        }
    }
}

/// The list of a worker of this kind; `needs` count for those that serve several
/// connections.
pub fn list(kind: Kind, needs: &[Need]) -> Vec<Call> {
    let wanted = || needs.iter().flat_map(|need| need.calls());
    let go_on = || SERVE.into_iter().chain(GO_ON);
    match kind {
        Kind::One => SERVE.to_vec(),
        Kind::Datagrams => DATAGRAMS.to_vec(),
        Kind::UnixDatagrams => DATAGRAMS
            .into_iter()
            .chain(WHOSE)
            .chain(MUSL_WHOSE.iter().copied())
            .collect(),
        Kind::Many => go_on().chain(wanted()).collect(),
        Kind::Threads => go_on().chain(wanted()).chain(THREADS).collect(),
    }
}

/// How many calls that are, each counted once.
pub fn count(kind: Kind, needs: &[Need]) -> usize {
    let mut numbers: Vec<_> = list(kind, needs).iter().map(|call| call.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

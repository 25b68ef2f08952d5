//! seccomp(2): what a serving process may still ask of the kernel.
//!
//! A child that serves one connection needs read, write, exit and sigreturn.
//! `SECCOMP_MODE_STRICT` is exactly those and costs one prctl; where a filter
//! is inherited (a container, a hardened unit) the kernel refuses it with
//! EINVAL, and a BPF filter of the same four calls takes its place. Workers that
//! live on get a longer filter, once; one that serves by threads may start
//! threads, and still no process.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::sys::{process, raw};

/// The four calls of strict mode.
const SERVE_ONE: [libc::c_long; 4] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
];

/// What a worker does between connections.
const SERVE_MANY: [libc::c_long; 13] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_accept4,
    libc::SYS_epoll_pwait,
    libc::SYS_close,
    libc::SYS_setsockopt,
    libc::SYS_setitimer,
    libc::SYS_prctl,
    libc::SYS_dup3,
    libc::SYS_ppoll,
];

/// What starting, ending and timing threads needs on top, by the C library and
/// by Rust's: stacks, thread-local storage, locks. Of clone(2) only what
/// [`THREAD`] says.
const THREADS: [libc::c_long; 18] = [
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_shutdown,
    libc::SYS_clock_gettime,
    libc::SYS_fcntl,
];

/// The clone(2) flags that make a thread and not a process.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;

/// What a datagram worker does: it is born with its one socket.
const SERVE_DATAGRAMS: [libc::c_long; 9] = [
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_dup3,
    libc::SYS_ppoll,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
];

/// What writing its own log lines needs on top: memory, the sink, the time.
const LOG: [libc::c_long; 13] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sendto,
    libc::SYS_getpid,
    libc::SYS_clock_gettime,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_pwritev2,
    libc::SYS_fcntl,
];

/// What a long-lived worker asks of the kernel beyond accept(2), read(2) and
/// write(2); each widens its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It writes log lines.
    Log,
    /// It takes record locks.
    RecordLock,
    /// It takes a mutex that other processes hold.
    Mutex,
    /// It is sent its connections.
    Message,
}

impl Need {
    fn calls(self) -> &'static [libc::c_long] {
        match self {
            Need::Log => &LOG,
            Need::RecordLock => &[libc::SYS_fcntl],
            Need::Mutex => &[libc::SYS_futex],
            Need::Message => &[libc::SYS_recvmsg],
        }
    }
}

/// Names that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_NAMES: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLD_NAMES: &[libc::c_long] = &[];

/// The form that works here, found out once by a probe.
pub enum Sandbox {
    /// SECCOMP_MODE_STRICT.
    Strict(Filter),
    /// BPF filters: something else has installed one before us.
    Bpf(Filter, BpfProgram),
    /// Neither; or not wanted.
    Off,
}

/// The filters of the workers that live on.
pub struct Filter {
    many: BpfProgram,
    threads: [BpfProgram; 2],
    datagrams: BpfProgram,
}

impl Sandbox {
    /// Finds out in a throw-away child which form works. `needs` widen the
    /// long-lived workers' filter.
    ///
    /// # Errors
    /// fork(2)'s.
    pub fn probe(needs: &[Need]) -> Result<Self, Errno> {
        let Ok(many) = compile(needs) else {
            return Ok(Sandbox::Off);
        };
        let Ok(one) = program(&SERVE_ONE) else {
            return Ok(Sandbox::Off);
        };
        if survives(|| raw::enter_strict_mode().is_ok())? {
            return Ok(Sandbox::Strict(many));
        }
        if survives(|| seccompiler::apply_filter(&one).is_ok())? {
            return Ok(Sandbox::Bpf(many, one));
        }
        Ok(Sandbox::Off)
    }

    /// In the child, last before it serves its only connection.
    ///
    /// # Errors
    /// prctl(2)'s or seccomp(2)'s; the caller decides whether to serve.
    #[inline(always)]
    pub fn enter_for_one(&self) -> Result<(), Errno> {
        match self {
            Sandbox::Strict(_) => raw::enter_strict_mode(),
            Sandbox::Bpf(_, one) => seccompiler::apply_filter(one).map_err(|_| Errno::last()),
            Sandbox::Off => Ok(()),
        }
    }

    /// In a worker that will serve many connections, before its first.
    ///
    /// # Errors
    /// seccomp(2)'s.
    pub fn enter_for_many(&self) -> Result<(), Errno> {
        match self {
            Sandbox::Strict(filter) | Sandbox::Bpf(filter, _) => {
                seccompiler::apply_filter(&filter.many).map_err(|_| Errno::last())
            }
            Sandbox::Off => Ok(()),
        }
    }

    /// In a datagram worker, before its first datagram.
    ///
    /// # Errors
    /// seccomp(2)'s.
    pub fn enter_for_datagrams(&self) -> Result<(), Errno> {
        match self {
            Sandbox::Strict(filter) | Sandbox::Bpf(filter, _) => {
                seccompiler::apply_filter(&filter.datagrams).map_err(|_| Errno::last())
            }
            Sandbox::Off => Ok(()),
        }
    }

    /// In a worker that will serve with threads, before its first: they inherit
    /// the filter.
    ///
    /// # Errors
    /// seccomp(2)'s.
    pub fn enter_for_threads(&self) -> Result<(), Errno> {
        match self {
            Sandbox::Strict(filter) | Sandbox::Bpf(filter, _) => filter
                .threads
                .iter()
                .try_for_each(|filter| seccompiler::apply_filter(filter))
                .map_err(|_| Errno::last()),
            Sandbox::Off => Ok(()),
        }
    }

    /// How the start line names it.
    pub fn name(&self) -> &'static str {
        match self {
            Sandbox::Strict(_) => "seccomp strict",
            Sandbox::Bpf(..) => "seccomp filter",
            Sandbox::Off => "off",
        }
    }
}

/// Does a child that enters this way still leave of its own will?
fn survives(enter: impl Fn() -> bool) -> Result<bool, Errno> {
    let child = process::fork(|| i32::from(!enter()))?;
    loop {
        match waitpid(child, None) {
            Ok(status) => return Ok(status == WaitStatus::Exited(child, 0)),
            Err(Errno::EINTR) => {}
            // SIGCHLD was ignored by whoever started us: no status to be had.
            Err(_) => return Ok(false),
        }
    }
}

fn compile(needs: &[Need]) -> Result<Filter, BackendError> {
    let mut calls = SERVE_MANY.to_vec();
    calls.extend_from_slice(OLD_NAMES);
    // A debug build of std asks whether a descriptor is open before it closes it.
    #[cfg(debug_assertions)]
    calls.push(libc::SYS_fcntl);
    calls.extend(needs.iter().flat_map(|need| need.calls()));
    let many = program(&calls)?;
    calls.extend_from_slice(&THREADS);
    Ok(Filter {
        many,
        threads: [no_clone3()?, threads(&calls)?],
        datagrams: program(&[&SERVE_DATAGRAMS, OLD_NAMES].concat())?,
    })
}

fn program(calls: &[libc::c_long]) -> Result<BpfProgram, BackendError> {
    permit(rules(calls))
}

/// `calls`, and clone(2) of a thread. clone3(2) passes, for [`no_clone3`] to
/// answer.
fn threads(calls: &[libc::c_long]) -> Result<BpfProgram, BackendError> {
    let mut rules = rules(calls);
    let is_thread = SeccompCmpOp::MaskedEq(THREAD);
    let flags = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_thread, THREAD)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![flags])?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    permit(rules)
}

/// clone3(2) has its flags in memory, where no filter can look. Told that there is
/// no such call, the C library uses clone(2).
fn no_clone3() -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(
        rules(&[libc::SYS_clone3]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

fn rules(calls: &[libc::c_long]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn permit(rules: Rules) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    fn ended(child: impl FnOnce() -> i32) -> WaitStatus {
        waitpid(process::fork(child).unwrap(), None).unwrap()
    }

    #[test]
    fn strict_mode_ends_a_child_that_asks_for_more() {
        let sandbox = Sandbox::probe(&[]).unwrap();
        if !matches!(sandbox, Sandbox::Strict(_)) {
            eprintln!("skipped: a filter is inherited here, strict mode is refused");
            return;
        }
        assert!(matches!(
            ended(|| i32::from(sandbox.enter_for_one().is_err())),
            WaitStatus::Exited(_, 0)
        ));
        let killed = ended(|| {
            let _ = sandbox.enter_for_one();
            nix::unistd::getppid().as_raw()
        });
        assert!(
            matches!(killed, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "{killed:?}"
        );
    }

    #[test]
    fn under_an_inherited_filter_the_four_calls_are_a_filter_too() {
        let outer = ended(|| {
            if seccompiler::apply_filter(&program(&EVERYTHING_THE_PROBE_NEEDS).unwrap()).is_err() {
                return 10;
            }
            let Ok(sandbox @ Sandbox::Bpf(..)) = Sandbox::probe(&[]) else {
                return 11;
            };
            let child = process::fork(|| {
                let _ = sandbox.enter_for_one();
                nix::unistd::getppid().as_raw()
            });
            match child.map(|pid| waitpid(pid, None)) {
                Ok(Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))) => 0,
                _ => 12,
            }
        });
        assert!(matches!(outer, WaitStatus::Exited(_, 0)), "{outer:?}");
    }

    #[test]
    fn a_worker_with_threads_starts_threads_and_no_process() {
        let sandbox = Sandbox::probe(&[]).unwrap();
        if matches!(sandbox, Sandbox::Off) {
            eprintln!("skipped: no seccomp here");
            return;
        }
        let threads = ended(|| {
            process::prepare_for_threads();
            if sandbox.enter_for_threads().is_err() {
                return 1;
            }
            let sum: i32 = (0..20)
                .map(|n| std::thread::spawn(move || n).join().unwrap_or(1000))
                .sum();
            process::exit_all(i32::from(sum != 190))
        });
        assert!(matches!(threads, WaitStatus::Exited(_, 0)), "{threads:?}");
        let forked = ended(|| {
            let _ = sandbox.enter_for_threads();
            i32::from(process::fork(|| 0).is_ok())
        });
        assert!(
            matches!(forked, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{forked:?}"
        );
    }

    const EVERYTHING_THE_PROBE_NEEDS: [libc::c_long; 22] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_wait4,
        libc::SYS_prctl,
        libc::SYS_seccomp,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_getppid,
        libc::SYS_set_robust_list,
        libc::SYS_gettid,
        libc::SYS_getpid,
    ];
}

//! seccomp(2) and what goes with it: what a serving process may still ask of the
//! kernel.
//!
//! A child that serves one connection needs read, write, exit and sigreturn.
//! `SECCOMP_MODE_STRICT` is exactly those and costs one prctl; where a filter
//! is inherited (a container, a hardened unit) the kernel refuses it with
//! EINVAL, and a BPF filter of the same four calls takes its place. Resource limits
//! and Landlock would add nothing to that: no call is left that they could refuse.
//!
//! Workers that live on have a longer list ([`calls`]), once in their life. Behind
//! it stand Landlock with no rule and resource limits: they cost such a worker
//! eight calls in all, and still hold where the kernel has no seccomp.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::sys::sandbox::calls::{Call, Kind, Test, list};
use crate::sys::{process, raw, startup};

pub mod calls;

pub use calls::{Descriptors, Need};

/// The form that works here, found out once by a probe.
pub struct Sandbox {
    one: One,
    lasting: Option<Lasting>,
}

/// What a child with one connection does.
enum One {
    /// SECCOMP_MODE_STRICT.
    Strict,
    /// A BPF filter: something else has installed one before us.
    Bpf(BpfProgram),
    /// Nothing.
    Off,
}

/// What a worker that lives on does.
struct Lasting {
    landlock: Option<Landlock>,
    lists: Option<Lists>,
}

/// What the workers that live on may call. Each makes its own filter of it, once
/// its descriptors have their numbers.
struct Lists {
    many: Vec<Call>,
    threads: Vec<Call>,
    datagrams: Vec<Call>,
    unix_datagrams: Vec<Call>,
}

impl Sandbox {
    /// None: `--sandbox off`.
    pub fn off() -> Self {
        Sandbox {
            one: One::Off,
            lasting: None,
        }
    }

    /// Finds out in a throw-away child which form works. `needs` widen the
    /// long-lived workers' filter.
    ///
    /// # Errors
    /// fork(2)'s.
    pub fn probe(needs: &[Need]) -> Result<Self, Errno> {
        let one = probe_one()?;
        let lists = match one {
            One::Off => None,
            _ => Some(Lists::new(needs)),
        };
        let landlock = Landlock::probe();
        Ok(Sandbox {
            one,
            lasting: Some(Lasting { landlock, lists }),
        })
    }

    /// Does the kernel offer a filter of system calls?
    pub fn has_seccomp(&self) -> bool {
        !matches!(self.one, One::Off)
    }

    /// In the child, last before it serves its only connection.
    ///
    /// # Errors
    /// prctl(2)'s or seccomp(2)'s; the caller decides whether to serve.
    pub fn enter_for_one(&self) -> Result<(), Errno> {
        match &self.one {
            One::Strict => raw::enter_strict_mode(),
            One::Bpf(filter) => apply(filter),
            One::Off => Ok(()),
        }
    }

    /// In a worker that will serve many connections, before its first.
    ///
    /// # Errors
    /// seccomp(2)'s or setrlimit(2)'s.
    pub fn enter_for_many(&self, limits: startup::Worker, of: Descriptors) -> Result<(), Errno> {
        self.enter(limits, of, false, |lists| &lists.many)
    }

    /// In a UDP socket's worker, before its first datagram.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_datagrams(
        &self,
        limits: startup::Worker,
        of: Descriptors,
    ) -> Result<(), Errno> {
        self.enter(limits, of, false, |lists| &lists.datagrams)
    }

    /// The same in a Unix datagram socket's, whose clients may have abstract names.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_unix_datagrams(
        &self,
        limits: startup::Worker,
        of: Descriptors,
    ) -> Result<(), Errno> {
        self.enter(limits, of, true, |lists| &lists.unix_datagrams)
    }

    /// In a worker that will serve with threads, before its first: they inherit
    /// all of it.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_threads(&self, limits: startup::Worker, of: Descriptors) -> Result<(), Errno> {
        if self.lasting.as_ref().is_some_and(|l| l.lists.is_some()) {
            apply(&no_clone3().map_err(|_| Errno::EINVAL)?)?;
        }
        process::prepare_for_threads();
        self.enter(limits, of, false, |lists| &lists.threads)
    }

    fn enter(
        &self,
        limits: startup::Worker,
        of: Descriptors,
        answers_abstract_names: bool,
        choose: impl Fn(&Lists) -> &Vec<Call>,
    ) -> Result<(), Errno> {
        let Some(lasting) = &self.lasting else {
            return Ok(());
        };
        if let Some(landlock) = lasting.landlock {
            // Best effort under any policy: the filter is what `strict` asks for.
            let _ = landlock.enter(answers_abstract_names);
        }
        // Before memory is limited.
        let filter = lasting.lists.as_ref().map(|lists| {
            let filter = permit(choose(lists), of);
            filter.map_err(|_| Errno::EINVAL)
        });
        limits.apply()?;
        match filter {
            // Never dropped: musl gives the memory back to the kernel, which is a call.
            Some(filter) => apply(&ManuallyDrop::new(filter?)),
            None => Ok(()),
        }
    }

    /// How the start line names it.
    pub fn name(&self) -> &'static str {
        match (&self.one, &self.lasting) {
            (One::Strict, _) => "seccomp strict",
            (One::Bpf(_), _) => "seccomp filter",
            (One::Off, Some(_)) => "none",
            (One::Off, None) => "off",
        }
    }

    /// Landlock's version here, for workers that live on.
    pub fn landlock_abi(&self) -> Option<u32> {
        let landlock = self.lasting.as_ref()?.landlock?;
        Some(landlock.abi())
    }
}

fn apply(filter: &BpfProgram) -> Result<(), Errno> {
    seccompiler::apply_filter(filter).map_err(|_| Errno::last())
}

fn probe_one() -> Result<One, Errno> {
    let Ok(one) = permit(&list(Kind::One, &[]), Descriptors::default()) else {
        return Ok(One::Off);
    };
    if process::survives(|| raw::enter_strict_mode().is_ok())? {
        return Ok(One::Strict);
    }
    if process::survives(|| apply(&one).is_ok())? {
        return Ok(One::Bpf(one));
    }
    Ok(One::Off)
}

impl Lists {
    fn new(needs: &[Need]) -> Self {
        let list = |kind| {
            let mut calls = list(kind, needs);
            calls.extend_from_slice(DEBUG_BUILDS);
            calls
        };
        Lists {
            many: list(Kind::Many),
            threads: list(Kind::Threads),
            datagrams: list(Kind::Datagrams),
            unix_datagrams: list(Kind::UnixDatagrams),
        }
    }
}

/// A debug build of std asks whether a descriptor is open before it closes it.
#[cfg(debug_assertions)]
const DEBUG_BUILDS: &[calls::Call] = &[calls::Call {
    number: libc::SYS_fcntl,
    tests: &[(1, calls::Test::Among(&[libc::F_GETFD as u64]))],
}];
#[cfg(not(debug_assertions))]
const DEBUG_BUILDS: &[calls::Call] = &[];

// From lists of calls to programs for the kernel's filter.

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Permits these calls to who has these descriptors, and kills the process at any
/// other.
fn permit(calls: &[Call], of: Descriptors) -> Result<BpfProgram, BackendError> {
    filter(
        rules(calls, of)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )
}

/// Answers clone3(2) as a kernel does that has none, and permits all else: the C
/// library then uses clone(2), whose flags a filter can read. Also where a
/// container's filter answers EPERM, which glibc takes for a failure.
fn no_clone3() -> Result<BpfProgram, BackendError> {
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    filter(rules, SeccompAction::Allow, unknown)
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}

/// A call that is listed twice is permitted by either; one without a test always,
/// which is how seccompiler takes an empty list.
fn rules(calls: &[Call], of: Descriptors) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in calls {
        if call.tests.is_empty() {
            rules.insert(call.number, Vec::new());
        } else if rules.get(&call.number).is_none_or(|old| !old.is_empty()) {
            let more = alternatives(call.tests, of)?;
            rules.entry(call.number).or_default().extend(more);
        }
    }
    Ok(rules)
}

/// One rule for each way in which all tests hold.
fn alternatives(tests: &[(u8, Test)], of: Descriptors) -> Result<Vec<SeccompRule>, BackendError> {
    let mut ways: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for &(argument, test) in tests {
        let mut longer = Vec::new();
        for way in &ways {
            for (operator, value) in comparisons(test, of) {
                let condition = SeccompCondition::new(argument, width(test), operator, value)?;
                longer.push(way.iter().cloned().chain([condition]).collect());
            }
        }
        ways = longer;
    }
    ways.into_iter().map(SeccompRule::new).collect()
}

/// The kernel takes a descriptor's lower half and no more.
fn width(test: Test) -> SeccompCmpArgLen {
    match test {
        Test::Born | Test::Came | Test::Null => SeccompCmpArgLen::Dword,
        Test::Among(_) | Test::Has(_) | Test::Lacks(_) => SeccompCmpArgLen::Qword,
    }
}

fn comparisons(test: Test, of: Descriptors) -> Vec<(SeccompCmpOp, u64)> {
    match test {
        Test::Born => vec![(SeccompCmpOp::Lt, of.born_below.into())],
        Test::Came => vec![(SeccompCmpOp::Ge, of.born_below.into())],
        Test::Null => vec![(SeccompCmpOp::Eq, of.null.into())],
        Test::Among(values) => values.iter().map(|&v| (SeccompCmpOp::Eq, v)).collect(),
        Test::Has(bits) => vec![(SeccompCmpOp::MaskedEq(bits), bits)],
        Test::Lacks(bits) => vec![(SeccompCmpOp::MaskedEq(bits), 0)],
    }
}

// Landlock with no rule: every right it can handle, granted nowhere.
//
// See landlock(7). For workers that live on; one with a single connection is in
// strict mode, where it can make no call that Landlock could refuse. Three calls,
// no rule and so no path: less than a crate would be.

/// What this kernel's Landlock can handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landlock {
    abi: u32,
}

/// `struct landlock_ruleset_attr`, as of ABI 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ruleset {
    files: u64,
    ports: u64,
    scoped: u64,
}

/// LANDLOCK_CREATE_RULESET_VERSION.
const VERSION: u32 = 1;
/// LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP.
const PORTS: u64 = 0b11;
/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
const ABSTRACT: u64 = 0b01;
/// LANDLOCK_SCOPE_SIGNAL.
const SIGNALS: u64 = 0b10;

impl Landlock {
    /// What there is: `None` before Linux 5.13, where it is switched off, and
    /// where a container's filter refuses it.
    pub fn probe() -> Option<Self> {
        let none = std::ptr::null::<Ruleset>();
        // SAFETY: with this flag the kernel reads no attributes.
        let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
        let abi = u32::try_from(abi).ok().filter(|&abi| abi > 0)?;
        Some(Landlock { abi })
    }

    /// Version of the interface.
    pub fn abi(self) -> u32 {
        self.abi
    }

    /// From now on this thread, and what it starts, opens no file, binds and
    /// connects no TCP socket, signals no process outside and, unless it
    /// `answers_abstract_names`, reaches no abstract Unix socket: as far as this
    /// ABI goes. Takes one descriptor for a moment.
    ///
    /// # Errors
    /// The kernel's; EPERM without no_new_privs.
    pub fn enter(self, answers_abstract_names: bool) -> Result<(), Errno> {
        let rules = every_right(self.abi, answers_abstract_names);
        let size = size(self.abi);
        // SAFETY: the kernel reads `size` bytes, at most those of the struct.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const rules,
                size,
                0_u32,
            )
        };
        let fd = Errno::result(fd)? as libc::c_int;
        // SAFETY: just made, for us alone.
        let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a descriptor we own, and no flags.
        let done =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
        Errno::result(done).map(drop)
    }
}

/// Every right an ABI knows, and no later one's: a kernel refuses bits that it
/// does not know.
fn every_right(abi: u32, answers_abstract_names: bool) -> Ruleset {
    // 13 rights at first; then REFER, TRUNCATE and, at 5, IOCTL_DEV.
    let rights = match abi {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let abstract_names = if answers_abstract_names { 0 } else { ABSTRACT };
    Ruleset {
        files: (1 << rights) - 1,
        ports: if abi >= 4 { PORTS } else { 0 },
        scoped: if abi >= 6 {
            SIGNALS | abstract_names
        } else {
            0
        },
    }
}

/// Bytes of the struct that an ABI knows.
fn size(abi: u32) -> usize {
    match abi {
        0..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests;

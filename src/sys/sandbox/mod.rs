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

pub mod calls;
mod filter;

use nix::errno::Errno;
use seccompiler::BpfProgram;

use calls::{Call, Kind, list};
pub use calls::{Descriptors, Need};

use super::landlock::Landlock;
use super::{process, raw, rlimits};

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
    pub fn enter_for_many(&self, limits: rlimits::Worker, of: Descriptors) -> Result<(), Errno> {
        self.enter(limits, of, false, |lists| &lists.many)
    }

    /// In a UDP socket's worker, before its first datagram.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_datagrams(
        &self,
        limits: rlimits::Worker,
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
        limits: rlimits::Worker,
        of: Descriptors,
    ) -> Result<(), Errno> {
        self.enter(limits, of, true, |lists| &lists.unix_datagrams)
    }

    /// In a worker that will serve with threads, before its first: they inherit
    /// all of it.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_threads(&self, limits: rlimits::Worker, of: Descriptors) -> Result<(), Errno> {
        if self.lasting.as_ref().is_some_and(|l| l.lists.is_some()) {
            apply(&filter::no_clone3().map_err(|_| Errno::EINVAL)?)?;
        }
        process::prepare_for_threads();
        self.enter(limits, of, false, |lists| &lists.threads)
    }

    fn enter(
        &self,
        limits: rlimits::Worker,
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
            let filter = filter::permit(choose(lists), of);
            filter.map_err(|_| Errno::EINVAL)
        });
        limits.apply()?;
        match filter {
            Some(filter) => apply(&filter?),
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
    let Ok(one) = filter::permit(&list(Kind::One, &[]), Descriptors::default()) else {
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

#[cfg(test)]
mod tests;

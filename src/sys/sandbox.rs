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

pub use calls::Need;
use calls::{Kind, list};

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
    filter: Option<Filter>,
}

/// The filters of the workers that live on.
struct Filter {
    many: BpfProgram,
    no_clone3: BpfProgram,
    threads: BpfProgram,
    datagrams: BpfProgram,
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
        let filter = match one {
            One::Off => None,
            _ => compile(needs),
        };
        let landlock = Landlock::probe();
        Ok(Sandbox {
            one,
            lasting: Some(Lasting { landlock, filter }),
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
    #[inline(always)]
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
    pub fn enter_for_many(&self, limits: rlimits::Worker) -> Result<(), Errno> {
        self.enter(limits, false, |filter| &filter.many)
    }

    /// In a datagram worker, before its first datagram.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_datagrams(
        &self,
        limits: rlimits::Worker,
        answers_abstract_names: bool,
    ) -> Result<(), Errno> {
        self.enter(limits, answers_abstract_names, |filter| &filter.datagrams)
    }

    /// In a worker that will serve with threads, before its first: they inherit
    /// all of it.
    ///
    /// # Errors
    /// As above.
    pub fn enter_for_threads(&self, limits: rlimits::Worker) -> Result<(), Errno> {
        let filter = self.lasting.as_ref().and_then(|l| l.filter.as_ref());
        if let Some(filter) = filter {
            apply(&filter.no_clone3)?;
        }
        process::prepare_for_threads();
        self.enter(limits, false, |filter| &filter.threads)
    }

    fn enter(
        &self,
        limits: rlimits::Worker,
        answers_abstract_names: bool,
        choose: impl Fn(&Filter) -> &BpfProgram,
    ) -> Result<(), Errno> {
        let Some(lasting) = &self.lasting else {
            return Ok(());
        };
        if let Some(landlock) = lasting.landlock {
            // Best effort under any policy: the filter is what `strict` asks for.
            let _ = landlock.enter(answers_abstract_names);
        }
        limits.apply()?;
        match &lasting.filter {
            Some(filter) => apply(choose(filter)),
            None => Ok(()),
        }
    }

    /// Is the form strict mode?
    pub fn is_strict(&self) -> bool {
        matches!(self.one, One::Strict)
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
    let Ok(one) = filter::permit(&list(Kind::One, &[])) else {
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

fn compile(needs: &[Need]) -> Option<Filter> {
    let lists = [Kind::Many, Kind::Threads, Kind::Datagrams].map(|kind| {
        let mut calls = list(kind, needs);
        calls.extend_from_slice(DEBUG_BUILDS);
        filter::permit(&calls).ok()
    });
    let [many, threads, datagrams] = lists;
    Some(Filter {
        many: many?,
        no_clone3: filter::no_clone3().ok()?,
        threads: threads?,
        datagrams: datagrams?,
    })
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
#[path = "sandbox/tests.rs"]
mod tests;

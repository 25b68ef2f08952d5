//! Resource limits that a process needs none of, taken for good: soft and hard.
//!
//! See setrlimit(2). What is enough for whom is decided by the callers, who give
//! a limit no higher than it was.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lowers soft and hard limit to `most`; leaves a lower one as it is.
///
/// # Errors
/// setrlimit(2)'s.
pub fn lower(resource: Resource, most: u64) -> Result<(), Errno> {
    let (soft, hard) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

/// The soft limit of open files that we were started with.
static FILES: AtomicU64 = AtomicU64::new(u64::MAX);

/// At start: raises the soft limit of open files to the hard one. The soft one is
/// low for the sake of programs that use select(2), and none of ours does. Where
/// the kernel refuses it stays.
pub fn raise_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        FILES.store(soft, Ordering::Relaxed);
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The soft limit before that, for programs that are not ours.
pub fn files_at_start() -> u64 {
    match FILES.load(Ordering::Relaxed) {
        u64::MAX => getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft),
        soft => soft,
    }
}

/// In the supervisor, and so in all its children at no cost to them: no core file
/// unless `cores`, no locked memory. RLIMIT_CORE also keeps a program that
/// core_pattern names from being handed one, see core(5).
///
/// # Errors
/// setrlimit(2)'s.
pub fn take_from_all(cores: bool) -> Result<(), Errno> {
    if !cores {
        lower(Resource::RLIMIT_CORE, 0)?;
    }
    lower(Resource::RLIMIT_MEMLOCK, 0)
}

/// Limits of a worker that lives on, beside those of [`take_from_all`].
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// One more than the highest descriptor it will have.
    pub descriptors: u64,
    /// Bytes of address space, where it has no threads: their stacks, and the
    /// arenas that a C library sets aside for them, are address space that no
    /// count of ours would be right for, and each is a process to
    /// RLIMIT_NPROC.
    pub memory: Option<u64>,
    /// Does it write to files: a log, or `--print`?
    pub writes_files: bool,
}

impl Worker {
    /// Takes the rest: no process, and by RLIMIT_FSIZE no byte to any file.
    /// SIGXFSZ is ignored (`sys::dispositions`), so that is an error and no death.
    ///
    /// # Errors
    /// setrlimit(2)'s.
    pub fn apply(&self) -> Result<(), Errno> {
        lower(Resource::RLIMIT_NOFILE, self.descriptors)?;
        if let Some(memory) = self.memory {
            lower(Resource::RLIMIT_NPROC, 0)?;
            lower(Resource::RLIMIT_AS, memory)?;
        }
        if self.writes_files {
            return Ok(());
        }
        lower(Resource::RLIMIT_FSIZE, 0)
    }
}

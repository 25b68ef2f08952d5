//! What a process settles once for itself and for who comes after it: its resource
//! limits, soft and hard, taken for good (setrlimit(2); what is enough for whom is
//! for the callers to say), its environment, and where names are looked up.

use std::ffi::OsString;
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
    /// SIGXFSZ is ignored (`sys::signal`), so that is an error and no death.
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

/// Takes a variable out of the environment: what it says is for this process
/// and no other, see sd_listen_fds(3). Before the first thread only.
pub fn take_env(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: no other thread reads the environment, by the promise above.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

// Names of users, groups and hosts in a static binary.
//
// glibc looks names up through modules that nsswitch.conf(5) lists, and loads
// those that are not built in with dlopen(3). In a static binary that brings
// a second libc into the process and ends in SIGSEGV (seen with `passwd:
// files systemd`, Debian's default, and a user that does not exist). What is
// built in is `files` and `dns`, so a static binary keeps to these: users of
// LDAP or systemd are then given by number, hosts of mDNS by address. A
// dynamic build asks whatever the machine is configured for.

/// Keeps every later look-up to what is built in. To be called before the
/// first one; calling it again changes nothing. Does nothing in a dynamic
/// build or with another libc, where there is no need.
pub fn built_in_only() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"initgroups", c"files"),
        (c"hosts", c"files dns"),
        (c"services", c"files"),
        (c"protocols", c"files"),
    ] {
        // SAFETY: two C strings that glibc only reads; it replaces its own
        // table under its own lock.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
unsafe extern "C" {
    /// glibc's `nss.h`: 0, or -1 for a database it does not know.
    fn __nss_configure_lookup(
        database: *const libc::c_char,
        services: *const libc::c_char,
    ) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nowhere_is_just_not_found() {
        built_in_only();
        let user = nix::unistd::User::from_name("no such user");
        assert!(matches!(user, Ok(None)), "{user:?}");
        let group = nix::unistd::Group::from_name("no such group");
        assert!(matches!(group, Ok(None)), "{group:?}");
        let groups = nix::unistd::getgrouplist(c"root", nix::unistd::Gid::from_raw(0));
        assert!(groups.is_ok(), "{groups:?}");
    }
}

//! What a process settles once for itself and for who comes after it: its resource
//! limits, soft and hard, taken for good (setrlimit(2); what is enough for whom is
//! for the callers to say), its capabilities, its environment, and where names are
//! looked up.

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

/// One process more for the user, where we may.
///
/// # Errors
/// setrlimit(2)'s.
pub fn raise_processes() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
    let more = soft.saturating_add(1);
    setrlimit(Resource::RLIMIT_NPROC, more, hard.max(more))
}

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

// Capabilities: giving them up, and reading back what is left.
//
// See capabilities(7). What should be left is the caller's to know. Nothing here
// reads /proc, which a small container may not have.

/// _LINUX_CAPABILITY_VERSION_3: two words of 32 bits in each set.
const VERSION: u32 = 0x2008_0522;

/// The five sets of this thread, bit n for capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What it may do now.
    pub effective: u64,
    /// What it could make effective.
    pub permitted: u64,
    /// What execve(2) keeps of a file's.
    pub inheritable: u64,
    /// What execve(2) keeps of any program.
    pub ambient: u64,
    /// What execve(2) could ever gain.
    pub bounding: u64,
}

/// Gives up every capability but the bounding set: effective, permitted and
/// inheritable, and with them the ambient ones. Always allowed.
///
/// # Errors
/// capset(2)'s, where a container's filter has one of its own.
pub fn drop_all() -> Result<(), Errno> {
    // A unit's filter may forbid capset(2), where there is nothing to give up.
    if held_words() == Ok([0; 6]) {
        return Ok(());
    }
    let mut header = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: the header is the two words capset(2) reads (and may write its
    // version to), the data the six words that version 3 has.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), none.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Empties the bounding set, while CAP_SETPCAP is held; false without it, where
/// no_new_privs is what keeps execve(2) from gaining any.
///
/// # Errors
/// prctl(2)'s, but for EPERM.
pub fn drop_bounding() -> Result<bool, Errno> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            // One more than this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(Errno::EPERM) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// Effective, permitted and inheritable, twice 32 bits of each, as capget(2) has
/// them.
fn held_words() -> Result<[u32; 6], Errno> {
    let mut header = [VERSION, 0];
    let mut data = [0_u32; 6];
    // SAFETY: as in `drop_all`; version 3 fills six words.
    let done = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    Errno::result(done).map(|_| data)
}

/// What this thread has.
///
/// # Errors
/// capget(2)'s.
pub fn held() -> Result<Sets, Errno> {
    let data = held_words()?;
    let set = |n: usize| u64::from(data[n]) | u64::from(data[n + 3]) << 32;
    let mut sets = Sets {
        effective: set(0),
        permitted: set(1),
        inheritable: set(2),
        ..Sets::default()
    };
    for capability in 0..64 {
        let Ok(bound) = prctl(libc::PR_CAPBSET_READ, capability) else {
            break;
        };
        sets.bounding |= u64::from(bound == 1) << capability;
        let asked = libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong;
        let zero: libc::c_ulong = 0;
        // SAFETY: integers only. Before Linux 4.3 it is EINVAL, and there is no
        // such set.
        let ambient = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, asked, capability, zero, zero) };
        sets.ambient |= u64::from(ambient == 1) << capability;
    }
    Ok(sets)
}

/// Would a change of uid leave capabilities behind (PR_SET_KEEPCAPS), or has
/// somebody else changed what such a change does (securebits)?
///
/// # Errors
/// prctl(2)'s.
pub fn secure_bits() -> Result<i32, Errno> {
    prctl(libc::PR_GET_SECUREBITS, 0)
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<i32, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option used here takes integers only.
    Errno::result(unsafe { libc::prctl(option, argument, zero, zero, zero) })
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

    /// proc(5) tells the same of this thread.
    #[test]
    fn what_is_held_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
        let set = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            u64::from_str_radix(line.expect(key).trim(), 16).expect("a mask")
        };
        assert_eq!(
            held(),
            Ok(Sets {
                effective: set("CapEff:"),
                permitted: set("CapPrm:"),
                inheritable: set("CapInh:"),
                ambient: set("CapAmb:"),
                bounding: set("CapBnd:"),
            })
        );
    }
}

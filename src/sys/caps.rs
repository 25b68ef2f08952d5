//! Capabilities: giving them up, and reading back what is left.
//!
//! See capabilities(7). What should be left is the caller's to know. Nothing here
//! reads /proc, which a small container may not have.

use nix::errno::Errno;

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

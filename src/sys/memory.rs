//! What a process may make of its memory, asked for once in the supervisor: every
//! child has it from its birth, at no cost.

use libc::c_ulong;
use nix::sys::prctl::set_thp_disable;

/// No memory that is writable becomes executable, or was both from the start
/// (PR_SET_MDWE, Linux 6.3). A defence beside others: nothing happens where the
/// kernel does not know it. What is executed next inherits it, see prctl(2).
pub fn refuse_exec_gain() {
    mdwe(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN.into());
}

/// Was that asked for? None where the kernel does not know it.
#[cfg(test)]
pub fn refuses_exec_gain() -> Option<bool> {
    u32::try_from(mdwe(libc::PR_GET_MDWE, 0))
        .ok()
        .map(|bits| bits & libc::PR_MDWE_REFUSE_EXEC_GAIN != 0)
}

fn mdwe(operation: libc::c_int, bits: c_ulong) -> libc::c_int {
    let none: c_ulong = 0;
    // SAFETY: prctl(2) with these operations reads its arguments and no memory.
    unsafe { libc::prctl(operation, bits, none, none, none) }
}

/// No huge pages, where the kernel has any: who touches one byte of memory is given
/// 4 KiB and not 2 MiB.
pub fn refuse_huge_pages() {
    let _ = set_thp_disable(true);
}

/// Gives what the start has allocated and freed back to the kernel: fork(2) copies
/// the entry of each page that was ever touched.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes an integer.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::sys::process;

    /// In a child, since there is no way back.
    #[test]
    fn what_was_written_is_not_executed() {
        let tried = || -> i32 {
            refuse_exec_gain();
            if refuses_exec_gain() != Some(true) {
                return 77;
            }
            let len = std::num::NonZeroUsize::MIN;
            let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let both = write | ProtFlags::PROT_EXEC;
            // SAFETY: new memory, that nobody else knows of.
            let at = |protection| unsafe {
                mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE)
            };
            let Ok(written) = at(write) else { return 2 };
            // SAFETY: as above.
            let gained = unsafe { mprotect(written, 1, ProtFlags::PROT_EXEC) };
            i32::from(at(both).is_ok() || gained.is_ok())
        };
        let child = process::fork(tried).unwrap();
        let WaitStatus::Exited(_, status) = waitpid(child, None).unwrap() else {
            panic!("killed");
        };
        if status == 77 {
            eprintln!("skipped: this kernel has no PR_SET_MDWE");
            return;
        }
        assert_eq!(status, 0, "1: memory became executable, 2: no memory");
    }
}

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

/// Takes the code and data that the kernel lends each program (vdso(7)) out of this
/// one, and so out of children to come: three mappings, and dear ones, that fork(2)
/// copies and exit(2) takes down (6 us together). For a process that asks the kernel
/// itself what it asks that for. Without /proc nothing happens; nor in a dynamic
/// program, whose libraries have more uses for it than can be known here.
pub fn unmap_vdso() {
    if !cfg!(target_feature = "crt-static") {
        return;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(vdso) {
        // SAFETY: a whole mapping of the kernel's, to which no reference exists;
        // who calls what is not there any more dies, which is the caller's to
        // prevent.
        unsafe { libc::munmap(start as *mut _, end - start) };
    }
}

/// The range of a line of maps (proc_pid_maps(5)), if it is part of the vdso.
fn vdso(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let name = rest.rsplit(' ').next()?;
    if name != "[vdso]" && !name.starts_with("[vvar") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some((address(start)?, address(end)?))
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

    #[test]
    fn the_vdso_and_its_data_are_found_in_maps() {
        for (line, found) in [
            (
                "7ffe61f5b000-7ffe61f5d000 r-xp 00000000 00:00 0                          [vdso]",
                Some((0x7ffe_61f5_b000, 0x7ffe_61f5_d000)),
            ),
            (
                "1000-5000 r--p 00000000 00:00 0    [vvar]",
                Some((0x1000, 0x5000)),
            ),
            (
                "5000-7000 r--p 00000000 00:00 0    [vvar_vclock]",
                Some((0x5000, 0x7000)),
            ),
            ("1000-5000 rw-p 00000000 00:00 0    [stack]", None),
            ("1000-5000 rw-p 00000000 00:00 0 ", None),
            ("1000-5000 r-xp 00000000 08:01 77   /usr/lib/vdso", None),
            ("-- [vdso]", None),
            ("", None),
        ] {
            assert_eq!(vdso(line), found, "{line}");
        }
    }

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

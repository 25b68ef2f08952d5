//! What a process may make of its memory, asked for once in the supervisor: every
//! child has it from its birth, at no cost. And whom the kernel kills when it is short.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use libc::c_ulong;
use nix::errno::Errno;
use nix::sys::prctl::set_thp_disable;

use crate::sys::raw;
use crate::sys::shm::Buffer;

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

// Whom the kernel kills when memory is short: oom_score_adj, see proc(5).
//
// It takes the process that uses most, with a malus that fork(2) inherits: here
// each child's, and never the parent's. A child cannot write its own, whose file is
// root's once the process is not dumpable, and in a chroot there may be none. So the
// parent keeps a descriptor of its own from before that, raises itself for the time
// of the fork, and then comes back to what it was, which needs no privilege. Two
// writes, 0.9 us each.
//
// But the fork takes memory itself, and may be what there is too little for, while
// the parent is no better than its children (tried: it is the second or third to go).
// So some have a higher malus than the others, and go before the parent then; and
// where memory may be short, as much is taken before the fork and let go of at once,
// at the children's cost if there is none ([`OomScore::proves_room`]).

/// In thousandths of the memory there is: a child that uses nothing counts for more
/// than a parent that uses this part of it.
const MALUS: i32 = 400;
/// That of children that are to go before the others.
const FIRST_MALUS: i32 = 800;
/// The most that the kernel takes.
const MOST: i32 = 1000;
/// Bytes that are enough for some forks, which take page tables for the most part.
const ROOM: usize = 2 << 20;

/// Which malus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// One of the few that go before the others.
    First,
    /// The others.
    Next,
}

/// A process's own oom_score_adj, and its children's; and how many processes of the
/// machine were killed for memory.
pub struct OomScore {
    file: OwnedFd,
    vmstat: Option<std::fs::File>,
    own: Text,
    first: Text,
    next: Text,
}

/// A number, as the file takes it.
struct Text([u8; 8], usize);

impl Text {
    fn new(number: i32) -> Self {
        let mut bytes = [0; 8];
        let mut rest = &mut bytes[..];
        let _ = write!(rest, "{number}");
        let left = rest.len();
        Text(bytes, 8 - left)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl OomScore {
    /// Of this process, while it may be opened.
    ///
    /// # Errors
    /// Where there is no /proc, or it may not be written to.
    pub fn open() -> std::io::Result<Self> {
        let options = std::fs::File::options().read(true).write(true).clone();
        let mut file = options.open("/proc/self/oom_score_adj")?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let own: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
        Ok(OomScore {
            file: file.into(),
            vmstat: std::fs::File::open("/proc/vmstat").ok(),
            own: Text::new(own),
            first: Text::new((own + FIRST_MALUS).min(MOST)),
            next: Text::new((own + MALUS).min(MOST)),
        })
    }

    /// Makes a fork; what is forked has its malus, and we have not.
    #[inline(always)]
    pub fn fork<T>(&self, goes: Goes, fork: impl FnOnce() -> T) -> T {
        let malus = match goes {
            Goes::First => &self.first,
            Goes::Next => &self.next,
        };
        let _ = raw::write(self.file.as_fd(), malus.bytes());
        let forked = fork();
        let _ = raw::write(self.file.as_fd(), self.own.bytes());
        forked
    }

    /// How many processes the kernel has killed for want of memory, here or elsewhere;
    /// 0 where it does not say.
    pub fn kills(&self) -> u64 {
        let Some(vmstat) = &self.vmstat else {
            return 0;
        };
        let mut text = vec![0; 32 << 10];
        let read = vmstat.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Takes memory for a fork and lets go of it; false if that has cost somebody his
    /// life.
    pub fn proves_room(&self) -> bool {
        let before = self.kills();
        if let Ok(mut memory) = Buffer::new(ROOM) {
            for page in memory.bytes().chunks_mut(4096) {
                page[0] = 1;
            }
            std::hint::black_box(memory.bytes());
        }
        self.kills() == before
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

    fn of_this() -> i32 {
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        text.trim().parse().unwrap()
    }

    #[test]
    fn row_108_a_child_goes_before_its_parent() {
        // In a process of its own: others fork meanwhile.
        let tried = process::fork(|| {
            let before = of_this();
            let score = OomScore::open().unwrap();
            for (goes, malus) in [(Goes::First, FIRST_MALUS), (Goes::Next, MALUS)] {
                let child = score.fork(goes, || {
                    process::fork(|| i32::from(of_this() != (before + malus).min(MOST)))
                });
                let ended = waitpid(child.unwrap(), None).unwrap();
                if !matches!(ended, WaitStatus::Exited(_, 0)) || of_this() != before {
                    return 1;
                }
            }
            0
        });
        let ended = waitpid(tried.unwrap(), None).unwrap();
        assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
    }
}

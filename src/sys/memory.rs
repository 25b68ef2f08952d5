//! Memory with a fork policy: shared with every child, or with none. What a process may
//! make of its memory, asked for once in the supervisor: every child has it from its
//! birth, at no cost. And whom the kernel kills when it is short.
//!
//! - [`Shared`] is what the scoreboard lives in: children write, we read. Some of it
//!   is for some children only ([`Shared::apart`]).
//! - [`DontFork`] is what fork(2) must not copy: with thousands of children, the
//!   supervisor's own copy-on-write faults cost more than the fork does.
//! - [`Buffer`] is mapped before the fork and touched only after it, so that a
//!   child pays for the pages it uses and for no system call.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use libc::c_ulong;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use nix::sys::prctl::set_thp_disable;

use crate::sys::raw;

/// One cache line of counters, so that two children never write to the same one.
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; 8]);

/// Zeroed memory that parent and children all see.
pub struct Shared {
    lines: NonNull<Line>,
    len: usize,
}

// SAFETY: what it gives out is shared references to atomics, as good in another
// thread as in another process; the mapping stays for the process's life.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `len` lines (at least one).
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let lines = map(len * size_of::<Line>(), MapFlags::MAP_SHARED)?.cast();
        Ok(Shared { lines, len })
    }

    /// The same, which no child shares but those that are forked while it is
    /// [`Shared::inherited`]: what the others cannot reach, none of them can spoil
    /// when it was taken over. Elsewhere touching it ends the child.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn apart(len: usize) -> Result<Self, Errno> {
        let shared = Shared::new(len)?;
        shared.inherited(false)?;
        Ok(shared)
    }

    /// Is it shared with children that are forked from now on?
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        let advice = match whether {
            true => MmapAdvise::MADV_DOFORK,
            false => MmapAdvise::MADV_DONTFORK,
        };
        // SAFETY: the range is one mapping, this value's, and neither advice changes
        // what it holds.
        unsafe { madvise(self.lines.cast(), self.bytes(), advice) }
    }

    /// In a child that must not reach it any more: touching it ends the child.
    pub fn shut(&self) {
        // SAFETY: the range is one mapping, this value's, which stays; who touches it
        // dies of SIGSEGV.
        let _ = unsafe { mprotect(self.lines.cast(), self.bytes(), ProtFlags::PROT_NONE) };
    }

    fn bytes(&self) -> usize {
        (self.len * size_of::<Line>()).max(1)
    }
}

impl Deref for Shared {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: `lines` maps `len` lines for as long as `self` lives, is page
        // aligned, and all-zero bytes are valid atomics.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr(), self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `new` mapped these bytes, and no reference outlives `self`.
        let _ = unsafe { munmap(self.lines.cast(), self.bytes()) };
    }
}

/// A table of ours that no child inherits: there its pages are not mapped, and
/// touching it ends the child.
pub struct DontFork<T> {
    items: NonNull<T>,
    len: usize,
}

impl<T: Copy> DontFork<T> {
    /// Maps `len` items, each set to `initial`.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new(len: usize, initial: T) -> Result<Self, Errno> {
        let bytes = len * size_of::<T>();
        let items: NonNull<T> = map(bytes, MapFlags::MAP_PRIVATE)?.cast();
        // SAFETY: the range was mapped just now, whole pages of it, and only this
        // value refers to it.
        unsafe { madvise(items.cast(), bytes.max(1), MmapAdvise::MADV_DONTFORK)? };
        for i in 0..len {
            // SAFETY: i < len items of the mapping, which is page aligned; the
            // old content is plain zero bytes that need no drop.
            unsafe { items.add(i).write(initial) };
        }
        Ok(DontFork { items, len })
    }
}

impl<T> Deref for DontFork<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` mapped and initialised `len` items; never unmapped.
        unsafe { std::slice::from_raw_parts(self.items.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for DontFork<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.items.as_ptr(), self.len) }
    }
}

/// A list of at most so many items in [`DontFork`] memory.
pub struct FixedStack<T> {
    items: DontFork<T>,
    len: usize,
}

impl<T: Copy> FixedStack<T> {
    /// Room for `most` items; `blank` is what lies where there is none.
    ///
    /// # Errors
    /// mmap(2)'s and madvise(2)'s.
    pub fn new(most: usize, blank: T) -> Result<Self, Errno> {
        Ok(FixedStack {
            items: DontFork::new(most, blank)?,
            len: 0,
        })
    }

    /// Adds an item.
    ///
    /// # Panics
    /// When it is full.
    pub fn push(&mut self, item: T) {
        self.items[self.len] = item;
        self.len += 1;
    }

    /// Adds several.
    ///
    /// # Panics
    /// When it is full.
    pub fn extend(&mut self, items: impl IntoIterator<Item = T>) {
        for item in items {
            self.push(item);
        }
    }

    /// Takes the last item off.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        Some(self.items[self.len])
    }

    /// Takes all of them off.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// All of them.
    pub fn items(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Untouched private memory: each process that writes to it gets its own pages.
pub struct Buffer {
    bytes: NonNull<u8>,
    len: usize,
}

impl Buffer {
    /// Maps `len` bytes.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let bytes = map(len, MapFlags::MAP_PRIVATE)?.cast();
        Ok(Buffer { bytes, len })
    }

    /// The memory; zero until written.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `new` mapped `len` bytes, zero is a valid u8, and `&mut self`
        // is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `new` mapped these bytes for this value alone, and whoever
        // borrowed them borrowed the value, which nobody can any more.
        let _ = unsafe { munmap(self.bytes.cast(), self.len.max(1)) };
    }
}

fn map(bytes: usize, flags: MapFlags) -> Result<NonNull<std::ffi::c_void>, Errno> {
    let len = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice
    // overlaps nothing.
    unsafe {
        mmap_anonymous(
            None,
            len,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            flags,
        )
    }
}

// What a process may make of its memory.

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
    use std::sync::atomic::Ordering::Relaxed;

    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::sys::process;

    #[test]
    fn a_child_writes_what_the_parent_reads() {
        let shared = Shared::new(3).unwrap();
        assert_eq!(shared.len(), 3);
        let pid = process::fork(|| {
            shared[2].0[7].store(41, Relaxed);
            0
        })
        .unwrap();
        waitpid(pid, None).unwrap();
        assert_eq!(shared[2].0[7].load(Relaxed), 41);
        assert_eq!(shared[0].0[7].load(Relaxed), 0);
    }

    #[test]
    fn row_112_what_is_apart_is_shared_with_those_it_is_meant_for() {
        let apart = Shared::apart(100).unwrap();
        let write = || {
            process::fork(|| {
                apart[99].0[7].fetch_add(1, Relaxed);
                0
            })
        };
        let ended = |pid| waitpid(pid, None).unwrap();
        let killed = |status| matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _));
        for n in 1..3 {
            assert!(killed(ended(write().unwrap())));
            apart.inherited(true).unwrap();
            let child = write().unwrap();
            apart.inherited(false).unwrap();
            assert!(!killed(ended(child)));
            assert_eq!(apart[99].0[7].load(Relaxed), n);
        }
        apart.inherited(true).unwrap();
        let child = process::fork(|| {
            apart.shut();
            apart[99].0[7].fetch_add(1, Relaxed);
            0
        });
        assert!(killed(ended(child.unwrap())));
        assert_eq!(apart[99].0[7].load(Relaxed), 2);
    }

    #[test]
    fn a_table_starts_as_asked_and_keeps_what_is_written() {
        let mut table = DontFork::new(1000, 7u32).unwrap();
        assert!(table.iter().all(|&n| n == 7));
        table[999] = 1;
        assert_eq!(table[999], 1);
        assert!(DontFork::new(0, 0u8).unwrap().is_empty());
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

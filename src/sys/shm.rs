//! Memory with a fork policy: shared with every child, or with none.
//!
//! - [`Shared`] is what the scoreboard lives in: children write, we read. Some of it
//!   is for some children only ([`Shared::apart`]).
//! - [`DontFork`] is what fork(2) must not copy: with thousands of children, the
//!   supervisor's own copy-on-write faults cost more than the fork does.
//! - [`Buffer`] is mapped before the fork and touched only after it, so that a
//!   child pays for the pages it uses and for no system call.

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use nix::sys::wait::WaitStatus;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_child_writes_what_the_parent_reads() {
        let shared = Shared::new(3).unwrap();
        assert_eq!(shared.len(), 3);
        let pid = crate::sys::process::fork(|| {
            shared[2].0[7].store(41, Relaxed);
            0
        })
        .unwrap();
        nix::sys::wait::waitpid(pid, None).unwrap();
        assert_eq!(shared[2].0[7].load(Relaxed), 41);
        assert_eq!(shared[0].0[7].load(Relaxed), 0);
    }

    #[test]
    fn row_112_what_is_apart_is_shared_with_those_it_is_meant_for() {
        let apart = Shared::apart(100).unwrap();
        let write = || {
            crate::sys::process::fork(|| {
                apart[99].0[7].fetch_add(1, Relaxed);
                0
            })
        };
        let ended = |pid| nix::sys::wait::waitpid(pid, None).unwrap();
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
        let child = crate::sys::process::fork(|| {
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
}

//! A mutex between processes that outlives its holder's death: robust and
//! process-shared, see `pthread_mutexattr_setrobust(3)`.
//!
//! The kernel keeps a list of the robust mutexes each thread holds and lets go
//! of them when it dies. A child of fork(2) gets its own list from the C
//! library, which is why nothing here may be used after `process::fork_bare`.
//! Knows nothing of what it guards.

use std::mem::MaybeUninit;

use nix::errno::Errno;

use super::shm::Shared;

/// The value both glibc and musl give it; not in every libc crate.
const ROBUST: libc::c_int = 1;

/// A mutex in memory that those children share that are to wait for it.
pub struct RobustMutex(Shared);

impl RobustMutex {
    /// Maps and initialises it, unlocked.
    ///
    /// # Errors
    /// mmap(2)'s, or ENOTSUP where the library knows no robust mutex.
    pub fn new() -> Result<Self, Errno> {
        let mutex = RobustMutex(Shared::apart(1)?);
        let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: `attr` is writable, and initialised by the first call before
        // the others use it; `at` is writable memory for a mutex (see there)
        // that nobody else knows yet.
        unsafe {
            checked(libc::pthread_mutexattr_init(attr.as_mut_ptr()))?;
            checked(libc::pthread_mutexattr_setpshared(
                attr.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            ))?;
            checked(libc::pthread_mutexattr_setrobust(attr.as_mut_ptr(), ROBUST))?;
            checked(libc::pthread_mutex_init(mutex.at(), attr.as_ptr()))?;
            checked(libc::pthread_mutexattr_destroy(attr.as_mut_ptr()))?;
        }
        Ok(mutex)
    }

    /// See [`Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.0.inherited(whether)
    }

    /// See [`Shared::shut`].
    pub fn shut(&self) {
        self.0.shut();
    }

    /// Takes it if it is free.
    ///
    /// # Errors
    /// EDEADLK or ENOTRECOVERABLE: a bug of ours.
    pub fn try_lock(&self) -> Result<bool, Errno> {
        // SAFETY: `new` has initialised it.
        match self.settled(unsafe { libc::pthread_mutex_trylock(self.at()) }) {
            Err(Errno::EBUSY) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Waits for it. A signal with a handler does not end the wait.
    ///
    /// # Errors
    /// As for `try_lock`.
    pub fn lock(&self) -> Result<(), Errno> {
        // SAFETY: `new` has initialised it.
        self.settled(unsafe { libc::pthread_mutex_lock(self.at()) })
    }

    /// Gives it back, to be called by its holder alone.
    pub fn unlock(&self) {
        // SAFETY: `new` has initialised it; a mutex that is robust answers EPERM
        // to anyone but its holder.
        unsafe { libc::pthread_mutex_unlock(self.at()) };
    }

    /// EOWNERDEAD is success: we hold it, and say at once that what it guards is
    /// whole. Should we die before that, the next holder is told the same.
    fn settled(&self, result: libc::c_int) -> Result<(), Errno> {
        if result == libc::EOWNERDEAD {
            // SAFETY: `new` has initialised it, and we hold it.
            return checked(unsafe { libc::pthread_mutex_consistent(self.at()) });
        }
        checked(result)
    }

    fn at(&self) -> *mut libc::pthread_mutex_t {
        const {
            assert!(size_of::<libc::pthread_mutex_t>() <= size_of::<super::shm::Line>());
            assert!(align_of::<libc::pthread_mutex_t>() <= align_of::<super::shm::Line>());
        }
        // A line is made of atomics, so it may be written through a shared
        // reference; nobody reads it as a line.
        std::ptr::from_ref(&self.0[0]).cast_mut().cast()
    }
}

/// pthread functions return their errno.
fn checked(result: libc::c_int) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

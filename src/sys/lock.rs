//! A lock that one process at a time holds, and that the kernel frees when its
//! holder dies, however it dies. Two makes: a record lock and a robust mutex.
//!
//! Both are opened before the fork and used after it. flock(2) would not do:
//! its locks belong to the open file that fork(2) shares, so every child would
//! hold it at once. Knows nothing of what is guarded.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys::memory::Shared;

/// See the module.
pub enum ProcessLock {
    /// A record lock, `fcntl_locking(2)`, on a file without a name. It belongs
    /// to a process and a file, so a descriptor inherited through fork(2) is as
    /// good as one's own; and closing *any* descriptor of that file frees it.
    Record(OwnedFd),
    /// A mutex in shared memory.
    Mutex(RobustMutex),
}

impl ProcessLock {
    /// Makes a record lock.
    ///
    /// # Errors
    /// memfd_create(2)'s and fcntl(2)'s.
    pub fn record() -> Result<Self, Errno> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"echod-accept", flags)?;
        // Nobody who holds it can fill it.
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(ProcessLock::Record(file))
    }

    /// Makes a robust mutex.
    ///
    /// # Errors
    /// [`RobustMutex::new`]'s.
    pub fn mutex() -> Result<Self, Errno> {
        RobustMutex::new().map(ProcessLock::Mutex)
    }

    /// Do children that are forked from now on share it? Who has no turn to take
    /// cannot spoil it.
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        match self {
            ProcessLock::Record(_) => Ok(()),
            ProcessLock::Mutex(mutex) => mutex.inherited(whether),
        }
    }

    /// In a child that has had its last turn, and does not hold it: puts it out of
    /// reach. A file is, once it is closed.
    pub fn shut(&self) {
        match self {
            ProcessLock::Record(_) => {}
            ProcessLock::Mutex(mutex) => mutex.shut(),
        }
    }

    /// The file it is on, where there is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            ProcessLock::Record(file) => Some(file.as_fd()),
            ProcessLock::Mutex(_) => None,
        }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// ENOLCK, or a bug of ours.
    pub fn try_lock(&self) -> Result<bool, Errno> {
        match self {
            ProcessLock::Mutex(mutex) => mutex.try_lock(),
            ProcessLock::Record(file) => {
                match fcntl(file, FcntlArg::F_SETLK(&record(libc::F_WRLCK))) {
                    Ok(_) => Ok(true),
                    Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
                    Err(errno) => Err(errno),
                }
            }
        }
    }

    /// Waits for the lock; only a deadly signal ends the wait.
    ///
    /// # Errors
    /// As for `try_lock`.
    pub fn lock(&self) -> Result<(), Errno> {
        match self {
            ProcessLock::Mutex(mutex) => mutex.lock(),
            ProcessLock::Record(file) => loop {
                match fcntl(file, FcntlArg::F_SETLKW(&record(libc::F_WRLCK))) {
                    Ok(_) => return Ok(()),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            },
        }
    }

    /// Gives it back, to be called by its holder.
    pub fn unlock(&self) {
        match self {
            ProcessLock::Mutex(mutex) => mutex.unlock(),
            ProcessLock::Record(file) => {
                let _ = fcntl(file, FcntlArg::F_SETLK(&record(libc::F_UNLCK)));
            }
        }
    }
}

/// The whole file, however long it may get.
fn record(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

// A mutex between processes that outlives its holder's death: robust and
// process-shared, see `pthread_mutexattr_setrobust(3)`.
//
// The kernel keeps a list of the robust mutexes each thread holds and lets go
// of them when it dies. A child of fork(2) gets its own list from the C
// library, which is why nothing here may be used after `process::fork_bare`.
// Knows nothing of what it guards.

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
            assert!(size_of::<libc::pthread_mutex_t>() <= size_of::<crate::sys::memory::Line>());
            assert!(align_of::<libc::pthread_mutex_t>() <= align_of::<crate::sys::memory::Line>());
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

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill, raise};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

    use super::*;
    use crate::sys::process;

    fn locks() -> [ProcessLock; 2] {
        [
            ProcessLock::record().unwrap(),
            ProcessLock::mutex().unwrap(),
        ]
        .map(|lock| {
            lock.inherited(true).unwrap();
            lock
        })
    }

    fn status(child: impl FnOnce() -> i32) -> WaitStatus {
        waitpid(process::fork(child).unwrap(), None).unwrap()
    }

    #[test]
    fn one_process_at_a_time_holds_it() {
        for lock in locks() {
            assert_eq!(lock.try_lock(), Ok(true));
            let other = status(|| i32::from(lock.try_lock() == Ok(false)));
            assert!(matches!(other, WaitStatus::Exited(_, 1)), "{other:?}");
            lock.unlock();
            let other = status(|| i32::from(lock.try_lock() == Ok(true)));
            assert!(matches!(other, WaitStatus::Exited(_, 1)), "{other:?}");
        }
    }

    #[test]
    fn a_holder_that_is_killed_frees_it_for_a_waiter() {
        for lock in locks() {
            for _ in 0..3 {
                let (held, holds) = nix::unistd::pipe().unwrap();
                let holder = process::fork(|| {
                    let _ = lock.lock();
                    let _ = nix::unistd::write(holds.as_fd(), b"x");
                    loop {
                        let _ = raise(Signal::SIGSTOP);
                    }
                })
                .unwrap();
                nix::unistd::read(&held, &mut [0]).unwrap();
                let waiter = process::fork(|| i32::from(lock.lock().is_err())).unwrap();
                let waits = waitpid(waiter, Some(WaitPidFlag::WNOHANG));
                assert_eq!(waits, Ok(WaitStatus::StillAlive));
                kill(holder, Signal::SIGKILL).unwrap();
                waitpid(holder, None).unwrap();
                // It dies holding it, too: the lock is still good.
                assert_eq!(waitpid(waiter, None), Ok(WaitStatus::Exited(waiter, 0)));
            }
            assert_eq!(lock.lock(), Ok(()));
            lock.unlock();
        }
    }

    #[test]
    fn a_record_lock_is_no_place_to_write_to() {
        let lock = ProcessLock::record().unwrap();
        let file = lock.file().unwrap();
        assert_eq!(nix::unistd::write(file, b"x"), Err(Errno::EPERM));
        assert_eq!(lock.try_lock(), Ok(true));
    }

    #[test]
    fn a_waiter_dies_of_term_and_leaves_the_lock_alone() {
        for lock in locks() {
            lock.lock().unwrap();
            let waiter = process::fork(|| i32::from(lock.lock().is_err())).unwrap();
            kill(waiter, Signal::SIGTERM).unwrap();
            let ended = waitpid(waiter, None).unwrap();
            assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGTERM, _)));
            lock.unlock();
            assert_eq!(lock.try_lock(), Ok(true));
            lock.unlock();
        }
    }
}

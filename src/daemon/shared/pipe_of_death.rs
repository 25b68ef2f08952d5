//! The pipe of death of a generation of workers, and their lock.
//!
//! One pipe a generation, its write end in the supervisor alone: a byte retires
//! one idle worker, end of file (HUP, a stop, or the supervisor's death) all of
//! them. A worker retires itself between connections; nobody is killed for
//! looking idle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::config::Accept;
use crate::error::{Error, Result};
use crate::sys::lock::ProcessLock;
use crate::sys::process;

/// The pipe, and the lock of the workers that watch it.
pub struct PipeOfDeath {
    /// Counts up with each HUP.
    pub number: u32,
    read: OwnedFd,
    write: Option<OwnedFd>,
    retiring: usize,
    lock: Option<ProcessLock>,
}

impl PipeOfDeath {
    /// Opens the pipe of death of generation `number` and, where its workers wait one
    /// at a time, their lock. A lock is not shared with the next generation: the
    /// old workers would stand behind the new one that holds it, and learn only
    /// after it that they are to go.
    ///
    /// # Errors
    /// pipe2(2)'s or the lock's: 71.
    pub fn new(number: u32, accept: Accept) -> Result<Self> {
        let no_lock = |op: &'static str, subject: &'static str| {
            move |errno| Error::os(op, subject, errno).hint("choose another way to accept")
        };
        let lock = match accept {
            Accept::Fcntl => {
                let explain = no_lock("memfd_create", "--accept fcntl");
                Some(ProcessLock::record().map_err(explain)?)
            }
            Accept::Mutex => {
                let explain = no_lock("pthread_mutex_init", "--accept mutex");
                Some(ProcessLock::mutex().map_err(explain)?)
            }
            Accept::Shared | Accept::Pass | Accept::Reuseport => None,
        };
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|errno| Error::os("pipe2", "", errno))?;
        Ok(PipeOfDeath {
            number,
            read,
            write: Some(write),
            retiring: 0,
            lock,
        })
    }

    /// What its workers hold while they wait, where one waits at a time.
    pub fn lock(&self) -> Option<&ProcessLock> {
        self.lock.as_ref()
    }

    /// What its workers watch.
    pub fn watched(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// What a worker must do first, or it would never see the end of file.
    pub fn close_order_end(&self) {
        if let Some(write) = &self.write {
            process::close_inherited(write.as_fd());
        }
    }

    /// Asks all of them to go.
    pub fn end(&mut self) {
        self.write = None;
    }

    /// Asks `n` idle workers to go.
    pub fn retire(&mut self, n: usize) {
        let Some(write) = &self.write else { return };
        if let Ok(written) = nix::unistd::write(write, &[0; 64][..n.min(64)]) {
            self.retiring += written;
        }
    }

    /// An idle worker is gone, obedient or not: if it was not the one that took
    /// the byte, another still will, and the pool makes up for it.
    pub fn one_gone(&mut self) {
        self.retiring = self.retiring.saturating_sub(1);
    }

    /// Idle workers that were asked to go and have not gone yet.
    pub fn retiring(&self) -> usize {
        self.retiring
    }
}

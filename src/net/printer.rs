//! `--print`: a descriptor where what clients send is repeated.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use crate::sys::raw::write;

/// Where the copies go; and whom to tell, once, that they do not arrive.
#[derive(Clone, Copy)]
pub struct Printer<'a> {
    /// Standard output.
    pub to: BorrowedFd<'a>,
    /// Why a copy failed, the first time; 0 if none did.
    pub failed: &'a AtomicU64,
    /// Wakes the supervisor then. Whoever has closed it tells by its end.
    pub waker: BorrowedFd<'a>,
}

impl Printer<'_> {
    /// One write(2), more only if that took a part. What cannot be written there is
    /// not worth a client.
    pub fn print(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match write(self.to, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::EINTR) => {}
                Err(errno) => return self.tell(errno),
            }
        }
    }

    fn tell(&self, errno: Errno) {
        let first = self
            .failed
            .compare_exchange(0, errno as u64, Relaxed, Relaxed);
        if first.is_ok() {
            let _ = write(self.waker, &[0]);
        }
    }
}

impl AsFd for Printer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.to
    }
}

//! The supervisor's wait: ppoll(2) over a list of descriptors kept where
//! fork(2) does not copy it.
//!
//! The list is made anew for each wait, without allocating: a page of the heap
//! that is written between two forks is a page that the next fork makes us copy.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::shm::Pile;

/// Descriptors to wait for.
pub struct Wait(Pile<libc::pollfd>);

impl Wait {
    /// Room for `fds` descriptors.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(fds: usize) -> Result<Self, Errno> {
        Pile::new(
            fds,
            libc::pollfd {
                fd: -1,
                events: 0,
                revents: 0,
            },
        )
        .map(Wait)
    }

    /// Starts the next list.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a descriptor to wait for, or a place for none.
    pub fn add(&mut self, fd: Option<BorrowedFd<'_>>) {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        self.0.push(libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
    }

    /// Sleeps until a descriptor is readable or the time is up; true in the first
    /// case.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> bool {
        let timeout = timeout.map(|left| libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i32::MAX.into()),
            tv_nsec: left.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let fds = self.0.items();
        // SAFETY: the list and the timeout outlive the call; the kernel
        // writes to the list alone. A number that was closed since it was added
        // is answered with POLLNVAL, which the caller takes for an event.
        let ready = unsafe {
            libc::ppoll(
                fds.as_mut_ptr(),
                fds.len() as libc::nfds_t,
                timeout,
                std::ptr::null(),
            )
        };
        ready > 0
    }

    /// Did something come for the descriptor that was added as number `i`? Asked
    /// after a [`Wait::sleep`] that said so.
    pub fn came(&mut self, i: usize) -> bool {
        self.0.items().get(i).is_some_and(|fd| fd.revents != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn says_what_is_readable_and_wakes_when_the_time_is_up() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut wait = Wait::new(2).unwrap();
        for _ in 0..2 {
            wait.clear();
            wait.add(None);
            wait.add(Some(theirs.as_fd()));
            assert!(!wait.sleep(Some(Duration::from_millis(1))));
        }
        ours.write_all(b"x").unwrap();
        assert!(wait.sleep(None));
        assert!(!wait.came(0) && wait.came(1) && !wait.came(2));
    }
}

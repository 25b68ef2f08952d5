//! Two waits for descriptors. The supervisor's is ppoll(2) over a list kept where
//! fork(2) does not copy it; a worker's is epoll(7).
//!
//! The supervisor's list is made anew for each wait, without allocating: a page of the heap
//! that is written between two forks is a page that the next fork makes us copy.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::raw;
use crate::sys::shm::FixedStack;

/// Descriptors to wait for.
pub struct Wait(FixedStack<libc::pollfd>);

impl Wait {
    /// Room for `fds` descriptors.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(fds: usize) -> Result<Self, Errno> {
        FixedStack::new(
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

// epoll(7), as much of it as a worker that waits needs, by the calls of `raw`:
// it is made in a child that was just forked.

/// A list of descriptors to wait for. It is never closed, but with all the rest
/// or by the end of the process.
#[derive(Clone, Copy)]
pub struct Epoll(BorrowedFd<'static>);

const NOTHING: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };

impl Epoll {
    /// An empty one.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub fn new() -> Result<Self, Errno> {
        let fd = raw::epoll_create()?;
        // SAFETY: just made, and no owner will close it: see the type.
        Ok(Epoll(unsafe { BorrowedFd::borrow_raw(fd) }))
    }

    /// Waits for `fd` to become readable, as `number`, which is below 64; if
    /// `alone`, of all epolls that wait for it so, one is woken (EPOLLEXCLUSIVE).
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add(&self, fd: impl AsFd, number: u64, alone: bool) -> Result<(), Errno> {
        let exclusive = if alone { libc::EPOLLEXCLUSIVE } else { 0 };
        let event = libc::epoll_event {
            events: (libc::EPOLLIN | exclusive) as u32,
            u64: number,
        };
        raw::epoll_add(self.0, fd.as_fd(), event)
    }

    /// Waits, for so many milliseconds at most, and says who woke it, of the first
    /// few that did: number n is bit n. Nobody after a signal.
    pub fn wait(&self, limit: Option<u16>) -> u64 {
        let mut events = [NOTHING; 4];
        let came = raw::epoll_wait(self.0, &mut events, limit).unwrap_or(0);
        let numbers = events.iter().take(came).map(|event| event.u64);
        numbers.fold(0, |woken, number| woken | 1 << number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

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

    #[test]
    fn tells_who_woke_it() {
        let (mut one, one_end) = UnixStream::pair().unwrap();
        let (mut two, two_end) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&one_end, 0, true).unwrap();
        epoll.add(&two_end, 1, false).unwrap();
        assert_eq!(epoll.add(&two_end, 1, false), Err(Errno::EEXIST));
        one.write_all(b"x").unwrap();
        assert_eq!(epoll.wait(None), 0b01);
        two.write_all(b"x").unwrap();
        assert_eq!(epoll.wait(None), 0b11);
    }
}

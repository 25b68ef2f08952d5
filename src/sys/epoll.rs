//! epoll(7), as much of it as a worker that waits needs, by the calls of `raw`:
//! it is made in a child that was just forked.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::raw;

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

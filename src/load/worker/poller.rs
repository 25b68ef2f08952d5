//! What a thread waits in: epoll, and what each connection asks of it.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};
use crate::load::slot::Slot;

/// The connections of one thread, each by its number.
pub(super) struct Poller(Epoll);

impl Poller {
    /// One with nothing to wait for.
    ///
    /// # Errors
    /// epoll_create(2)'s.
    pub(super) fn new() -> Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map(Poller)
            .map_err(|errno| Error::os("epoll_create", "", errno))
    }

    /// Asks for what `slot` waits for, if that is not known yet.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub(super) fn arm(&self, slot: &mut Slot, number: usize) -> Result<()> {
        let Some((flags, new)) = slot.interest() else {
            return Ok(());
        };
        let event = EpollEvent::new(flags, number as u64);
        let fd = slot.fd().expect("it has an interest");
        let result = match new {
            true => self.0.add(fd, event),
            false => self.0.modify(fd, &mut event.clone()),
        };
        result.map_err(|errno| Error::os("epoll_ctl", "", errno))
    }

    /// Waits for events for as long as `left`, `exact`ly if something departs
    /// then, and says how many came.
    ///
    /// # Errors
    /// ppoll(2)'s or epoll_wait(2)'s.
    pub(super) fn wait(
        &self,
        events: &mut [EpollEvent],
        left: Duration,
        exact: bool,
    ) -> Result<usize> {
        let mut timeout = EpollTimeout::ZERO;
        if exact && !left.is_zero() {
            // epoll_wait(2) counts in milliseconds, a departure is due to the
            // microsecond.
            let mut fds = [PollFd::new(self.0.0.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::os("ppoll", "", errno)),
            }
        } else if !left.is_zero() {
            let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            timeout = millis.into();
        }
        match self.0.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(Error::os("epoll_wait", "", errno)),
        }
    }
}

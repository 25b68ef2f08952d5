//! What may be tried on a socket. Events are edge-triggered: a flag stays until
//! a short read or EAGAIN clears it, see epoll(7).

use nix::sys::epoll::EpollFlags;

/// What epoll said of one socket, and what it was asked.
#[derive(Default)]
pub(super) struct Readiness {
    /// A read may be tried.
    pub(super) readable: bool,
    /// A write may be tried.
    pub(super) writable: bool,
    /// Nothing more will come after what is there: the end, or an error.
    pub(super) hung_up: bool,
    registered: Option<EpollFlags>,
}

impl Readiness {
    /// Notes what epoll said.
    pub(super) fn event(&mut self, flags: EpollFlags) {
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let ended = over | EpollFlags::EPOLLRDHUP;
        self.readable |= flags.intersects(EpollFlags::EPOLLIN | ended);
        self.writable |= flags.intersects(EpollFlags::EPOLLOUT | over);
        self.hung_up |= flags.intersects(ended);
    }

    /// The events to ask epoll for, if it does not know; true the first time.
    pub(super) fn interest(&mut self) -> Option<(EpollFlags, bool)> {
        let mut want = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        // Only where a write was refused: a Unix socket reports room each time
        // its peer reads.
        if !self.writable {
            want |= EpollFlags::EPOLLOUT;
        }
        let known = self.registered;
        if known.is_some_and(|known| known.contains(want)) {
            return None;
        }
        self.registered = Some(want);
        Some((want, known.is_none()))
    }
}

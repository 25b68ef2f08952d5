//! The terminal of a program in the foreground: is it still there?
//!
//! Its end comes as SIGHUP, from the kernel to its session's leader and to the
//! foreground, and from a shell to its jobs by kill(2): nothing in the signal
//! tells it from one that somebody sends for another reason. So the terminal is
//! asked. A descriptor of it, opened before, has POLLHUP for ever once it is gone;
//! opened afterwards it would only be none.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::termios::tcgetattr;

/// Whose end ends the program.
pub struct Terminal(OwnedFd);

impl Terminal {
    /// The controlling terminal; of a program without one, what its standard
    /// input, output or error is.
    pub fn find() -> Option<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let controlling = open("/dev/tty", flags, Mode::empty()).ok();
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let standard = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let standard = || standard.into_iter().find(IsTerminal::is_terminal);
        controlling
            .or_else(|| standard()?.try_clone_to_owned().ok())
            .map(Terminal)
    }

    /// Has it hung up, or was it closed?
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO).is_ok();
        let hung_up = |events: PollFlags| events.contains(PollFlags::POLLHUP);
        polled && fds[0].revents().is_some_and(hung_up) || tcgetattr(&self.0) == Err(Errno::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_when_its_other_end_is_closed() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal(pair.slave);
        assert!(!terminal.is_gone());
        drop(pair.master);
        assert!(terminal.is_gone());
    }
}

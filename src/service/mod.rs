//! What is done with a connection: a service sees one connection and never a
//! listener, a table or the supervisor.

pub mod command;

pub use command::Command;

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::net::connection::{Connection, End};

/// Serves one connection to its end, in a process that may only read, write and
/// exit, or in one of many threads: no allocation, no log, no lock, no clock.
/// `buffer` is its memory, untouched until now.
pub type Echo = fn(conn: &mut Connection<'_>, buffer: &mut [u8]) -> End;

/// What a listener's clients are served with.
#[derive(Clone, Copy)]
pub enum Service<'a> {
    /// What they send, by [`echo`] or what a test has in its place.
    Echo(Echo),
    /// The output of the command that they name.
    Command(&'a Command),
}

impl Service<'_> {
    /// Before the sandbox shuts: starts the helper of a service that needs more than
    /// a sandbox allows, and returns the way to it. `null` is open on /dev/null.
    ///
    /// # Errors
    /// Why there is no helper; the connection ends by it.
    pub fn helper(self, null: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
        match self {
            Service::Echo(_) => Ok(None),
            Service::Command(command) => command::start_helper(command.allowed(), null).map(Some),
        }
    }

    /// Serves one connection to its end, as [`Echo`] says; `helper` is what
    /// [`Service::helper`] returned.
    pub fn serve(
        self,
        conn: &mut Connection<'_>,
        helper: Option<BorrowedFd<'_>>,
        buffer: &mut [u8],
    ) -> End {
        match self {
            Service::Echo(echo) => echo(conn, buffer),
            Service::Command(command) => command.serve(conn, helper, buffer),
        }
    }
}

/// The echo service of RFC 862, over a stream: what comes is sent back, until the
/// client has finished sending.
pub fn echo(conn: &mut Connection<'_>, buffer: &mut [u8]) -> End {
    // All that has come goes back in one write, from the first byte on: some
    // clients read once for each time they write.
    loop {
        let sent = conn.read(buffer).and_then(|came| conn.write_all(came));
        if let Err(end) = sent {
            return end;
        }
    }
}

/// The services there are, and which of them answers at which listener.
pub struct Services {
    echo: Echo,
    command: Command,
    /// By the listener's index: does it run commands?
    commands_at: Vec<bool>,
}

impl Services {
    /// `commands_at` says for each listener whether it runs commands; the others
    /// have the `echo`.
    pub fn new(echo: Echo, command: Command, commands_at: Vec<bool>) -> Self {
        Services {
            echo,
            command,
            commands_at,
        }
    }

    /// The commands, for datagrams that name one.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// The service of the listener with this index.
    pub fn at(&self, listener: usize) -> Service<'_> {
        match self.commands_at.get(listener) {
            Some(true) => Service::Command(&self.command),
            _ => Service::Echo(self.echo),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connection::Meter;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn what_came_before_the_end_of_file_goes_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || {
            let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
            let meter = Meter {
                received: &received,
                sent: &sent,
            };
            echo(&mut Connection::new(&ours, meter, None), &mut [0; 7])
        });
        let all: Vec<u8> = (0..=255).collect();
        theirs.write_all(&all).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        theirs.read_to_end(&mut back).unwrap();
        assert_eq!(back, all);
        assert_eq!(served.join().unwrap(), End::Eof);
    }
}

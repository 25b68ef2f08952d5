//! What is done with a connection. The set is open, so it is a trait: a
//! service sees one connection and never a listener, a table or the supervisor.

mod command;
mod echo;
pub mod helper;

pub use command::Command;
pub use echo::Echo;

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::net::connection::{Connection, End};

/// Serves one connection to its end.
pub trait Service: Sync {
    /// Before the sandbox shuts, in a process for one connection: a service that
    /// needs more than a sandbox allows starts a helper here, and talks to it by
    /// the descriptor that this returns. `null` is open on /dev/null.
    ///
    /// # Errors
    /// Why there is no helper; the connection ends by it.
    fn helper(&self, _null: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
        Ok(None)
    }

    /// Runs in a process that may only read, write and exit: no allocation, no
    /// log, no lock, no clock; or, an echo, in one of many threads. `buffer` is its
    /// memory, untouched until now, and
    /// `helper` what [`Service::helper`] returned.
    fn serve(
        &self,
        conn: &mut Connection<'_>,
        helper: Option<BorrowedFd<'_>>,
        buffer: &mut [u8],
    ) -> End;
}

/// What answers where no commands are run: the echo, or what a test has in its place.
pub type Plain = &'static dyn Service;

/// The services there are, and which of them answers at which listener.
pub struct Services {
    plain: Plain,
    command: Command,
    /// By the listener's index: does it run commands?
    commands_at: Vec<bool>,
}

impl Services {
    /// `commands_at` says for each listener whether it runs commands; the others
    /// have the `plain` service, an echo.
    pub fn new(plain: Plain, command: Command, commands_at: Vec<bool>) -> Self {
        Services {
            plain,
            command,
            commands_at,
        }
    }

    /// The commands, for datagrams that name one.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// The service of the listener with this index.
    pub fn at(&self, listener: usize) -> &dyn Service {
        match self.commands_at.get(listener) {
            Some(true) => &self.command,
            _ => self.plain,
        }
    }
}

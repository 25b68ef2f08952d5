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

/// One of the services: told apart where it is called and not by a table of
/// functions, which would cost a child a page for the table and one for the echo.
pub enum Dish<'a> {
    /// RFC 862.
    Echo(Echo),
    /// A line names a command.
    Command(&'a Command),
    /// Something else in the place of the echo, as a test has it.
    Other(&'a dyn Service),
}

impl Service for Dish<'_> {
    #[inline(always)]
    fn helper(&self, null: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
        match self {
            Dish::Echo(echo) => echo.helper(null),
            Dish::Command(command) => command.helper(null),
            Dish::Other(other) => other.helper(null),
        }
    }

    #[inline(always)]
    fn serve(
        &self,
        conn: &mut Connection<'_>,
        helper: Option<BorrowedFd<'_>>,
        buffer: &mut [u8],
    ) -> End {
        match self {
            Dish::Echo(echo) => echo.serve(conn, helper, buffer),
            Dish::Command(command) => command.serve(conn, helper, buffer),
            Dish::Other(other) => other.serve(conn, helper, buffer),
        }
    }
}

/// What answers in the place of the echo, if something does: a test's service.
pub type Plain = Option<&'static dyn Service>;

/// The services there are, and which of them answers at which listener.
pub struct Menu {
    /// In the place of the echo.
    plain: Plain,
    command: Command,
    /// By the listener's index: does it run commands?
    commands_at: Vec<bool>,
}

impl Menu {
    /// `commands_at` says for each listener whether it runs commands; the others
    /// have the `plain` service, an echo.
    pub fn new(plain: Plain, command: Command, commands_at: Vec<bool>) -> Self {
        Menu {
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
    #[inline(always)]
    pub fn at(&self, listener: usize) -> Dish<'_> {
        match self.commands_at.get(listener) {
            Some(true) => Dish::Command(&self.command),
            _ => match self.plain {
                None => Dish::Echo(Echo),
                Some(other) => Dish::Other(other),
            },
        }
    }
}

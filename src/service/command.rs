//! The command service: a line names a command of the operator's table, and its
//! output comes back.
//!
//! The process that reads the line is in the same sandbox as one that echoes.
//! It compares bytes, and all it can say to the outside is the number of a
//! command, in one byte, to the helper beside it ([`start_helper`]). Nothing of what a
//! client sends becomes an argument, a path or a variable: there is nobody to hand it to.
//!
//! The helper runs one command of the table, and ends it. It never meets a client: one
//! byte comes from the process that does, and any that is no command's number ends it.
//! It holds a socket to that process and nothing else, so it learns at once when that
//! process is gone. Whatever happens, it leaves no process of the command behind: not
//! one that is still running, not one that the command started and left.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::config::{Allowed, LONGEST_NAME, MOST};
use crate::error::errno_text;
use crate::net::connection::{Connection, End};
use crate::sys::process::{self, Caps, Waited};
use crate::sys::{raw, signal};

/// Bytes of output that a client gets at most.
pub const OUTPUT: usize = 1 << 20;
/// Bytes read in search of the end of a line that is too long already: what is
/// unread at the end would turn our FIN into a reset.
const PATIENCE: usize = 64 * 1024;

/// The table, and what can be said to a client. All made before the first fork:
/// in the sandbox nothing is allocated.
pub struct Command {
    commands: Vec<Allowed>,
    unknown: Vec<u8>,
    cut: [Vec<u8>; 2],
}

/// What a client's line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// A whole line, without its end.
    Whole(&'a [u8]),
    /// Longer than any name.
    TooLong,
    /// Not yet known.
    Unfinished,
}

impl Command {
    /// A service of these commands, at most [`MOST`].
    pub fn new(commands: Vec<Allowed>) -> Self {
        debug_assert!(commands.len() <= MOST);
        let names: Vec<_> = commands.iter().map(|c| c.name.as_str()).collect();
        let unknown = format!("unknown command; allowed: {}\n", names.join(" "));
        let cut = format!("output cut after {OUTPUT} bytes\n");
        Command {
            commands,
            unknown: unknown.into_bytes(),
            cut: [cut.clone().into_bytes(), format!("\n{cut}").into_bytes()],
        }
    }

    /// The number of the command with exactly this name.
    fn choose(&self, name: &[u8]) -> Option<u8> {
        let found = self.commands.iter().position(|c| c.name.as_bytes() == name);
        found.and_then(|number| u8::try_from(number).ok())
    }

    /// The number of the command that a datagram names: by its first line, which
    /// its end ends too.
    ///
    /// # Errors
    /// What its sender is told if it names none.
    pub fn named_in(&self, datagram: &[u8]) -> Result<u8, &[u8]> {
        let (name, _) = first_line(datagram);
        self.choose(name).ok_or(&self.unknown)
    }

    /// The table.
    pub fn allowed(&self) -> &[Allowed] {
        &self.commands
    }

    /// Reads the client's line; a client that ends its side has ended its line.
    fn asked(&self, conn: &mut Connection<'_>, buffer: &mut [u8]) -> Result<Option<u8>, End> {
        let mut kept = [0; LONGEST_NAME + 2];
        let mut len = 0;
        let mut read = 0;
        while read < PATIENCE {
            let (came, ended) = match conn.read(buffer) {
                Ok(came) => (came, came.contains(&b'\n')),
                Err(End::Eof) if len > 0 => (&b"\n"[..], true),
                Err(end) => return Err(end),
            };
            read += came.len();
            let room = came.len().min(kept.len() - len);
            kept[len..len + room].copy_from_slice(&came[..room]);
            len += room;
            if ended {
                break;
            }
        }
        match line(&kept[..len]) {
            Line::Whole(name) => Ok(self.choose(name)),
            Line::TooLong | Line::Unfinished => Ok(None),
        }
    }

    /// Passes the output on, up to the cap.
    fn relay(
        &self,
        conn: &mut Connection<'_>,
        helper: BorrowedFd<'_>,
        buffer: &mut [u8],
    ) -> Result<(), End> {
        let mut left = OUTPUT;
        loop {
            let n = match raw::read(helper, buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(Errno::EINTR) => continue,
                // The helper ends a command long before this timeout.
                Err(Errno::EAGAIN) => return Err(End::Error(Errno::ETIMEDOUT)),
                Err(errno) => return Err(End::Error(errno)),
            };
            if n > left {
                conn.write_all(&buffer[..left])?;
                let in_line = left > 0 && buffer[left - 1] != b'\n';
                return conn.write_all(&self.cut[usize::from(in_line)]);
            }
            conn.write_all(&buffer[..n])?;
            left -= n;
        }
    }

    /// Serves one connection, beside this helper.
    pub fn serve(
        &self,
        conn: &mut Connection<'_>,
        helper: Option<BorrowedFd<'_>>,
        buffer: &mut [u8],
    ) -> End {
        let Some(helper) = helper else {
            return End::Error(Errno::ENOTCONN);
        };
        match self.answer(conn, helper, buffer) {
            Ok(()) => End::Eof,
            Err(end) => end,
        }
    }

    fn answer(
        &self,
        conn: &mut Connection<'_>,
        helper: BorrowedFd<'_>,
        buffer: &mut [u8],
    ) -> Result<(), End> {
        match self.asked(conn, buffer)? {
            None => conn.write_all(&self.unknown),
            Some(number) => {
                raw::write(helper, &[number]).map_err(End::Error)?;
                self.relay(conn, helper, buffer)
            }
        }
    }
}

/// The first line of what has come, and whether its end has. A carriage return
/// before that is not part of it, for telnet(1) sends one.
fn first_line(came: &[u8]) -> (&[u8], bool) {
    let end = came.iter().position(|&b| b == b'\n');
    let text = &came[..end.unwrap_or(came.len())];
    (text.strip_suffix(b"\r").unwrap_or(text), end.is_some())
}

fn line(came: &[u8]) -> Line<'_> {
    match first_line(came) {
        (name, _) if name.len() > LONGEST_NAME => Line::TooLong,
        (name, true) => Line::Whole(name),
        (_, false) => Line::Unfinished,
    }
}

// The helper.

/// How long a command may take, by the clock on the wall.
pub const WALL: Duration = Duration::from_secs(10);
/// How much longer the sandboxed process waits, should the helper be killed while
/// something keeps the command's output open.
const GRACE: Duration = Duration::from_secs(5);
/// What a command may use.
const CAPS: Caps = Caps {
    cpu_seconds: 10,
    memory: 512 << 20,
    files: 64,
};

/// Starts the helper; what is returned is the way to it. One byte out is a
/// command's number, what comes in is its output, and the end of file is its
/// end.
///
/// # Errors
/// socketpair(2)'s, setsockopt(2)'s and fork(2)'s.
pub fn start_helper(commands: &[Allowed], null: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    let patience = (WALL + GRACE).as_secs().try_into().unwrap_or(i64::MAX);
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(patience, 0))?;
    // In the sandbox nobody can be waited for.
    signal::let_kernel_discard_children()?;
    process::fork(|| attend(commands, theirs.as_fd(), null))?;
    Ok(ours)
}

fn attend(commands: &[Allowed], sandboxed: BorrowedFd<'_>, null: BorrowedFd<'_>) -> ! {
    // Deaf again to what its worker hears, whose handlers it has.
    signal::become_worker();
    process::set_name(process::COMMAND);
    raw::default_signal(nix::libc::SIGCHLD);
    process::adopt_orphans();
    let mut keep = [sandboxed, null];
    keep.sort_unstable_by_key(AsRawFd::as_raw_fd);
    process::keep_only(keep);
    let command = order(sandboxed).and_then(|number| commands.get(usize::from(number)));
    if let Some(command) = command {
        attend_to(command, sandboxed, null);
    }
    process::exit(0)
}

/// Waits for the number of a command; `None` if the other side left without.
pub fn order(sandboxed: BorrowedFd<'_>) -> Option<u8> {
    let mut number = [0];
    loop {
        match raw::read(sandboxed, &mut number) {
            Ok(1) => return Some(number[0]),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

fn attend_to(command: &Allowed, sandboxed: BorrowedFd<'_>, null: BorrowedFd<'_>) {
    // The command's output is no way for the other side to talk to the command.
    let _ = shutdown(sandboxed.as_raw_fd(), Shutdown::Read);
    let us = Pid::this();
    let run = || {
        let (program, argv) = (&command.program, &command.argv);
        let errno = process::run(program, argv, null, sandboxed, us, &CAPS);
        say(
            sandboxed,
            &format!("cannot run it: {}\n", errno_text(errno)),
        );
        127
    };
    match process::fork(run) {
        Err(errno) => say(
            sandboxed,
            &format!("cannot run it: {}\n", errno_text(errno)),
        ),
        Ok(pid) => {
            let waited = process::wait_for(pid, sandboxed, Instant::now() + WALL);
            process::end_all_of(pid);
            if waited == Waited::TooLong {
                // Where the command's own last line ended is not known here.
                say(sandboxed, &format!("\nstopped after {WALL:?}\n"));
            }
        }
    }
    // A process that got away would keep the output open.
    let _ = shutdown(sandboxed.as_raw_fd(), Shutdown::Both);
}

fn say(to: BorrowedFd<'_>, text: &str) {
    let _ = raw::write(to, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_ends() {
        let longest = [b'n'; LONGEST_NAME];
        let with = |end: &[u8]| [&longest[..], end].concat();
        for (came, expected) in [
            (&b"date\n"[..], Line::Whole(b"date")),
            (b"date\r\n", Line::Whole(b"date")),
            (b"date\r\r\n", Line::Whole(b"date\r")),
            (b"date\nrm\n", Line::Whole(b"date")),
            (b"\n", Line::Whole(b"")),
            (b"\r\n", Line::Whole(b"")),
            (b" date \n", Line::Whole(b" date ")),
            (b"da\0te\n", Line::Whole(b"da\0te")),
            (b"date", Line::Unfinished),
            (b"", Line::Unfinished),
            (&with(b"\n"), Line::Whole(&longest)),
            (&with(b"\r\n"), Line::Whole(&longest)),
            (&with(b""), Line::Unfinished),
            (&with(b"n\n"), Line::TooLong),
            (&with(b"nn"), Line::TooLong),
        ] {
            assert_eq!(
                line(came),
                expected,
                "{:?}",
                came.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn only_the_very_name_chooses() {
        let commands = ["date=/bin/date", "dat=/bin/x", "DATE=/bin/y"];
        let service = Command::new(commands.iter().map(|c| c.parse().unwrap()).collect());
        for (name, expected) in [
            (&b"date"[..], Some(0)),
            (b"dat", Some(1)),
            (b"DATE", Some(2)),
            (b"Date", None),
            (b"da", None),
            (b"date ", None),
            (b" date", None),
            (b"date\0", None),
            (b"date;date", None),
            (b"/bin/date", None),
            (b"date=/bin/date", None),
            (b"", None),
        ] {
            assert_eq!(service.choose(name), expected, "{name:?}");
            // In a datagram, with and without an end, and with padding.
            for after in [&b""[..], b"\n", b"\r\n", b"\n        ", b"\ndate\n"] {
                let datagram = [name, after].concat();
                let named = service.named_in(&datagram);
                assert_eq!(named.ok(), expected, "{}", datagram.escape_ascii());
            }
        }
        assert_eq!(
            service.unknown,
            b"unknown command; allowed: date dat DATE\n"
        );
    }
}

//! One stream connection of a conversation: both directions at once.
//!
//! One poll loop moves input to the server and the echo to standard output,
//! never waiting for one of them, so a server that answers only at the end, or
//! a reader that is slow, is no deadlock. What arrives is compared with the
//! [`Ledger`]. [`Pipe`] outlives the connection: input that was read and not
//! sent goes to the next one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{read, write};

use crate::client::dial::Link;
use crate::client::ledger::{Difference, Ledger};
use crate::client::wait::{Waiter, Woken};
use crate::error::{Error, Exit, Result};

/// What a terminal shows when it waits for a line.
const PROMPT: &[u8] = b"> ";

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The input ended, and all came back.
    Done,
    /// Something else came back.
    Differs(Difference),
    /// The server ended its side before all was back, or before the input
    /// ended.
    Closed,
    /// Nothing moved for too long, though something was out.
    Silent,
    /// The connection broke.
    Broken(Errno),
}

/// How to converse.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Compare what comes back.
    pub verify: bool,
    /// Show a prompt.
    pub prompt: bool,
    /// How long to wait for the server's end of file when all is back.
    pub patience: Duration,
    /// How long the server may do nothing while something is out.
    pub silence: Option<Duration>,
}

/// The conversation so far.
pub struct Pipe {
    manner: Manner,
    ledger: Ledger,
    output: Output,
    to_server: Buffer,
    to_output: Buffer,
    input_ended: bool,
    prompt_due: bool,
    /// What is on the terminal ends in a newline.
    at_margin: bool,
    /// Something came back on this connection.
    heard: bool,
}

/// What one connection has come to.
#[derive(Default)]
struct Line {
    half_closed: Option<Instant>,
    /// When something was sent or came, or there was nothing to wait for.
    moved: Option<Instant>,
    /// The server takes no more.
    deaf: Option<Errno>,
    /// The server's side is over.
    ended: Option<Result<(), Errno>>,
}

impl Pipe {
    /// Nothing has been said.
    pub fn new(manner: Manner) -> Self {
        Pipe {
            manner,
            ledger: Ledger::default(),
            output: Output::stdout(),
            to_server: Buffer::default(),
            to_output: Buffer::default(),
            input_ended: false,
            prompt_due: true,
            at_margin: true,
            heard: false,
        }
    }

    /// What was sent and came back.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether anything came back on the last connection.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Whether there is nothing more to send.
    pub fn input_ended(&self) -> bool {
        self.input_ended && self.to_server.is_empty()
    }

    /// Goes on without comparing.
    pub fn stop_verifying(&mut self) {
        self.manner.verify = false;
        self.ledger.give_up();
    }

    /// Shows the prompt again, as after a notice.
    pub fn prompt_again(&mut self) {
        self.prompt_due = true;
        self.at_margin = true;
    }

    /// Converses over `link` until that is over.
    ///
    /// # Errors
    /// Standard input cannot be read or standard output not written (74).
    pub fn run(&mut self, link: &Link, waiter: &Waiter) -> Result<End> {
        let mut line = Line::default();
        self.heard = false;
        loop {
            self.prompt();
            if !self.waiting(&line) {
                line.moved = None;
            }
            line.moved.get_or_insert_with(Instant::now);
            if let Some(end) = self.end(&mut line)? {
                return Ok(end);
            }
            if self.input_ended() && line.half_closed.is_none() && line.deaf.is_none() {
                line.half_closed = Some(Instant::now());
                // That it is gone already shows when we read.
                let _ = link.half_close();
            }
            let ready = self.wait(link, &line, waiter)?;
            if self.silent(&line) && !ready.arrived && !ready.sendable {
                return Ok(End::Silent);
            }
            if ready.output {
                self.flush()?;
            }
            if ready.arrived
                && let Some(difference) = self.receive(link, &mut line)
            {
                self.flush_all(waiter)?;
                return Ok(End::Differs(difference));
            }
            if ready.input {
                self.read_input()?;
            }
            if ready.input || ready.sendable {
                self.send(link, &mut line);
            }
        }
    }

    /// Is it over, now that all that came is on standard output?
    fn end(&mut self, line: &mut Line) -> Result<Option<End>> {
        if !self.to_output.is_empty() {
            return Ok(None);
        }
        let all_back = !self.manner.verify || self.ledger.missing() == 0;
        Ok(match line.ended {
            Some(Err(errno)) => Some(End::Broken(errno)),
            Some(Ok(())) if !self.manner.verify => Some(End::Done),
            Some(Ok(())) if all_back && self.to_server.is_empty() && self.ends_now()? => {
                Some(End::Done)
            }
            // What broke tells more than the end of file after it.
            Some(Ok(())) => Some(line.deaf.map_or(End::Closed, End::Broken)),
            None if self.overdue(line) => Some(End::Done),
            None => None,
        })
    }

    /// A server may close when it has all it knows will come; the input may
    /// have ended too, unread.
    fn ends_now(&mut self) -> Result<bool> {
        if !self.input_ended {
            let stdin = io::stdin();
            let now = Some(Instant::now());
            if Waiter::steady().one(stdin.as_fd(), PollFlags::POLLIN, now)? == Woken::Ready {
                self.read_input()?;
            }
        }
        Ok(self.input_ended())
    }

    fn read_input(&mut self) -> Result<()> {
        let stdin = io::stdin();
        let len = match read(&stdin, self.to_server.refill()) {
            // A terminal that is gone reads as EIO: its user is too.
            Ok(0) | Err(Errno::EIO) => {
                self.input_ended = true;
                if self.manner.prompt && !self.at_margin {
                    self.to_output.add(b"\n");
                }
                0
            }
            Ok(len) => len,
            Err(Errno::EINTR | Errno::EAGAIN) => 0,
            Err(errno) => {
                let error = Error::os("read", "standard input", errno);
                return Err(error.exit(Exit::Io));
            }
        };
        self.to_server.filled(len);
        if len > 0 {
            self.prompt_due = self.manner.verify;
            // The terminal itself has shown the line and its newline.
            self.at_margin = self.to_server.left().ends_with(b"\n");
        }
        Ok(())
    }

    fn send(&mut self, link: &Link, line: &mut Line) {
        while !self.to_server.is_empty() {
            match write(link, self.to_server.left()) {
                Ok(len) => {
                    line.moved = None;
                    if self.manner.verify {
                        self.ledger.sent(&self.to_server.left()[..len]);
                    }
                    self.to_server.took(len);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // What it sent before it went is still to be read.
                    line.deaf = Some(errno);
                    return;
                }
            }
        }
    }

    /// Takes what came; only when there is nothing left to write out.
    fn receive(&mut self, link: &Link, line: &mut Line) -> Option<Difference> {
        let len = match read(link, self.to_output.refill()) {
            Ok(0) => {
                line.ended = Some(Ok(()));
                0
            }
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => {
                line.ended = Some(Err(errno));
                0
            }
        };
        self.to_output.filled(len);
        if len == 0 {
            return None;
        }
        self.heard = true;
        line.moved = None;
        self.at_margin = self.to_output.left().ends_with(b"\n");
        if !self.manner.verify {
            self.prompt_due |= self.at_margin;
            return None;
        }
        self.ledger.back(self.to_output.left()).err()
    }

    fn flush(&mut self) -> Result<()> {
        let len = self.output.write(self.to_output.left())?;
        self.to_output.took(len);
        Ok(())
    }

    fn flush_all(&mut self, waiter: &Waiter) -> Result<()> {
        while !self.to_output.is_empty() {
            waiter.one(self.output.as_fd(), PollFlags::POLLOUT, None)?;
            self.flush()?;
        }
        Ok(())
    }

    /// The prompt comes when the echo of the last line is there; where nobody
    /// knows what the answer is, after each line of it.
    fn prompt(&mut self) {
        let due = self.manner.prompt && self.prompt_due && !self.input_ended;
        let quiet = self.to_server.is_empty() && self.to_output.is_empty();
        let answered = self.ledger.missing() == 0;
        if due && quiet && answered && (self.manner.verify || self.at_margin) {
            self.prompt_due = false;
            if !self.at_margin {
                self.to_output.add(b"\n");
            }
            self.to_output.add(PROMPT);
            self.at_margin = false;
        }
    }
}

// What a conversation waits for on its three descriptors, and which are ready.

/// What may be tried now.
struct Ready {
    /// Standard input has something, or its end.
    input: bool,
    /// Standard output takes something.
    output: bool,
    /// The server sent something, or its end.
    arrived: bool,
    /// The server takes something.
    sendable: bool,
}

impl Pipe {
    /// Waits until one of them is ready, or a server's patience is over.
    fn wait(&self, link: &Link, line: &Line, waiter: &Waiter) -> Result<Ready> {
        let stdin = io::stdin();
        let mut fds = Vec::with_capacity(3);
        let input = !self.input_ended && self.to_server.is_empty() && line.deaf.is_none();
        if input {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let output = !self.to_output.is_empty();
        if output {
            fds.push(PollFd::new(self.output.as_fd(), PollFlags::POLLOUT));
        }
        // Without an event asked for, a broken connection would still wake us,
        // again and again: poll(2).
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, !output && line.ended.is_none());
        let sendable = !self.to_server.is_empty() && line.deaf.is_none() && line.ended.is_none();
        wanted.set(PollFlags::POLLOUT, sendable);
        if !wanted.is_empty() {
            fds.push(PollFd::new(link.as_fd(), wanted));
        }
        let all_back = self.manner.verify && self.ledger.missing() == 0;
        let last = line.half_closed.filter(|_| all_back && !output);
        let last = last.map(|at| at + self.manner.patience);
        let until = [last, self.silence_ends(line)].into_iter().flatten().min();
        waiter.wait(&mut fds, until)?;
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next = |present: bool| {
            present
                .then(|| events.next())
                .flatten()
                .unwrap_or(PollFlags::empty())
        };
        let (input, output, link) = (next(input), next(output), next(!wanted.is_empty()));
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let arrived = PollFlags::POLLIN | broken;
        Ok(Ready {
            input: !input.is_empty(),
            output: !output.is_empty(),
            arrived: wanted.contains(PollFlags::POLLIN) && link.intersects(arrived),
            sendable: sendable && link.intersects(PollFlags::POLLOUT | broken),
        })
    }

    /// Is it the server's turn? What it sent and nobody took is not.
    fn waiting(&self, line: &Line) -> bool {
        let out = match self.manner.verify {
            true => self.ledger.missing() > 0,
            false => line.half_closed.is_some(),
        };
        let theirs = out || (!self.to_server.is_empty() && line.deaf.is_none());
        theirs && self.to_output.is_empty() && line.ended.is_none()
    }

    fn silence_ends(&self, line: &Line) -> Option<Instant> {
        let silence = self.manner.silence.filter(|_| self.waiting(line))?;
        Some(line.moved? + silence)
    }

    /// Has it done nothing for too long?
    fn silent(&self, line: &Line) -> bool {
        let end = self.silence_ends(line);
        end.is_some_and(|end| Instant::now() >= end)
    }

    /// A server that never ends its side is waited for no longer than that.
    fn overdue(&self, line: &Line) -> bool {
        self.manner.verify
            && self.ledger.missing() == 0
            && line
                .half_closed
                .is_some_and(|at| at.elapsed() >= self.manner.patience)
    }
}

// Bytes on their way to one place, one read at a time. Pure.

/// Bytes moved at once.
const CHUNK: usize = 128 << 10;
/// Bytes on their way to one place.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    done: usize,
}

impl Buffer {
    /// What is still to go.
    fn left(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    /// Nothing is.
    fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Makes room for what is read next; only when it is empty.
    fn refill(&mut self) -> &mut [u8] {
        self.bytes.resize(CHUNK, 0);
        self.done = 0;
        &mut self.bytes
    }

    /// So much of the room was filled.
    fn filled(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.done = 0;
    }

    /// So much of what is left has gone.
    fn took(&mut self, len: usize) {
        self.done += len;
    }

    /// Puts a little text behind what is left.
    fn add(&mut self, text: &[u8]) {
        if self.is_empty() {
            self.filled(0);
        }
        self.bytes.extend_from_slice(text);
    }
}

// Standard output that never blocks the other direction.
//
// poll(2) calls a pipe writable when one page fits, and a longer write to it
// blocks. Its flags belong to everybody who has it open (`open(2)`), so it is
// opened a second time through /proc, which gives flags of our own. A socket
// is asked not to wait with each call; a file or a terminal is written as is.

/// What a writable pipe takes without blocking, `PIPE_BUF` of pipe(7).
const PAGE: usize = 4096;

/// Where the echo goes.
pub struct Output {
    stdout: io::Stdout,
    kind: Kind,
}

enum Kind {
    /// A pipe with flags of our own.
    Pipe(OwnedFd),
    /// A pipe that could not be opened again.
    Paged,
    Socket,
    Plain,
}

impl Output {
    /// Standard output as it is.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let mode = fstat(&stdout).map(|stat| SFlag::from_bits_truncate(stat.st_mode));
        let kind = match mode.unwrap_or(SFlag::empty()) & SFlag::S_IFMT {
            SFlag::S_IFIFO => {
                let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                open("/proc/self/fd/1", flags, Mode::empty()).map_or(Kind::Paged, Kind::Pipe)
            }
            SFlag::S_IFSOCK => Kind::Socket,
            _ => Kind::Plain,
        };
        Output { stdout, kind }
    }

    /// Writes as much as fits now; 0 if nothing does.
    ///
    /// # Errors
    /// Nobody reads it, the disk is full (74).
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        let written = match &self.kind {
            Kind::Pipe(fd) => write(fd, bytes),
            Kind::Paged => write(&self.stdout, &bytes[..bytes.len().min(PAGE)]),
            Kind::Socket => send(self.stdout.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT),
            Kind::Plain => write(&self.stdout, bytes),
        };
        match written {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            written => {
                written.map_err(|errno| Error::os("write", "standard output", errno).exit(Exit::Io))
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Pipe(fd) => fd.as_fd(),
            _ => self.stdout.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_goes_out_in_pieces() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.refill()[..5].copy_from_slice(b"hello");
        buffer.filled(5);
        buffer.took(2);
        assert_eq!(buffer.left(), b"llo");
        buffer.add(b"!");
        buffer.took(4);
        assert!(buffer.is_empty());
        buffer.add(b"> ");
        assert_eq!(buffer.left(), b"> ");
    }
}

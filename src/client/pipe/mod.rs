//! One stream connection of a conversation: both directions at once.
//!
//! One poll loop moves input to the server and the echo to standard output,
//! never waiting for one of them, so a server that answers only at the end, or
//! a reader that is slow, is no deadlock. What arrives is compared with the
//! [`Ledger`]. [`Pipe`] outlives the connection: input that was read and not
//! sent goes to the next one.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use super::buffer::Buffer;
use super::dial::Link;
use super::ledger::{Difference, Ledger};
use super::output::Output;
use super::wait::{Waiter, Woken};
use crate::error::{Error, Exit, Result};

mod ready;

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

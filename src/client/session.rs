//! A conversation over a stream: connects, converses, connects again, and says what
//! was lost. Datagrams, which have no connection, are [`super::datagram`]'s.
//!
//! Over one connection a poll loop moves input to the server and the echo to standard
//! output, never waiting for one of them, so a server that answers only at the end, or
//! a reader that is slow, is no deadlock. What arrives is compared with a `Ledger` of
//! what is out. The `Pipe` outlives the connection: input that was read and not
//! sent goes to the next one.
//!
//! An echo server keeps little, so what is outstanding is kept byte for byte.
//! One that answers only at the end may hold gigabytes: beyond a bound, only a
//! checksum of each block is kept, and a difference is known to a block. The ledger
//! is pure; it knows no socket.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{read, write};

use crate::client::dial::{Attempts, Dialer, Link};
use crate::client::wait::{Waiter, Woken};
use crate::client::{Talk, count, datagram, notice};
use crate::error::{Error, Exit, Result, errno_text};

/// Holds the conversation to its end, and returns how it ended.
///
/// # Errors
/// The server cannot be reached (69); input, output or the system fail.
pub fn run(talk: &Talk) -> Result<Exit> {
    if talk.server.is_datagram() {
        return datagram::run(talk);
    }
    let waiter = Waiter::steady();
    let mut session = Session {
        talk,
        waiter: &waiter,
        dialer: Dialer::new(&talk.server, &waiter),
        attempts: Attempts::new(talk.retry),
        pipe: Pipe::new(Manner {
            verify: talk.verify,
            prompt: talk.prompt,
            patience: talk.timeout,
            silence: talk.silence,
        }),
        differs: false,
        times: 0,
    };
    loop {
        let link = session.connect()?;
        let end = session.converse(&link)?;
        drop(link);
        if let Some(status) = session.over(end)? {
            return Ok(status);
        }
    }
}

struct Session<'a> {
    talk: &'a Talk,
    waiter: &'a Waiter,
    dialer: Dialer<'a>,
    attempts: Attempts,
    pipe: Pipe,
    differs: bool,
    times: u64,
}

impl Session<'_> {
    fn connect(&mut self) -> Result<Link> {
        let talk = self.talk;
        let link = talk.connect(&mut self.dialer, &mut self.attempts, self.waiter)?;
        match self.times {
            0 if talk.terminal => talk.say(format_args!("connected to {}; ^D ends", talk.server)),
            0 => {}
            _ => talk.say(format_args!("connected again to {}", talk.server)),
        }
        self.times += 1;
        self.pipe.prompt_again();
        Ok(link)
    }

    /// Until the connection is over; a wrong byte alone does not end it in a
    /// terminal.
    fn converse(&mut self, link: &Link) -> Result<End> {
        loop {
            let end = self.pipe.run(link, self.waiter)?;
            if self.pipe.heard() {
                self.attempts.succeeded();
            }
            let End::Differs(difference) = end else {
                return Ok(end);
            };
            notice(format_args!(
                "the echo of {} {difference}",
                self.talk.server
            ));
            self.differs = true;
            if !self.talk.terminal {
                return Ok(end);
            }
            notice("what follows is not compared");
            self.pipe.stop_verifying();
            self.pipe.prompt_again();
        }
    }

    /// The status to leave with, unless there is to be another connection.
    fn over(&mut self, end: End) -> Result<Option<Exit>> {
        let server = &self.talk.server;
        let what = match end {
            End::Done => return Ok(Some(self.status())),
            End::Differs(_) => return Ok(Some(Exit::Mismatch)),
            End::Closed => format!("{server} closed the connection"),
            End::Silent => format!(
                "no answer from {server} within {:?}",
                self.talk.silence.unwrap_or_default()
            ),
            End::Broken(errno) => format!("connection to {server}: {}", errno_text(errno)),
        };
        let (lost, from) = self.pipe.ledger().give_up();
        let of = self.pipe.ledger().total();
        let lost_bytes = count(lost, "byte");
        let lost_text = match lost {
            _ if !self.talk.verify => String::new(),
            0 => ": nothing was lost".to_owned(),
            _ => format!(": {lost_bytes} of {of} from offset {from} had not come back"),
        };
        let mut line = format!("{what}{lost_text}");
        if !self.pipe.input_ended() && self.attempts.any() {
            notice(&line);
            return self.again(what).map(|()| None);
        }
        if !self.pipe.input_ended() && lost == 0 {
            line += ", but the input had not ended";
        }
        notice(line);
        Ok(Some(match end {
            End::Closed if lost > 0 => Exit::Mismatch,
            _ => Exit::Io,
        }))
    }

    /// A connection that served is made again at once; one over which nothing
    /// came back is a failed attempt.
    fn again(&mut self, what: String) -> Result<()> {
        if self.pipe.heard() {
            return Ok(());
        }
        let Some(again) = self.attempts.failed() else {
            let error = Error::usage(what, "nothing came back on any connection");
            return Err(error.exit(Exit::Unavailable));
        };
        self.talk.say(again);
        self.waiter.pause(again.pause).map(drop)
    }

    fn status(&mut self) -> Exit {
        match self.differs || !self.pipe.ledger().whole() {
            true => Exit::Mismatch,
            false => Exit::Ok,
        }
    }
}

// One connection: both directions at once.

/// What a terminal shows when it waits for a line.
const PROMPT: &[u8] = b"> ";

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
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
struct Manner {
    /// Compare what comes back.
    verify: bool,
    /// Show a prompt.
    prompt: bool,
    /// How long to wait for the server's end of file when all is back.
    patience: Duration,
    /// How long the server may do nothing while something is out.
    silence: Option<Duration>,
}

/// The conversation so far.
struct Pipe {
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
    fn new(manner: Manner) -> Self {
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
    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether anything came back on the last connection.
    fn heard(&self) -> bool {
        self.heard
    }

    /// Whether there is nothing more to send.
    fn input_ended(&self) -> bool {
        self.input_ended && self.to_server.is_empty()
    }

    /// Goes on without comparing.
    fn stop_verifying(&mut self) {
        self.manner.verify = false;
        self.ledger.give_up();
    }

    /// Shows the prompt again, as after a notice.
    fn prompt_again(&mut self) {
        self.prompt_due = true;
        self.at_margin = true;
    }

    /// Converses over `link` until that is over.
    ///
    /// # Errors
    /// Standard input cannot be read or standard output not written (74).
    fn run(&mut self, link: &Link, waiter: &Waiter) -> Result<End> {
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
struct Output {
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
    fn stdout() -> Self {
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
    fn write(&self, bytes: &[u8]) -> Result<usize> {
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

// What was sent and has not come back.

/// Outstanding bytes that are kept as they are.
const EXACT: usize = 64 << 20;
/// Bytes that share a checksum.
const BLOCK: u64 = 64 << 10;

/// The bytes that are out.
#[derive(Debug)]
struct Ledger {
    exact: VecDeque<u8>,
    /// What was sent after `exact`; while there is any, all that is sent
    /// follows here.
    blocks: VecDeque<Digest>,
    /// What came back of the first block.
    coming: Digest,
    sent: u64,
    back: u64,
    lost: u64,
    most: usize,
}

/// Bytes known by number and checksum (FNV-1a, 64 bits).
#[derive(Clone, Copy, Debug)]
struct Digest {
    len: u64,
    hash: u64,
}

impl Digest {
    const EMPTY: Digest = Digest {
        len: 0,
        hash: 0xcbf2_9ce4_8422_2325,
    };

    fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What came back is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// The byte at this offset, counted from 0, is another.
    Byte { at: u64, sent: u8, got: u8 },
    /// One of so many bytes from this offset on is another.
    Within { at: u64, bytes: u64 },
    /// More came than was sent; the first is at this offset.
    Extra { at: u64 },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Byte { at, sent, got } => write!(
                f,
                "differs at offset {at}: sent 0x{sent:02x}, got 0x{got:02x}"
            ),
            Difference::Within { at, bytes } => {
                write!(f, "differs within {bytes} bytes from offset {at}")
            }
            Difference::Extra { at } => {
                write!(f, "differs at offset {at}: more came than was sent")
            }
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::keeping(EXACT)
    }
}

impl Ledger {
    fn keeping(most: usize) -> Self {
        Ledger {
            exact: VecDeque::new(),
            blocks: VecDeque::new(),
            coming: Digest::EMPTY,
            sent: 0,
            back: 0,
            lost: 0,
            most,
        }
    }

    /// These bytes are on their way.
    fn sent(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        let mut rest = bytes;
        if self.blocks.is_empty() {
            let room = self.most - self.exact.len();
            let (exact, beyond) = rest.split_at(room.min(rest.len()));
            self.exact.extend(exact);
            rest = beyond;
        }
        while !rest.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len == BLOCK) {
                self.blocks.push_back(Digest::EMPTY);
            }
            let last = self.blocks.back_mut().expect("one was pushed");
            let room = (BLOCK - last.len) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            last.add(now);
            rest = later;
        }
    }

    /// These bytes came back.
    ///
    /// # Errors
    /// The first that differs. What comes after that cannot be compared.
    fn back(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        let (exact, rest) = bytes.split_at(bytes.len().min(self.exact.len()));
        self.back_exact(exact)?;
        self.back_blocks(rest)
    }

    fn back_exact(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        let (first, second) = self.exact.as_slices();
        let (now, later) = bytes.split_at(bytes.len().min(first.len()));
        if now != &first[..now.len()] || later != &second[..later.len()] {
            let pairs = self.exact.iter().zip(bytes);
            let (n, (sent, got)) = (0..)
                .zip(pairs)
                .find(|(_, (sent, got))| sent != got)
                .expect("they are not equal");
            return Err(Difference::Byte {
                at: self.offset() + n,
                sent: *sent,
                got: *got,
            });
        }
        self.exact.drain(..bytes.len());
        self.back += bytes.len() as u64;
        Ok(())
    }

    fn back_blocks(&mut self, mut bytes: &[u8]) -> Result<(), Difference> {
        while !bytes.is_empty() {
            let Some(block) = self.blocks.front() else {
                return Err(Difference::Extra { at: self.offset() });
            };
            let room = (block.len - self.coming.len) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.coming.add(now);
            bytes = later;
            if self.coming.len < block.len {
                self.back += now.len() as u64;
                continue;
            }
            if self.coming.hash != block.hash {
                let begun = self.coming.len - now.len() as u64;
                return Err(Difference::Within {
                    at: self.offset() - begun,
                    bytes: block.len,
                });
            }
            self.back += now.len() as u64;
            self.blocks.pop_front();
            self.coming = Digest::EMPTY;
        }
        Ok(())
    }

    /// Bytes that are out.
    fn missing(&self) -> u64 {
        self.sent - self.lost - self.back
    }

    /// All bytes ever sent.
    fn total(&self) -> u64 {
        self.sent
    }

    /// The offset of the next byte to come back, in all that was ever sent.
    fn offset(&self) -> u64 {
        self.lost + self.back
    }

    /// The connection is gone: what was out never comes. Returns how many
    /// bytes, and the offset of the first.
    fn give_up(&mut self) -> (u64, u64) {
        let lost = (self.missing(), self.offset());
        self.lost += lost.0;
        self.exact.clear();
        self.blocks.clear();
        self.coming = Digest::EMPTY;
        lost
    }

    /// Whether all that was ever sent came back.
    fn whole(&self) -> bool {
        self.lost == 0 && self.missing() == 0
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

    /// Bytes without short repeats.
    fn bytes(from: u64, len: u64) -> Vec<u8> {
        let byte = |i: u64| (i ^ (i >> 8) ^ ((i >> 16) * 31)) as u8;
        (from..from + len).map(byte).collect()
    }

    /// Sends and takes back `total` bytes, `ahead` at most out at once.
    fn run(most: usize, total: u64, ahead: u64, wrong: Option<u64>) -> Result<(), Difference> {
        let mut ledger = Ledger::keeping(most);
        while ledger.offset() < total {
            let more = (ahead - ledger.missing()).min(total - ledger.total());
            ledger.sent(&bytes(ledger.total(), more));
            let part = (ledger.missing() / 2).max(1);
            let mut got = bytes(ledger.offset(), part);
            if let Some(at) = wrong
                && (ledger.offset()..ledger.offset() + part).contains(&at)
            {
                got[(at - ledger.offset()) as usize] ^= 1;
            }
            ledger.back(&got)?;
        }
        assert!(ledger.whole());
        assert_eq!(ledger.missing(), 0);
        Ok(())
    }

    #[test]
    fn what_comes_back_as_sent_is_fine_however_much_is_out() {
        for (most, total, ahead) in [
            (1 << 20, 300_000, 1000),
            (100, 300_000, 1000),
            (0, 300_000, 200_000),
            (1000, 500_000, 500_000),
        ] {
            assert_eq!(run(most, total, ahead, None), Ok(()), "{most} {ahead}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let (sent, got) = (bytes(777, 1)[0], bytes(777, 1)[0] ^ 1);
        let expected = Difference::Byte { at: 777, sent, got };
        assert_eq!(run(1 << 20, 9999, 500, Some(777)), Err(expected));
    }

    #[test]
    fn beyond_the_bound_a_wrong_byte_is_known_to_its_block() {
        for at in [1000, 65_535, 200_000, 499_999] {
            let Err(Difference::Within { at: from, bytes }) = run(500, 500_000, 500_000, Some(at))
            else {
                panic!("{at}");
            };
            assert!((from..from + bytes).contains(&at), "{at}: {from} {bytes}");
        }
    }

    #[test]
    fn more_than_was_sent_is_a_difference() {
        let mut ledger = Ledger::default();
        ledger.sent(b"abc");
        assert_eq!(ledger.back(b"ab"), Ok(()));
        assert_eq!(ledger.back(b"cd"), Err(Difference::Extra { at: 3 }));
        assert_eq!(
            Ledger::default().back(b"x"),
            Err(Difference::Extra { at: 0 })
        );
    }

    #[test]
    fn what_a_lost_connection_took_never_comes_and_offsets_go_on() {
        for most in [0, 2, 100] {
            let mut ledger = Ledger::keeping(most);
            ledger.sent(b"hello");
            ledger.back(b"he").unwrap();
            assert_eq!(ledger.give_up(), (3, 2));
            assert_eq!((ledger.missing(), ledger.offset()), (0, 5));
            ledger.sent(b"world");
            assert_eq!(ledger.back(b"world"), Ok(()));
            assert!(!ledger.whole());
            assert_eq!(ledger.back(b"!"), Err(Difference::Extra { at: 10 }));
        }
    }
}

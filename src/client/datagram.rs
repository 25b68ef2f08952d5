//! A conversation in datagrams: a line, its answer, the next line.
//!
//! One is out at a time, so a reader sees answers in order, and no wait is
//! longer than the timeout. What is lost stays lost: sending it again could
//! run a command twice.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::read;

use crate::client::dial::{Attempts, Dialer, Link};
use crate::client::wait::{Waiter, Woken};
use crate::client::{Talk, count, notice};
use crate::error::{Error, Exit, Result};

/// The largest that can come.
const LARGEST: usize = 1 << 16;
/// Datagrams remembered, to tell a late or second answer from a wrong one.
const REMEMBERED: usize = 64;

/// Holds the conversation until the input ends.
///
/// # Errors
/// Nobody is there (69), input or output fail (74).
pub(super) fn run(talk: &Talk) -> Result<Exit> {
    let waiter = Waiter::steady();
    let mut chat = Chat {
        talk,
        waiter: &waiter,
        dialer: Dialer::new(&talk.server, &waiter),
        attempts: Attempts::new(talk.retry),
        link: None,
        recent: VecDeque::new(),
        offset: 0,
        stale: 0,
        status: Exit::Ok,
    };
    let mut input = Lines::default();
    chat.greet();
    loop {
        chat.prompt()?;
        let Some(datagram) = chat.next(&mut input)? else {
            break;
        };
        if chat.ask(&datagram)? && !talk.terminal {
            break;
        }
    }
    chat.farewell()
}

/// What one datagram came to.
enum Fate {
    /// It was answered.
    Answered,
    /// It was answered with something else.
    Differs,
    Lost,
    /// Nobody listens at that address, or no way leads there.
    Refused(Errno),
}

struct Chat<'a> {
    talk: &'a Talk,
    waiter: &'a Waiter,
    dialer: Dialer<'a>,
    attempts: Attempts,
    link: Option<Link>,
    recent: VecDeque<Vec<u8>>,
    /// Of the datagram in hand, in all that was sent.
    offset: u64,
    stale: u64,
    status: Exit,
}

impl Chat<'_> {
    fn greet(&self) {
        if self.talk.terminal {
            let server = &self.talk.server;
            let text = format_args!("each line is a datagram to {server}; ^D ends");
            self.talk.say(text);
        }
    }

    fn prompt(&self) -> Result<()> {
        match self.talk.prompt {
            true => show(b"> "),
            false => Ok(()),
        }
    }

    fn farewell(self) -> Result<Exit> {
        if self.talk.prompt {
            show(b"\n")?;
        }
        if self.stale > 1 {
            let number = self.stale;
            let text = format_args!("{number} late or second answers in all");
            self.talk.say(text);
        }
        Ok(self.status)
    }

    /// The next datagram to send; `None` at the end of the input.
    fn next(&mut self, input: &mut Lines) -> Result<Option<Vec<u8>>> {
        let stdin = io::stdin();
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(datagram) = input.cut() {
                return Ok(Some(datagram));
            }
            if input.ended() {
                return Ok(None);
            }
            let mut fds = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            if let Some(link) = &self.link {
                fds.push(PollFd::new(link.as_fd(), PollFlags::POLLIN));
            }
            self.waiter.wait(&mut fds, None)?;
            let typed = fds[0].any().unwrap_or(true);
            self.drain()?;
            if !typed {
                continue;
            }
            match read(&stdin, &mut buffer) {
                Ok(0) | Err(Errno::EIO) => input.end(),
                Ok(len) => input.add(&buffer[..len]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => {
                    let error = Error::os("read", "standard input", errno);
                    return Err(error.exit(Exit::Io));
                }
            }
        }
    }

    /// Sends one and waits for its answer. True if something else came back.
    fn ask(&mut self, datagram: &[u8]) -> Result<bool> {
        self.drain()?;
        let mut differs = false;
        loop {
            match self.exchange(datagram)? {
                Fate::Refused(errno) => {
                    self.refused(errno)?;
                    continue;
                }
                Fate::Lost => self.lost(datagram.len()),
                fate => {
                    self.dialer.answered();
                    self.attempts.succeeded();
                    differs = matches!(fate, Fate::Differs);
                }
            }
            break;
        }
        self.offset += datagram.len() as u64;
        self.recent.push_back(datagram.to_vec());
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
        Ok(differs)
    }

    fn exchange(&mut self, datagram: &[u8]) -> Result<Fate> {
        if self.link.is_none() {
            let (talk, waiter) = (self.talk, self.waiter);
            let link = talk.connect(&mut self.dialer, &mut self.attempts, waiter)?;
            self.link = Some(link);
        }
        let until = Instant::now() + self.talk.timeout;
        if let Some(fate) = self.send(datagram, until)? {
            return Ok(fate);
        }
        loop {
            let link = self.link.as_ref().expect("dialled above");
            if self
                .waiter
                .one(link.as_fd(), PollFlags::POLLIN, Some(until))?
                == Woken::Late
            {
                return Ok(Fate::Lost);
            }
            match receive(link) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return self.failed("read", errno),
                Ok(answer) if !self.talk.verify || answer == datagram => {
                    show(&answer)?;
                    return Ok(Fate::Answered);
                }
                Ok(answer) if self.recent.contains(&answer) => self.stale(),
                Ok(answer) => {
                    self.differs(datagram, &answer)?;
                    return Ok(Fate::Differs);
                }
            }
        }
    }

    fn send(&self, datagram: &[u8], until: Instant) -> Result<Option<Fate>> {
        let link = self.link.as_ref().expect("the caller dialled");
        loop {
            match send(link.as_fd().as_raw_fd(), datagram, MsgFlags::empty()) {
                Ok(_) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let event = PollFlags::POLLOUT;
                    if self.waiter.one(link.as_fd(), event, Some(until))? == Woken::Late {
                        return Ok(Some(Fate::Lost));
                    }
                }
                Err(errno) => return self.failed("write", errno).map(Some),
            }
        }
    }

    fn failed(&self, op: &str, errno: Errno) -> Result<Fate> {
        match errno {
            // ICMP, or a Unix socket that is closed.
            Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::ENOTCONN
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH => Ok(Fate::Refused(errno)),
            _ => Err(Error::os(op, &self.talk.server, errno).exit(Exit::Io)),
        }
    }

    /// The next address, the next attempt, or the end.
    fn refused(&mut self, errno: Errno) -> Result<()> {
        self.link = None;
        if self.dialer.refused() {
            return Ok(());
        }
        let error = Error::os("send", &self.talk.server, errno).exit(Exit::Unavailable);
        let Some(again) = self.attempts.failed() else {
            return Err(error);
        };
        self.talk.say(format_args!("{error}: {again}"));
        self.waiter.pause(again.pause).map(drop)
    }

    fn lost(&mut self, len: usize) {
        notice(format_args!(
            "no answer to {} from offset {} within {:?}: lost on the way, or not answered; \
             if this is echod, see --udp-rate",
            count(len as u64, "byte"),
            self.offset,
            self.talk.timeout
        ));
        self.status = match self.talk.verify {
            true => Exit::Mismatch,
            false => Exit::Io,
        };
    }

    fn differs(&mut self, sent: &[u8], answer: &[u8]) -> Result<()> {
        show(answer)?;
        let same = sent.iter().zip(answer).take_while(|(a, b)| a == b).count();
        let at = self.offset + same as u64;
        notice(format_args!(
            "the echo of {} differs at offset {at}: {} sent, {} back",
            self.talk.server,
            count(sent.len() as u64, "byte"),
            count(answer.len() as u64, "byte")
        ));
        self.status = Exit::Mismatch;
        Ok(())
    }

    fn stale(&mut self) {
        self.stale += 1;
        if self.stale == 1 {
            self.talk.say("a late or second answer, not shown");
        }
    }

    /// What came unasked: late and second answers, which only a server that
    /// is no echo server may send.
    fn drain(&mut self) -> Result<()> {
        while let Some(link) = &self.link {
            match receive(link) {
                Ok(answer) if !self.talk.verify => show(&answer)?,
                Ok(_) => self.stale(),
                Err(Errno::EINTR) => {}
                // A refusal is for the next datagram to find again.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

fn receive(link: &Link) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; LARGEST];
    let len = recv(link.as_fd().as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(len);
    Ok(buffer)
}

fn show(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        Error::os("write", "standard output", errno).exit(Exit::Io)
    })
}

// The input, cut into datagrams: a line is one. Pure.

/// The longest datagram sent: with its headers it fits an Ethernet frame.
const LONGEST: usize = 1400;
/// What was read and not cut yet.
#[derive(Default)]
struct Lines {
    bytes: VecDeque<u8>,
    ended: bool,
}

impl Lines {
    /// More was read.
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// There is no more.
    fn end(&mut self) {
        self.ended = true;
    }

    /// Whether there is no more to read.
    fn ended(&self) -> bool {
        self.ended
    }

    /// The next line, or as much of it as goes into a datagram; `None` if more
    /// must be read to know.
    fn cut(&mut self) -> Option<Vec<u8>> {
        let line = self.bytes.iter().take(LONGEST).position(|b| *b == b'\n');
        let len = match line {
            Some(at) => at + 1,
            None if self.bytes.len() >= LONGEST => LONGEST,
            None if self.ended && !self.bytes.is_empty() => self.bytes.len(),
            None => return None,
        };
        Some(self.bytes.drain(..len).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_and_a_long_one_is_several() {
        let mut input = Lines::default();
        input.add(b"one\n\ntw");
        assert_eq!(input.cut(), Some(b"one\n".to_vec()));
        assert_eq!(input.cut(), Some(b"\n".to_vec()));
        assert_eq!(input.cut(), None, "the line may go on");
        input.add(b"o");
        input.end();
        assert_eq!(input.cut(), Some(b"two".to_vec()));
        assert_eq!(input.cut(), None);
        input.add(&[b'x'; LONGEST]);
        input.add(b"y\n");
        assert_eq!(input.cut().map(|cut| cut.len()), Some(LONGEST));
        assert_eq!(input.cut(), Some(b"y\n".to_vec()));
    }
}

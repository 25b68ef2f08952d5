//! One accepted connection: read, write all, and how it ended.
//!
//! Made for a process locked into read(2) and write(2): it makes no other
//! call, allocates nothing and asks no clock. Timeouts are the socket's own
//! (SO_RCVTIMEO and SO_SNDTIMEO, `socket(7)`), seen here as EAGAIN.

use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::addr::Peer;
use crate::sys::raw::{read, write};

/// Bytes echoed at a time, from the first on: what has come by then goes back in one
/// write, and there are clients that count on it up to 64 KiB. Measured: 256 KiB streams 1.2 to 1.4 times as fast as
/// 64 KiB, and a child pays only for the pages it touches.
pub const BUFFER: usize = 256 * 1024;

/// Why a connection is over: the `end=` of the connection line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client sent all it had, and has been answered.
    Eof,
    /// The client reset the connection or stopped listening to it.
    Reset,
    /// Nothing came for `--idle-timeout`.
    IdleTimeout,
    /// Nothing could be sent for `--write-timeout`.
    WriteTimeout,
    /// It lasted for `--max-lifetime`.
    MaxLifetime,
    /// echod was stopping and its deadline came.
    Stop,
    /// The serving process died of this signal.
    Killed(Signal),
    /// The serving process is gone and nobody was told how.
    Lost,
    /// A system call failed in an unforeseen way.
    Error(Errno),
}

impl End {
    /// As a number for the scoreboard; never 0.
    pub fn encode(self) -> u64 {
        match self {
            End::Eof => 1,
            End::Reset => 2,
            End::IdleTimeout => 3,
            End::WriteTimeout => 4,
            End::Error(errno) => 5 | (errno as u64) << 8,
            // These are the supervisor's findings; no child reports them.
            End::MaxLifetime | End::Stop | End::Killed(_) | End::Lost => 6,
        }
    }

    /// What a child reported: gossip, so anything unknown is no report.
    pub fn decode(code: u64) -> Option<Self> {
        Some(match code & 0xff {
            1 => End::Eof,
            2 => End::Reset,
            3 => End::IdleTimeout,
            4 => End::WriteTimeout,
            5 => End::Error(Errno::from_raw((code >> 8) as i32)),
            _ => return None,
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Eof => f.write_str("eof"),
            End::Reset => f.write_str("reset"),
            End::IdleTimeout => f.write_str("idle-timeout"),
            End::WriteTimeout => f.write_str("write-timeout"),
            End::MaxLifetime => f.write_str("max-lifetime"),
            End::Stop => f.write_str("stop"),
            End::Killed(signal) => {
                write!(f, "killed:{}", signal.as_str().trim_start_matches("SIG"))
            }
            End::Lost => f.write_str("killed:unknown"),
            End::Error(errno) => write!(f, "error:{errno:?}"),
        }
    }
}

/// Byte counts that somebody else may be reading; this process alone writes.
#[derive(Clone, Copy)]
pub struct Meter<'a> {
    /// Bytes received from the client.
    pub received: &'a AtomicU64,
    /// Bytes sent back.
    pub sent: &'a AtomicU64,
}

/// `--print`: where the copies of what clients send go; and whom to tell, once, that they do not arrive.
#[derive(Clone, Copy)]
pub struct Printer<'a> {
    /// Standard output.
    pub to: BorrowedFd<'a>,
    /// Why a copy failed, the first time; 0 if none did.
    pub failed: &'a AtomicU64,
    /// Wakes the supervisor then. Whoever has closed it tells by its end.
    pub waker: BorrowedFd<'a>,
}

impl Printer<'_> {
    /// One write(2), more only if that took a part. What cannot be written there is
    /// not worth a client.
    pub fn print(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match write(self.to, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::EINTR) => {}
                Err(errno) => return self.tell(errno),
            }
        }
    }

    fn tell(&self, errno: Errno) {
        let first = self
            .failed
            .compare_exchange(0, errno as u64, Relaxed, Relaxed);
        if first.is_ok() {
            let _ = write(self.waker, &[0]);
        }
    }
}

/// `--print`: where to repeat what is received, and what to put before it.
#[derive(Clone, Copy)]
pub struct Copy<'a> {
    to: Printer<'a>,
    /// Bytes at the start of the buffer that hold the prefix.
    prefix: usize,
}

impl<'a> Copy<'a> {
    /// Lays `[peer] ` at the start of the buffer that the connection will be
    /// served with. What is received comes to lie behind it, so that prefix and
    /// data are one write(2), and nothing is formatted or copied in the sandbox.
    pub fn lay(to: Printer<'a>, peer: Peer, buffer: &mut [u8]) -> Self {
        let room = buffer.len();
        let mut rest = buffer;
        // The longest address has a few dozen bytes, the buffer thousands.
        let laid = write!(rest, "[{peer}] ");
        let prefix = laid.map_or(0, |()| room - rest.len());
        Copy { to, prefix }
    }
}

/// An accepted stream with its counters.
pub struct Connection<'a> {
    stream: BorrowedFd<'a>,
    meter: Meter<'a>,
    copy: Option<Copy<'a>>,
}

impl<'a> Connection<'a> {
    /// A connection that counts on `meter` and, with `copy`, repeats there
    /// what it receives: by the buffer in which that was laid.
    pub fn new(stream: &'a impl AsFd, meter: Meter<'a>, copy: Option<Copy<'a>>) -> Self {
        Connection {
            stream: stream.as_fd(),
            meter,
            copy,
        }
    }

    /// Reads what has come, at least a byte; it lies in `buffer`, with `--print`
    /// behind the prefix.
    ///
    /// # Errors
    /// [`End::Eof`] once the client has finished sending, else how it failed.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], End> {
        let start = self.copy.map_or(0, |copy| copy.prefix);
        loop {
            match read(self.stream, &mut buffer[start..]) {
                Ok(0) => return Err(End::Eof),
                Ok(n) => {
                    add(self.meter.received, n);
                    if let Some(copy) = self.copy {
                        copy.to.print(&buffer[..start + n]);
                    }
                    return Ok(&buffer[start..start + n]);
                }
                // With a timeout on the socket even SIGSTOP and SIGCONT
                // interrupt it: signal(7).
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(End::IdleTimeout),
                // TCP_USER_TIMEOUT: what was sent is not taken.
                Err(Errno::ETIMEDOUT) => return Err(End::WriteTimeout),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Writes all of `bytes`, in as many pieces as the socket takes them.
    ///
    /// # Errors
    /// How it failed. A write that got part of the way before its timeout
    /// starts again, so a stuck client is seen within twice the timeout.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            match write(self.stream, bytes) {
                Ok(n) => {
                    add(self.meter.sent, n);
                    bytes = &bytes[n..];
                }
                Err(Errno::EINTR) => {}
                // The socket's own timeout, or TCP_USER_TIMEOUT before it.
                Err(Errno::EAGAIN | Errno::ETIMEDOUT) => return Err(End::WriteTimeout),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }
}

/// A client that goes away is a normal end, not an error: `ECONNRESET` from
/// read(2), `EPIPE` from a later write(2) (SIGPIPE is ignored).
fn failed(errno: Errno) -> End {
    match errno {
        Errno::ECONNRESET | Errno::EPIPE => End::Reset,
        errno => End::Error(errno),
    }
}

/// One writer, so no read-modify-write instruction is needed.
fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed) + n as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn ends_survive_the_scoreboard_and_have_their_names() {
        for (end, name) in [
            (End::Eof, "eof"),
            (End::Reset, "reset"),
            (End::IdleTimeout, "idle-timeout"),
            (End::WriteTimeout, "write-timeout"),
            (End::Error(Errno::ETIMEDOUT), "error:ETIMEDOUT"),
        ] {
            assert_eq!(End::decode(end.encode()), Some(end));
            assert_eq!(end.to_string(), name);
        }
        assert_eq!(End::Killed(Signal::SIGKILL).to_string(), "killed:KILL");
        assert_eq!(End::decode(0), None);
        assert_eq!(End::decode(End::Stop.encode()), None);
        assert_eq!(End::decode(u64::MAX), None);
    }

    #[test]
    fn counts_and_ends() {
        let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        let meter = Meter {
            received: &received,
            sent: &sent,
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        ours.set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let mut conn = Connection::new(&ours, meter, None);
        let mut buffer = [0; 16];
        assert_eq!(conn.read(&mut buffer), Err(End::IdleTimeout));
        theirs.write_all(b"hello").unwrap();
        assert_eq!(conn.read(&mut buffer), Ok(&b"hello"[..]));
        conn.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        theirs.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
        assert_eq!((received.load(Relaxed), sent.load(Relaxed)), (5, 5));
        assert_eq!(conn.write_all(&vec![0; 1 << 22]), Err(End::WriteTimeout));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(conn.read(&mut buffer), Err(End::Eof));
        // Not a drop: a child that another test forks may hold a copy.
        theirs.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(conn.write_all(b"x"), Err(End::Reset));
    }

    #[test]
    fn a_copy_is_one_write_of_prefix_and_data() {
        let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        let meter = Meter {
            received: &received,
            sent: &sent,
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // Datagrams keep what was written apart.
        let (copied, copies) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut buffer = [0; 64];
        let peer = Peer::Inet("192.0.2.7:52114".parse().unwrap());
        let (failed, waker) = (AtomicU64::new(0), std::fs::File::open("/dev/null").unwrap());
        let to = Printer {
            to: copied.as_fd(),
            failed: &failed,
            waker: waker.as_fd(),
        };
        let copy = Copy::lay(to, peer, &mut buffer);
        let mut conn = Connection::new(&ours, meter, Some(copy));
        for sent in ["hello\n", "you"] {
            theirs.write_all(sent.as_bytes()).unwrap();
            assert_eq!(conn.read(&mut buffer), Ok(sent.as_bytes()));
            let mut got = [0; 64];
            let n = copies.recv(&mut got).unwrap();
            assert_eq!(got[..n], *format!("[192.0.2.7:52114] {sent}").as_bytes());
        }
        assert_eq!(received.load(Relaxed), 9);
        assert_eq!(failed.load(Relaxed), 0);
        copies.shutdown(std::net::Shutdown::Both).unwrap();
        theirs.write_all(b"on").unwrap();
        assert_eq!(conn.read(&mut buffer), Ok(&b"on"[..]));
        assert_eq!(failed.load(Relaxed), Errno::EPIPE as u64);
    }
}

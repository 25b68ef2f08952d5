//! Clients on plain blocking sockets, with a deadline on everything.
//!
//! Addresses are the strings echod prints and takes: `tcp:127.0.0.1:41234`,
//! `unix:/run/echod.sock`, `unix:@name`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};

use super::DEADLINE;

/// One end of a connection to echod.
#[derive(Debug)]
pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The socket address in `tcp:HOST:PORT`.
pub fn tcp_addr(addr: &str) -> SocketAddr {
    let bare = addr.strip_prefix("tcp:").unwrap_or(addr);
    bare.parse()
        .unwrap_or_else(|error| panic!("not an address: {addr}: {error}"))
}

impl Client {
    /// Connects, with a deadline on this and on every later read and write.
    pub fn try_connect(addr: &str) -> io::Result<Client> {
        let client = if let Some(path) = addr.strip_prefix("unix:") {
            Client::Unix(match path.strip_prefix('@') {
                Some(name) => UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?)?,
                None => UnixStream::connect(path)?,
            })
        } else {
            let stream = TcpStream::connect_timeout(&tcp_addr(addr), DEADLINE)?;
            stream.set_nodelay(true)?;
            Client::Tcp(stream)
        };
        client.set_timeouts(DEADLINE);
        Ok(client)
    }

    /// Connects or panics.
    #[track_caller]
    pub fn connect(addr: &str) -> Client {
        Client::try_connect(addr).unwrap_or_else(|error| panic!("connect {addr}: {error}"))
    }

    /// Bounds every later read and write.
    pub fn set_timeouts(&self, limit: Duration) {
        let limit = Some(limit);
        let set = match self {
            Client::Tcp(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
            Client::Unix(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
        };
        set.expect("a timeout can be set on a socket");
    }

    /// A second handle on the same connection, for a writing thread.
    pub fn handle(&self) -> Client {
        match self {
            Client::Tcp(s) => Client::Tcp(s.try_clone().expect("dup")),
            Client::Unix(s) => Client::Unix(s.try_clone().expect("dup")),
        }
    }

    /// Our own TCP port; 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        match self {
            Client::Tcp(s) => s.local_addr().map_or(0, |addr| addr.port()),
            Client::Unix(_) => 0,
        }
    }

    /// Our own address as the log's `peer=` shows it.
    pub fn peer_name(&self) -> String {
        match self {
            Client::Tcp(s) => s.local_addr().expect("a connected socket").to_string(),
            Client::Unix(_) => String::new(),
        }
    }

    /// Sends and expects exactly that back.
    #[track_caller]
    pub fn ping(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.write_all(bytes).expect("send");
        self.read_exact(&mut got).expect("the echo");
        assert!(got == bytes, "the echo is not what was sent");
    }

    /// Sends in one write(2), and reads once with room for all of it, as many
    /// clients do: how much of the echo that brought.
    #[track_caller]
    pub fn once(&mut self, bytes: &[u8]) -> usize {
        let mut got = vec![0; bytes.len()];
        let sent = self.write(bytes).expect("send");
        assert_eq!(sent, bytes.len(), "the write was split here");
        let came = self.read(&mut got).expect("the echo");
        assert!(
            got[..came] == bytes[..came],
            "the echo is not what was sent"
        );
        came
    }

    /// Whether an echo can still be had: false after end of file or an error.
    pub fn try_ping(&mut self, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        self.write_all(bytes).is_ok() && self.read_exact(&mut got).is_ok() && got == bytes
    }

    /// Sends our end of file; an error when the connection is gone already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Client::Tcp(s) => s.shutdown(Shutdown::Write),
            Client::Unix(s) => s.shutdown(Shutdown::Write),
        }
    }

    /// Everything up to the server's end of file.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        self.read_to_end(&mut got).expect("the rest of the echo");
        got
    }

    /// Whether nothing at all, no byte and no end, comes within `time`. The one
    /// wait that cannot be a condition: it shows an absence.
    pub fn silent_for(&mut self, time: Duration) -> bool {
        self.set_timeouts(time);
        let silent = match self.read(&mut [0]) {
            Ok(_) => false,
            Err(error) => is_timeout(&error),
        };
        self.set_timeouts(DEADLINE);
        silent
    }

    /// How the server ended this connection, after any bytes still on the way:
    /// `Ok` is end of file, `Err` its errno (ECONNRESET).
    pub fn end(&mut self) -> Result<(), io::Error> {
        loop {
            match self.read(&mut [0; 4096]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes written that the other end has not acknowledged: SIOCOUTQ of tcp(7).
    pub fn unsent(&self) -> i32 {
        let mut bytes = 0;
        // SAFETY: the kernel writes an int to a live one.
        let done = unsafe { libc::ioctl(self.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        assert_eq!(done, 0, "SIOCOUTQ: {}", io::Error::last_os_error());
        bytes
    }

    /// Leaves with a reset instead of an end of file, as tcp(7) has it for a
    /// zero linger time.
    pub fn reset(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self, sockopt::Linger, &linger).expect("SO_LINGER");
    }

    /// Sends one urgent byte; false where this kernel has none for the family.
    pub fn send_urgent(&self, byte: u8) -> bool {
        send(self.as_fd().as_raw_fd(), &[byte], MsgFlags::MSG_OOB).is_ok()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Client::Tcp(s) => s.as_fd(),
            Client::Unix(s) => s.as_fd(),
        }
    }
}

impl Read for Client {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(s) => s.read(buf),
            Client::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(s) => s.write(buf),
            Client::Unix(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages for [`Client::once`], up to 64 KiB.
pub const ONCE: [usize; 7] = [257, 512, 4096, 8193, 16_385, 32_000, 65_536];

/// What one read of an echo of so many bytes must bring: all of it, as far as the
/// kernel lets the reader have it at once. It hands TCP on by half of the first
/// window, 64 KiB, and a Unix socket's data by 36 KiB; a reader who is fast sees
/// the first part alone.
pub fn at_once(bytes: usize) -> usize {
    bytes.min(32_700)
}

/// Whether an error is our own deadline and not the peer's doing.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// One whole conversation: connect, send, end of file, all that comes back.
/// What is sent must fit the sockets' buffers (64 KiB does); see [`stream`].
#[track_caller]
pub fn echo_once(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::connect(addr);
    client.write_all(bytes).expect("send");
    client.shutdown_write().expect("shutdown");
    client.rest()
}

/// Whether `got` is the beginning of `sent`, or all of it.
pub fn exact_prefix(sent: &[u8], got: &[u8]) -> bool {
    sent.starts_with(got)
}

/// Byte `at` and on of an endless sequence without short repeats: 4099 is
/// prime, so no power-of-two shift of the stream looks like the stream.
pub fn pattern(at: u64, len: usize) -> Vec<u8> {
    let byte = |i: u64| ((i % 4099) ^ ((i / 4099) * 31)) as u8;
    (at..at + len as u64).map(byte).collect()
}

/// A sequence as [`pattern`] gives it, made once and read often.
fn block() -> Vec<u8> {
    pattern(0, 1 << 20)
}

fn write_stream(mut to: Client, total: u64) -> io::Result<()> {
    let block = block();
    let mut left = total;
    while left > 0 {
        let n = left.min(block.len() as u64) as usize;
        to.write_all(&block[..n])?;
        left -= n as u64;
    }
    to.shutdown_write()
}

/// Reads until the end, comparing with what [`write_stream`] sent; returns the
/// count, and panics on the first byte that is not the one expected there.
fn read_stream(from: &mut Client, mut seen: impl FnMut(u64)) -> (u64, io::Result<()>) {
    let block = block();
    let mut buf = vec![0; 128 << 10];
    let mut count = 0u64;
    loop {
        let n = match from.read(&mut buf) {
            Ok(0) => return (count, Ok(())),
            Ok(n) => n,
            Err(error) => return (count, Err(error)),
        };
        let mut got = &buf[..n];
        while !got.is_empty() {
            let at = (count % block.len() as u64) as usize;
            let len = got.len().min(block.len() - at);
            assert!(got[..len] == block[at..at + len], "corrupt near {count}");
            (count, got) = (count + len as u64, &got[len..]);
        }
        seen(count);
    }
}

/// Sends `total` bytes, then end of file, and reads all the while; panics
/// unless exactly that comes back.
#[track_caller]
pub fn stream(addr: &str, total: u64) {
    stream_over(Client::connect(addr), total);
}

/// [`stream`] on a connection that is there already, such as one whose worker
/// is known to serve it.
#[track_caller]
pub fn stream_over(mut client: Client, total: u64) {
    let writer = client.handle();
    let sent = thread::spawn(move || write_stream(writer, total));
    let (count, end) = read_stream(&mut client, |_| ());
    end.expect("the stream comes back");
    sent.join().expect("writer").expect("the stream is sent");
    assert_eq!(count, total, "bytes that came back");
}

/// Streams without end until the connection breaks, calling `seen` with the
/// bytes back so far. Every byte is compared, so what came is an exact prefix
/// of what was sent, or this panics.
pub fn stream_until_broken(mut client: Client, seen: impl FnMut(u64)) -> u64 {
    let writer = client.handle();
    let sent = thread::spawn(move || write_stream(writer, u64::MAX));
    let (count, _) = read_stream(&mut client, seen);
    assert!(
        sent.join().expect("writer").is_err(),
        "an endless stream ended"
    );
    count
}

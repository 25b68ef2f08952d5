//! Who is let in: `--allow` and `--deny`, `--max-per-source`,
//! `--connection-rate` (FAULTS rows 54, 79, 80, 88), in every design that can.
//!
//! Clients come from other addresses of 127.0.0.0/8 than the daemon's.

pub mod crashes;
pub mod rate;
pub mod rules;
pub mod source;
pub mod usage;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use crate::common::client::{is_timeout, tcp_addr};
use crate::common::{Client, DEADLINE, Daemon, Design, poll_until};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

/// An address that no daemon of these tests has, in a network of its own.
const HERE: &str = "127.201.1.7";
/// Another one.
const THERE: &str = "127.202.1.7";

/// Nobody comes at the end of these tests, so nothing has to settle.
const QUICK: [&str; 2] = ["--stop-settle", "10ms"];

/// Connects from this address, with a deadline on every read and write.
fn connect_from(source: &str, addr: &str) -> io::Result<Client> {
    let from = SocketAddr::new(source.parse::<IpAddr>().expect("an address"), 0);
    let family = match from {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(tcp_addr(addr)))?;
    let client = Client::Tcp(TcpStream::from(fd));
    client.set_timeouts(DEADLINE);
    Ok(client)
}

/// Has an echo from there: the client, or how it was refused. Panics if neither
/// comes.
fn try_from(source: &str, addr: &str) -> io::Result<Client> {
    let mut client = connect_from(source, addr)?;
    client.write_all(b"?")?;
    let mut got = [0];
    match client.read_exact(&mut got) {
        Ok(()) => {
            assert_eq!(&got, b"?");
            Ok(client)
        }
        Err(error) => {
            assert!(
                !is_timeout(&error),
                "{source} is neither served nor refused"
            );
            Err(error)
        }
    }
}

/// A client from there that is being served.
#[track_caller]
fn served(source: &str, daemon: &Daemon) -> Client {
    try_from(source, daemon.addr()).unwrap_or_else(|error| panic!("{source}: {error}"))
}

/// One more from there is refused, by a reset.
#[track_caller]
fn assert_refused(source: &str, daemon: &Daemon) {
    match try_from(source, daemon.addr()) {
        Ok(_) => panic!("{source} is served"),
        Err(error) => assert_reset(&error),
    }
}

#[track_caller]
fn assert_reset(error: &io::Error) {
    let kind = error.kind();
    let reset = matches!(
        kind,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    assert!(reset, "not a reset: {error}");
}

/// A place of that source becomes free, and is taken.
#[track_caller]
fn served_again(source: &str, daemon: &Daemon) -> Client {
    let mut client = None;
    poll_until(DEADLINE, &format!("{source} is served again"), || {
        client = try_from(source, daemon.addr()).ok();
        client.is_some()
    });
    client.expect("just now")
}

/// How many the log says were refused, in lines that end so. Where the machine
/// stands still for seconds, what is one episode here is two there.
fn count_refused(log: &str, end: &str) -> usize {
    let lines = log.lines().filter(|line| line.ends_with(end));
    let number = |line: &str| {
        line.split_once("refused ")?
            .1
            .split_once(' ')?
            .0
            .parse::<usize>()
            .ok()
    };
    lines.filter_map(number).sum::<usize>()
}

fn start(design: &Design, more: &[&str]) -> Daemon {
    let builder = crate::common::Builder::new().args(design.args);
    builder.args(QUICK).args(more).start()
}

/// The designs with one process that accepts, in which clients can be counted.
const COUNTING: [&Design; 8] = [
    &crate::common::design::FORK_WAIT,
    &crate::common::design::FORK_IGNORE,
    &crate::common::design::FORK_DOUBLE,
    &crate::common::design::PREFORK_PASS,
    &crate::common::design::PREFORK_PASS_REUSE,
    &crate::common::design::THREAD,
    &crate::common::design::PRETHREAD_PASS,
    &DEFAULT,
];

/// As people type it, with no way to accept named.
const DEFAULT: Design = Design {
    name: "default",
    args: &[],
    ..crate::common::design::PREFORK
};

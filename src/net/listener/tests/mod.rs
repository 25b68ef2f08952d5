//! Real sockets on loopback and in temporary directories.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{GetSockOpt, connect, getsockopt, sockopt};

use super::*;

mod connections;
mod draining;

const TIMEOUTS: Timeouts = Timeouts {
    idle: Some(Duration::from_millis(601_500)),
    write: Some(Duration::from_secs(300)),
    lifetime: None,
};

fn try_open(spec: &str) -> Result<Vec<Listener>, Error> {
    let opts = ListenOptions {
        sockets: 1,
        dry: false,
        backlog: None,
        timeouts: TIMEOUTS,
    };
    open(&spec.parse().expect(spec), &opts)
}

fn open_one(spec: &str) -> Listener {
    let mut listeners = try_open(spec).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(listeners.len(), 1, "{spec}");
    listeners.remove(0)
}

/// `None`, said aloud, where the kernel has no IPv6.
fn open_v6() -> Option<Listener> {
    if std::fs::read("/proc/net/if_inet6").is_ok_and(|lines| !lines.is_empty()) {
        return Some(open_one("[::1]:0"));
    }
    eprintln!("skipped: this kernel has no IPv6");
    None
}

fn address(listener: &Listener) -> SocketAddr {
    let name = listener.name().strip_prefix("tcp:").expect("tcp");
    name.parse().expect("an address")
}

fn wait_readable(fd: &impl AsFd) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(5000u16)).expect("poll");
    fds[0].revents().expect("known flags")
}

fn accept_within_deadline(listener: &Listener) -> (OwnedFd, Peer) {
    wait_readable(listener);
    listener.accept().expect("a queued client")
}

fn unix_name(dir: &tempfile::TempDir) -> String {
    format!("unix:{}", dir.path().join("s").display())
}

fn connect_unix(listener: &Listener) -> std::io::Result<UnixStream> {
    UnixStream::connect(listener.name().strip_prefix("unix:").expect("unix"))
}

fn option<O: GetSockOpt>(fd: &OwnedFd, option: O) -> O::Val {
    getsockopt(fd, option).expect("getsockopt")
}

#[test]
fn a_listener_is_born_nonblocking_and_cloexec_and_knows_its_port() {
    let dir = tempfile::tempdir().expect("tempdir");
    for spec in ["127.0.0.1:0".to_owned(), unix_name(&dir)] {
        let listener = open_one(&spec);
        let fd_flags = fcntl(&listener, FcntlArg::F_GETFD).expect("flags");
        assert!(FdFlag::from_bits_retain(fd_flags).contains(FdFlag::FD_CLOEXEC));
        let flags = fcntl(&listener, FcntlArg::F_GETFL).expect("flags");
        assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        assert_eq!(listener.accept().expect_err("empty"), Errno::EAGAIN);
        assert!(!listener.name().ends_with(":0"), "{}", listener.name());
        assert_eq!(listener.is_tcp(), spec.starts_with("127"));
    }
}

#[test]
fn accept_says_who_came_over_ipv4_and_ipv6() {
    for listener in [Some(open_one("127.0.0.1:0")), open_v6()]
        .into_iter()
        .flatten()
    {
        let client = TcpStream::connect(address(&listener)).expect("connect");
        let (_conn, peer) = accept_within_deadline(&listener);
        assert_eq!(peer, Peer::Inet(client.local_addr().expect("address")));
    }
}

#[test]
fn all_families_of_a_star_share_the_port_the_kernel_picked() {
    let listeners = try_open("*:0").expect("open");
    let first = address(&listeners[0]);
    assert!(first.is_ipv4() && first.port() != 0);
    for listener in &listeners {
        assert_eq!(address(listener).port(), first.port());
        assert!(address(listener).ip().is_unspecified());
    }
    // Also where IPv6 is off on every interface, [::] can be bound.
    let v6 = socket(AddressFamily::Inet6, SockType::Stream, birth_flags(), None);
    assert_eq!(listeners.len(), 1 + usize::from(v6.is_ok()));
}

#[test]
fn a_name_opens_a_listener_for_each_of_its_addresses() {
    let listeners = try_open("localhost:0").expect("open");
    for listener in &listeners {
        assert!(address(listener).ip().is_loopback(), "{}", listener.name());
        assert_eq!(address(listener).port(), address(&listeners[0]).port());
    }
}

#[test]
fn a_second_server_is_told_that_the_address_is_in_use() {
    let first = open_one("127.0.0.1:0");
    let error = try_open(first.name()).expect_err("shared silently");
    assert_eq!(error.status(), Exit::Unavailable, "{error}");
    assert!(error.to_string().contains("EADDRINUSE"), "{error}");
    assert!(!option(&first.fd, sockopt::ReusePort));
    assert!(option(&first.fd, sockopt::ReuseAddr));
}

#[test]
fn a_port_is_free_again_while_old_connections_linger() {
    let first = open_one("127.0.0.1:0");
    let name = first.name().to_owned();
    let mut client = TcpStream::connect(address(&first)).expect("connect");
    let (conn, _) = accept_within_deadline(&first);
    // The side that closes first keeps TIME_WAIT: ours.
    drop(conn);
    assert_eq!(client.read(&mut [0]).expect("end"), 0);
    drop((client, first));
    assert_eq!(open_one(&name).name(), name);
}

#[test]
fn an_address_not_here_is_named_and_freebind_takes_it() {
    // RFC 5737 and 3849 keep these from being anyone's.
    let error = try_open("192.0.2.1:0").expect_err("not ours");
    assert_eq!(error.status(), Exit::Unavailable, "{error}");
    assert!(error.to_string().contains("freebind"), "{error}");
    assert!(
        error.to_string().starts_with("bind tcp:192.0.2.1:0: "),
        "{error}"
    );
    open_one("192.0.2.1:0,freebind");
    if open_v6().is_some() {
        open_one("[2001:db8::1]:0,freebind");
    }
}

#[test]
fn what_this_version_cannot_serve_is_a_usage_error() {
    for (spec, why) in [
        ("udp:127.0.0.1:0,service=chargen", "service"),
        ("127.0.0.1:0,service=chargen", "service"),
    ] {
        let error = try_open(spec).expect_err(spec);
        assert_eq!(error.status(), Exit::Usage, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    for service in ["echo", "command"] {
        let listener = open_one(&format!("127.0.0.1:0,service={service}"));
        assert_eq!(listener.service(), Some(service));
    }
    assert_eq!(open_one("127.0.0.1:0").service(), None);
}

#[test]
fn the_backlog_of_a_listener_beats_the_option() {
    let name = format!("unix:@echod-backlog-{}", std::process::id());
    let opts = ListenOptions {
        sockets: 1,
        dry: false,
        backlog: Some(64),
        timeouts: TIMEOUTS,
    };
    let room = |spec: &str| {
        let _listener = open(&spec.parse().expect(spec), &opts).expect("open");
        let raw = name.strip_prefix("unix:@").expect("abstract");
        let addr = UnixAddr::new_abstract(raw.as_bytes()).expect("address");
        let mut queued = Vec::new();
        loop {
            let fd = unix_socket("client", SockType::Stream, birth_flags()).expect("socket");
            match connect(fd.as_raw_fd(), &addr) {
                Ok(()) => queued.push(fd),
                Err(errno) => break assert_eq!(errno, Errno::EAGAIN),
            }
        }
        queued.len()
    };
    // A Unix queue holds one more than its backlog.
    assert_eq!(room(&format!("{name},backlog=3")), 4);
    assert_eq!(room(&name), 65);
}

/// Four sockets on one address.
fn open_shared() -> Vec<Listener> {
    let opts = ListenOptions {
        sockets: 4,
        dry: false,
        backlog: None,
        timeouts: TIMEOUTS,
    };
    open(&"127.0.0.1:0".parse().expect("address"), &opts).expect("open")
}

#[test]
fn sockets_that_share_an_address_all_get_clients_and_admit_no_other_server() {
    let listeners = open_shared();
    assert_eq!(listeners.len(), 4);
    let addr = address(&listeners[0]);
    assert!(listeners.iter().all(|l| address(l) == addr));
    let clients: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(addr).expect("connect"))
        .collect();
    let queued = |listener: &Listener| {
        let accepted = std::iter::from_fn(|| listener.accept().ok());
        accepted.count()
    };
    let each: Vec<_> = listeners.iter().map(queued).collect();
    assert_eq!(each.iter().sum::<usize>(), clients.len());
    assert!(!each.contains(&0), "the first socket too: {each:?}");
    for sockets in [1, 4] {
        let opts = ListenOptions {
            sockets,
            backlog: None,
            timeouts: TIMEOUTS,
            dry: false,
        };
        let other = open(&listeners[0].name().parse().expect("address"), &opts);
        let error = other.expect_err("taken");
        assert_eq!(error.errno(), Some(Errno::EADDRINUSE), "{sockets}");
    }
}

#[test]
fn an_abstract_name_is_taken_once_and_has_no_file() {
    let spec = format!("unix:@echod-taken-{}", std::process::id());
    let listener = open_one(&spec);
    assert_eq!(listener.name(), spec);
    let error = try_open(&spec).expect_err("taken");
    assert_eq!(error.status(), Exit::Unavailable, "{error}");
    assert_eq!(listener.unlink(), Ok(false));
}

#[test]
fn overflow_reset_is_a_reset_not_an_end() {
    let listener = open_one("127.0.0.1:0");
    let mut client = TcpStream::connect(address(&listener)).expect("connect");
    let (conn, _) = accept_within_deadline(&listener);
    crate::net::overflow_reset(conn);
    let error = client.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

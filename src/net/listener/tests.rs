//! Real sockets on loopback and in temporary directories.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixName, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, GetSockOpt, MsgFlags, SockType, connect, getsockopt, send, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::*;
use crate::addr::Peer;

use crate::values::Keepalive;

const TIMEOUTS: Timeouts = Timeouts {
    idle: Some(Duration::from_millis(601_500)),
    write: Some(Duration::from_secs(300)),
    lifetime: None,
    keepalive: Some(Keepalive {
        idle: 60,
        interval: 15,
        count: 4,
    }),
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

// What an accepted connection is born with, and what it is given.

#[test]
fn tcp_connections_inherit_everything_and_prepare_has_nothing_to_do() {
    for listener in [Some(open_one("127.0.0.1:0")), open_v6()]
        .into_iter()
        .flatten()
    {
        let _client = TcpStream::connect(address(&listener)).expect("connect");
        let (conn, _) = accept_within_deadline(&listener);
        assert_eq!(listener.prepare(conn.as_fd()), Ok(()));
        let idle = option(&conn, sockopt::ReceiveTimeout);
        assert_eq!((idle.tv_sec(), idle.tv_usec()), (601, 500_000));
        assert_eq!(option(&conn, sockopt::SendTimeout), TimeVal::new(300, 0));
        assert!(option(&conn, sockopt::KeepAlive));
        assert_eq!(option(&conn, sockopt::TcpKeepIdle), 60);
        assert_eq!(option(&conn, sockopt::TcpKeepInterval), 15);
        assert_eq!(option(&conn, sockopt::TcpKeepCount), 4);
        assert!(option(&conn, sockopt::OobInline));
        assert!(option(&conn, sockopt::TcpNoDelay));
        assert_eq!(option(&conn, sockopt::TcpUserTimeout), 300_000);
    }
}

#[test]
fn unix_connections_get_theirs_from_prepare() {
    let dir = tempfile::tempdir().expect("tempdir");
    let listener = open_one(&unix_name(&dir));
    let _client = connect_unix(&listener).expect("connect");
    let (conn, peer) = accept_within_deadline(&listener);
    assert_eq!(peer, Peer::Unix);
    assert_eq!(option(&conn, sockopt::ReceiveTimeout), TimeVal::new(0, 0));
    assert_eq!(listener.prepare(conn.as_fd()), Ok(()));
    assert_eq!(option(&conn, sockopt::ReceiveTimeout).tv_sec(), 601);
    assert_eq!(option(&conn, sockopt::SendTimeout), TimeVal::new(300, 0));
    assert!(option(&conn, sockopt::OobInline));
}

/// Sends `ab` with b urgent, then `c`, and reads all three in order.
fn urgent_byte_stays_in_its_place(client: OwnedFd, conn: OwnedFd) {
    let sent = send(client.as_raw_fd(), b"ab", MsgFlags::MSG_OOB);
    if sent == Err(Errno::EOPNOTSUPP) {
        eprintln!("skipped: this kernel has no urgent data on Unix sockets");
        return;
    }
    assert_eq!(sent, Ok(2));
    assert_eq!(send(client.as_raw_fd(), b"c", MsgFlags::empty()), Ok(1));
    drop(client);
    let mut got = Vec::new();
    std::fs::File::from(conn)
        .read_to_end(&mut got)
        .expect("read");
    assert_eq!(got, b"abc");
}

#[test]
fn an_urgent_byte_arrives_inline() {
    let dir = tempfile::tempdir().expect("tempdir");
    let listener = open_one(&unix_name(&dir));
    let client = connect_unix(&listener).expect("connect");
    let (conn, _) = accept_within_deadline(&listener);
    listener.prepare(conn.as_fd()).expect("prepare");
    urgent_byte_stays_in_its_place(client.into(), conn);

    let listener = open_one("127.0.0.1:0");
    let client = TcpStream::connect(address(&listener)).expect("connect");
    let (conn, _) = accept_within_deadline(&listener);
    urgent_byte_stays_in_its_place(client.into(), conn);
}

// Clients in the queue of a listener that closes are served, and newcomers
// stay out.

/// A nonblocking connect under way, as a client's kernel sees it.
fn start_connect(addr: SocketAddr) -> OwnedFd {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(family, SockType::Stream, birth_flags(), None).expect("socket");
    let addr = nix::sys::socket::SockaddrStorage::from(addr);
    match connect(fd.as_raw_fd(), &addr) {
        Ok(()) | Err(Errno::EINPROGRESS) => fd,
        Err(errno) => panic!("connect: {errno}"),
    }
}

/// Unanswered or refused is not connected.
fn connected_within(fd: &OwnedFd, ms: u16) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::from(ms)).expect("poll") == 1
        && option(fd, sockopt::SocketError) == 0
}

fn the_queue_is_served_and_newcomers_stay_out(refuse: fn(&Listener) -> Result<(), Errno>) {
    for listener in [Some(open_one("127.0.0.1:0")), open_v6()]
        .into_iter()
        .flatten()
    {
        let addr = address(&listener);
        let mut queued: Vec<_> = (0..8)
            .map(|_| TcpStream::connect(addr).expect("connect"))
            .collect();
        assert!(connected_within(&start_connect(addr), 5000), "{addr}");
        assert_eq!(refuse(&listener), Ok(()));
        assert!(
            !connected_within(&start_connect(addr), 100),
            "{addr}: got in"
        );
        assert!(try_open(listener.name()).is_err(), "the port is still ours");

        for client in &mut queued {
            let (conn, peer) = accept_within_deadline(&listener);
            assert_eq!(peer, Peer::Inet(client.local_addr().expect("address")));
            // What was accepted goes on, with whatever it inherited.
            client.write_all(b"ping").expect("write");
            let mut conn = TcpStream::from(conn);
            let mut got = [0; 4];
            conn.read_exact(&mut got).expect("read");
            assert_eq!(&got, b"ping");
        }
        assert!(listener.accept().is_ok(), "the one that hung up");
        assert_eq!(listener.accept().expect_err("empty"), Errno::EAGAIN);
        assert_eq!(listener.shut(), Ok(()), "nothing, for TCP");
        assert!(!listener.is_shut());
    }
}

#[test]
fn after_refuse_new_the_queue_is_served_and_newcomers_stay_out() {
    the_queue_is_served_and_newcomers_stay_out(Listener::refuse_new);
}

#[test]
fn without_privileges_too() {
    the_queue_is_served_and_newcomers_stay_out(|listener| {
        sys::detach_from_interfaces(listener.as_fd())
    });
}

/// Closing them one after the other loses nobody in the queue of another.
fn shared_queues_are_served_and_newcomers_stay_out(refuse: fn(&Listener) -> Result<(), Errno>) {
    let listeners = open_shared();
    let addr = address(&listeners[0]);
    let clients: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(addr).expect("connect"))
        .collect();
    for listener in &listeners {
        assert_eq!(refuse(listener), Ok(()));
    }
    for _ in 0..8 {
        assert!(!connected_within(&start_connect(addr), 20), "got in");
    }
    let mut served = Vec::new();
    for listener in listeners {
        while let Ok((conn, _)) = listener.accept() {
            served.push(TcpStream::from(conn));
        }
    }
    assert_eq!(served.len(), clients.len());
    for conn in &mut served {
        conn.write_all(b"x").expect("nobody was reset");
    }
    for mut client in clients {
        client.read_exact(&mut [0]).expect("nobody was reset");
    }
}

#[test]
fn shared_queues_too() {
    shared_queues_are_served_and_newcomers_stay_out(Listener::refuse_new);
}

#[test]
fn shared_queues_without_privileges_too() {
    shared_queues_are_served_and_newcomers_stay_out(|listener| {
        sys::detach_from_interfaces(listener.as_fd())
    });
}

#[test]
fn after_shut_a_unix_queue_is_served_and_newcomers_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let abstract_name = format!("unix:@echod-shut-{}", std::process::id());
    for spec in [unix_name(&dir), abstract_name] {
        let listener = open_one(&spec);
        let connect = || match spec.strip_prefix("unix:@") {
            None => connect_unix(&listener),
            Some(raw) => {
                UnixName::from_abstract_name(raw).and_then(|name| UnixStream::connect_addr(&name))
            }
        };
        let clients: Vec<_> = (0..8).map(|_| connect().expect("connect")).collect();
        assert_eq!(listener.refuse_new(), Ok(()), "nothing, for Unix");
        assert!(!listener.is_shut());
        assert_eq!(listener.shut(), Ok(()));
        assert!(listener.is_shut());
        let refused = connect().expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        for mut client in clients {
            let (conn, _) = listener.accept().expect("a queued client");
            drop(conn);
            assert_eq!(client.read(&mut [0]).expect("end"), 0);
        }
        assert!(wait_readable(&listener).contains(PollFlags::POLLIN));
        assert_eq!(listener.accept().expect_err("drained"), Errno::EAGAIN);
    }
}

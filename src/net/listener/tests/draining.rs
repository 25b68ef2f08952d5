//! Clients in the queue of a listener that closes are served, and newcomers
//! stay out.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixName, UnixStream};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockType, connect, socket, sockopt};

use super::{
    Listener, accept_within_deadline, address, birth_flags, connect_unix, open_one, open_shared,
    open_v6, option, sys, try_open, unix_name, wait_readable,
};
use crate::addr::Peer;

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

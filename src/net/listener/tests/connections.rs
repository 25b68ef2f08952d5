//! What an accepted connection is born with, and what it is given.

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sockopt};
use nix::sys::time::TimeVal;

use super::{accept_within_deadline, address, connect_unix, open_one, open_v6, option, unix_name};
use crate::addr::Peer;

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

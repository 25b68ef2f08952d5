//! Pitfalls of the tutorials' UDP servers: a datagram is not a piece of a
//! stream, and an error is one client's.

use std::net::UdpSocket;

use crate::common::client::tcp_addr;
use crate::common::{DEADLINE, Daemon, pattern};

/// An echod for datagrams, and a client of it.
fn pair() -> (Daemon, UdpSocket) {
    let daemon = Daemon::start(&["-l", "udp:127.0.0.1:0"]);
    let client = client_of(&daemon);
    (daemon, client)
}

fn client_of(daemon: &Daemon) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let server = daemon.addr().strip_prefix("udp:").expect("a UDP address");
    client.connect(tcp_addr(server)).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client
}

fn echoes(client: &UdpSocket, sent: &[u8]) {
    client.send(sent).expect("send");
    let mut got = vec![0; 1 << 16];
    let len = client.recv(&mut got).expect("the echo");
    assert!(got[..len] == *sent, "{len} bytes for {}", sent.len());
}

/// `if (n <= 0) continue`, or worse `break`, as for a stream.
#[test]
fn a_datagram_of_no_bytes_is_answered() {
    let (_daemon, client) = pair();
    echoes(&client, b"");
    echoes(&client, b"next");
}

/// `char buffer[1024]`: what does not fit is cut off, and nobody is told.
#[test]
fn a_long_datagram_is_not_truncated() {
    let (_daemon, client) = pair();
    for len in [1023, 1024, 1025, 9000, 65_507] {
        echoes(&client, &pattern(5, len));
    }
}

/// `sendto` fails for a client that has left, and `exit(1)`.
#[test]
fn a_client_that_has_left_is_not_the_servers_end() {
    let (daemon, client) = pair();
    for _ in 0..20 {
        // Gone before the answer comes: the kernel refuses it.
        client_of(&daemon).send(b"and away").expect("send");
    }
    echoes(&client, b"others");
    assert!(daemon.try_exit().is_none());
    assert_eq!(daemon.log_count("killed:"), 0);
}

//! Real datagrams over loopback and Unix sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

fn udp(address: &str) -> Option<UdpSocket> {
    let Ok(socket) = UdpSocket::bind(address) else {
        eprintln!("skipped: cannot bind {address}");
        return None;
    };
    let limit = Some(Duration::from_secs(20));
    socket.set_read_timeout(limit).expect("timeout");
    Some(socket)
}

fn echo_all(batch: &mut Batch, socket: BorrowedFd<'_>) -> (u64, u64) {
    let n = batch.receive(socket, Wait::ForOne).expect("something came");
    (0..n).for_each(|i| batch.echo(i, false));
    batch.send(socket, |errno| panic!("{errno}"))
}

/// Every round tells where its datagrams went to: the lengths are reset.
#[test]
fn each_datagram_of_each_batch_has_its_own_control_message() {
    let server = udp("0.0.0.0:0").expect("IPv4");
    setsockopt(&server, sockopt::Ipv4PacketInfo, &true).expect("option");
    let port = server.local_addr().expect("address").port();
    let mut batch = Batch::new().expect("mmap");
    let client = udp("127.0.0.1:0").expect("IPv4");
    for round in 0..3 {
        for host in 1..=5 {
            let to = (Ipv4Addr::new(127, 0, round, host), port);
            client.send_to(&[host; 9], to).expect("send");
        }
        assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(5));
        for i in 0..5u8 {
            let got = batch.get(i.into());
            assert_eq!(got.bytes, [i + 1; 9]);
            assert_eq!(
                got.from,
                Sender::Inet(client.local_addr().expect("address"))
            );
            let to = got.to.expect("IP_PKTINFO");
            assert_eq!(to.address, Ipv4Addr::new(127, 0, round, i + 1));
            assert!(to.unicast && !got.cut && to.interface == 1);
            batch.echo(i.into(), false);
        }
        assert_eq!(batch.send(server.as_fd(), |e| panic!("{e}")), (5, 45));
        for host in 1..=5 {
            let (n, from) = client.recv_from(&mut [0; 99]).expect("echo");
            let expected = SocketAddr::from(([127, 0, round, host], port));
            assert_eq!((n, from), (9, expected));
        }
    }
    assert_eq!(batch.receive(server.as_fd(), Wait::Never).unwrap_or(0), 0);
}

#[test]
fn ipv6_too() {
    let Some(server) = udp("[::]:0") else { return };
    setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true).expect("option");
    let port = server.local_addr().expect("address").port();
    let mut batch = Batch::new().expect("mmap");
    let Some(client) = udp("[::1]:0") else { return };
    client.send_to(b"six", ("::1", port)).expect("send");
    assert_eq!(echo_all(&mut batch, server.as_fd()), (1, 3));
    let to = batch.get(0).to.expect("IPV6_PKTINFO");
    assert_eq!(to.address, Ipv6Addr::LOCALHOST);
    let (n, from) = client.recv_from(&mut [0; 9]).expect("echo");
    assert_eq!((n, from.ip()), (3, IpAddr::V6(Ipv6Addr::LOCALHOST)));
}

#[test]
fn what_does_not_fit_is_told_and_what_fits_is_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let server = UnixDatagram::bind(&a).expect("bind");
    server.set_nonblocking(true).expect("nonblocking");
    let client = UnixDatagram::bind(&b).expect("bind");
    let unnamed = UnixDatagram::unbound().expect("socket");
    let mut batch = Batch::new().expect("mmap");
    client.send_to(&vec![7; LONGEST + 1], &a).expect("send");
    client.send_to(&vec![8; LONGEST], &a).expect("send");
    client.send_to(b"", &a).expect("send");
    unnamed.send_to(b"who?", &a).expect("send");
    assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(4));
    let seen: Vec<_> = (0..4)
        .map(|i| {
            let got = batch.get(i);
            (got.bytes.len(), got.cut, got.from, got.to)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (LONGEST, true, Sender::Unix(None), None),
            (LONGEST, false, Sender::Unix(None), None),
            (0, false, Sender::Unix(None), None),
            (4, false, Sender::Unnamed, None),
        ]
    );
    batch.echo(1, true);
    batch.echo(2, false);
    assert_eq!(
        batch.send(server.as_fd(), |e| panic!("{e}")),
        (2, LONGEST as u64)
    );
    let mut back = vec![0; LONGEST + 9];
    assert_eq!(client.recv(&mut back).expect("echo"), LONGEST);
    assert!(back[..LONGEST].iter().all(|&byte| byte == 8));
    assert_eq!(client.recv(&mut back).expect("echo"), 0);
}

#[test]
fn a_reply_that_fails_does_not_keep_the_others() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let server = UnixDatagram::bind(path("s")).expect("bind");
    for name in ["gone", "here", "lost"] {
        let client = UnixDatagram::bind(path(name)).expect("bind");
        client.send_to(name.as_bytes(), path("s")).expect("send");
    }
    let _ = std::fs::remove_file(path("here"));
    let here = UnixDatagram::bind(path("here")).expect("bind");
    let mut batch = Batch::new().expect("mmap");
    assert_eq!(batch.receive(server.as_fd(), Wait::Never), Ok(3));
    (0..3).for_each(|i| batch.echo(i, false));
    let mut failures = Vec::new();
    let sent = batch.send(server.as_fd(), |errno| failures.push(errno));
    assert_eq!(sent, (1, 4));
    assert_eq!(failures, [Errno::ECONNREFUSED; 2]);
    assert_eq!(here.recv(&mut [0; 9]).expect("echo"), 4);
}

//! Sockets handed over: served like our own, and left to their owner at the end.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use nix::sys::socket::{self as s, sockopt};

use crate::common::design::{DESIGNS, FORK_WAIT, PREFORK, PREFORK_PASS, PREFORK_REUSE, THREAD};
use crate::common::{Builder, Client, DEADLINE, Daemon, Signal, has_ipv6, poll_until, proc};
use crate::units::manager::Manager;

fn theirs() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", listener.local_addr().expect("address"));
    (listener, addr)
}

fn given(listener: &TcpListener) -> Builder {
    Daemon::builder().handed(listener.try_clone().expect("a copy"))
}

fn serves(client: &mut Client) {
    client.ping(b"served");
}

/// With its end of file, and the server's.
fn leaves(mut client: Client) {
    client.shutdown_write().expect("shutdown");
    assert_eq!(client.rest(), b"");
}

fn leaves_served(mut client: Client) {
    serves(&mut client);
    leaves(client);
}

#[test]
fn every_design_serves_it_and_the_next_one_too() {
    for design in DESIGNS
        .iter()
        .filter(|design| !design.name.contains("reuseport"))
    {
        let (listener, addr) = theirs();
        let daemon = given(&listener).args(design.args).start();
        let addrs = daemon.addrs();
        assert!(
            addrs.len() == 1 && addrs[0] == addr,
            "and no default: {addrs:?}"
        );
        serves(&mut Client::connect(&addr));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(
            daemon.wait_exit(DEADLINE).code(),
            Some(0),
            "{}",
            design.name
        );
        daemon.assert_gone(DEADLINE);
        // Nobody serves, and nobody is refused: the next one does.
        let mut waits = Client::connect(&addr);
        let next = given(&listener).args(design.args).start();
        serves(&mut waits);
        let peer = waits.peer_name();
        leaves(waits);
        assert_eq!(next.conn_line(&peer).listener, addr, "{}", design.name);
    }
}

/// A client of the queue is nobody's until it is accepted.
#[test]
fn whoever_waits_at_a_stop_waits_on() {
    for (which, design) in [
        (Signal::SIGTERM, &PREFORK),
        (Signal::SIGTERM, &PREFORK_PASS),
        (Signal::SIGTERM, &FORK_WAIT),
        (Signal::SIGTERM, &THREAD),
        (Signal::SIGINT, &PREFORK),
        (Signal::SIGINT, &PREFORK_REUSE),
        (Signal::SIGINT, &FORK_WAIT),
        (Signal::SIGINT, &THREAD),
    ] {
        let (listener, addr) = theirs();
        let daemon = given(&listener).args(design.args).args(["-c", "1"]).start();
        let mut first = Client::connect(&addr);
        serves(&mut first);
        let mut second = Client::connect(&addr);
        second.write_all(b"early ").expect("the kernel has it");
        daemon.signal(which);
        if which == Signal::SIGTERM {
            daemon.wait_log("left, with its queue", DEADLINE);
            serves(&mut first);
            leaves(first);
        }
        assert_eq!(
            daemon.wait_exit(DEADLINE).code(),
            Some(0),
            "{}",
            design.name
        );
        assert!(!daemon.log().contains("queued: reset"), "{}", daemon.log());
        daemon.assert_gone(DEADLINE);
        let _next = given(&listener).args(design.args).start();
        let mut echo = [0; 6];
        second.read_exact(&mut echo).expect("not reset");
        assert_eq!(&echo, b"early ");
        leaves(second);
    }
}

#[test]
fn the_queue_survives_a_supervisor_that_is_killed() {
    let (listener, addr) = theirs();
    let daemon = given(&listener).start();
    daemon.signal(Signal::SIGKILL);
    assert!(!daemon.wait_exit(DEADLINE).success());
    daemon.assert_gone(DEADLINE);
    let waits = Client::connect(&addr);
    let _next = given(&listener).start();
    leaves_served(waits);
}

#[test]
fn a_unix_sockets_file_stays() {
    let builder = Daemon::builder();
    let path = builder.path("handed");
    let addr = format!("unix:{path}");
    let listener = UnixListener::bind(&path).expect("bind");
    let daemon = builder
        .handed(listener.try_clone().expect("a copy"))
        .start();
    assert_eq!(daemon.addr(), addr);
    serves(&mut Client::connect(&addr));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(Path::new(&path).exists());
    let waits = Client::connect(&addr);
    let _next = Daemon::builder().handed(listener).start();
    leaves_served(waits);
}

#[test]
fn both_kinds_of_listener_at_once() {
    let (listener, addr) = theirs();
    let daemon = given(&listener).args(["-l", "tcp:127.0.0.1:0"]).start();
    assert_eq!(daemon.addrs()[0], addr);
    for addr in daemon.addrs() {
        serves(&mut Client::connect(addr));
    }
    daemon.wait_log(
        &format!("listening on {addr}, handed over as descriptor 3\n"),
        DEADLINE,
    );
    // Ours is closed, theirs is not.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(Client::try_connect(&daemon.addrs()[1]).is_err());
    Client::connect(&addr);
}

#[test]
fn a_socket_of_both_families_shows_ipv4_clients_in_ipv4() {
    if !has_ipv6() {
        return;
    }
    let flags = s::SockFlag::SOCK_CLOEXEC;
    let both = s::socket(s::AddressFamily::Inet6, s::SockType::Stream, flags, None);
    let both = both.expect("socket");
    s::setsockopt(&both, sockopt::Ipv6V6Only, &false).expect("option");
    let any = std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let fd = std::os::fd::AsRawFd::as_raw_fd(&both);
    s::bind(fd, &s::SockaddrStorage::from(any)).expect("bind");
    s::listen(&both, s::Backlog::MAXCONN).expect("listen");
    let daemon = Daemon::builder().handed(both).start();
    let port = daemon.addr().rsplit(':').next().expect("a port");
    for host in ["127.0.0.1", "[::1]"] {
        let mut client = Client::connect(&format!("tcp:{host}:{port}"));
        serves(&mut client);
        let peer = client.peer_name();
        leaves(client);
        assert_eq!(daemon.conn_line(&peer).end, "eof", "{host}");
    }
}

#[test]
fn datagrams_are_answered_and_the_socket_is_not_made_deaf() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let to = socket.local_addr().expect("address");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let mut got = [0; 16];
    for round in [b"first ", b"second"] {
        // What came while nobody served is answered at the start.
        client.send_to(round, to).expect("send");
        let daemon = Daemon::builder()
            .handed(socket.try_clone().expect("a copy"))
            .args(["--udp-rate", "off"])
            .start();
        assert_eq!(daemon.addr(), format!("udp:{to}"));
        assert_eq!(client.recv_from(&mut got).expect("the echo"), (6, to));
        assert_eq!(&got[..6], round);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    }
}

#[test]
fn unix_datagrams_too() {
    let builder = Daemon::builder();
    let (path, own) = (builder.path("gram"), builder.path("client"));
    let socket = UnixDatagram::bind(&path).expect("bind");
    let client = UnixDatagram::bind(&own).expect("bind");
    // echod may be nobody by then.
    let all = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&own, all).expect("chmod");
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let daemon = builder.handed(socket.try_clone().expect("a copy")).start();
    assert_eq!(daemon.addr(), format!("unixgram:{path}"));
    client.send_to(b"gram", &path).expect("send");
    assert_eq!(client.recv(&mut [0; 16]).expect("the echo"), 4);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(Path::new(&path).exists());
    client
        .send_to(b"later", &path)
        .expect("it was not shut down");
}

#[test]
fn a_connection_is_refused_with_advice() {
    let (listener, addr) = theirs();
    let _client = Client::connect(&addr);
    let (conn, _) = listener.accept().expect("accept");
    let ended = Daemon::builder().handed(conn).run(DEADLINE);
    assert_eq!(ended.status.code(), Some(78));
    assert!(
        ended
            .stderr
            .contains("descriptor 3: a connection, not a listener")
    );
    assert!(ended.stderr.contains("--inetd"), "{}", ended.stderr);
    let ended = given(&listener)
        .args(["--accept", "reuseport"])
        .run(DEADLINE);
    assert_eq!(ended.status.code(), Some(64), "{}", ended.stderr);
}

/// Everything else is closed (row 22): here descriptor 7.
#[test]
fn row_22_what_is_not_handed_over_is_closed() {
    let (listener, addr) = theirs();
    let daemon = given(&listener)
        .args(["--sandbox", "off"])
        .under(["/bin/sh", "-c", "exec \"$@\" 7</etc/passwd", "sh"])
        .start();
    serves(&mut Client::connect(&addr));
    let held = proc::fd_targets(daemon.pid()).expect("we may look");
    assert!(
        !held.iter().any(|(_, file)| file == "/etc/passwd"),
        "{held:?}"
    );
}

/// socket(2) of any protocol; `None` where this kernel has it not, or not for us.
fn of_protocol(family: i32, kind: i32, protocol: i32) -> Option<OwnedFd> {
    // SAFETY: three integers in, a new descriptor or -1 out.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    // SAFETY: just made, for us alone.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn row_104_a_socket_of_another_protocol_is_78_and_names_its_descriptor() {
    use std::net::SocketAddr;
    for (kind, protocol, part) in [
        (libc::SOCK_STREAM, libc::IPPROTO_MPTCP, "SocketProtocol=tcp"),
        (libc::SOCK_STREAM, libc::IPPROTO_SCTP, "another protocol"),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE, "another protocol"),
    ] {
        for (family, any) in [
            (libc::AF_INET, SocketAddr::from(([127, 0, 0, 1], 0))),
            (libc::AF_INET6, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
        ] {
            let Some(fd) = of_protocol(family, kind, protocol) else {
                continue;
            };
            if s::bind(fd.as_raw_fd(), &s::SockaddrStorage::from(any)).is_err() {
                continue; // no IPv6 here
            }
            if kind == libc::SOCK_STREAM {
                s::listen(&fd, s::Backlog::MAXCONN).expect("listen");
            }
            for check in [&[][..], &["--check"]] {
                let copy = fd.try_clone().expect("a copy");
                let ended = Daemon::builder()
                    .handed(copy)
                    .bare()
                    .args(check)
                    .run(DEADLINE);
                assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
                let named = ended
                    .stderr
                    .starts_with("echod: LISTEN_FDS: descriptor 3: ");
                assert!(named && ended.stderr.contains(part), "{}", ended.stderr);
            }
        }
    }
}

#[test]
fn check_looks_at_it_and_does_not_serve() {
    let (listener, addr) = theirs();
    let ended = given(&listener).bare().args(["--check"]).run(DEADLINE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let waits = Client::connect(&addr);
    let _daemon = given(&listener).start();
    leaves_served(waits);
}

/// daemon(7): what was handed to the starter is the daemon's.
#[test]
fn a_daemon_has_it_from_its_starter() {
    let (listener, addr) = theirs();
    let builder = given(&listener);
    let manager = Manager::at_path(&builder);
    let (pidfile, log) = (builder.path("pid"), builder.path("log"));
    let mut daemon = builder
        .args(["--daemon", "--pidfile", &pidfile, "--log-target", &log])
        .env("NOTIFY_SOCKET", &manager.name)
        .start();
    let pid = std::fs::read_to_string(&pidfile).expect("a pidfile");
    daemon.track(pid.trim().parse().expect("a pid"));
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    serves(&mut Client::connect(&addr));
    daemon.signal(Signal::SIGTERM);
    manager.until("STOPPING=1");
    poll_until(DEADLINE, "the daemon ends", || proc::is_dead(daemon.pid()));
    Client::connect(&addr);
}

//! `--allow` and `--deny`: wherever a connection is accepted.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use super::{HERE, QUICK, THERE, assert_refused, assert_reset, count_refused, served, start};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, has_ipv6, poll_some, poll_until,
};

/// Stops it and returns its log.
fn log_after_stop(daemon: &Daemon) -> String {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    daemon.log()
}

#[test]
fn the_longest_prefix_decides_in_every_design() {
    let rules = [
        "--deny",
        "127.201.0.0/16",
        "--allow",
        "127.201.1.7",
        "--allow",
        "127.0.0.0/8",
        "--deny",
        "127.202.1.7",
        "--allow",
        "127.202.1.7",
    ];
    for design in DESIGNS {
        let daemon = start(design, &rules);
        for source in ["127.0.0.1", HERE, "127.202.1.8"] {
            drop(served(source, &daemon));
        }
        for source in ["127.201.1.8", "127.201.1.9", THERE] {
            assert_refused(source, &daemon);
        }
        drop(served(HERE, &daemon));
        let log = log_after_stop(&daemon);
        let name = design.name;
        for line in [
            "access: 3 --allow, 2 --deny",
            "refusing 127.201.1.8:",
            "refusing 127.202.1.7:",
        ] {
            assert!(log.contains(line), "{name}: no {line:?}");
        }
        let counts = [
            (2, ": --deny 127.201.0.0/16"),
            (1, ": --deny 127.202.1.7/32"),
        ];
        for (count, why) in counts {
            assert_eq!(count_refused(&log, why), count, "{name}: {log}");
        }
        assert!(!log.contains("peer=127.201.1.8"), "{name}: a connection");
        assert!(!log.contains("peer=127.202.1.7:"), "{name}: a connection");
    }
}

#[test]
fn nobody_dies_of_a_refusal() {
    for design in DESIGNS.iter().filter(|design| design.pooled) {
        let daemon = start(design, &["--deny", HERE, "--start-servers", "4"]);
        let pids = || -> Vec<i32> { daemon.members().iter().map(|p| p.pid).collect() };
        let roles = || daemon.role("echod-idle").len() + daemon.role("echod-thread").len();
        poll_until(DEADLINE, "the pool", || roles() >= 1);
        let before = pids();
        for _ in 0..50 {
            assert_refused(HERE, &daemon);
        }
        // The pool may have been growing yet.
        let after = pids();
        let died = before.iter().any(|pid| !after.contains(pid));
        assert!(!died, "{}: {before:?} {after:?}", design.name);
        drop(served(THERE, &daemon));
        let log = log_after_stop(&daemon);
        let count = count_refused(&log, ": --deny 127.201.1.7/32");
        assert_eq!(count, 50, "{}: {log}", design.name);
    }
}

#[test]
fn an_allow_refuses_all_others_and_an_episode_ends_by_itself() {
    let daemon = start(&super::DEFAULT, &["--allow", THERE]);
    drop(served(THERE, &daemon));
    for _ in 0..3 {
        assert_refused(HERE, &daemon);
    }
    poll_until(DEADLINE, "the end of the episode", || {
        count_refused(&daemon.log(), ": no --allow") == 3
    });
    // The next one begins another.
    let begun = daemon.log_count("refusing 127.201.1.7:");
    assert_refused(HERE, &daemon);
    poll_until(DEADLINE, "another line", || {
        daemon.log_count("refusing 127.201.1.7:") == begun + 1
    });
}

/// By whoever accepts: in every design that serves Unix sockets, and where a
/// worker serves many from behind its filter.
#[test]
fn clients_of_a_unix_socket_go_by_their_identity() {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let (uid, gid) = (format!("uid:{uid}"), format!("gid:{gid}"));
    let cases = [
        (["--allow", &uid, "--deny", &gid], true),
        (["--allow", &gid, "--deny", &uid], false),
        (["--allow", "uid:4242", "--allow", "gid:4242"], false),
    ];
    for design in DESIGNS.iter().filter(|design| !design.tcp_only) {
        for (rules, expected) in cases {
            let builder = Builder::new().args(design.args).args(QUICK).args(rules);
            let path = format!("unix:{}", builder.path("s"));
            let daemon = builder.args(["-l", &path]).start();
            for _ in 0..3 {
                let mut client = Client::connect(&path);
                let is_served = client.try_ping(b"?");
                assert_eq!(is_served, expected, "{}: {rules:?}", design.name);
            }
            if !expected {
                let log = log_after_stop(&daemon);
                assert_eq!(count_refused(&log, ""), 3, "{log}");
                let who = format!("refusing unix, {uid} and {gid}: ").replace("id:", "id ");
                assert!(log.contains(&who), "{log}");
            }
        }
    }
}

#[test]
fn a_refused_client_of_a_unix_socket_that_is_silent_sees_the_end() {
    let builder = Builder::new();
    let path = format!("unix:{}", builder.path("s"));
    let _daemon = builder.args(["-l", &path, "--allow", "uid:4242"]).start();
    Client::connect(&path).end().expect("an end of file");
}

#[test]
fn a_datagram_from_a_refused_source_is_dropped_and_counted() {
    let daemon = start(
        &super::DEFAULT,
        &["-l", "udp:127.0.0.1:0", "--deny", "127.201.0.0/16"],
    );
    let server = daemon.addr().strip_prefix("udp:").expect("udp").to_owned();
    let from = |source: &str| {
        let socket = UdpSocket::bind((source, 0)).expect("bind");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket
    };
    let (refused, served) = (from(HERE), from(THERE));
    for _ in 0..3 {
        refused.send_to(b"?", &server).expect("send");
    }
    // One queue: when this has come back, those were looked at.
    served.send_to(b"!", &server).expect("send");
    let mut got = [0; 8];
    assert_eq!(served.recv(&mut got).expect("an echo"), 1);
    refused.set_nonblocking(true).expect("nonblocking");
    assert!(
        refused.recv(&mut got).is_err(),
        "a refused source is answered"
    );
    daemon.wait_log("a source that --allow and --deny refuse", DEADLINE);
    let log = log_after_stop(&daemon);
    let total = "1 datagram answered, 3 dropped (--allow and --deny 3)";
    assert!(log.contains(total), "{log}");
}

/// An echod --inetd with this connection, its exit status and what it said.
fn inetd(args: &[&str], conn: OwnedFd) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_echod"))
        .arg("--inetd")
        .args(args)
        .stdin(conn)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("echod starts");
    let status = poll_some(DEADLINE, "echod ends", || {
        child.try_wait().expect("our own child")
    });
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut said).expect("text");
    (status.code(), said)
}

#[test]
fn under_inetd_a_refused_client_is_reset_and_the_reason_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", listener.local_addr().expect("an address"));
    let mut client = super::connect_from(HERE, &addr).expect("connect");
    let conn = listener.accept().expect("accept").0.into();
    let (status, said) = inetd(&["--deny", "127.201.0.0/16"], conn);
    assert_eq!(status, Some(77), "{said}");
    assert!(said.starts_with("echod: refusing 127.201.1.7:"), "{said}");
    assert!(said.ends_with(": --deny 127.201.0.0/16\n"), "{said}");
    assert_reset(&client.end().expect_err("reset"));

    let client = super::connect_from(THERE, &addr).expect("connect");
    let conn = listener.accept().expect("accept").0.into();
    client.shutdown_write().expect("shutdown");
    let (status, said) = inetd(&["--deny", "127.201.0.0/16"], conn);
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// Row 88: an IPv4 client is itself, however its address is written. Our own
/// listeners never see one written as IPv6, for each is of one family; the
/// socket of an inetd can be of both.
#[test]
fn row_88_a_mapped_address_dodges_no_rule() {
    if !has_ipv6() {
        return;
    }
    let listener = std::net::TcpListener::bind("[::]:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let mut client =
        super::connect_from(HERE, &format!("tcp:127.0.0.1:{port}")).expect("of both families");
    let (conn, peer) = listener.accept().expect("accept");
    assert_eq!(peer.ip().to_string(), format!("::ffff:{HERE}"));
    let (status, said) = inetd(&["--allow", "::/0", "--deny", HERE], conn.into());
    assert_eq!(status, Some(77), "{said}");
    assert_reset(&client.end().expect_err("reset"));

    let daemon = start(&super::DEFAULT, &["-l", "tcp:[::]:0"]);
    let port = super::tcp_addr(daemon.addr()).port();
    let four = std::net::TcpStream::connect(("127.0.0.1", port));
    assert!(four.is_err(), "IPV6_V6ONLY is not set");
}

#[test]
fn a_refusal_waits_for_no_byte_of_the_client() {
    let daemon = start(&super::DEFAULT, &["--deny", HERE]);
    let mut silent = super::connect_from(HERE, daemon.addr()).expect("connect");
    assert_reset(&silent.end().expect_err("reset"));
    // What it sends afterwards is for nobody.
    assert!(silent.write(b"?").is_err() || silent.end().is_err());
}

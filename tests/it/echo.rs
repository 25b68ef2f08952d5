//! RFC 862 over TCP and Unix sockets: what comes back is what was sent, byte
//! for byte, however it was sent and however the client leaves.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use crate::common::{
    Builder, Client, DEADLINE, Daemon, echo_once, has_ipv6, many, need, pattern, skipped, stream,
};

const NONE: &[&str] = &[];

#[test]
fn every_byte_value_comes_back() {
    let daemon = Daemon::start(NONE);
    let all: Vec<u8> = (0..=255).cycle().take(4 * 256).collect();
    assert!(echo_once(daemon.addr(), &all) == all);
}

#[test]
fn one_byte_ping_pong() {
    let daemon = Daemon::start(NONE);
    let mut client = Client::connect(daemon.addr());
    for i in 0..1000u32 {
        client.ping(&[i.to_le_bytes()[0]]);
    }
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!((line.received, line.sent), (1000, 1000));
}

#[test]
fn half_close_after_nothing_gets_our_end_of_file() {
    let daemon = Daemon::start(NONE);
    assert!(echo_once(daemon.addr(), b"").is_empty());
}

#[test]
fn row_77_half_close_after_10_mib_gets_every_byte() {
    let daemon = Daemon::start(NONE);
    stream(daemon.addr(), 10 << 20);
}

/// A client that half-closes before it reads anything back.
#[test]
fn half_close_before_reading_gets_every_byte() {
    let daemon = Daemon::start(NONE);
    let sent = pattern(7, 60_000);
    assert!(echo_once(daemon.addr(), &sent) == sent);
}

#[test]
fn row_86_a_long_stream_comes_back() {
    let total = if cfg!(debug_assertions) {
        256 << 20
    } else {
        1 << 30
    };
    let daemon = Daemon::start(NONE);
    stream(daemon.addr(), total);
    let line = crate::common::poll_some(DEADLINE, "a conn line", || {
        crate::common::ConnLine::all(&daemon.log()).pop()
    });
    assert_eq!((line.received, line.sent), (total, total));
    assert_eq!(line.end, "eof");
}

/// SO_OOBINLINE: the urgent byte keeps its place in the stream.
fn urgent_byte_stays_in_place(addr: &str) {
    let mut client = Client::connect(addr);
    client.write_all(b"before").expect("send");
    if !client.send_urgent(b'!') {
        skipped("this kernel has no urgent data on such a socket");
        return;
    }
    client.write_all(b"after").expect("send");
    let mut got = [0; 12];
    client.read_exact(&mut got).expect("the echo");
    assert_eq!(&got, b"before!after");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
}

#[test]
fn row_83_urgent_byte_on_tcp_is_echoed_in_place() {
    let daemon = Daemon::start(NONE);
    urgent_byte_stays_in_place(daemon.addr());
}

#[test]
fn row_83_urgent_byte_on_a_unix_socket_is_echoed_in_place() {
    let builder = Builder::new();
    let addr = format!("unix:{}", builder.path("sock"));
    let daemon = builder.args(["-l", &addr]).start();
    urgent_byte_stays_in_place(daemon.addr());
}

#[test]
fn every_kind_of_listener_serves_at_once() {
    let builder = Builder::new();
    let path = format!("unix:{}", builder.path("sock"));
    let abstract_name = format!("unix:@echod-test-{}-kinds", std::process::id());
    let mut args = vec!["-l", "*:0", "-l", &path, "-l", &abstract_name];
    args.extend(["-l", "tcp:127.0.0.1:0"]);
    if has_ipv6() {
        args.extend(["-l", "tcp:[::1]:0"]);
    }
    let daemon = builder.args(args).start();
    let addrs = daemon.addrs().to_vec();
    assert_eq!(addrs.len(), if has_ipv6() { 6 } else { 4 }, "{addrs:?}");
    for addr in &addrs {
        let sent = addr.as_bytes().repeat(50);
        assert!(echo_once(addr, &sent) == sent, "{addr}");
    }
    let wildcard: Vec<&String> = addrs
        .iter()
        .filter(|addr| addr.starts_with("tcp:0.0.0.0:") || addr.starts_with("tcp:[::]:"))
        .collect();
    let port = |addr: &str| addr.rsplit(':').next().map(str::to_owned);
    assert_eq!(port(wildcard[0]), port(wildcard[wildcard.len() - 1]));
    let busy: Vec<_> = addrs
        .iter()
        .map(|addr| {
            let addr = addr.clone();
            thread::spawn(move || many(&addr, 40, 4, 2000))
        })
        .collect();
    for load in busy {
        load.join().expect("a load").assert_all_complete();
    }
}

#[test]
fn clients_at_once_do_not_mix() {
    let daemon = Daemon::start(NONE);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.addr())).collect();
    for round in 0..10u64 {
        for (client, n) in clients.iter_mut().zip(0u64..) {
            client.ping(&pattern(round * 1000 + n * 77, 500));
        }
    }
}

#[test]
fn a_reset_in_mid_stream_leaves_the_others_alone() {
    let daemon = Daemon::start(NONE);
    let addr = daemon.addr().to_owned();
    let good = thread::spawn(move || stream(&addr, 8 << 20));
    let mut held = Client::connect(daemon.addr());
    for n in 0..30 {
        let mut rude = Client::connect(daemon.addr());
        rude.write_all(&pattern(n, 3000)).expect("send");
        if n % 2 == 0 {
            let _ = rude.read(&mut [0; 100]);
        }
        rude.reset();
        held.ping(b"still here");
    }
    good.join().expect("the stream is whole");
    crate::common::poll_until(DEADLINE, "conn lines that end in reset", || {
        let lines = crate::common::ConnLine::all(&daemon.log());
        lines.iter().filter(|line| line.end == "reset").count() >= 20
    });
}

#[test]
fn netcat_works() {
    if !need("nc") {
        return;
    }
    let (_, help) = crate::common::tool("nc", &["-h"]);
    if !help.contains("OpenBSD") {
        skipped("netcat-openbsd is not installed");
        return;
    }
    let daemon = Daemon::start(NONE);
    let addr = crate::common::client::tcp_addr(daemon.addr());
    let mut nc = Command::new("nc")
        .args(["-N", &addr.ip().to_string(), &addr.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc starts");
    let mut input = nc.stdin.take().expect("a pipe");
    input.write_all(b"hello\nechod\n").expect("nc reads");
    drop(input);
    let out = nc.wait_with_output().expect("nc ends");
    assert_eq!(out.stdout, b"hello\nechod\n");
}

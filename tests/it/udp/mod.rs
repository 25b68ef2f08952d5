//! Datagrams: exact echoes, from the address that was asked, and workers that
//! come and go without losing any.
//!
//! Who is not answered, and that nobody can be hurt with it, is in
//! `tests/it/udp/weapon.rs` (FAULTS rows 89 to 93), the workers' lives are in
//! `tests/it/udp/lives.rs`.

pub mod lives;
pub mod names;
pub mod peer;
pub mod weapon;

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::common::{Builder, Client, DEADLINE, Daemon, inside_netns, must, need, pattern, proc};
use peer::{Gram, OFF, Peer, net, wait_local};

#[test]
fn an_echo_is_exact_from_no_byte_to_the_most_there_can_be() {
    // What the length field of UDP can say; IPv4's counts its own header too.
    for (host, most) in [("127.0.0.1", 65_507), ("[::1]", 65_527)] {
        if host == "[::1]" && !crate::common::has_ipv6() {
            continue;
        }
        let addr = format!("udp:{host}:0");
        let daemon = Builder::new().args(["-l", &addr]).start();
        let peer = Peer::to(daemon.addr());
        for size in [0, 1, 508, 1472, 9000, most - 1, most] {
            peer.ping(&pattern(size as u64, size));
        }
        let beyond = peer.socket.send_to(&vec![0; most + 1], peer.server);
        let errno = beyond.expect_err("too long for the kernel").raw_os_error();
        assert_eq!(errno, Some(nix::libc::EMSGSIZE), "{host}");
        let all: Vec<u8> = (0..=255).collect();
        peer.ping(&all);
    }
}

#[test]
fn a_star_serves_both_families_on_one_port() {
    let daemon = Builder::new().args(["-l", "udp:*:0"]).start();
    let port = net(daemon.addr()).port();
    Peer::to(&format!("udp:127.0.0.1:{port}")).ping(b"four");
    if crate::common::has_ipv6() {
        assert_eq!(net(&daemon.addrs()[1]).port(), port);
        Peer::to(&format!("udp:[::1]:{port}")).ping(b"six");
    }
}

#[test]
fn datagrams_streams_and_paths_are_announced_in_the_order_given() {
    let builder = Builder::new();
    let path = format!("unixgram:{}", builder.path("d"));
    let listen = [
        "-l",
        "udp:localhost:0",
        "-l",
        "tcp:127.0.0.1:0",
        "-l",
        &path,
    ];
    let daemon = builder
        .args(listen)
        .listeners(if resolves_to_two() { 4 } else { 3 })
        .start();
    let schemes: Vec<_> = daemon.addrs().iter().map(|a| &a[..4]).collect();
    assert_eq!(schemes.first(), Some(&"udp:"));
    assert_eq!(schemes[schemes.len() - 2..], ["tcp:", "unix"]);
    let tcp = &daemon.addrs()[schemes.len() - 2];
    Client::connect(tcp).ping(b"stream");
    Peer::to(daemon.addr()).ping(b"datagram");
}

fn resolves_to_two() -> bool {
    use std::net::ToSocketAddrs;
    let found = "localhost:0".to_socket_addrs().expect("localhost");
    let mut found: Vec<_> = found
        .filter(|a| a.is_ipv4() || crate::common::has_ipv6())
        .collect();
    found.dedup();
    found.len() == 2
}

#[test]
fn a_unix_socket_echoes_too_by_path_and_by_name() {
    let builder = Builder::new();
    let path = format!("unixgram:{},mode=0600", builder.path("d"));
    let name = format!("unixgram:@echod-udp-test-{}", std::process::id());
    let daemon = builder
        .args(["-l", &path, "-l", &name, "--allow-root"])
        .start();
    for addr in daemon.addrs() {
        let gram = Gram::to(addr);
        for size in [0, 1, 1472, 65_507, 65_536] {
            gram.ping(&pattern(7, size));
        }
    }
    let file = daemon.dir().join("d");
    let mode = std::fs::metadata(&file).expect("the socket's file");
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o7777, 0o600);
    daemon.signal(crate::common::Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(!file.exists(), "the socket's file is left");
}

#[test]
fn row_93_a_datagram_larger_than_the_buffer_is_dropped_whole() {
    let builder = Builder::new();
    let path = format!("unixgram:{}", builder.path("d"));
    let daemon = builder.args(["-l", &path]).start();
    let gram = Gram::to(daemon.addr());
    for size in [65_537, 100_000] {
        gram.send(&pattern(1, size));
    }
    // Replies come in order: the first one is to this.
    gram.ping(b"fits");
    daemon.wait_log("more than 65536 bytes: dropped whole", DEADLINE);
    assert_eq!(daemon.log_count("dropped whole"), 1, "one line");
    let said = peer::end(&daemon);
    assert!(
        said.contains("1 datagram answered, 2 dropped (too large 2)"),
        "{said}"
    );
}

#[test]
fn who_has_no_name_and_who_does_not_read_keep_nobody_waiting() {
    let builder = Builder::new();
    let (dir, path) = (builder.dir(), builder.path("d"));
    let listen = format!("unixgram:{path}");
    let daemon = builder.args(["-l", &listen]).start();
    let unnamed = UnixDatagram::unbound().expect("socket");
    unnamed.send_to(b"who am I?", &path).expect("send");
    // Not connected: the kernel bounds the queue of such a one.
    let deaf = UnixDatagram::bind(dir.join("deaf")).expect("bind");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.join("deaf"), open).expect("chmod");
    for _ in 0..50 {
        deaf.send_to(b"never read", &path).expect("send");
    }
    Gram::to(daemon.addr()).ping(b"served");
    daemon.wait_log("without a name", DEADLINE);
    daemon.wait_log("queues are full", DEADLINE);
}

#[test]
fn row_92_the_reply_leaves_from_the_address_that_was_asked() {
    if !inside_netns("udp::row_92_the_reply_leaves_from_the_address_that_was_asked") {
        return;
    }
    for words in [
        "link set lo up",
        "link add d0 type veth peer name d1",
        "addr add 10.77.0.1/24 dev d0",
        "addr add 10.77.0.2/24 dev d0",
        "addr add fd77::1/64 dev d0 nodad",
        "addr add fd77::2/64 dev d0 nodad",
        "link set d0 up",
        "link set d1 up",
    ] {
        must("ip", &words.split(' ').collect::<Vec<_>>());
    }
    wait_local(&[], "fd77::1");
    wait_local(&[], "fd77::2");
    let daemon = Builder::new()
        .args(["-l", "udp:*:0"])
        .args(OFF)
        .listeners(2)
        .start();
    let port = net(daemon.addr()).port();
    let link_local = link_local("d0");
    for host in [
        &link_local,
        "10.77.0.1",
        "10.77.0.2",
        "127.0.0.9",
        "[fd77::1]",
        "[fd77::2]",
        "[::1]",
    ] {
        // Unconnected: it would take a reply from anywhere.
        let peer = Peer::to(&format!("udp:{host}:{port}"));
        for round in 0..3u8 {
            peer.send(&[round]);
            let (reply, from) = peer
                .next()
                .unwrap_or_else(|| panic!("no reply from {host}"));
            assert_eq!((reply, from), (vec![round], peer.server), "{host}");
        }
    }
}

/// The address that means something on this link only, once it is ours.
fn link_local(interface: &str) -> String {
    let ours = || {
        let table = proc::machine("net/if_inet6")?;
        let mut lines = table.lines().map(str::split_whitespace).map(Vec::from_iter);
        // Scope 0x20, and no flag such as tentative but that it is permanent.
        let line = lines.find(|w| w[3] == "20" && w[4] == "80" && w[5] == interface)?;
        let bits = u128::from_str_radix(line[0], 16).ok()?;
        let index = u32::from_str_radix(line[1], 16).ok()?;
        Some(format!("[{}%{index}]", std::net::Ipv6Addr::from_bits(bits)))
    };
    crate::common::poll_some(DEADLINE, "a link-local address", ours)
}

#[test]
fn a_second_server_on_the_port_is_refused() {
    let daemon = Builder::new().args(["-l", "udp:127.0.0.1:0"]).start();
    let second = Builder::new().args(["-l", daemon.addr()]).run(DEADLINE);
    assert_eq!(second.status.code(), Some(69), "{}", second.stderr);
    assert!(second.stderr.contains("ss -lunp"), "{}", second.stderr);
    Peer::to(daemon.addr()).ping(b"undisturbed");
}

#[test]
fn print_copies_datagrams_too_and_says_whose_they_are() {
    let builder = Builder::new();
    let path = format!("unixgram:{}", builder.path("d"));
    let mut listen = vec!["-l", "udp:127.0.0.1:0", "-l", &path];
    if crate::common::has_ipv6() {
        listen.extend(["-l", "udp:[::1]:0"]);
    }
    let daemon = builder.args(listen).args(["--print"]).start();
    let mut expected = String::new();
    for addr in daemon.addrs() {
        if addr.starts_with("unixgram:") {
            Gram::to(addr).ping(b"read me\n");
            expected += "[unix] read me\n";
            continue;
        }
        let peer = Peer::to(addr);
        // Connected, so that it has the one address that the server sees.
        peer.socket.connect(peer.server).expect("connect");
        let own = peer.socket.local_addr().expect("address");
        for text in ["read me\n", "me too\n"] {
            peer.socket.send(text.as_bytes()).expect("send");
            peer.next().expect("the echo");
            expected += &format!("[{own}] {text}");
        }
    }
    // The copy comes before the echo.
    assert_eq!(daemon.stdout(), expected);
}

#[test]
fn the_copy_of_a_datagram_is_one_write_however_long() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .under([
            "strace",
            "-f",
            "-o",
            &trace,
            "-s",
            "40",
            "-e",
            "trace=write",
        ])
        .args(["-l", "udp:127.0.0.1:0", "--print", "--sandbox", "off"])
        .start();
    let peer = Peer::to(daemon.addr());
    let sizes = [0, 5, 65_507];
    for size in sizes {
        peer.ping(&vec![b'x'; size]);
    }
    let port = peer.socket.local_addr().expect("address").port();
    let prefix = format!("[127.0.0.1:{port}] ");
    let copies = || -> Vec<String> {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        let copies = text.lines().filter(|line| line.contains("write(1, "));
        copies.map(str::to_owned).collect()
    };
    crate::common::poll_until(DEADLINE, "all are traced", || copies().len() >= sizes.len());
    let copies = copies();
    assert_eq!(copies.len(), sizes.len(), "{copies:?}");
    for (copy, size) in copies.iter().zip(sizes) {
        assert!(copy.contains(&format!("write(1, \"{prefix}")), "{copy}");
        let length = format!(" = {}", prefix.len() + size);
        assert!(copy.ends_with(&length), "{copy}");
    }
}

#[test]
fn check_knows_datagrams() {
    let run = |listen: &str| {
        let builder = Builder::new().bare().args(["--check", "-l", listen]);
        builder.run(Duration::from_secs(20)).status.code()
    };
    assert_eq!(run("udp:127.0.0.1:7"), Some(0));
    assert_eq!(run("unixgram:@n"), Some(0));
    let commands = [
        "-l",
        "udp:*:7,service=command",
        "--allow-command",
        "d=/bin/date",
    ];
    let served = Builder::new().bare().args(["--check"]).args(commands);
    let status = served.run(Duration::from_secs(20)).status;
    assert_eq!(status.code(), Some(0));
    // No command is allowed.
    assert_eq!(run("udp:127.0.0.1:7,service=command"), Some(64));
    assert_eq!(run("udp:127.0.0.1:7,service=chargen"), Some(64));
}

#[test]
fn a_daemon_of_datagrams_has_no_pool() {
    let daemon: Daemon = Builder::new().args(["-l", "udp:127.0.0.1:0"]).start();
    Peer::to(daemon.addr()).ping(b"here");
    assert_eq!(daemon.members().len(), 2, "{:?}", daemon.members());
    assert_eq!(daemon.role("echod-udp").len(), 1);
}

//! FAULTS rows 89 to 93: that nobody can be hurt with a UDP echo. Each in a
//! network namespace of its own, where sources can be forged.

use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::Instant;

use crate::common::{Builder, DEADLINE, Daemon, must, need, poll_until, rss_kib};
use crate::peer::{Forger, OFF, Peer, count, end, inside_netns, lo, net, v4, wait_local};

const RATES_OFF: [&str; 4] = ["--udp-rate", "off", "--udp-global-rate", "off"];

fn set_up(words: &[&str]) {
    for words in [&["link set lo up"], words].concat() {
        must("ip", &words.split(' ').collect::<Vec<_>>());
    }
}

fn start(addr: &str, args: &[&str]) -> Daemon {
    Builder::new().args(["-l", addr]).args(args).start()
}

/// Everything sent before this has been looked at.
fn settle(daemon: &Daemon) {
    Peer::to(daemon.addr()).ping(b"settled");
}

#[test]
fn row_89_no_port_of_another_service_is_answered() {
    if !inside_netns("weapon::row_89_no_port_of_another_service_is_answered") {
        return;
    }
    set_up(&[]);
    let daemon = start("udp:127.0.0.1:0", &RATES_OFF);
    let to = v4(daemon.addr());
    let forger = Forger::new();
    let services = [7u16, 13, 17, 19, 37, 53, 69, 123, 1023, 2049];
    let services = services.map(|port| UdpSocket::bind(("127.0.0.1", port)).expect("bind"));
    let refused: Vec<u16> = (0..1024).chain([2049, to.port()]).collect();
    for chunk in refused.chunks(256) {
        for &port in chunk {
            forger.send(lo(1, port), to, b"answer me");
        }
        settle(&daemon);
    }
    let own = lo(2, to.port());
    forger.send(own, to, b"and me");
    settle(&daemon);
    for service in services {
        service.set_nonblocking(true).expect("nonblocking");
        let got = service.recv(&mut [0; 99]);
        assert!(got.is_err(), "{service:?} was answered");
    }
    assert_eq!(daemon.log_count("--udp-refuse-port"), 1, "one line");
    let said = end(&daemon);
    assert_eq!(count(&said, "datagrams"), 6, "{said}");
    assert!(said.contains("--udp-refuse-port 1027"), "{said}");
}

/// Packets that the loopback interface has carried in this namespace.
fn carried() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").expect("/proc/net/dev");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    field.and_then(|n| n.parse().ok()).expect("packets of lo")
}

fn seed(a: &Daemon, b: &Daemon) {
    Forger::new().send(v4(b.addr()), v4(a.addr()), b"round and round");
}

#[test]
fn row_90_two_echods_pointed_at_each_other_stop_within_a_burst() {
    if !inside_netns("weapon::row_90_two_echods_pointed_at_each_other_stop_within_a_burst") {
        return;
    }
    set_up(&[]);
    // With every limit off they never stop: the seed works.
    let (a, b) = (
        start("udp:127.0.0.1:0", &OFF),
        start("udp:127.0.0.2:0", &OFF),
    );
    seed(&a, &b);
    poll_until(DEADLINE, "they go on for ever", || carried() > 20_000);
    // But to stop one of them is enough, and is possible.
    assert!(count(&end(&a), "datagrams") > 5_000);
    drop(b);

    let (a, b) = (start("udp:127.0.0.1:0", &[]), start("udp:127.0.0.2:0", &[]));
    let began = Instant::now();
    seed(&a, &b);
    poll_until(DEADLINE, "one of them has had enough", || {
        a.log_count("--udp-rate") + b.log_count("--udp-rate") == 1
    });
    let before = carried();
    let refilled = 50 * (1 + began.elapsed().as_secs());
    let (a, b) = (count(&end(&a), "datagrams"), count(&end(&b), "datagrams"));
    assert_eq!(carried(), before, "not one packet more");
    assert!(a + b >= 199, "{a} and {b}: the loop was one");
    assert!(a.max(b) <= 100 + refilled, "{a} and {b} answered");
}

#[test]
fn row_90_on_the_same_port_they_do_not_even_begin() {
    if !inside_netns("weapon::row_90_on_the_same_port_they_do_not_even_begin") {
        return;
    }
    set_up(&[]);
    let a = start("udp:127.0.0.1:0", &RATES_OFF);
    let b = start(
        &format!("udp:127.0.0.2:{}", net(a.addr()).port()),
        &RATES_OFF,
    );
    seed(&a, &b);
    settle(&a);
    settle(&b);
    assert_eq!(count(&end(&a), "datagrams"), 1);
    assert_eq!(count(&end(&b), "datagrams"), 1);
}

#[test]
fn row_91_one_network_gets_its_rate_and_no_more() {
    if !inside_netns("weapon::row_91_one_network_gets_its_rate_and_no_more") {
        return;
    }
    set_up(&[]);
    let daemon = start("udp:127.0.0.1:0", &[]);
    let to = v4(daemon.addr());
    let forger = Forger::new();
    let began = Instant::now();
    for n in 0..50_000u32 {
        let [.., a, b] = n.to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(127, 9, 9, b), 2050 + u16::from(a));
        forger.send(from, to, b"from one prefix");
    }
    // Another network is served all the while.
    Peer::to(daemon.addr()).ping(b"somebody else");
    let allowed = 100 + 50 * (1 + began.elapsed().as_secs());
    assert_eq!(daemon.log_count("--udp-rate"), 1, "one line");
    let said = end(&daemon);
    let answered = count(&said, "datagrams");
    assert!((101..=allowed + 1).contains(&answered), "{said}");
}

#[test]
fn row_91_random_sources_get_the_global_rate_and_grow_nothing() {
    if !inside_netns("weapon::row_91_random_sources_get_the_global_rate_and_grow_nothing") {
        return;
    }
    set_up(&[]);
    let daemon = start("udp:127.0.0.1:0", &["--udp-global-rate", "500/1s"]);
    let to = v4(daemon.addr());
    settle(&daemon);
    let worker = daemon.role("echod-udp")[0];
    let before = rss_kib(worker).expect("a live worker");
    let forger = Forger::new();
    let began = Instant::now();
    for n in 0..100_000u32 {
        let [_, a, b, c] = n.wrapping_mul(2_654_435_761).to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(127, a | 1, b, c), 4000);
        forger.send(from, to, b"from everywhere");
    }
    poll_until(DEADLINE, "a line", || {
        daemon.log_count("--udp-global-rate") == 1
    });
    let allowed = 1000 + 500 * (1 + began.elapsed().as_secs());
    let after = rss_kib(worker).expect("the same worker");
    assert!(after <= before + 1024, "{before} KiB, then {after} KiB");
    let said = end(&daemon);
    let answered = count(&said, "datagrams");
    assert!((900..=allowed + 1).contains(&answered), "{said}");
}

#[test]
fn row_92_what_is_sent_to_many_is_answered_by_none() {
    if !inside_netns("weapon::row_92_what_is_sent_to_many_is_answered_by_none") {
        return;
    }
    set_up(&[
        "link add d0 type veth peer name d1",
        "addr add 10.77.0.1/24 brd + dev d0",
        "addr add fd77::1/64 dev d0 nodad",
        "link set d0 up",
        "link set d1 up",
        "link set d0 multicast on",
        "route add default dev d0",
    ]);
    wait_local(&[], "fd77::1");
    let daemon = Builder::new()
        .args(["-l", "udp:*:0"])
        .args(RATES_OFF)
        .listeners(2)
        .start();
    let port = net(daemon.addr()).port();
    let client = UdpSocket::bind("10.77.0.1:0").expect("bind");
    client.set_broadcast(true).expect("SO_BROADCAST");
    for to in ["10.77.0.255", "255.255.255.255", "224.0.0.1"] {
        client.send_to(b"all of you", (to, port)).expect(to);
    }
    let six = UdpSocket::bind("[fd77::1]:0").expect("bind");
    let index = nix::net::if_::if_nametoindex("d0").expect("d0");
    let all = SocketAddrV6::new("ff02::1".parse().expect("address"), port, 0, index);
    six.send_to(b"all of you", all).expect("ff02::1");
    daemon.wait_log("udp:0.0.0.0", DEADLINE);
    for host in ["10.77.0.1", "[fd77::1]"] {
        Peer::to(&format!("udp:{host}:{port}")).ping(b"only you");
    }
    for socket in [client, six] {
        socket.set_nonblocking(true).expect("nonblocking");
        assert!(socket.recv(&mut [0; 99]).is_err(), "{socket:?}");
    }
    end(&daemon);
    let log = daemon.log();
    let said = |name: &str| {
        let start = format!("udp:{name}:{port}: 1 datagrams answered, ");
        let line = log.lines().find(|line| line.contains(&start));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        let dropped = count(line, "dropped");
        assert!(line.ends_with(&format!("(broadcast or multicast {dropped})")));
        dropped
    };
    assert_eq!(said("0.0.0.0"), 3);
    // The other end of the cable is ours too, and may hear this one again.
    assert!((1..=2).contains(&said("[::]")));
}

#[test]
fn row_92_sources_that_no_client_can_have_are_not_answered() {
    if !inside_netns("weapon::row_92_sources_that_no_client_can_have_are_not_answered") {
        return;
    }
    set_up(&[]);
    let daemon = start("udp:127.0.0.1:0", &OFF);
    let to = v4(daemon.addr());
    let forger = Forger::new();
    let hosts = [
        "0.1.2.3",
        "224.0.0.5",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    for host in hosts {
        let from = SocketAddrV4::new(host.parse().expect("an address"), 5000);
        forger.send(from, to, b"from nowhere");
    }
    settle(&daemon);
    let said = end(&daemon);
    let expected = "1 datagrams answered, 5 dropped (impossible source 5)";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn row_93_a_reply_that_cannot_be_sent_is_counted_and_the_loop_goes_on() {
    if !need("strace") {
        return;
    }
    for (errno, reason) in [
        ("EPERM", "reply denied"),
        ("ENOBUFS", "no room for the reply"),
        ("ECONNREFUSED", "sender unreachable"),
        ("EMSGSIZE", "reply too large for the way"),
    ] {
        let inject = format!("inject=sendmmsg:error={errno}:when=2");
        let daemon = Builder::new()
            .under([
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                "trace=sendmmsg",
                "-e",
            ])
            .under([&inject])
            .args(["-l", "udp:127.0.0.1:0", "--sandbox", "off"])
            .start();
        let peer = Peer::to(daemon.addr());
        peer.ping(b"before");
        peer.send(b"the reply to this fails");
        poll_until(DEADLINE, "the drop is noticed", || {
            daemon.log().contains("WARN")
        });
        peer.ping(b"after");
        let said = end(&daemon);
        let expected = format!("2 datagrams answered, 1 dropped ({reason} 1)");
        assert!(said.contains(&expected), "{errno}: {said}");
    }
}

#[test]
fn row_93_clients_that_leave_before_the_reply_hurt_nobody() {
    let daemon = start("udp:127.0.0.1:0", &RATES_OFF);
    for _ in 0..50 {
        Peer::to(daemon.addr()).send(b"gone before the answer");
    }
    let peer = Peer::to(daemon.addr());
    for _ in 0..10 {
        peer.ping(b"still here");
    }
}

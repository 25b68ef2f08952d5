//! FAULTS rows 89 to 93, and 111: that nobody can be hurt with a UDP echo. Where
//! sources are forged, in a network namespace of its own.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::{
    Builder, DEADLINE, Daemon, inside_netns, must, need, poll_until, proc, rss_kib,
};
use crate::udp::peer::{Forger, OFF, Peer, count, end, lo, net, v4, wait_local};

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
    if !inside_netns("udp::weapon::row_89_no_port_of_another_service_is_answered") {
        return;
    }
    set_up(&[]);
    let daemon = start("udp:127.0.0.1:0", &RATES_OFF);
    let to = v4(daemon.addr());
    let forger = Forger::new();
    let services = [7u16, 13, 17, 19, 37, 53, 69, 123, 1023, 2049, 7777, 11_211];
    let services = services.map(|port| UdpSocket::bind(("127.0.0.1", port)).expect("bind"));
    let refused: Vec<u16> = (0..1024).chain([2049, 7777, 11_211, to.port()]).collect();
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
    assert!(said.contains("--udp-refuse-port 1029"), "{said}");
}

/// Packets that the loopback interface has carried in this namespace.
fn carried() -> u64 {
    let text = proc::machine("net/dev").expect("/proc/net/dev");
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
    if !inside_netns("udp::weapon::row_90_two_echods_pointed_at_each_other_stop_within_a_burst") {
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
    if !inside_netns("udp::weapon::row_90_on_the_same_port_they_do_not_even_begin") {
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

/// By an interface other than loopback, which has no rate.
#[test]
fn row_91_one_network_gets_its_rate_and_no_more() {
    if !inside_netns("udp::weapon::row_91_one_network_gets_its_rate_and_no_more") {
        return;
    }
    set_up(&[
        "link add d0 type veth peer name d1",
        "addr add 10.77.0.1/16 dev d0",
        "addr add 10.78.0.1/16 dev d0",
        "link set d0 up",
        "link set d1 up",
    ]);
    let daemon = start("udp:10.77.0.1:0", &[]);
    let to = v4(daemon.addr());
    let forger = Forger::new();
    let began = Instant::now();
    for n in 0..50_000u32 {
        let [.., a, b] = n.to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 77, 9, b), 2050 + u16::from(a));
        forger.send(from, to, b"from one prefix");
    }
    // Another network is served all the while, once there is room in the queue.
    let mut other = Peer::to(daemon.addr());
    other.socket = UdpSocket::bind("10.78.0.1:0").expect("bind");
    let mut asked = 0;
    poll_until(DEADLINE, "somebody else is served", || {
        asked += 1;
        other.answered_within(Duration::from_millis(200), b"somebody else")
    });
    let allowed = 100 + 50 * (1 + began.elapsed().as_secs()) + asked;
    assert_eq!(daemon.log_count("--udp-rate"), 1, "one line");
    let said = end(&daemon);
    let answered = count(&said, "datagrams");
    assert!((101..=allowed).contains(&answered), "{said}");
}

#[test]
fn row_91_random_sources_get_the_global_rate_and_grow_nothing() {
    if !inside_netns("udp::weapon::row_91_random_sources_get_the_global_rate_and_grow_nothing") {
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
    if !inside_netns("udp::weapon::row_92_what_is_sent_to_many_is_answered_by_none") {
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
        let start = format!("udp:{name}:{port}: 1 datagram answered, ");
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
    if !inside_netns("udp::weapon::row_92_sources_that_no_client_can_have_are_not_answered") {
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
    let expected = "1 datagram answered, 5 dropped (impossible source 5)";
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

#[test]
fn row_91_this_machines_own_clients_have_no_rate() {
    for host in ["127.0.0.1", "[::1]"] {
        if host == "[::1]" && !crate::common::has_ipv6() {
            continue;
        }
        let daemon = start(&format!("udp:{host}:0"), &[]);
        let peer = Peer::to(daemon.addr());
        for n in 0..2000u32 {
            peer.ping(&n.to_be_bytes());
        }
        let said = end(&daemon);
        assert!(said.contains("2000 datagrams answered, none"), "{said}");
    }
}

/// Somebody between two servers, far from both: what one answers reaches the other
/// `delay` later. Each sees the other as one of these sockets.
struct Relay {
    sides: [(UdpSocket, SocketAddr); 2],
    delay: Duration,
    on_their_way: VecDeque<(Instant, usize, Vec<u8>)>,
    carried: u64,
}

impl Relay {
    fn between(a: &Daemon, b: &Daemon, delay: Duration) -> Relay {
        let side = |daemon: &Daemon| {
            let server = net(daemon.addr());
            let own = UdpSocket::bind((server.ip(), 0)).expect("bind");
            own.set_nonblocking(true).expect("nonblocking");
            (own, server)
        };
        Relay {
            sides: [side(a), side(b)],
            delay,
            on_their_way: VecDeque::new(),
            carried: 0,
        }
    }

    /// One datagram in the other server's name. What comes of it is carried on for
    /// as long as anything is on its way, and at most for so long.
    fn run(&mut self, seeds: &[&[u8]], most: Duration) {
        let began = Instant::now();
        for seed in seeds {
            self.on_their_way.push_back((began, 0, seed.to_vec()));
        }
        let mut heard = began;
        let mut buffer = [0; 2048];
        while heard.elapsed() < 10 * self.delay + Duration::from_millis(500) {
            assert!(began.elapsed() < most, "{} and no end", self.carried);
            for side in 0..2 {
                while let Ok((n, _)) = self.sides[side].0.recv_from(&mut buffer) {
                    heard = Instant::now();
                    let due = heard + self.delay;
                    let datagram = (due, 1 - side, buffer[..n].to_vec());
                    self.on_their_way.push_back(datagram);
                }
            }
            while let Some((due, side, _)) = self.on_their_way.front()
                && *due <= Instant::now()
            {
                let (socket, server) = &self.sides[*side];
                let (.., bytes) = self.on_their_way.front().expect("one");
                socket.send_to(bytes, server).expect("send");
                self.carried += 1;
                self.on_their_way.pop_front();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Two servers with these options and a relay between them; what they answered,
/// together, and what the first says of itself.
fn slow_loop(host: &str, args: &[&str], delay: Duration, seeds: &[&[u8]]) -> (u64, String) {
    let addr = format!("udp:{host}:0");
    let (a, b) = (start(&addr, args), start(&addr, args));
    let mut relay = Relay::between(&a, &b, delay);
    relay.run(seeds, DEADLINE);
    let a = end(&a);
    let both = count(&a, "datagrams") + count(&end(&b), "datagrams");
    (both, a)
}

/// Too slow for the rate to end it: 12 ms each way is 41 a second.
#[test]
fn row_111_a_loop_slower_than_the_rate_ends_by_itself() {
    let (answered, said) = slow_loop("127.0.0.1", &[], Duration::from_millis(12), &[b"round"]);
    assert!((300..=512).contains(&answered), "{answered}: {said}");
    assert!(said.contains("1 dropped (repeats, --udp-rate 1)"), "{said}");
}

/// With a high rate, so that it does not take long.
#[test]
fn row_111_a_loop_of_several_datagrams_ends_in_both_families() {
    let seeds: Vec<[u8; 2]> = (0..20).map(|n| [n, n]).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| &seed[..]).collect();
    let same = [&b"the same"[..]; 20];
    for host in ["127.0.0.1", "[::1]"] {
        if host == "[::1]" && !crate::common::has_ipv6() {
            continue;
        }
        for seeds in [&seeds[..], &same] {
            let args = ["--udp-rate", "100000/1s", "--udp-global-rate", "off"];
            let delay = Duration::from_millis(2);
            let (answered, said) = slow_loop(host, &args, delay, seeds);
            assert!(answered > 300, "{answered}: it was a loop: {said}");
            assert!(answered <= 20 * 512, "{answered}: {said}");
            assert!(said.contains("repeats, --udp-rate"), "{said}");
        }
    }
}

#[test]
fn row_111_a_client_that_says_the_same_misses_one_answer_in_256() {
    let daemon = start("udp:127.0.0.1:0", &["--udp-rate", "100000/1s"]);
    let peer = Peer::to(daemon.addr());
    let short = Duration::from_millis(300);
    let missed = (0..800).filter(|_| !peer.answered_within(short, b"ping"));
    assert_eq!(missed.count(), 3);
    let lines = daemon.log();
    let lines = lines.lines().filter(|l| l.contains("WARN")).count();
    assert_eq!((lines, daemon.log_count("as in a loop")), (1, 1));
    assert!(daemon.log().contains("with --udp-rate one in 256"));
}

//! Commands by datagram: a name in, the output out, and the same promises.

use std::fs::File;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::ending::{hours, none_left, started};
use super::injections::{UNKNOWN, bytes};
use super::peer::{Gram, OFF, Peer, count, end, net, wait_local};
use super::{helpers, running, serving};
use crate::common::{
    Builder, DEADLINE, Daemon, Signal, inside_netns, must, need, poll_some, poll_until, proc,
};

/// What fits into a reply, and how many commands run at once.
const MOST: usize = 1232;
const AT_ONCE: usize = 4;

fn udp(commands: &[&str]) -> Builder {
    serving(commands).args(["-l", "udp:127.0.0.1:0"])
}

/// The reply to one datagram.
#[track_caller]
fn told(peer: &Peer, request: &[u8]) -> Vec<u8> {
    peer.send(request);
    let (reply, from) = peer.next().expect("a reply");
    assert_eq!(from, peer.server);
    reply
}

/// The one datagram worker there is.
fn worker(daemon: &Daemon) -> i32 {
    poll_some(DEADLINE, "one datagram worker", || {
        match daemon.role("echod-udp")[..] {
            [pid] => Some(pid),
            _ => None,
        }
    })
}

#[test]
fn a_datagram_that_names_a_command_gets_its_output_in_one() {
    let daemon = udp(&[
        "hello=/bin/echo,hello,world",
        "both=/bin/sh,-c,echo out; echo err >&2",
        "quiet=/bin/true",
        "stdin=/bin/cat",
        "env=/usr/bin/env",
    ])
    .args(OFF)
    .start();
    let peer = Peer::to(daemon.addr());
    for request in [
        &b"hello\n"[..],
        b"hello\r\n",
        b"hello",
        b"hello\n and padding, or a second line\nboth\n",
    ] {
        assert_eq!(told(&peer, request), b"hello world\n");
    }
    assert_eq!(told(&peer, b"both\n"), b"out\nerr\n");
    for nothing in ["quiet\n", "stdin\n", "env\n"] {
        assert_eq!(told(&peer, nothing.as_bytes()), b"", "{nothing}");
    }
    let unknown = b"unknown command; allowed: hello both quiet stdin env\n";
    for request in ["nope\n", "", "\n", "hello world", "HELLO", "\nhello\n"] {
        assert_eq!(told(&peer, request.as_bytes()), unknown, "{request:?}");
    }
    let said = end(&daemon);
    assert!(said.contains("14 datagrams answered, none"), "{said}");
}

#[test]
fn a_unix_socket_serves_them_beside_an_echo_and_in_any_model() {
    for model in ["prefork", "iterative", "thread"] {
        let builder = Builder::new();
        let path = format!("unixgram:{},service=command", builder.path("d"));
        let daemon = builder
            .args(["--allow-command", "hello=/bin/echo,hello", "-m", model])
            .args(["-l", &path, "-l", "udp:127.0.0.1:0"])
            .args(["-l", "tcp:127.0.0.1:0"])
            .start();
        let gram = Gram::to(&daemon.addrs()[0]);
        let mut reply = [0; 100];
        for (request, expected) in [("hello\n", "hello\n"), ("no", "unknown command")] {
            gram.send(request.as_bytes());
            let n = gram.socket.recv(&mut reply).expect("a reply");
            assert!(reply[..n].starts_with(expected.as_bytes()), "{request}");
        }
        Peer::to(&daemon.addrs()[1]).ping(b"hello\n");
        assert_eq!(
            crate::common::echo_once(&daemon.addrs()[2], b"hello\n"),
            b"hello\n"
        );
    }
}

#[test]
fn an_output_that_does_not_fit_is_cut_and_that_is_said() {
    let word = hours(20);
    let endless = format!("yes=/usr/bin/yes,{word}");
    let daemon = udp(&[
        &endless,
        "exact=/usr/bin/head,-c,1232,/dev/zero",
        "more=/usr/bin/head,-c,1233,/dev/zero",
    ])
    .start();
    let peer = Peer::to(daemon.addr());
    assert_eq!(told(&peer, b"exact"), [0; MOST]);
    let got = told(&peer, b"more");
    assert_eq!(got.len(), MOST);
    assert!(got.ends_with(b"\0\n[cut at 1232 bytes]\n"));
    let got = told(&peer, b"yes");
    assert_eq!(got.len(), MOST);
    assert!(got.starts_with(word.as_bytes()) && got.ends_with(b"\n[cut at 1232 bytes]\n"));
    // Its writer is not left to fill the buffer until its time is up.
    none_left(&word);
}

#[test]
fn slow_commands_are_stopped_and_others_wait_only_while_all_are_busy() {
    let time = hours(21);
    let slow = format!("slow=/bin/sh,-c,echo first; sleep {time} & setsid sleep {time}");
    let daemon = udp(&[&slow, "hello=/bin/echo,hello"]).args(OFF).start();
    let (patient, quick) = (Peer::to(daemon.addr()), Peer::to(daemon.addr()));
    let begun = Instant::now();
    for n in 1..=AT_ONCE {
        patient.send(b"slow\n");
        started(&time, 2 * n);
        if n < AT_ONCE {
            assert_eq!(told(&quick, b"hello\n"), b"hello\n");
        }
    }
    // In the queue until one of them is stopped.
    assert_eq!(told(&quick, b"hello\n"), b"hello\n");
    assert!(begun.elapsed() >= Duration::from_secs(10));
    for _ in 0..AT_ONCE {
        let (reply, _) = patient.next().expect("a reply");
        assert_eq!(reply, b"first\n\nstopped after 10s\n");
    }
    none_left(&time);
}

#[test]
fn what_defeats_a_filter_of_words_runs_nothing_by_datagram_either() {
    let builder = udp(&["hello=/bin/echo,hello"]).args(OFF);
    let marker = builder.path("marker");
    let daemon = builder.start();
    let peer = Peer::to(daemon.addr());
    assert!(attack(&peer, &marker) >= 250);
    assert!(!std::path::Path::new(&marker).exists());
    assert_eq!(told(&peer, b"hello\n"), b"hello\n");
}

/// Sends what walks around a filter of words, to a server of `hello` alone.
pub fn attack(peer: &Peer, marker: &str) -> usize {
    let mut tried = 0;
    for line in bytes(marker) {
        for end in [&b"\n"[..], b"\r\n", b""] {
            let request = [&line, end].concat();
            // The most a datagram can hold; and the one trailing carriage
            // return of a line is not part of it.
            if request.len() > 65_507 {
                continue;
            }
            let shown = request[..request.len().min(100)].escape_ascii();
            let got = told(peer, &request);
            assert_eq!(got, UNKNOWN, "{shown} said {}", got.escape_ascii());
            tried += 1;
        }
    }
    tried
}

#[test]
fn the_rates_and_refused_ports_hold_for_commands() {
    let daemon = udp(&["hello=/bin/echo,hello"])
        .args(["--udp-rate", "5/1h"])
        .start();
    let peer = Peer::to(daemon.addr());
    for _ in 0..20 {
        peer.send(b"hello\n");
    }
    // The first is nobody's repeat.
    for _ in 0..11 {
        peer.next().expect("a reply");
    }
    daemon.wait_log("--udp-rate", DEADLINE);
    let said = end(&daemon);
    assert!(
        said.contains("11 datagrams answered, 9 dropped (--udp-rate 9)"),
        "{said}"
    );
    peer.socket.set_nonblocking(true).expect("nonblocking");
    assert!(peer.next().is_none(), "a twelfth answer");
}

/// A process in a network of its own, at the other end of a cable.
struct Elsewhere(Child);

impl Elsewhere {
    fn connected() -> Elsewhere {
        // cat(1) stays until its input ends, when this is dropped.
        let child = Command::new("unshare")
            .args(["-n", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("unshare");
        let elsewhere = Elsewhere(child);
        let pid = elsewhere.0.id().to_string();
        let network = |pid: u32| proc::link(pid.cast_signed(), "ns/net");
        poll_until(DEADLINE, "its own network", || {
            network(elsewhere.0.id())
                .is_some_and(|there| Some(there) != network(std::process::id()))
        });
        for words in [
            "link set lo up",
            "link add d0 type veth peer name d1",
            &format!("link set d1 netns {pid}"),
            "addr add 10.77.0.1/24 dev d0",
            "addr add fd77::1/64 dev d0 nodad",
            "link set d0 up",
        ] {
            must("ip", &words.split(' ').collect::<Vec<_>>());
        }
        for words in [
            "ip addr add 10.77.0.2/24 dev d1",
            "ip addr add fd77::2/64 dev d1 nodad",
            "ip link set d1 up",
        ] {
            let there = ["-t", &pid, "-n"].into_iter().chain(words.split(' '));
            must("nsenter", &there.collect::<Vec<_>>());
        }
        wait_local(&[], "fd77::1");
        wait_local(&["nsenter", "-t", &pid, "-n"], "fd77::2");
        elsewhere
    }

    /// A socket there.
    fn socket(&self, host: &str) -> UdpSocket {
        let network = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("a network");
        std::thread::scope(|scope| {
            let bind = || {
                setns(&network, CloneFlags::CLONE_NEWNET).expect("setns");
                UdpSocket::bind((host, 0)).expect("bind")
            };
            scope.spawn(bind).join().expect("the thread")
        })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Nobody can multiply by it what he sends in a victim's name.
#[test]
fn to_another_machine_a_reply_is_never_larger_than_its_request() {
    if !need("nsenter")
        || !inside_netns(
            "command::datagrams::to_another_machine_a_reply_is_never_larger_than_its_request",
        )
    {
        return;
    }
    let elsewhere = Elsewhere::connected();
    let daemon = serving(&["hello=/bin/echo,hello", "lots=/usr/bin/yes"])
        .args(["-l", "udp:*:0"])
        .args(OFF)
        .listeners(2)
        .start();
    let port = net(daemon.addr()).port();
    for (ours, theirs) in [("10.77.0.1", "10.77.0.2"), ("fd77::1", "fd77::2")] {
        let server = format!("{}:{port}", bracketed(ours)).parse().expect("ours");
        let socket = elsewhere.socket(theirs);
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let there = Peer { socket, server };
        assert_eq!(told(&there, b"hello\n"), b"hello\n");
        assert_eq!(told(&there, b"hello"), b"[cut ");
        assert_eq!(told(&there, b"what?"), b"[cut ");
        assert_eq!(told(&there, b""), b"");
        let padded = |name: &str, size: usize| format!("{name:<size$}").into_bytes();
        for size in [6, 20, 64, 500, MOST, 1400] {
            let reply = told(&there, &padded("lots\n", size));
            assert_eq!(reply.len(), size.min(MOST), "{size}");
            let note = format!("[cut at {} bytes]\n", reply.len());
            let note = &note[..note.len().min(reply.len())];
            assert!(reply.ends_with(note.as_bytes()), "{size}");
            let reply = told(&there, &padded("what?\n", size));
            assert!(reply.len() <= size, "{size}");
        }
        assert_eq!(told(&there, &padded("what?\n", 100)), UNKNOWN_HERE);
    }
    // A loopback address is nobody else's: there is no such rule.
    for host in ["127.0.0.1", "[::1]"] {
        let here = Peer::to(&format!("udp:{host}:{port}"));
        assert_eq!(told(&here, b"hello"), b"hello\n");
        assert_eq!(told(&here, b"lots").len(), MOST);
    }
}

const UNKNOWN_HERE: &[u8] = b"unknown command; allowed: hello lots\n";

fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

#[test]
fn the_worker_is_as_locked_in_as_one_that_echoes() {
    let daemon = udp(&["hello=/bin/echo,hello"])
        .args(["--sandbox", "strict"])
        .start();
    let peer = Peer::to(daemon.addr());
    assert_eq!(told(&peer, b"hello\n"), b"hello\n");
    assert_eq!(
        proc::status(worker(&daemon), "Seccomp").as_deref(),
        Some("2")
    );
    // Its helpers stay, those of the command do not.
    poll_until(DEADLINE, "nothing runs", || helpers(&daemon) == AT_ONCE);
    if let Some(fds) = proc::fd_targets(worker(&daemon)) {
        assert_eq!(fds.len(), 4 + AT_ONCE, "{fds:?}");
    }
    let members = daemon.members();
    for helper in members.iter().filter(|p| p.comm == "echod-cmd") {
        let Some(fds) = proc::fd_targets(helper.pid) else {
            continue;
        };
        let sockets = fds.iter().filter(|(_, to)| to.starts_with("socket:"));
        assert_eq!(sockets.count(), 1, "{fds:?}");
        let other = |to: &str| !to.starts_with("socket:") && to != "/dev/null";
        assert!(!fds.iter().any(|(_, to)| other(to)), "{fds:?}");
    }
}

#[test]
fn a_killed_worker_or_helper_takes_the_commands_along_and_is_replaced() {
    let time = hours(22);
    let slow = format!("slow=/bin/sleep,{time}");
    let daemon = udp(&[&slow, "hello=/bin/echo,hello"]).args(OFF).start();
    let peer = Peer::to(daemon.addr());
    for victim in ["echod-udp", "echod-cmd"] {
        assert_eq!(told(&peer, b"hello"), b"hello\n");
        let first = worker(&daemon);
        peer.send(b"slow");
        started(&time, 1);
        let members = daemon.members();
        let victim = match victim {
            "echod-udp" => first,
            // One that waits for orders: the worker's own child.
            name => {
                let own = |p: &&proc::Stat| p.comm == name && p.ppid == first;
                members.iter().find(own).expect("a helper").pid
            }
        };
        proc::signal(victim, Signal::SIGKILL);
        none_left(&time);
        poll_until(DEADLINE, "another worker and its helpers", || {
            worker(&daemon) != first && helpers(&daemon) == AT_ONCE
        });
    }
    assert_eq!(told(&peer, b"hello"), b"hello\n");
    assert_eq!(daemon.log_count("died of SIGKILL while serving udp:"), 1);
    assert_eq!(
        daemon.log_count("left with status 14 while serving udp:"),
        1
    );
}

#[test]
fn a_graceful_stop_answers_what_is_queued_and_lets_commands_finish() {
    let time = hours(23);
    let slow = format!("slow=/bin/sh,-c,sleep 1; echo {time},{time}");
    let daemon = udp(&[&slow, "hello=/bin/echo,hello"]).args(OFF).start();
    let (slow, quick) = (Peer::to(daemon.addr()), Peer::to(daemon.addr()));
    for _ in 0..AT_ONCE {
        slow.send(b"slow");
    }
    started(&time, AT_ONCE);
    for _ in 0..20 {
        quick.send(b"hello");
    }
    daemon.signal(Signal::SIGTERM);
    for _ in 0..AT_ONCE {
        assert_eq!(
            slow.next().expect("a reply").0,
            format!("{time}\n").as_bytes()
        );
    }
    for _ in 0..20 {
        assert_eq!(quick.next().expect("a reply").0, b"hello\n");
    }
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    daemon.assert_gone(DEADLINE);
    assert_eq!(daemon.log_count("24 datagrams answered, none dropped"), 1);
}

#[test]
fn a_stop_ends_commands_at_its_deadline() {
    for (signal, n) in [(Signal::SIGTERM, 24), (Signal::SIGINT, 25)] {
        let time = hours(n);
        let slow = format!("slow=/bin/sleep,{time}");
        let daemon = udp(&[&slow]).args(["--graceful-timeout", "200ms"]).start();
        Peer::to(daemon.addr()).send(b"slow");
        started(&time, 1);
        daemon.signal(signal);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        none_left(&time);
        daemon.assert_gone(DEADLINE);
    }
    // Nor does one stay when the supervisor is killed: it finishes.
    let time = hours(26);
    let slow = format!("slow=/bin/sh,-c,sleep 1; echo done,{time}");
    let daemon = udp(&[&slow]).start();
    let peer = Peer::to(daemon.addr());
    peer.send(b"slow");
    started(&time, 1);
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(DEADLINE);
    assert_eq!(peer.next().expect("a reply").0, b"done\n");
    daemon.assert_gone(DEADLINE);
}

#[test]
fn hup_under_load_loses_no_request() {
    let daemon = udp(&["hello=/bin/echo,hello"])
        .args(OFF)
        .env("RUST_LOG", "info")
        .start();
    let peer = Peer::to(daemon.addr());
    let mut asked = 0;
    for generation in 1..=5 {
        daemon.signal(Signal::SIGHUP);
        poll_until(DEADLINE, "a generation", || {
            assert_eq!(told(&peer, b"hello"), b"hello\n");
            asked += 1;
            daemon.log_count("new workers") >= generation
        });
    }
    poll_until(DEADLINE, "the last generation alone", || {
        daemon.role("echod-udp").len() == 1
    });
    let said = end(&daemon);
    assert_eq!(count(&said, "datagrams"), asked, "{said}");
    assert!(running("hello").is_empty());
}

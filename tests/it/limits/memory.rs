//! Memory and descriptors that must not grow.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::resources::ControlGroup;
use crate::common::client::tcp_addr;
use crate::common::design::{FORK_WAIT, ITERATIVE, PREFORK, PREFORK_REUSE, PRETHREAD};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, fd_count, holds_within, many, need_root,
    poll_until, proc, rss_kib, zombies,
};

/// Connections of the test of growth; a soak sets more.
fn connections() -> u64 {
    let asked = std::env::var("ECHOD_TEST_CONNECTIONS").ok();
    asked.map_or(3000, |n| n.parse().expect("a number"))
}

/// The kernel adds resident pages up lazily, by processor, so that some dozens
/// either way mean nothing; a leak of one byte a connection is seen in a soak
/// only, one of a page here.
const NOISE_KIB: u64 = 512;

#[test]
fn row_75_the_supervisor_grows_neither_memory_nor_descriptors() {
    if !need_root() {
        return;
    }
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &PRETHREAD] {
        let daemon = Daemon::start(design.args);
        many(daemon.addr(), 500, 8, 100).assert_all_complete();
        let rest = || zombies(daemon.pid()).is_empty() && daemon.role("echod-conn").is_empty();
        poll_until(DEADLINE, "rest", rest);
        let look = || (fd_count(daemon.pid()), rss_kib(daemon.pid()));
        let (fds, rss) = look();
        many(daemon.addr(), connections(), 8, 100).assert_all_complete();
        poll_until(DEADLINE, "rest", rest);
        let same = holds_within(DEADLINE, || look().0 == fds);
        let (fds_now, rss_now) = look();
        println!("{}: {rss:?} KiB, then {rss_now:?}", design.name);
        assert!(
            same,
            "{}: {fds:?} descriptors, then {fds_now:?}",
            design.name
        );
        assert!(
            rss_now <= rss.map(|kib| kib + NOISE_KIB),
            "{}: {rss:?} KiB, then {rss_now:?}",
            design.name
        );
    }
}

/// The kernel's choice of whom to kill, as far as it is ours: see proc(5).
fn malus(pid: i32) -> Option<i32> {
    proc::file(pid, "oom_score_adj")?.trim().parse().ok()
}

#[test]
fn row_74_every_child_has_a_malus_and_the_supervisor_has_not() {
    let own = malus(std::process::id().cast_signed());
    let commands = [
        "-l",
        "tcp:127.0.0.1:0,service=command",
        "--allow-command",
        "yes=/usr/bin/yes",
    ];
    for design in DESIGNS {
        let runs = !design.reuses && !design.threaded;
        let daemon = Builder::new()
            .args(design.args)
            .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
            .args(if runs { &commands[..] } else { &[] })
            .start();
        let (_client, serving) = daemon.connect_served();
        let last = daemon.addrs().last().expect("three");
        let mut command = runs.then(|| Client::connect(last));
        if let Some(command) = &mut command {
            command.write_all(b"yes\n").expect("send");
            command.read_exact(&mut [0; 2]).expect("its output");
        }
        let has = |pid| malus(pid) > own;
        assert!(has(serving), "{}", design.name);
        assert_eq!(malus(daemon.pid()), own, "{}", design.name);
        // Idle ones, datagram workers, helpers and commands, as they come and go.
        for stat in daemon.members() {
            let first = stat.pid == daemon.pid();
            assert!(
                first || malus(stat.pid).is_none() || has(stat.pid),
                "{stat:?}"
            );
        }
    }
}

/// How many processes of the group were killed for memory.
fn kills(group: &ControlGroup) -> u64 {
    let read = |file| std::fs::read_to_string(group.0.join(file)).ok();
    let text = read("memory.events").or_else(|| read("memory.oom_control"));
    let text = text.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Clients that send and never read, more and more of them, until the kernel has
/// killed so often, or for so long.
fn flood(daemon: &Daemon, enough: impl Fn() -> bool, time: Duration) {
    let addr = tcp_addr(daemon.addr());
    let mut clients = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time && !enough() && daemon.try_exit().is_none() {
        for _ in 0..8 {
            let client = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
            if let Ok(client) = client
                && clients.len() < 400
            {
                client.set_nonblocking(true).expect("fcntl");
                clients.push(client);
            }
        }
        let blocks = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        clients.retain_mut(|client| match client.write(&[0; 65_536]) {
            Ok(_) => true,
            Err(error) => blocks(&error),
        });
    }
}

/// A control group too small for its clients.
#[test]
fn row_108_workers_go_before_the_supervisor() {
    let group = need_root()
        .then(|| {
            ControlGroup::with("memory", "memory.max")
                .or_else(|| ControlGroup::with("memory", "memory.limit_in_bytes"))
        })
        .flatten();
    let Some(group) = group else {
        return;
    };
    for file in ["memory.max", "memory.limit_in_bytes"] {
        if group.0.join(file).exists() {
            group.set(file, 24 << 20);
        }
    }
    let datagrams = &["-l", "udp:127.0.0.1:0"][..];
    for (design, more) in DESIGNS
        .iter()
        .map(|one| (*one, &[][..]))
        .chain([(&PREFORK, datagrams)])
    {
        let daemon = Builder::new()
            .under(group.enter())
            .args(design.args)
            .args(["-l", "tcp:127.0.0.1:0"])
            .args(more)
            .start();
        let before = kills(&group);
        let killed = || kills(&group) - before;
        flood(&daemon, || killed() >= 12, Duration::from_secs(4));
        let name = design.name;
        println!("{name} {more:?}: {} killed", killed());
        assert!(daemon.try_exit().is_none(), "{name}: the supervisor lives");
        poll_until(DEADLINE, &format!("{name}: serves on"), || {
            Client::try_connect(daemon.addr()).is_ok_and(|mut client| client.try_ping(b"on"))
        });
        let needy = design.name != ITERATIVE.name;
        assert!(
            killed() > 0 || !needy,
            "{name}: nobody was killed, so nothing is shown"
        );
    }
}

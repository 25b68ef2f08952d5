//! Several listeners and few places: who waits at any of them stays queued, and
//! none waits for another's crowd to end.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::design::{FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, PREFORK_PASS, side_by_side};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Load, Signal, echo_once, has_ipv6,
    poll_until,
};

/// Long enough to show that nothing comes.
const A_WHILE: Duration = Duration::from_millis(150);

/// An echod that serves `n` at once at these listeners.
fn at(design: &Design, n: usize, listen: &[&str], more: &[&str]) -> Daemon {
    let (args, _) = design.limited_to(n);
    let listen = listen.iter().flat_map(|addr| ["-l", addr]);
    let builder = Builder::new().args(args).args(listen);
    builder.args(more).start()
}

/// Two listeners of each kind that the design has.
fn pairs(design: &Design) -> Vec<[String; 2]> {
    let tcp = || "tcp:127.0.0.1:0".to_owned();
    let unix = || format!("unix:@echod-turns-{}-{}", std::process::id(), design.name);
    let mut pairs = vec![[tcp(), tcp()]];
    if !design.tcp_only {
        pairs.push([tcp(), unix()]);
        pairs.push([unix(), tcp()]);
    }
    if has_ipv6() {
        pairs.push([tcp(), "tcp:[::1]:0".to_owned()]);
    }
    pairs
}

fn waiting_at(addr: &str) -> Client {
    let mut client = Client::connect(addr);
    client.write_all(b"next").expect("the kernel takes it");
    client
}

fn expect_served(client: &mut Client, what: &str) {
    let mut got = [0; 4];
    if let Err(error) = client.read_exact(&mut got) {
        panic!("{what}: lost while it waited: {error}");
    }
    assert_eq!(&got, b"next");
}

/// Takes out the one of these that is served; it panics if one is lost instead.
fn take_served(clients: &mut Vec<Client>, what: &str) -> Client {
    let until = Instant::now() + DEADLINE;
    let mut turn = 0;
    while clients[turn].silent_for(Duration::from_millis(10)) {
        assert!(Instant::now() < until, "{what}: nobody is served");
        turn = (turn + 1) % clients.len();
    }
    let mut served = clients.remove(turn);
    // A byte was read to see that it is served, unless it is not.
    let rest = served.read_exact(&mut [0; 3]);
    rest.unwrap_or_else(|error| panic!("{what}: lost while it waited: {error}"));
    served
}

/// The holder leaves: there is one place, and more readable listeners than that.
#[test]
fn row_98_who_waits_at_another_listener_stays_queued() {
    side_by_side(&DESIGNS, |design| {
        for [one, two] in pairs(design) {
            let what = format!("{} at {one} and {two}", design.name);
            let daemon = at(design, 1, &[&one, &two], &[]);
            for turn in 0..4 {
                let mut holder = Client::connect(&daemon.addrs()[turn % 2]);
                holder.ping(b"here");
                let waits = |n: usize| waiting_at(&daemon.addrs()[n]);
                let mut waiting = vec![waits(0), waits(1)];
                while !waiting.is_empty() {
                    for client in &mut waiting {
                        assert!(client.silent_for(A_WHILE), "{what}: beyond the limit");
                    }
                    drop(holder);
                    holder = take_served(&mut waiting, &what);
                }
            }
        }
    });
}

/// The same by the dozen, with more waiting than are accepted in one go, through a
/// stop as well.
#[test]
fn row_98_crowds_at_several_listeners_lose_nobody() {
    side_by_side(&DESIGNS, |design| {
        for stop in [false, true] {
            let [one, two] = pairs(design).pop().expect("a pair");
            let what = format!("{}, stop {stop}", design.name);
            let daemon = at(design, 2, &[&one, &two], &["--graceful-timeout", "60s"]);
            let mut holder = Client::connect(daemon.addr());
            holder.ping(b"here");
            let mut crowd: Vec<Client> = (0..50)
                .map(|n| waiting_at(&daemon.addrs()[n % 2]))
                .collect();
            for client in &crowd {
                client.shutdown_write().expect("the kernel takes it");
            }
            if stop {
                daemon.signal(Signal::SIGTERM);
            }
            drop(holder);
            for client in &mut crowd {
                expect_served(client, &what);
                client.end().expect("an end in order");
            }
            if stop {
                drop(crowd);
                assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0), "{what}");
            }
        }
    });
}

/// Nobody is lost at either family under a load beyond the limit.
#[test]
fn row_98_a_load_at_both_families_loses_nobody() {
    if !has_ipv6() {
        return;
    }
    for design in [&FORK_WAIT, &FORK_IGNORE, &FORK_DOUBLE, &PREFORK_PASS] {
        let daemon = at(design, 4, &["*:0"], &[]);
        let port = daemon.addr().rsplit(':').next().expect("a port").to_owned();
        let loads =
            ["127.0.0.1", "[::1]"].map(|host| Load::start(&format!("tcp:{host}:{port}"), 8, 200));
        poll_until(DEADLINE, "some hundreds at each", || {
            loads.iter().all(|load| load.done() > 400)
        });
        for load in loads {
            load.stop().assert_all_complete();
        }
    }
}

/// One listener is flooded; a client of another waits its turn and not for the
/// flood to end.
fn assert_turns(design: &Design, n: usize, more: &[&str]) {
    let second = if has_ipv6() {
        "tcp:[::1]:0"
    } else {
        "tcp:127.0.0.1:0"
    };
    let daemon = at(design, n, &["tcp:127.0.0.1:0", second], more);
    // A design may prefer either one.
    for (flooded, other) in [(0, 1), (1, 0)] {
        let flood = Load::start(&daemon.addrs()[flooded], 16, 10);
        assert_eq!(echo_once(&daemon.addrs()[flooded], b"flood"), b"flood");
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(echo_once(&daemon.addrs()[other], b"turn"), b"turn");
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(2),
                "{} {more:?}: {took:?}",
                design.name
            );
        }
        flood.stop().assert_all_complete();
    }
}

#[test]
fn row_99_a_flood_of_one_listener_takes_turns_with_another() {
    for design in DESIGNS {
        assert_turns(design, 1, &[]);
        assert_turns(design, 3, &[]);
    }
}

/// As people type it, which is `--accept pass` wherever there is a choice.
#[test]
fn row_99_a_rate_or_a_source_limit_takes_turns_too() {
    for design in DESIGNS {
        if design.args.contains(&"--accept") {
            continue;
        }
        assert_turns(design, 8, &["--connection-rate", "50/1s"]);
        if !design.one_at_a_time {
            assert_turns(design, 2, &["--max-per-source", "100"]);
        }
    }
}

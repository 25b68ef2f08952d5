//! `--max-clients` where the kernel does not count for us: threads of one
//! worker, of two generations, and processes of a stop's.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::{Builder, Client, DEADLINE, Daemon, Design, Signal, poll_until, proc, signal};

/// How long nothing must happen before "not served" is believed.
const A_WHILE: Duration = Duration::from_millis(250);

fn limited(design: &Design, n: usize, more: &[&str]) -> Daemon {
    let (args, _) = design.limited_to(n);
    Builder::new().args(args).args(more).start()
}

fn held(daemon: &Daemon, n: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"served");
    }
    clients
}

fn queued(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    client.write_all(b"next").expect("the kernel takes it");
    client
}

fn expect_served(client: &mut Client) {
    let mut got = [0; 4];
    client.read_exact(&mut got).expect("served in its turn");
    assert_eq!(&got, b"next");
}

pub fn clients_beyond_the_limit_are_turned_away_if_asked(design: &Design) {
    for how in ["close", "reset"] {
        let daemon = limited(design, 3, &["--overflow", how]);
        let mut clients = held(&daemon, 3);
        for _ in 0..5 {
            let end = Client::try_connect(daemon.addr()).and_then(|mut next| next.end());
            assert_eq!(end.is_ok(), how == "close", "{how}: {end:?}");
        }
        for client in &mut clients {
            client.ping(b"untouched");
        }
        daemon.wait_log("--max-clients 3 reached", DEADLINE);
        clients.clear();
        poll_until(DEADLINE, "a seat is free", || {
            Client::try_connect(daemon.addr()).is_ok_and(|mut client| client.try_ping(b"again"))
        });
    }
}

pub fn clients_beyond_the_limit_wait_and_are_served(design: &Design) {
    let daemon = limited(design, 3, &[]);
    assert_eq!(daemon.log_count("reached"), 0);
    let mut clients = held(&daemon, 3);
    let mut queue: Vec<Client> = (0..20).map(|_| queued(&daemon)).collect();
    assert!(queue[0].silent_for(A_WHILE), "served beyond the limit");
    daemon.wait_log("--max-clients 3 reached: further clients wait", DEADLINE);
    for client in &mut clients {
        client.ping(b"undisturbed");
    }
    drop(clients);
    for mut client in queue {
        expect_served(&mut client);
    }
    assert_eq!(daemon.log_count("reached"), 1, "a line an episode");
}

/// Old workers and the present one share the limit, and each death or end in
/// one makes room in the other.
pub fn it_holds_across_generations(design: &Design) {
    let daemon = limited(design, 3, &[]);
    let mut clients = Vec::new();
    for generation in 1..=3 {
        clients.extend(held(&daemon, 1));
        daemon.signal(Signal::SIGHUP);
        poll_until(DEADLINE, "a further worker", || {
            daemon.role("echod-thread").len() == generation + 1
        });
    }
    for _ in 0..3 {
        let mut waiting = queued(&daemon);
        assert!(waiting.silent_for(A_WHILE), "served beyond the limit");
        for client in &mut clients {
            client.ping(b"not cut");
        }
        // The oldest worker has one client: it leaves with it.
        drop(clients.remove(0));
        expect_served(&mut waiting);
        clients.push(waiting);
    }
    poll_until(DEADLINE, "the old workers are gone", || {
        daemon.role("echod-thread").len() == 1
    });
    let mut waiting = queued(&daemon);
    assert!(waiting.silent_for(A_WHILE), "served beyond the limit");
    for pid in daemon.role("echod-thread") {
        signal(pid, Signal::SIGKILL);
    }
    expect_served(&mut waiting);
}

/// What the supervisor takes from the queue itself has seats too.
pub fn it_holds_while_a_stop_drains_the_queue(design: &Design) {
    let daemon = limited(design, 2, &["--graceful-timeout", "60s"]);
    let mut clients = held(&daemon, 2);
    let mut queue: Vec<Client> = (0..6).map(|_| queued(&daemon)).collect();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log("stopping: 2 clients are left to finish", DEADLINE);
    while !queue.is_empty() {
        for client in queue.iter_mut().take(2) {
            assert!(client.silent_for(A_WHILE / 2), "served beyond the limit");
        }
        assert!(proc::stat(daemon.pid()).is_some());
        drop(clients.remove(0));
        let mut next = queue.remove(0);
        expect_served(&mut next);
        clients.push(next);
    }
    for client in &mut clients {
        client.ping(b"served to the end");
    }
    drop(clients);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    daemon.wait_log("no client was cut", DEADLINE);
}

/// The dead give all their seats back, and no more.
pub fn it_holds_after_a_kill(design: &Design) {
    let daemon = limited(design, 3, &[]);
    for _ in 0..5 {
        let mut clients = held(&daemon, 3);
        let mut waiting = queued(&daemon);
        assert!(waiting.silent_for(A_WHILE / 2), "served beyond the limit");
        for pid in daemon.role("echod-thread") {
            signal(pid, Signal::SIGKILL);
        }
        for client in &mut clients {
            let _ = client.end();
        }
        expect_served(&mut waiting);
    }
}

/// One timer for all of them: each ends at its own time, busy or silent.
pub fn lifetimes_end_in_any_number(design: &Design) {
    let limit = Duration::from_millis(600);
    let daemon = limited(design, 30, &["--max-lifetime", "600ms"]);
    let start = Instant::now();
    let mut clients = held(&daemon, 20);
    let early = clients.pop().expect("twenty");
    let name = early.peer_name();
    drop(early);
    let (silent, busy) = clients.split_at_mut(10);
    for client in busy {
        while client.try_ping(b"talking") {
            assert!(start.elapsed() < DEADLINE, "it lives on");
        }
        assert!(start.elapsed() >= limit, "too early");
    }
    for client in silent {
        client.end().expect("an orderly end");
        let line = daemon.conn_line(&client.peer_name());
        assert_eq!(line.end, "max-lifetime");
    }
    assert_eq!(daemon.conn_line(&name).end, "eof");
}

//! The battery's part about clients being served: echo, limits, and the death
//! of one worker.

use std::thread;
use std::time::Duration;

use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, Signal, echo_once, many, pattern, poll_until,
    signal, stream, stream_until_broken,
};

/// How long nothing must happen before "not served" is believed.
const A_WHILE: Duration = Duration::from_millis(250);

pub fn echo(design: &Design) {
    let daemon = Daemon::start(design.args);
    for len in [1, 2, 255, 4096, 65_536] {
        let sent = pattern(3, len);
        assert!(echo_once(daemon.addr(), &sent) == sent, "{len} bytes");
    }
    stream(daemon.addr(), 8 << 20);
}

pub fn half_close(design: &Design) {
    let daemon = Daemon::start(design.args);
    assert!(echo_once(daemon.addr(), b"").is_empty());
    assert_eq!(echo_once(daemon.addr(), b"x"), b"x");
    stream(daemon.addr(), 1 << 20);
}

pub fn many_at_once(design: &Design) {
    let daemon = Daemon::start(design.args);
    let outcomes = many(daemon.addr(), 1000, 200, 1000);
    outcomes.assert_all_complete();
    assert_eq!(outcomes.complete, 1000);
}

/// `n` clients, each with an echo behind it and so with a slot.
fn hold(daemon: &Daemon, n: usize) -> Vec<(Client, i32)> {
    (0..n).map(|_| daemon.connect_served()).collect()
}

/// A client that has sent something and must get nothing for it yet.
fn turned_to_wait(daemon: &Daemon) -> Client {
    let mut waiting = Client::connect(daemon.addr());
    std::io::Write::write_all(&mut waiting, b"next").expect("send");
    assert!(waiting.silent_for(A_WHILE), "served beyond the limit");
    waiting
}

fn expect_service(waiting: &mut Client) {
    let mut got = [0; 4];
    std::io::Read::read_exact(waiting, &mut got).expect("served once a slot is free");
    assert_eq!(&got, b"next");
}

pub fn the_limit_is_exact(design: &Design) {
    let (args, n) = design.limited_to(3);
    let daemon = Daemon::start(&args);
    let mut held = hold(&daemon, n);
    for _ in 0..3 {
        let mut waiting = turned_to_wait(&daemon);
        for (client, _) in &mut held {
            client.ping(b"still served");
        }
        drop(held.pop());
        expect_service(&mut waiting);
        held.push((waiting, 0));
    }
}

pub fn a_killed_child_gives_its_slot_back(design: &Design) {
    let (args, n) = design.limited_to(3);
    let daemon = Daemon::start(&args);
    let mut held = hold(&daemon, n);
    for _ in 0..3 {
        let mut waiting = turned_to_wait(&daemon);
        let (mut victim, pid) = held.pop().expect("a client is held");
        signal(pid, Signal::SIGKILL);
        // End of file or a reset, by what was unread: not our concern here.
        let _ = victim.end();
        expect_service(&mut waiting);
        waiting.ping(b"to be found");
        drop(waiting);
        held.push(daemon.connect_served());
    }
    for (client, _) in &mut held {
        client.ping(b"untouched");
    }
}

pub fn a_kill_in_mid_transfer_breaks_one_client(design: &Design) {
    let daemon = Daemon::start(design.args);
    for _ in 0..3 {
        let others: Vec<_> = (0..if design.one_at_a_time { 0 } else { 3 })
            .map(|_| {
                let addr = daemon.addr().to_owned();
                thread::spawn(move || stream(&addr, 4 << 20))
            })
            .collect();
        let mut victim = Client::connect(daemon.addr());
        victim.ping(&pattern(0, 1));
        let mut found = None;
        poll_until(DEADLINE, "the serving process", || {
            found = daemon.serving_pid_for(&victim);
            found.is_some() || !can_look(&daemon)
        });
        let Some(pid) = found.or_else(|| only_worker(&daemon, &others)) else {
            crate::common::skipped("whose socket is whose needs root here");
            return;
        };
        let mut killed = false;
        // The stream restarts the pattern: the one byte above is not part of it.
        let count = stream_until_broken(victim, |seen| {
            if seen > 1 << 20 && !killed {
                signal(pid, Signal::SIGKILL);
                killed = true;
            }
        });
        assert!(count > 1 << 20);
        for other in others {
            other
                .join()
                .expect("a stream beside a killed worker is whole");
        }
    }
    assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
}

/// Whether /proc shows us the descriptors of this daemon's processes.
fn can_look(daemon: &Daemon) -> bool {
    let children = crate::common::children(daemon.pid());
    children.is_empty()
        || children
            .iter()
            .any(|&pid| crate::common::fd_count(pid).is_some())
}

/// Without a look at descriptors, a lone serving process is still known.
fn only_worker<T>(daemon: &Daemon, others: &[T]) -> Option<i32> {
    let serving = daemon.role("echod-conn");
    (others.is_empty() && serving.len() == 1).then(|| serving[0])
}

pub fn the_connection_line_is_right(design: &Design) {
    let daemon = Builder::new()
        .args(design.args)
        .env("RUST_LOG", "conn=debug")
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"hello");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!((line.received, line.sent), (5, 5));
    assert_eq!(line.end, "eof");
    assert_eq!(line.listener, daemon.addr());
    assert!(line.pid > 1 && line.pid != daemon.pid(), "{line:?}");
    assert!(line.dur.ends_with('s'), "{line:?}");

    let (mut victim, pid) = daemon.connect_served();
    signal(pid, Signal::SIGKILL);
    let _ = victim.end();
    let line = daemon.conn_line(&victim.peer_name());
    assert_eq!((line.pid, line.received, line.sent), (pid, 1, 1));
    if design.exit_status_seen {
        assert!(line.end.starts_with("killed:") && line.end.contains("KILL"));
    }
}

//! Stopping and resizing under load: nobody who was let in is turned out.

use std::time::{Duration, Instant};

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, pool};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Load, Outcomes, PlainServer, Signal, many,
    need, poll_until, proc,
};

/// Idle workers accept or leave, whichever comes first; nobody is told to go
/// for looking idle.
fn resizing_loses_nobody(design: &Design) {
    let daemon = Builder::new()
        .args(design.args)
        .args(pool(4, 4, 4))
        .env("RUST_LOG", "info")
        .start();
    let load = Load::start(daemon.addr(), 6, 300);
    for round in 0..60 {
        // Eight up, then eight down: the pool follows as it can.
        let which = match round / 8 % 2 {
            0 => Signal::SIGTTIN,
            _ => Signal::SIGTTOU,
        };
        let before = load.done();
        daemon.signal(which);
        // Two of a kind that wait together are one signal: signal(7).
        poll_until(DEADLINE, "the order is obeyed", || {
            daemon.log_count("workers wait from now on") == round + 1
        });
        poll_until(DEADLINE, "the load runs on", || load.done() >= before + 10);
    }
    let outcomes = load.stop();
    outcomes.assert_all_complete();
    assert!(outcomes.complete >= 600);
}

#[test]
fn row_50_resizing_the_pool_loses_nobody() {
    resizing_loses_nobody(&PREFORK);
}

#[test]
fn row_50_resizing_the_pool_loses_nobody_under_reuse() {
    resizing_loses_nobody(&PREFORK_REUSE);
}

/// Twenty graceful stops, and what the same clients lose to a server that just
/// closes its listener.
#[test]
fn row_55_twenty_stops_under_load_lose_nobody() {
    let mut sum = Outcomes::default();
    for n in 0..20 {
        let design = DESIGNS[n % DESIGNS.len()];
        let daemon = Daemon::start(design.args);
        let load = Load::start(daemon.addr(), 8, 300);
        poll_until(DEADLINE, "the load runs", || load.done() >= 50);
        daemon.signal(Signal::SIGTERM);
        let status = daemon.wait_exit(DEADLINE);
        let outcomes = load.stop();
        assert_eq!(outcomes.lost(), 0, "{}: {outcomes:?}", design.name);
        assert_eq!(status.code(), Some(0));
        assert_eq!(daemon.log_count("stopped; no client was cut"), 1);
        sum.complete += outcomes.complete;
    }
    let plain: u64 = (0..20).map(|_| plain_close()).sum();
    println!(
        "20 stops each: echod lost 0 of {} connections, a plain close {plain}",
        sum.complete
    );
}

/// A server that stops by closing its listener, under the same load; returns how
/// many connections were lost.
fn plain_close() -> u64 {
    let server = PlainServer::start();
    let load = Load::start(&server.addr(), 8, 300);
    poll_until(DEADLINE, "the load runs", || load.done() >= 50);
    server.close();
    load.stop().lost()
}

/// Clients that neither speak nor leave: the deadline is theirs.
pub fn row_56_clients_that_never_leave_end_at_the_deadline(design: &Design) {
    const GRACE: Duration = Duration::from_secs(1);
    let daemon = Builder::new()
        .args(design.args)
        .args(["--graceful-timeout", "1s"])
        .start();
    let n = if design.one_at_a_time { 1 } else { 100 };
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"here to stay");
    }
    let start = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    let lasted = start.elapsed();
    assert!(lasted >= GRACE, "cut after {lasted:?}");
    assert!(lasted < GRACE + Duration::from_secs(4), "{lasted:?}");
    for client in &mut clients {
        let _ = client.end();
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "stop");
    }
    let told = match n {
        1 => "stopped; 1 client was cut".to_owned(),
        n => format!("stopped; {n} clients were cut"),
    };
    assert_eq!(daemon.log_count(&told), 1);
    daemon.assert_gone(DEADLINE);
}

/// The battery of `many` runs before and after: a stop is no end of service
/// for a successor on the same address.
#[test]
fn row_55_a_successor_takes_over_the_address() {
    let first = Daemon::start(PREFORK.args);
    let addr = first.addr().to_owned();
    many(&addr, 50, 4, 100).assert_all_complete();
    for _ in 0..3 {
        let load = Load::start(&addr, 4, 100);
        poll_until(DEADLINE, "the load runs", || load.done() >= 20);
        drop(load.stop());
    }
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_exit(DEADLINE).code(), Some(0));
    let second = Daemon::start(&["-l", &addr]);
    many(second.addr(), 50, 4, 100).assert_all_complete();
}

/// A listener that takes no filter (Multipath TCP) is closed at once. That none
/// is left then is the stop's doing and no failure: who is served stays served,
/// whoever leaves meanwhile.
#[test]
fn row_55_a_listener_closed_early_cuts_nobody_who_is_served() {
    if !need("strace") {
        return;
    }
    let settle = ["--stop-settle", "2s"];
    let daemon = Builder::new().args(FORK_WAIT.args).args(settle).start();
    let (first, _) = daemon.connect_served();
    let (mut second, _) = daemon.connect_served();
    let fault = "inject=setsockopt:error=ENOPROTOOPT";
    let words = ["-o", "/dev/null", "-e", "trace=setsockopt", "-e", fault];
    let mut strace = proc::strace(daemon.pid(), &words);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log("closed at once", DEADLINE);
    let peer = first.peer_name();
    drop(first);
    daemon.conn_line(&peer);
    second.ping(b"still here");
    second.shutdown_write().expect("shutdown");
    assert_eq!(second.rest(), b"");
    let status = daemon.wait_exit(DEADLINE);
    strace.wait().expect("strace");
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    assert_eq!(daemon.log_count("no listener is left"), 0);
}

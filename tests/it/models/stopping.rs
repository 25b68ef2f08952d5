//! The battery's part about stop, reload and the death of the supervisor: who
//! may lose what.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::client::{is_timeout, tcp_addr};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, Load, Outcomes, Signal, pattern, poll_until,
};

/// The address can be bound again: no socket listens there any more.
fn assert_free(addr: &str) {
    poll_until(Duration::from_secs(2), "the address is free", || {
        TcpListener::bind(tcp_addr(addr)).is_ok()
    });
}

fn assert_nobody_lost(outcomes: &Outcomes) {
    assert_eq!(outcomes.lost(), 0, "{outcomes:?}");
}

pub fn a_stop_under_load_loses_nobody(design: &Design) {
    let daemon = Daemon::start(design.args);
    let load = Load::start(daemon.addr(), 8, 300);
    poll_until(DEADLINE, "the load runs", || load.done() >= 100);
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_exit(DEADLINE);
    let outcomes = load.stop();
    assert_nobody_lost(&outcomes);
    assert!(outcomes.complete >= 100, "{outcomes:?}");
    assert_eq!(status.code(), Some(0));
    daemon.assert_gone(DEADLINE);
}

pub fn a_stop_lets_a_client_finish(design: &Design) {
    let daemon = Daemon::start(design.args);
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    daemon.signal(Signal::SIGTERM);
    if !design.reuses {
        // The listener closes while this client is served on. (A worker that
        // would go on to another client may hold its copy until then.)
        assert_free(daemon.addr());
    }
    client.ping(&pattern(0, 10_000));
    assert!(daemon.try_exit().is_none(), "stopped without its client");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert_eq!(daemon.conn_line(&client.peer_name()).end, "eof");
}

pub fn hup_under_load_loses_nobody(design: &Design) {
    let daemon = Daemon::start(design.args);
    let mut held = (!design.one_at_a_time).then(|| Client::connect(daemon.addr()));
    if let Some(client) = &mut held {
        client.ping(b"before");
    }
    let load = Load::start(daemon.addr(), 8, 300);
    for round in 1..=5 {
        poll_until(DEADLINE, "the load runs", || load.done() >= round * 60);
        daemon.signal(Signal::SIGHUP);
    }
    poll_until(DEADLINE, "the load runs on", || load.done() >= 400);
    load.stop().assert_all_complete();
    if let Some(client) = &mut held {
        client.ping(b"after");
    }
}

/// Rows 4 and 44: nobody is cut, and a successor can bind.
pub fn orphans_finish_their_client(design: &Design) {
    let daemon = Builder::new()
        .args(design.args)
        .args(["--orphans", "finish"])
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(DEADLINE);
    assert_free(daemon.addr());
    client.ping(&pattern(0, 50_000));
    poll_until(DEADLINE, "only the serving process is left", || {
        daemon.members().len() == 1
    });

    let successor = Daemon::start(&["-l", daemon.addr()]);
    Client::connect(successor.addr()).ping(b"the successor serves");
    client.ping(b"and so does the orphan");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    daemon.assert_gone(DEADLINE);
}

pub fn orphans_end_when_told_to(design: &Design) {
    let daemon = Builder::new()
        .args(design.args)
        .args(["--orphans", "terminate"])
        .start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"before");
    daemon.signal(Signal::SIGKILL);
    // End of file or a reset, but not our own deadline.
    let outlived = client.end().is_err_and(|error| is_timeout(&error));
    assert!(!outlived, "the connection outlives the supervisor");
    assert_free(daemon.addr());
    daemon.assert_gone(DEADLINE);
}

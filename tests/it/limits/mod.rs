//! What bounds one connection and all of them: timeouts, `--max-clients` and
//! `--overflow`, clients that do not behave.
//!
//! Faults of accept(2) are in `tests/it/limits/accept.rs`, of fork(2) and of the
//! network in `tests/it/limits/resources.rs`.

pub mod accept;
pub mod memory;
pub mod probes;
pub mod queue;
pub mod resources;
pub mod turns;
pub mod waiting;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::common::client::is_timeout;
use crate::common::design::{FORK_WAIT, PREFORK, THREAD, side_by_side};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, many, pattern, poll_until, rss_kib,
};

const SHORT: Duration = Duration::from_millis(300);

fn with(design: &crate::common::Design, more: &[&str]) -> Daemon {
    Builder::new().args(design.args).args(more).start()
}

#[test]
fn a_silent_client_ends_by_idle_timeout_in_every_design() {
    for design in DESIGNS {
        let daemon = with(design, &["--idle-timeout", "300ms"]);
        let start = Instant::now();
        let mut client = Client::connect(daemon.addr());
        client.end().expect("an orderly end");
        assert!(start.elapsed() >= SHORT, "{}: too early", design.name);
        let line = daemon.conn_line(&client.peer_name());
        assert_eq!(line.end, "idle-timeout", "{}", design.name);
        assert_eq!((line.received, line.sent), (0, 0), "{}", design.name);
    }
}

#[test]
fn a_talking_client_outlives_the_idle_timeout() {
    let daemon = with(&PREFORK, &["--idle-timeout", "1s"]);
    let mut client = Client::connect(daemon.addr());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        client.ping(b"talking");
        assert!(client.silent_for(Duration::from_millis(50)));
    }
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    assert_eq!(daemon.conn_line(&client.peer_name()).end, "eof");
}

/// Sends without reading until the server has had enough.
fn never_read(client: &mut Client) {
    let chunk = pattern(0, 1 << 16);
    loop {
        if let Err(error) = client.write(&chunk) {
            assert!(!is_timeout(&error), "a client that reads nothing is kept");
            return;
        }
    }
}

#[test]
fn a_client_that_reads_nothing_ends_by_write_timeout_in_every_design() {
    for design in DESIGNS {
        let daemon = with(design, &["--write-timeout", "300ms"]);
        let mut client = Client::connect(daemon.addr());
        never_read(&mut client);
        let line = daemon.conn_line(&client.peer_name());
        assert_eq!(line.end, "write-timeout", "{}", design.name);
    }
}

#[test]
fn no_client_outlives_max_lifetime_in_any_design() {
    for design in DESIGNS {
        let daemon = with(design, &["--max-lifetime", "300ms"]);
        let start = Instant::now();
        let mut client = Client::connect(daemon.addr());
        while client.try_ping(b"talking") {
            assert!(start.elapsed() < DEADLINE, "{}: it lives on", design.name);
        }
        assert!(start.elapsed() >= SHORT, "{}: too early", design.name);
        let line = daemon.conn_line(&client.peer_name());
        if design.exit_status_seen {
            assert_eq!(line.end, "max-lifetime", "{}", design.name);
        }
        let mut silent = Client::connect(daemon.addr());
        if let Err(error) = silent.end() {
            assert!(!is_timeout(&error), "{}: it is kept", design.name);
        }
        daemon.conn_line(&silent.peer_name());
        // The kernel may kill for memory at this moment, in another test.
        let log = daemon.log();
        let mut errors = log.lines().filter(|line| line.contains(" ERROR "));
        assert!(errors.all(|line| line.contains("ENOMEM")), "{log}");
    }
}

/// The one slot is free again, or will be.
fn assert_served_again(daemon: &Daemon) {
    poll_until(DEADLINE, "the slot is free", || {
        Client::try_connect(daemon.addr()).is_ok_and(|mut client| client.try_ping(b"again"))
    });
}

#[test]
fn overflow_close_gives_the_next_client_an_end_of_file() {
    for design in [&PREFORK, &FORK_WAIT] {
        let (args, n) = design.limited_to(2);
        let builder = Builder::new().args(args);
        let daemon = builder.args(["--overflow", "close"]).start();
        let mut held: Vec<_> = (0..n).map(|_| daemon.connect_served().0).collect();
        for _ in 0..5 {
            let mut next = Client::connect(daemon.addr());
            next.end().expect("end of file");
        }
        for client in &mut held {
            client.ping(b"untouched");
        }
        held.clear();
        assert_served_again(&daemon);
    }
}

#[test]
fn overflow_reset_resets_the_next_client() {
    for design in [&PREFORK, &FORK_WAIT] {
        let (args, n) = design.limited_to(2);
        let builder = Builder::new().args(args);
        let daemon = builder.args(["--overflow", "reset"]).start();
        let mut held: Vec<_> = (0..n).map(|_| daemon.connect_served().0).collect();
        for _ in 0..5 {
            // The reset may come before connect(2) has looked at its socket.
            let end = Client::try_connect(daemon.addr()).and_then(|mut next| next.end());
            let error = end.expect_err("no end of file");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        for client in &mut held {
            client.ping(b"untouched");
        }
        held.clear();
        assert_served_again(&daemon);
    }
}

#[test]
fn row_80_clients_beyond_the_limit_wait_and_are_served() {
    for design in [&PREFORK, &FORK_WAIT] {
        let (args, n) = design.limited_to(3);
        let daemon = Daemon::start(&args);
        let told = || daemon.log_count("reached");
        let before = told();
        let mut held: Vec<_> = (0..n).map(|_| daemon.connect_served().0).collect();
        let mut queue: Vec<Client> = (0..25).map(|_| Client::connect(daemon.addr())).collect();
        for client in &mut queue {
            client.write_all(b"queued").expect("the kernel takes it");
        }
        for client in &mut held {
            client.ping(b"undisturbed");
        }
        assert!(queue[0].silent_for(SHORT), "{}: over", design.name);
        poll_until(DEADLINE, "a line that the limit is reached", || {
            told() > before
        });
        drop(held);
        for mut client in queue {
            let mut got = [0; 6];
            client.read_exact(&mut got).expect("served in its turn");
            assert_eq!(&got, b"queued");
        }
        assert_eq!(told() - before, 1, "{}: a line an episode", design.name);
    }
}

/// For longer than trouble has to be away to be called over.
#[test]
fn row_80_a_limit_that_lasts_is_one_line() {
    side_by_side(&[&PREFORK, &FORK_WAIT, &THREAD], |design| {
        let (args, n) = design.limited_to(2);
        let daemon = Daemon::start(&args);
        let mut held: Vec<_> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
        for client in &mut held {
            client.ping(b"here to stay");
        }
        let mut next = Client::connect(daemon.addr());
        daemon.wait_log("reached", DEADLINE);
        assert!(next.silent_for(Duration::from_secs(6)));
        assert_eq!(daemon.log_count("reached"), 1, "{}", design.name);
        assert_eq!(daemon.log_count("below"), 0, "{}", design.name);
    });
}

#[test]
fn row_78_clients_that_never_read_cost_one_buffer_and_end() {
    let daemon = with(&PREFORK, &["--write-timeout", "1s"]);
    let mut clients: Vec<(Client, i32, u64)> = (0..12)
        .map(|_| {
            let (client, pid) = daemon.connect_served();
            (client, pid, rss_kib(pid).expect("a live worker"))
        })
        .collect();
    for (client, pid, before) in &mut clients {
        client.set_timeouts(Duration::from_millis(20));
        let chunk = pattern(0, 1 << 16);
        while client.write(&chunk).is_ok() {}
        if let Some(now) = rss_kib(*pid) {
            assert!(now <= *before + 512, "{before} KiB, then {now} KiB");
        }
    }
    many(daemon.addr(), 200, 4, 1000).assert_all_complete();
    poll_until(DEADLINE, "all of them ended", || {
        let lines = ConnLine::all(&daemon.log());
        let stuck = lines.iter().filter(|line| line.end == "write-timeout");
        stuck.count() == 12
    });
}

#[test]
fn row_79_silent_clients_give_their_slots_back() {
    let daemon = with(&PREFORK, &["--idle-timeout", "1s", "--max-clients", "40"]);
    let silent: Vec<Client> = (0..40).map(|_| Client::connect(daemon.addr())).collect();
    // They hold every slot; these wait until the timeout has freed some.
    many(daemon.addr(), 100, 10, 500).assert_all_complete();
    for client in &silent {
        let end = daemon.conn_line(&client.peer_name()).end;
        assert_eq!(end, "idle-timeout");
    }
}

/// One byte now and then is no silence; a lifetime bounds it.
#[test]
fn row_79_a_dribbling_client_ends_by_max_lifetime() {
    let limits = ["--idle-timeout", "1s", "--max-lifetime", "2s"];
    let daemon = with(&PREFORK, &limits);
    let mut client = Client::connect(daemon.addr());
    while client.try_ping(b".") && client.silent_for(Duration::from_millis(100)) {}
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!(line.end, "max-lifetime");
    assert!(line.received > 3, "{line:?}");
}

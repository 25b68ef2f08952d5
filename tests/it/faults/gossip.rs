//! Children that were taken over, and tell the supervisor what they like. It may
//! believe what it logs; never what it does.

use crate::common::design::{
    FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, PREFORK, PREFORK_PASS, PREFORK_REUSE, pool, side_by_side,
};
use crate::common::{Builder, Client, DEADLINE, Daemon, Design, Signal, poll_until, zombies};
use crate::faults::broken::hooked;

const LIMIT: usize = 12;

fn telling(design: &Design, what: &str) -> Daemon {
    let limit = LIMIT.to_string();
    let mut builder = Builder::new()
        .args(design.args)
        .args(["--max-clients", &limit, "--graceful-timeout", "1s"])
        .env("ECHOD_FAULT", &format!("tell:{what}"));
    if design.pooled {
        builder = builder.args(pool(2, 2, 4));
    }
    builder.start()
}

/// Every child writes other numbers into all of the memory that they share.
#[test]
fn row_49_junk_on_the_scoreboard_moves_the_log_and_nothing_else() {
    if !hooked() {
        return;
    }
    side_by_side(
        &[
            &PREFORK,
            &PREFORK_REUSE,
            &PREFORK_PASS,
            &FORK_WAIT,
            &FORK_IGNORE,
            &FORK_DOUBLE,
        ],
        |design| {
            let daemon = telling(design, "junk");
            for n in 0..40u8 {
                // One may be cut where the supervisor is told that it was taken.
                poll_until(DEADLINE, "a client is served", || {
                    let client = Client::try_connect(daemon.addr());
                    client.is_ok_and(|mut client| client.try_ping(&[n; 100]))
                });
            }
            let alive = daemon.members().len();
            // The double-forked have a process between for a moment each.
            assert!(alive <= 2 * LIMIT + 1, "{}: {alive}", design.name);
            assert!(daemon.try_exit().is_none(), "{}", design.name);
            poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
            daemon.assert_gone(DEADLINE);
        },
    );
}

/// A worker that says its listener is broken is believed only if it is.
#[test]
fn row_49_one_that_calls_the_listener_broken_does_not_end_the_service() {
    if !hooked() {
        return;
    }
    for design in [&PREFORK, &PREFORK_REUSE] {
        let daemon = telling(design, "unusable");
        for _ in 0..10 {
            let mut client = Client::connect(daemon.addr());
            assert!(!client.try_ping(b"never served"));
        }
        assert!(daemon.try_exit().is_none(), "{}", design.name);
        assert_eq!(daemon.log_count("given up"), 0);
    }
}

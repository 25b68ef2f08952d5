//! The process between a supervisor and its grandchild, and what becomes of a
//! client whose grandchild is never born.

use crate::common::client::is_timeout;
use crate::common::design::FORK_DOUBLE;
use crate::common::{
    Builder, Client, DEADLINE, Signal, children, holds_within, need, poll_some, poll_until, proc,
    signal, zombies,
};
use crate::deaths::{A_WHILE, expect_answer, send};

/// strace holds each clone(2) back, so that the process between supervisor and
/// grandchild can be found and killed before it forks.
#[test]
fn row_19_the_intermediate_killed_before_its_fork() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .under(["strace", "-f", "-o", &trace, "-e", "trace=clone", "-e"])
        .under(["inject=?fork,clone,clone3:delay_enter=200000"])
        .args(FORK_DOUBLE.args)
        .args(["--max-clients", "1"])
        .start();
    for round in 0..3 {
        let mut doomed = send(daemon.addr(), round);
        let between = poll_some(DEADLINE, "the intermediate", || {
            let mut born = children(daemon.pid()).into_iter();
            born.rfind(|&pid| !proc::is_dead(pid))
        });
        let mut next = send(daemon.addr(), 100 + round);
        signal(between, Signal::SIGKILL);
        let late = doomed.end().is_err_and(|error| is_timeout(&error));
        assert!(!late, "the client is left open");
        // The only slot: it was freed, and is held again by this one.
        expect_answer(&mut next, 100 + round);
        let mut third = send(daemon.addr(), 200);
        assert!(third.silent_for(10 * A_WHILE), "beyond the limit");
        drop(next);
        expect_answer(&mut third, 200);
        drop(third);
        poll_until(DEADLINE, "nobody is left to serve", || {
            daemon.role("echod-conn").is_empty()
        });
    }
    let reaped = holds_within(DEADLINE, || zombies(daemon.pid()).is_empty());
    assert!(reaped, "zombies: {:?}", zombies(daemon.pid()));
}

/// The second fork fails: the client is served by the process between.
#[test]
fn row_19_a_failed_second_fork_serves_and_keeps_the_limit() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .under(["strace", "-f", "-o", &trace, "-e", "trace=clone", "-e"])
        .under(["inject=?fork,clone,clone3:error=EAGAIN:when=1"])
        .args(FORK_DOUBLE.args)
        .args(["--sandbox", "off"]) // its probe forks, too
        .args(["--max-clients", "2"])
        .start();
    let mut held: Vec<Client> = (0..2).map(|n| send(daemon.addr(), n)).collect();
    expect_answer(&mut held[0], 0);
    expect_answer(&mut held[1], 1);
    let parents: Vec<i32> = daemon
        .members()
        .iter()
        .filter(|p| p.comm == "echod-conn")
        .map(|p| p.ppid)
        .collect();
    assert_eq!(parents, [daemon.pid(); 2], "served by the intermediates");
    for n in 2..8 {
        let mut next = send(daemon.addr(), n);
        assert!(next.silent_for(A_WHILE), "beyond the limit");
        let serving = daemon.role("echod-conn");
        if n % 2 == 0 {
            signal(serving[0], Signal::SIGKILL);
            held.retain_mut(|client| client.silent_for(10 * A_WHILE));
        } else {
            drop(held.remove(0));
        }
        expect_answer(&mut next, n);
        held.push(next);
        assert_eq!(held.len(), 2);
    }
    drop(held);
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
}

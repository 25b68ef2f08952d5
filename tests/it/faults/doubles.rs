//! The process between a supervisor and its grandchild, and what becomes of a
//! client whose grandchild is never born.

use crate::common::client::is_timeout;
use crate::common::design::FORK_DOUBLE;
use crate::common::{
    Builder, Client, DEADLINE, Load, Signal, holds_within, need, poll_some, poll_until, proc,
    signal, zombies,
};
use crate::faults::deaths::{A_WHILE, expect_answer, send};

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
            // It lives as long as its clone(2) is held back.
            let mut born = proc::quick_children(daemon.pid()).into_iter();
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

/// Processes between are many and short-lived: they are reaped as they come,
/// however many clients are being served meanwhile.
#[test]
fn row_27_processes_between_do_not_pile_up_beside_many_clients() {
    const HELD: usize = 300;
    let daemon = Builder::new()
        .args(FORK_DOUBLE.args)
        .args(["--max-clients", "400"])
        .start();
    let mut held: Vec<Client> = (0..HELD).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut held {
        client.ping(b"served");
    }
    let load = Load::start(daemon.addr(), 16, 1);
    let mut most = 0;
    poll_until(DEADLINE * 3, "3,000 more are served", || {
        let children = proc::quick_children(daemon.pid()).into_iter();
        let dead = children.filter(|&pid| proc::state(pid) == Some('Z'));
        most = dead.count().max(most);
        load.done() >= 3000
    });
    load.stop().assert_all_complete();
    // A few per turn of the supervisor's loop; where they were looked for at times
    // only, hundreds.
    assert!(most <= 200, "{most} at once");
    for client in &mut held {
        client.ping(b"all the while");
    }
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
}

//! The battery's part about what stays behind: zombies, descriptors, memory.

use std::time::Duration;

use crate::common::{
    Client, DEADLINE, Daemon, Design, Signal, children, echo_once, fd_count, holds_within, many,
    poll_until, rss_kib, signal, zombies,
};

/// What the design promises is 100 ms; a busy machine gets some more.
const REAPED: Duration = Duration::from_secs(2);

fn assert_no_zombies(daemon: &Daemon) {
    let reaped = holds_within(REAPED, || zombies(daemon.pid()).is_empty());
    assert!(reaped, "zombies: {:?}", zombies(daemon.pid()));
}

/// The supervisor's memory is counted per processor and summed lazily, so it
/// is known to about this; a leak of half a KiB a connection is beyond it.
const RSS_NOISE_KIB: u64 = 512;

/// The supervisor's descriptors, less those that come and go with the pool.
fn own_fds(daemon: &Daemon, design: &Design) -> Option<usize> {
    let channels = if design.channels {
        children(daemon.pid()).len()
    } else {
        0
    };
    fd_count(daemon.pid())?.checked_sub(channels)
}

pub fn nothing_grows_over_1000_connections(design: &Design) {
    let daemon = Daemon::start(design.args);
    let pid = daemon.pid();
    many(daemon.addr(), 200, 8, 100).assert_all_complete();
    assert_no_zombies(&daemon);
    poll_until(DEADLINE, "the pool at rest", || {
        daemon.role("echod-conn").is_empty() || design.reuses
    });
    let (fds, rss) = (own_fds(&daemon, design), rss_kib(pid));

    many(daemon.addr(), 1000, 8, 100).assert_all_complete();
    assert_no_zombies(&daemon);
    // A channel to a child closes when the child is reaped, a moment later.
    let same = holds_within(REAPED, || own_fds(&daemon, design) == fds);
    let now = own_fds(&daemon, design);
    assert!(same, "descriptors: {fds:?}, then {now:?}");
    let (before, after) = (rss.expect("VmRSS"), rss_kib(pid).expect("VmRSS"));
    assert!(
        after <= before + RSS_NOISE_KIB,
        "resident: {before} KiB, then {after} KiB"
    );
}

/// Deaths at once reach the supervisor as fewer SIGCHLDs than there are dead.
pub fn no_zombie_after_a_mass_kill(design: &Design) {
    let daemon = Daemon::start(design.args);
    let n = if design.one_at_a_time { 1 } else { 60 };
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut clients {
        client.ping(b"served");
    }
    let workers = daemon.members();
    for worker in workers.iter().filter(|p| p.pid != daemon.pid()) {
        signal(worker.pid, Signal::SIGKILL);
    }
    assert_no_zombies(&daemon);
    for client in &mut clients {
        // Some end of the connection must come; which one is the kernel's matter.
        if let Err(error) = client.end() {
            assert!(!crate::common::client::is_timeout(&error), "left open");
        }
    }
    assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    assert_no_zombies(&daemon);
}

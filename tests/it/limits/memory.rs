//! Memory and descriptors that must not grow.

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, PRETHREAD};
use crate::common::{
    DEADLINE, Daemon, fd_count, holds_within, many, need_root, poll_until, rss_kib, zombies,
};

/// Connections of the test of growth; a soak sets more.
fn connections() -> u64 {
    let asked = std::env::var("ECHOD_TEST_CONNECTIONS").ok();
    asked.map_or(3000, |n| n.parse().expect("a number"))
}

/// The kernel adds resident pages up lazily, by processor, so that some dozens
/// either way mean nothing; a leak of one byte a connection is seen in a soak
/// only, one of a page here.
const NOISE_KIB: u64 = 512;

#[test]
fn row_75_the_supervisor_grows_neither_memory_nor_descriptors() {
    if !need_root() {
        return;
    }
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &PRETHREAD] {
        let daemon = Daemon::start(design.args);
        many(daemon.addr(), 500, 8, 100).assert_all_complete();
        let rest = || zombies(daemon.pid()).is_empty() && daemon.role("echod-conn").is_empty();
        poll_until(DEADLINE, "rest", rest);
        let look = || (fd_count(daemon.pid()), rss_kib(daemon.pid()));
        let (fds, rss) = look();
        many(daemon.addr(), connections(), 8, 100).assert_all_complete();
        poll_until(DEADLINE, "rest", rest);
        let same = holds_within(DEADLINE, || look().0 == fds);
        let (fds_now, rss_now) = look();
        println!("{}: {rss:?} KiB, then {rss_now:?}", design.name);
        assert!(
            same,
            "{}: {fds:?} descriptors, then {fds_now:?}",
            design.name
        );
        assert!(
            rss_now <= rss.map(|kib| kib + NOISE_KIB),
            "{}: {rss:?} KiB, then {rss_now:?}",
            design.name
        );
    }
}

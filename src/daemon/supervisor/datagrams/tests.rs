//! Who is missing, and what a death means. Nothing is forked.

use nix::sys::signal::Signal;

use super::*;
use crate::net::drops::Reason;
use crate::net::open_datagram;

const KILLED: Gone = Gone::Killed(Signal::SIGKILL);

fn crew(addresses: &[&str]) -> Crew {
    let open = |address: &&str| open_datagram(&address.parse().expect("address"), false);
    let sockets = addresses.iter().flat_map(open).flatten().collect();
    let limits = UdpLimits {
        rate: None,
        global_rate: None,
        refuse_ports: None,
    };
    Crew::new(sockets, &limits, |_| false).expect("mmap")
}

fn pid(n: i32) -> Pid {
    Pid::from_raw(n)
}

#[test]
fn each_post_has_one_worker_of_the_generation() {
    let mut crew = crew(&["udp:127.0.0.1:0", "udp:127.0.0.1:0"]);
    let now = Instant::now();
    assert_eq!(crew.vacant(1, now), Some(0));
    crew.hired(0, pid(10), 1, now);
    assert_eq!(crew.vacant(1, now), Some(1));
    crew.hired(1, pid(11), 1, now);
    assert_eq!(crew.vacant(1, now), None);
    // A reload: the next generation comes before the last one has left.
    assert_eq!(crew.vacant(2, now), Some(0));
    crew.hired(0, pid(20), 2, now);
    crew.hired(1, pid(21), 2, now);
    crew.posts[0].workers[0].told = true;
    assert!(crew.bury(pid(10), Gone::Exited(Leave::Retired as i32), 2, now));
    assert!(crew.bury(pid(11), KILLED, 2, now));
    assert!(!crew.bury(pid(11), KILLED, 2, now), "buried once");
    assert!(!crew.bury(pid(99), KILLED, 2, now), "a stranger");
    assert_eq!(crew.vacant(2, now), None);
    crew.close(false);
    assert!(!crew.is_gone(), "nothing was drained");
}

#[test]
fn who_dies_young_is_replaced_ever_more_slowly() {
    let mut crew = crew(&["udp:127.0.0.1:0"]);
    let mut now = Instant::now();
    for n in 0..TOLERATED {
        assert_eq!(crew.vacant(1, now), Some(0), "death {n}: at once");
        crew.hired(0, pid(10), 1, now);
        crew.bury(pid(10), KILLED, 1, now);
    }
    for wait in [FIRST_WAIT, 2 * FIRST_WAIT] {
        crew.hired(0, pid(10), 1, now);
        crew.bury(pid(10), Gone::Exited(70), 1, now);
        assert_eq!(crew.vacant(1, now), None);
        assert_eq!(crew.wakes_at(1, now), Some(now + wait));
        now += wait;
        assert_eq!(crew.vacant(1, now), Some(0));
    }
    crew.hired(0, pid(10), 1, now);
    crew.bury(pid(10), KILLED, 1, now + YOUTH);
    assert_eq!(crew.vacant(1, now + YOUTH), Some(0), "it had lived");
}

#[test]
fn a_stop_is_over_when_every_queue_was_answered() {
    let mut crew = crew(&["udp:127.0.0.1:0", "udp:127.0.0.1:0"]);
    let now = Instant::now();
    crew.hired(0, pid(10), 1, now);
    crew.hired(1, pid(11), 1, now);
    crew.deafen();
    crew.posts[0].workers[0].told = true;
    crew.posts[1].workers[0].told = true;
    crew.bury(pid(10), Gone::Exited(Leave::Retired as i32), 1, now);
    assert_eq!(crew.vacant(1, now), None, "its work is done");
    crew.bury(pid(11), KILLED, 1, now);
    assert_eq!(crew.vacant(1, now), Some(1), "its queue is not answered");
    crew.close(false);
    assert!(!crew.is_gone());
    crew.close(true);
    assert!(crew.is_gone() && crew.vacant(1, now).is_none());
}

#[test]
fn a_socket_that_cannot_be_received_from_is_given_up() {
    let mut crew = crew(&["udp:127.0.0.1:0"]);
    let now = Instant::now();
    crew.hired(0, pid(10), 1, now);
    crew.bury(pid(10), Gone::Exited(Leave::Unusable as i32), 1, now);
    assert!(crew.is_gone());
}

#[test]
fn an_episode_of_drops_is_looked_at_until_it_is_over() {
    let mut crew = crew(&["udp:127.0.0.1:0"]);
    let now = Instant::now();
    let at = |s: u64| now + Duration::from_secs(s);
    crew.look(now);
    assert_eq!(crew.wakes_at(1, now), None);
    assert!(crew.posts[0].tally.drop(Reason::Rate), "rings");
    crew.look(now);
    assert_eq!(crew.wakes_at(1, now), Some(at(5)));
    assert!(!crew.posts[0].tally.drop(Reason::Rate), "rings no more");
    assert!(crew.is_due(at(5)));
    crew.look(at(5));
    assert!(!crew.is_due(at(9)));
    crew.look(at(10));
    assert_eq!(crew.wakes_at(1, at(10)), None);
    assert!(crew.posts[0].tally.drop(Reason::Rate), "rings again");
    let said = "0 datagrams answered, 3 dropped (--udp-rate 3)";
    assert_eq!(summary(&crew.posts[0].tally), said);
}

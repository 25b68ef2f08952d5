//! Who is missing, and what a death means. Nothing is forked.

use nix::sys::signal::Signal;

use super::*;
use crate::net::guard::Reason;
use crate::net::open_datagram;

const KILLED: Gone = Gone::Killed(Signal::SIGKILL);

fn workers(addresses: &[&str]) -> DatagramWorkers {
    let open = |address: &&str| open_datagram(&address.parse().expect("address"), false);
    let sockets = addresses.iter().flat_map(open).flatten().collect();
    let limits = UdpLimits {
        rate: None,
        global_rate: None,
        refuse_ports: None,
    };
    DatagramWorkers::new(sockets, &limits, |_| false).expect("mmap")
}

fn pid(n: i32) -> Pid {
    Pid::from_raw(n)
}

#[test]
fn each_post_has_one_worker_of_the_generation() {
    let mut workers = workers(&["udp:127.0.0.1:0", "udp:127.0.0.1:0"]);
    let now = Instant::now();
    assert_eq!(workers.without_worker(1, now), Some(0));
    workers.add(0, pid(10), 1, now);
    assert_eq!(workers.without_worker(1, now), Some(1));
    workers.add(1, pid(11), 1, now);
    assert_eq!(workers.without_worker(1, now), None);
    // A reload: the next generation comes before the last one has left.
    assert_eq!(workers.without_worker(2, now), Some(0));
    workers.add(0, pid(20), 2, now);
    workers.add(1, pid(21), 2, now);
    workers.endpoints[0].workers[0].told = true;
    assert!(workers.note_exit(pid(10), Gone::Exited(Leave::Retired as i32), 2, now));
    assert!(workers.note_exit(pid(11), KILLED, 2, now));
    assert!(!workers.note_exit(pid(11), KILLED, 2, now), "noted once");
    assert!(!workers.note_exit(pid(99), KILLED, 2, now), "a stranger");
    assert_eq!(workers.without_worker(2, now), None);
    workers.close(false);
    assert!(!workers.is_gone(), "nothing was drained");
}

#[test]
fn who_dies_young_is_replaced_ever_more_slowly() {
    let mut workers = workers(&["udp:127.0.0.1:0"]);
    let mut now = Instant::now();
    for n in 0..TOLERATED {
        assert_eq!(
            workers.without_worker(1, now),
            Some(0),
            "death {n}: at once"
        );
        workers.add(0, pid(10), 1, now);
        workers.note_exit(pid(10), KILLED, 1, now);
    }
    for wait in [FIRST_WAIT, 2 * FIRST_WAIT] {
        workers.add(0, pid(10), 1, now);
        workers.note_exit(pid(10), Gone::Exited(70), 1, now);
        assert_eq!(workers.without_worker(1, now), None);
        assert_eq!(workers.wakes_at(1, now), Some(now + wait));
        now += wait;
        assert_eq!(workers.without_worker(1, now), Some(0));
    }
    workers.add(0, pid(10), 1, now);
    workers.note_exit(pid(10), KILLED, 1, now + YOUTH);
    assert_eq!(
        workers.without_worker(1, now + YOUTH),
        Some(0),
        "it had lived"
    );
}

#[test]
fn a_stop_is_over_when_every_queue_was_answered() {
    let mut workers = workers(&["udp:127.0.0.1:0", "udp:127.0.0.1:0"]);
    let now = Instant::now();
    workers.add(0, pid(10), 1, now);
    workers.add(1, pid(11), 1, now);
    workers.deafen();
    workers.endpoints[0].workers[0].told = true;
    workers.endpoints[1].workers[0].told = true;
    workers.note_exit(pid(10), Gone::Exited(Leave::Retired as i32), 1, now);
    assert_eq!(workers.without_worker(1, now), None, "its work is done");
    workers.note_exit(pid(11), KILLED, 1, now);
    assert_eq!(
        workers.without_worker(1, now),
        Some(1),
        "its queue is not answered"
    );
    workers.close(false);
    assert!(!workers.is_gone());
    workers.close(true);
    assert!(workers.is_gone() && workers.without_worker(1, now).is_none());
}

#[test]
fn a_socket_that_cannot_be_received_from_is_given_up() {
    let mut workers = workers(&["udp:127.0.0.1:0"]);
    let now = Instant::now();
    workers.add(0, pid(10), 1, now);
    workers.note_exit(pid(10), Gone::Exited(Leave::Unusable as i32), 1, now);
    assert!(workers.is_gone());
}

#[test]
fn an_episode_of_drops_is_looked_at_until_it_is_over() {
    let mut workers = workers(&["udp:127.0.0.1:0"]);
    let now = Instant::now();
    let at = |s: u64| now + Duration::from_secs(s);
    workers.look(now);
    assert_eq!(workers.wakes_at(1, now), None);
    assert!(workers.endpoints[0].tally.drop(Reason::Rate), "rings");
    workers.look(now);
    assert_eq!(workers.wakes_at(1, now), Some(at(5)));
    assert!(
        !workers.endpoints[0].tally.drop(Reason::Rate),
        "rings no more"
    );
    workers.look_in_time(at(5));
    assert_eq!(workers.wakes_at(1, at(5)), Some(at(10)));
    workers.look_in_time(at(9));
    assert_eq!(workers.wakes_at(1, at(9)), Some(at(10)));
    workers.look_in_time(at(10));
    assert_eq!(workers.wakes_at(1, at(10)), None);
    assert!(workers.endpoints[0].tally.drop(Reason::Rate), "rings again");
    let said = "0 datagrams answered, 3 dropped (--udp-rate 3)";
    assert_eq!(summary(&workers.endpoints[0].tally), said);
}

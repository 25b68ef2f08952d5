//! Tests of the seats.

use super::*;
use crate::net::connection::End;

fn left_by(seats: &Seats, owner: Slot) -> Vec<Report> {
    let mut left = Vec::new();
    seats.vacate(owner, |_| true, |one| left.push(one.report));
    left
}

#[test]
fn there_are_so_many_seats_and_no_more() {
    let seats = Seats::new(17).unwrap();
    let mut from = 5;
    let mut taken: Vec<_> = (0..17)
        .map(|n| seats.claim(n % 2, &mut from).expect("free"))
        .collect();
    assert!(seats.claim(0, &mut from).is_none());
    let _ = seats.release(taken.pop().unwrap());
    assert!(seats.claim(3, &mut from).is_some());
    assert!(seats.claim(3, &mut from).is_none());
    assert_eq!(seats.occupied(), 0, "taken, not used");
}

#[test]
fn many_threads_never_share_a_seat() {
    let seats = Seats::new(3).unwrap();
    let used = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut from = 0;
                for _ in 0..20_000 {
                    let Some(seat) = seats.claim(1, &mut from) else {
                        continue;
                    };
                    let index = seat.0;
                    assert_eq!(used[index].fetch_add(1, Ordering::SeqCst), 0);
                    used[index].fetch_sub(1, Ordering::SeqCst);
                    let _ = seats.release(seat);
                }
            });
        }
    });
}

#[test]
fn the_dead_leave_their_clients_and_their_seats() {
    let seats = Seats::new(3).unwrap();
    let mut from = 0;
    let peer = Peer::Inet("127.0.0.1:52114".parse().unwrap());
    let busy = seats.claim(7, &mut from).unwrap();
    seats.serving(&busy, peer, 2);
    seats
        .entry(&busy)
        .meter()
        .received
        .store(9, Ordering::Relaxed);
    let over = seats.claim(7, &mut from).unwrap();
    seats.serving(&over, Peer::Unix, 0);
    seats.entry(&over).end(End::Eof);
    seats.over(&over);
    assert_eq!(seats.entry(&over).report().end, Some(End::Eof));
    let other = seats.claim(8, &mut from).unwrap();
    seats.serving(&other, Peer::Unix, 1);
    assert_eq!(seats.occupied(), 2);

    let left = left_by(&seats, 7);
    assert_eq!(left.len(), 1, "the one whose end was said has its line");
    assert_eq!((left[0].peer, left[0].listener), (peer, 2));
    assert_eq!((left[0].received, left[0].end), (9, None));
    assert_eq!(seats.occupied(), 1);
    assert!(seats.claim(1, &mut from).is_some() && seats.claim(1, &mut from).is_some());
    assert!(left_by(&seats, 7).is_empty());
}

#[test]
fn who_waits_is_told_once() {
    let seats = Seats::new(1).unwrap();
    let mut from = 0;
    let only = seats.claim(0, &mut from).unwrap();
    for who in [Waiter::Worker, Waiter::Supervisor] {
        assert!(seats.claim_or_wait(1, &mut from, who).is_none());
    }
    assert!(seats.release(only), "the supervisor waits");
    assert_eq!(seats.room.read(), Ok(1));
    let again = seats.claim(0, &mut from).unwrap();
    assert!(!seats.release(again), "nobody waits any more");
    assert_eq!(seats.room.read(), Err(Errno::EAGAIN));
}

#[test]
fn news_are_told_once() {
    let seats = Seats::new(1).unwrap();
    assert_eq!(seats.take_turned_away(), 0);
    assert!(seats.say_turned_away() && !seats.say_turned_away());
    assert_eq!(seats.take_turned_away(), 2);
    assert!(seats.say_turned_away(), "wakes again");
    seats.say_short(Errno::EAGAIN);
    assert_eq!(seats.take_short(), Some(Errno::EAGAIN));
    assert_eq!(seats.take_short(), None);
}

#[test]
fn row_112_seats_of_nobody_who_lives_are_given_back() {
    let seats = Seats::new(20).unwrap();
    let mut from = 0;
    let _ours = seats.claim(3, &mut from).unwrap();
    for (seat, made_up) in [1, 8, 4, u64::MAX, 1 << 40].into_iter().enumerate() {
        seats.owner(1 + seat).store(made_up, Ordering::SeqCst);
        seats.line(1 + seat)[STATE].store(1, Ordering::SeqCst);
    }
    // Slot 7 is the dead one's, 3 alone lives.
    let mut left = 0;
    seats.vacate(7, |slot| slot == 3, |_| left += 1);
    let taken = (0..20).filter(|&seat| seats.owner(seat).load(Ordering::SeqCst) != 0);
    // The one that was made up for it goes when it does.
    assert_eq!(taken.collect::<Vec<_>>(), [0, 3]);
    assert_eq!(left, 1, "of slot 7, and no client of the others'");
}

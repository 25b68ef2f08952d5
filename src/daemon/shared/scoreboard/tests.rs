//! Tests of the scoreboard.

use super::*;
use crate::net::connection::End;

#[test]
fn a_report_says_what_the_child_stored() {
    let board = Scoreboard::new(600).unwrap();
    for peer in ["127.0.0.1:52114", "[2001:db8::1]:65535", "0.0.0.0:0"] {
        let peer = Peer::Inet(peer.parse().unwrap());
        board.clear(599);
        assert_eq!(board.said(599), Said::Starting);
        board.idle(599);
        assert_eq!(board.said(599), Said::Idle);
        board.serving(599, peer, 3);
        assert_eq!(board.said(599), Said::Serving);
        board
            .entry(599)
            .meter()
            .received
            .store(u64::MAX, Ordering::Relaxed);
        board.entry(599).meter().sent.store(5, Ordering::Relaxed);
        let report = board.report(599);
        assert_eq!(report.end, None);
        assert_eq!((report.peer, report.listener), (peer, 3));
        assert_eq!((report.received, report.sent), (u64::MAX, 5));
        board.entry(599).end(End::Reset);
        assert_eq!(board.report(599).end, Some(End::Reset));
    }
    board.serving(0, Peer::Unix, 0);
    assert_eq!(board.report(0).peer, Peer::Unix);
}

#[test]
fn bitmaps_name_slots_and_forget_them() {
    let board = Scoreboard::new(1100).unwrap();
    let taken = |board: &Scoreboard| {
        let mut slots = Vec::new();
        board.drain_taken(|slot| slots.push(slot));
        slots
    };
    for slot in [1099, 0, 62, 63, 511, 512] {
        board.taken(slot, Peer::Unix, 0);
        board.announce_ended(slot);
    }
    assert_eq!(taken(&board), [0, 62, 63, 511, 512, 1099]);
    assert!(taken(&board).is_empty());
    board.clear(62);
    let mut ended = Vec::new();
    board.ended(|slot| ended.push(slot));
    assert_eq!(ended, [0, 63, 511, 512, 1099]);
}

#[test]
fn row_113_who_rings_cannot_take_the_rings_of_others() {
    let board = Scoreboard::new(1).unwrap();
    for _ in 0..100_000 {
        board.wake();
    }
    let taken = raw::read(board.waker(), &mut [0; 8]);
    assert_eq!(taken, Err(Errno::EBADF));
    assert!(raw::read(board.wakeup(), &mut [0; 8]).is_ok());
    let silent = || {
        board.clear_wakeup();
        raw::read(board.wakeup(), &mut [0]) == Err(Errno::EAGAIN)
    };
    assert!((0..1000).any(|_| silent()), "as soon as nobody wakes us");
}

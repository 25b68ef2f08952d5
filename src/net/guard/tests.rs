//! Who is answered over UDP, how often, and how many at once; over Unix sockets; what
//! counts as said before; and why the others are not answered.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::*;
use crate::values::{Ports, Rate};

const HERE: Option<Local> = Some(Local {
    unicast: true,
    loopback: false,
});
const LOOPBACK: Option<Local> = Some(Local {
    unicast: true,
    loopback: true,
});
const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

fn rate(count: u32, ms: u64) -> Option<Rate> {
    let per = Duration::from_millis(ms);
    Some(Rate { count, per })
}

fn guard(source: Option<Rate>, global: Option<Rate>) -> UdpGuard {
    let limits = UdpLimits {
        rate: source,
        global_rate: global,
        refuse_ports: Some(Ports(vec![(0, 1023), (2049, 2049)])),
    };
    UdpGuard::new(&limits, &[7777]).expect("mmap")
}

fn from(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

/// Each time a datagram like no other.
fn check(guard: &UdpGuard, from: SocketAddr, to: Option<Local>, now: u64) -> Result<(), Reason> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let bytes = NEXT.fetch_add(1, Relaxed).to_be_bytes();
    guard.check(from, to, &bytes, now)
}

fn v4(n: u32) -> SocketAddr {
    // No two in one /24.
    (Ipv4Addr::from_bits(0x0100_0000 + (n << 8)), 5000).into()
}

#[test]
fn sources_and_destinations_that_are_never_answered() {
    use Reason::*;
    let guard = guard(None, None);
    for (source, to, expected) in [
        ("192.0.2.1:5000", HERE, Ok(())),
        ("[2001:db8::1]:5000", HERE, Ok(())),
        ("[fe80::1]:5000", HERE, Ok(())),
        ("127.0.0.1:5000", LOOPBACK, Ok(())),
        ("[::1]:5000", LOOPBACK, Ok(())),
        ("127.0.0.1:5000", HERE, Err(Source)),
        ("[::1]:5000", HERE, Err(Source)),
        ("0.0.0.0:5000", HERE, Err(Source)),
        ("0.1.2.3:5000", HERE, Err(Source)),
        ("224.0.0.1:5000", HERE, Err(Source)),
        ("239.255.255.255:5000", HERE, Err(Source)),
        ("240.0.0.1:5000", HERE, Err(Source)),
        ("255.255.255.255:5000", LOOPBACK, Err(Source)),
        ("[::]:5000", LOOPBACK, Err(Source)),
        ("[::192.0.2.1]:5000", HERE, Err(Source)),
        ("[::ffff:192.0.2.1]:5000", HERE, Err(Source)),
        ("[ff02::1]:5000", HERE, Err(Source)),
        ("192.0.2.1:0", HERE, Err(SourcePort)),
        ("192.0.2.1:7", HERE, Err(SourcePort)),
        ("192.0.2.1:1023", HERE, Err(SourcePort)),
        ("192.0.2.1:1024", HERE, Ok(())),
        ("192.0.2.1:2049", HERE, Err(SourcePort)),
        ("192.0.2.1:7777", HERE, Err(SourcePort)),
        ("[::1]:7777", LOOPBACK, Err(SourcePort)),
        ("192.0.2.1:5000", None, Err(Destination)),
        (
            "192.0.2.1:5000",
            Some(Local {
                unicast: false,
                loopback: false,
            }),
            Err(Destination),
        ),
    ] {
        let got = check(&guard, from(source), to, 0);
        assert_eq!(got, expected, "{source} {to:?}");
    }
}

#[test]
fn off_refuses_no_port() {
    let limits = UdpLimits {
        rate: None,
        global_rate: None,
        refuse_ports: None,
    };
    let guard = UdpGuard::new(&limits, &[7777]).expect("mmap");
    for port in [0, 7, 2049, 7777] {
        let source = SocketAddr::new(from("192.0.2.1:1").ip(), port);
        assert_eq!(check(&guard, source, HERE, 0), Ok(()), "{port}");
    }
}

/// How many of `n` at this moment pass.
fn passed(guard: &UdpGuard, source: SocketAddr, n: usize, now: u64) -> usize {
    let passes = |_: &usize| check(guard, source, HERE, now).is_ok();
    (0..n).filter(passes).count()
}

#[test]
fn a_network_gets_its_burst_and_then_its_rate() {
    let guard = guard(rate(50, 1000), None);
    let source = from("192.0.2.1:5000");
    for (ms, expected) in [
        (0, 100),
        (19, 0),
        (20, 1),
        (20, 0),
        (1020, 50),
        (9020, 100),
        (9040, 1),
    ] {
        let got = passed(&guard, source, 1000, ms * MS);
        assert_eq!(got, expected, "at {ms} ms");
    }
    let err = check(&guard, from("192.0.2.255:6000"), HERE, 9040 * MS);
    assert_eq!(err, Err(Reason::Rate), "the same /24");
    assert_eq!(
        check(&guard, from("192.0.3.1:1024"), HERE, 9040 * MS),
        Ok(())
    );
}

#[test]
fn a_network_of_ipv6_is_a_56() {
    let guard = guard(rate(1, 1000), None);
    let check = |text: &str| check(&guard, from(text), HERE, 0);
    assert_eq!(check("[2001:db8:0:100::1]:5000"), Ok(()));
    assert_eq!(check("[2001:db8:0:1ff::1]:5000"), Ok(()));
    assert_eq!(check("[2001:db8:0:1ab::2]:5000"), Err(Reason::Rate));
    assert_eq!(check("[2001:db8:0:200::1]:5000"), Ok(()));
}

#[test]
fn all_together_get_the_global_rate() {
    let guard = guard(None, rate(10, 100));
    let count = |now: u64| {
        let check = |&n: &u32| check(&guard, v4(n), HERE, now).is_ok();
        (0..100).filter(check).count()
    };
    assert_eq!(count(0), 20);
    assert_eq!(count(100 * MS), 10);
    let err = check(&guard, v4(0), HERE, 100 * MS);
    assert_eq!(err, Err(Reason::GlobalRate));
}

#[test]
fn a_flood_from_one_network_leaves_the_others_their_share() {
    let guard = guard(rate(50, 1000), rate(200, 1000));
    assert_eq!(passed(&guard, v4(1), 100_000, 0), 100);
    assert_eq!(passed(&guard, v4(2), 10, 0), 10);
    // And what the global rate refuses does not count against its source.
    assert_eq!(passed(&guard, v4(3), 1000, 0), 100);
    assert_eq!(passed(&guard, v4(4), 1000, 0), 100);
    assert_eq!(passed(&guard, v4(5), 1000, 0), 90);
    assert_eq!(passed(&guard, v4(5), 1000, 1000 * MS), 60);
}

#[test]
fn forged_sources_get_no_more_than_the_table_holds() {
    let guard = guard(rate(50, 1000), None);
    let networks = 10_000;
    let got: usize = (0..networks).map(|n| passed(&guard, v4(n), 110, 0)).sum();
    assert!(got <= LINES * 4 * 100, "{got}");
    // A forgotten network comes back and starts with somebody's empty bucket.
    assert_eq!(passed(&guard, v4(0), 200, 0), 0);
    // Once it is quiet, nobody is kept out.
    assert_eq!(passed(&guard, v4(0), 200, 3000 * MS), 100);
}

#[test]
fn one_datagram_each_from_many_networks_shuts_nobody_out() {
    let guard = guard(rate(50, 1000), None);
    let mut refused = 0;
    for n in 0..100_000u32 {
        // 100,000 a second.
        let now = u64::from(n) * MS / 100;
        refused += usize::from(check(&guard, v4(n), HERE, now).is_err());
    }
    assert_eq!(refused, 0);
}

#[test]
fn a_time_that_cannot_be_shuts_nobody_out() {
    let guard = guard(rate(50, 1000), rate(10, 1000));
    for word in guard.table.iter().flat_map(|line| &line.0) {
        word.store(u64::MAX, Relaxed);
    }
    assert_eq!(check(&guard, v4(1), HERE, 0), Ok(()));
    assert_eq!(check(&guard, v4(2), HERE, MS), Ok(()));
}

#[test]
fn odd_rates_neither_overflow_nor_divide_by_zero() {
    for (count, per) in [
        (u32::MAX, Duration::from_nanos(1)),
        (1, Duration::MAX),
        (u32::MAX, Duration::MAX),
    ] {
        let guard = guard(Some(Rate { count, per }), None);
        assert_eq!(check(&guard, v4(1), HERE, u64::MAX / 2), Ok(()), "{count}");
    }
}

#[test]
fn this_machine_has_no_rate_but_for_what_it_was_answered_last() {
    let guard = guard(rate(50, 1000), None);
    let source = from("127.0.0.1:5000");
    let passed = |to, bytes: &[u8]| {
        let passes = |_: &usize| guard.check(source, to, bytes, 0).is_ok();
        (0..150).filter(passes).count()
    };
    assert_eq!(
        (0..9999)
            .filter(|_| check(&guard, source, LOOPBACK, 0).is_ok())
            .count(),
        9999
    );
    // The first is no repeat, and the burst is whole.
    assert_eq!(passed(LOOPBACK, b"same"), 101);
    assert_eq!(check(&guard, source, LOOPBACK, 0), Ok(()));
    assert_eq!(check(&guard, source, HERE, 0), Err(Reason::Source));
    let other = from("127.0.0.1:5001");
    assert_eq!(
        guard.check(other, LOOPBACK, b"same", 0),
        Ok(()),
        "another port"
    );
    assert_eq!(guard.check(other, LOOPBACK, b"same", 0), Err(Reason::Rate));
    // By another interface the rate is for all of it.
    let source = from("192.0.2.1:5000");
    assert_eq!(self::passed(&guard, source, 150, 0), 100);
}

/// One every `ms` milliseconds: when and why they are not answered.
fn dropped(guard: &UdpGuard, bytes: &[u8], ms: u64, n: u64) -> Vec<(u64, Reason)> {
    let source = from("192.0.2.1:5000");
    let check = |i| Some((i, guard.check(source, HERE, bytes, i * ms * MS).err()?));
    (1..=n).filter_map(check).collect()
}

#[test]
fn of_what_repeats_one_in_256_is_withheld_and_a_long_run_pauses() {
    let guard = guard(rate(50, 1000), None);
    let repeat = |n| (n, Reason::Repeat);
    let got = dropped(&guard, b"round and round", 30, 1100);
    // At 30 ms apart, 34 are in a second.
    let run = [256, 512, 768].into_iter().chain(1024..=1057);
    assert_eq!(got, run.map(repeat).collect::<Vec<_>>());
    let other = dropped(&guard, b"another", 30, 255);
    assert_eq!(other, []);
    // More than ten seconds apart they are no loop.
    let guard = super::tests::guard(rate(50, 1000), None);
    assert_eq!(dropped(&guard, b"probe", 10_001, 1000), []);
}

#[test]
fn several_in_one_loop_are_counted_each() {
    let guard = guard(rate(1000, 1000), None);
    for n in 1..=300u64 {
        for each in 0..40u64 {
            let now = (n * 40 + each) * MS;
            let got = guard.check(from("192.0.2.1:5000"), HERE, &each.to_be_bytes(), now);
            assert_eq!(got.is_err(), n == 256, "{each} {n}: {got:?}");
        }
    }
}

#[test]
fn without_a_rate_nothing_is_withheld() {
    let guard = guard(None, None);
    assert_eq!(dropped(&guard, b"measured", 1, 10_000), []);
}

#[test]
fn own_names_and_relative_ones_are_not_answered() {
    let own = [b"/run/echod".to_vec(), b"\0echod".to_vec(), b"odd".to_vec()];
    let guard = UnixGuard::new(&own).expect("mmap");
    for (name, expected) in [
        (&b"/run/client"[..], Ok(())),
        (b"/run/echod2", Ok(())),
        (b"\0client", Ok(())),
        (b"\0", Ok(())),
        (b"run/client", Err(Reason::NotTheirs)),
        (b"./client", Err(Reason::NotTheirs)),
        (b"", Err(Reason::NotTheirs)),
        (b"/run/echod", Err(Reason::Own)),
        (b"\0echod", Err(Reason::Own)),
        (b"odd", Err(Reason::Own)),
    ] {
        assert_eq!(guard.check(name), expected, "{}", name.escape_ascii());
    }
}

#[test]
fn the_same_to_the_same_has_no_name_now_and_then() {
    let guard = UnixGuard::new(&[]).expect("mmap");
    for n in 1..=40 {
        assert!(!guard.is_nameless(b"/a", &[n], 0), "never said");
        assert_eq!(guard.is_nameless(b"/a", b"ping", 0), n % 8 == 0, "{n}");
    }
    assert!(!guard.is_nameless(b"/b", b"ping", 0), "another client");
}

#[test]
fn only_a_socket_of_the_senders_is_found() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let found = |name: &str, uid| {
        let path = std::ffi::CString::new(path(name).into_os_string().into_encoded_bytes());
        socket_of(&path.expect("no NUL"), uid).map(drop)
    };
    let me = nix::unistd::geteuid().as_raw();
    let _socket = UnixDatagram::bind(path("s")).expect("bind");
    std::fs::write(path("file"), b"").expect("a file");
    std::os::unix::fs::symlink(path("s"), path("link")).expect("a link");
    assert_eq!(found("s", Some(me)), Ok(()));
    assert_eq!(found("s", Some(0)), Ok(()));
    assert_eq!(found("s", Some(me + 1)), Err(Reason::NotTheirs));
    assert_eq!(found("s", None), Err(Reason::NotTheirs));
    assert_eq!(found("file", Some(me)), Err(Reason::NotTheirs));
    assert_eq!(found("link", Some(me)), Err(Reason::NotTheirs));
    assert_eq!(found(".", Some(me)), Err(Reason::NotTheirs));
    assert_eq!(found("gone", Some(me)), Err(Reason::Unreachable));
}

#[test]
fn the_same_from_the_same_is_counted_while_it_comes_soon_enough() {
    let repeats = Repeats::new().expect("mmap");
    let tag = repeats.tag("here", b"ping");
    for other in [repeats.tag("here", b"pink"), repeats.tag("there", b"ping")] {
        repeats.count(other, 0);
    }
    assert_eq!(repeats.look(tag, 0), NEVER);
    for (at, times, ago) in [
        (0, 0, 0),
        (0, 1, 0),
        (9, 2, 9000),
        (19, 3, 10_000),
        (30, 0, 0),
        (31, 1, 1000),
    ] {
        assert_eq!(repeats.look(tag, at * S), Seen { times, ago }, "{at} s");
        repeats.count(tag, at * S);
    }
}

#[test]
fn a_flood_of_what_is_new_does_not_hide_what_repeats() {
    let repeats = Repeats::new().expect("mmap");
    let tag = repeats.tag("here", b"round and round");
    repeats.count(tag, 0);
    repeats.count(tag, 0);
    for n in 0..1_000_000u32 {
        repeats.count(repeats.tag(n, b"new"), 0);
    }
    assert_eq!(repeats.look(tag, S).times, 2);
}

#[test]
fn what_cannot_be_counts_as_nothing() {
    let repeats = Repeats::new().expect("mmap");
    let tag = repeats.tag("here", b"ping");
    for word in repeats.table.iter().flat_map(|line| &line.0) {
        word.store(u64::MAX, Relaxed);
    }
    assert_eq!(repeats.look(tag, S), NEVER);
    repeats.count(tag, S);
    assert_eq!(repeats.look(tag, S).times, 1);
    for n in 0..4 {
        repeats.line(tag).0[2 * n].store(tag, Relaxed);
        repeats.line(tag).0[2 * n + 1].store(MOST, Relaxed);
    }
    repeats.count(tag, 0);
    assert_eq!(repeats.look(tag, 0).times, MOST);
}

#[test]
fn reasons_are_numbered_in_their_order() {
    for (number, reason) in REASONS.into_iter().enumerate() {
        assert_eq!(reason as usize, number);
    }
}

#[test]
fn every_errno_of_a_reply_has_its_reason() {
    for (errno, reason) in [
        (Errno::EAGAIN, Reason::Full),
        (Errno::ENOBUFS, Reason::Full),
        (Errno::EPERM, Reason::Denied),
        (Errno::EACCES, Reason::Denied),
        (Errno::ECONNREFUSED, Reason::Unreachable),
        (Errno::ENOENT, Reason::Unreachable),
        (Errno::EMSGSIZE, Reason::ReplyTooLarge),
        (Errno::EINVAL, Reason::Failed),
    ] {
        assert_eq!(Reason::not_sent(errno), reason, "{errno:?}");
    }
}

#[test]
fn each_reason_is_counted_by_itself_and_told_once() {
    let tally = Tally::new().expect("mmap");
    for reason in REASONS {
        assert!(tally.drop(reason), "{reason:?}: the first");
        assert!(!tally.drop(reason), "{reason:?}: the second");
        assert_eq!(tally.dropped(reason), 2);
    }
    tally.listen(Reason::Rate);
    assert!(!tally.drop(Reason::GlobalRate));
    assert!(tally.drop(Reason::Rate), "asked again");
    tally.answered(2, 30);
    tally.answered(1, 0);
    assert_eq!(tally.total(), (3, 30));
    tally.fault(Errno::EBADF);
    assert_eq!(tally.why(), Errno::EBADF);
}

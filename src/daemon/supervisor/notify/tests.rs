use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::*;

/// A manager at an abstract name, and who tells it.
fn pair(watchdog: Option<Duration>) -> (UnixDatagram, Notify) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("echod-notify-{}-{n}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("bind");
    manager.set_nonblocking(true).expect("nonblocking");
    let socket = open(&format!("@{name}").into()).expect("connects");
    (manager, Notify::new(socket, watchdog, None))
}

fn next(manager: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 256];
    let length = manager.recv(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[test]
fn the_watchdog_is_served_if_it_is_ours_and_readable() {
    let second = Some(Duration::from_secs(1));
    for (usec, pid, expected) in [
        (None, None, Some(None)),
        (None, Some("garbage"), Some(None)),
        (Some("1000000"), None, Some(second)),
        (Some("1000000"), Some("7"), Some(second)),
        (Some("1000000"), Some("8"), Some(None)),
        (Some("1000000"), Some(""), None),
        (Some("1000000"), Some("0"), None),
        (Some("1000000"), Some("-7"), None),
        (Some(""), None, None),
        (Some("0"), None, None),
        (Some("-1"), None, None),
        (Some("+5"), None, None),
        (Some("1s"), None, None),
        (Some("18446744073709551615"), None, None),
        (Some("18446744073709551616"), None, None),
    ] {
        let got = watchdog(usec.map(Into::into), pid.map(Into::into), 7);
        assert_eq!(got.ok(), expected, "{usec:?} {pid:?}");
    }
}

#[test]
fn a_socket_that_cannot_be_is_one_line() {
    let long = format!("/{}", "x".repeat(400));
    for typed in [
        "",
        "@",
        "x",
        "vsock:2:1",
        "/",
        "/no/such",
        "@no-such-echod",
        "a\nb",
        &long,
    ] {
        let error = open(&typed.into()).expect_err(typed).to_string();
        assert!(error.starts_with("NOTIFY_SOCKET="), "{error}");
        assert!(error.ends_with("is told nothing"), "{error}");
        assert!(error.len() < 250 && !error.contains('\n'), "{error}");
    }
}

#[test]
fn words_that_do_not_fit_are_said_later_and_in_order() {
    let (manager, mut notify) = pair(None);
    let now = Instant::now();
    let mut fits = 0;
    while notify.send(|text| text.write_all(b"x")) == Ok(()) {
        fits += 1;
        assert!(fits < 100_000, "a queue without an end");
    }
    for word in [Word::Ready, Word::Reloading, Word::Stopping] {
        notify.say(word, now);
    }
    assert_eq!(notify.wakes_at(), Some(now + RETRY));
    for _ in 0..fits {
        assert_eq!(next(&manager).as_deref(), Some("x"));
    }
    assert_eq!(next(&manager), None);
    notify.look(now + RETRY);
    let said: Vec<_> = std::iter::from_fn(|| next(&manager)).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{said:?}"
    );
    assert_eq!(said[1..], ["READY=1", "STOPPING=1"]);
    assert_eq!(notify.retry_at, None);
}

#[test]
fn status_is_told_when_it_is_news_and_once_a_second() {
    let (manager, mut notify) = pair(None);
    let start = Instant::now();
    let mut status = Status {
        serves: true,
        clients: 0,
        idle: Some(8),
    };
    assert!(notify.look(start));
    notify.tell(status, start);
    assert_eq!(
        next(&manager).as_deref(),
        Some("STATUS=serving, 0 clients, 8 idle")
    );
    assert_eq!(notify.wakes_at(), None, "nothing has happened");
    let soon = start + STATUS_EVERY / 2;
    assert!(!notify.look(soon));
    assert_eq!(notify.wakes_at(), Some(start + STATUS_EVERY));
    let due = start + STATUS_EVERY;
    assert!(notify.look(due));
    notify.tell(status, due);
    assert_eq!(next(&manager), None, "no news");
    assert_eq!(notify.wakes_at(), None);
    (status.serves, status.clients, status.idle) = (false, 3, None);
    notify.tell(status, due);
    assert_eq!(
        next(&manager).as_deref(),
        Some("STATUS=stopping, 3 clients")
    );
}

#[test]
fn a_sign_of_life_each_half_of_the_watchdogs_time() {
    let (manager, mut notify) = pair(Some(Duration::from_secs(2)));
    let start = Instant::now();
    for (after, sign) in [
        (0, true),
        (999, false),
        (1000, true),
        (9000, true),
        (9500, false),
    ] {
        notify.look(start + Duration::from_millis(after));
        assert_eq!(next(&manager).is_some(), sign, "{after} ms");
    }
    assert_eq!(notify.sign_at, Some(start + Duration::from_secs(10)));
    let (_manager, notify) = pair(Some(Duration::from_micros(1)));
    assert_eq!(notify.sign_every, Some(FASTEST));
}

#[test]
fn the_longest_word_fits() {
    let (manager, mut notify) = pair(None);
    notify.main_pid = Some(i32::MIN);
    notify.say(Word::Ready, Instant::now());
    assert_eq!(
        next(&manager).as_deref(),
        Some("READY=1\nMAINPID=-2147483648")
    );
    let most = Status {
        serves: false,
        clients: usize::MAX,
        idle: Some(usize::MAX),
    };
    notify.tell(most, Instant::now());
    assert!(next(&manager).expect("told").ends_with("551615 idle"));
}

#[test]
fn a_manager_that_is_gone_changes_nothing() {
    let (manager, mut notify) = pair(None);
    drop(manager);
    let now = Instant::now();
    notify.say(Word::Ready, now);
    assert!(notify.deaf);
    assert_eq!(notify.wakes_at(), None);
}

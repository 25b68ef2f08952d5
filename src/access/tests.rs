use std::net::SocketAddr;

use super::*;

fn rules(allow: &str, deny: &str) -> Rules {
    let list = |text: &str| -> Vec<Who> {
        let words = text.split_whitespace();
        words.map(|word| who(word).expect("a source")).collect()
    };
    Rules::new(&list(allow), &list(deny))
}

fn client(text: &str) -> Client {
    match text.split_once('.').filter(|(uid, _)| !uid.contains(':')) {
        Some((uid, gid)) if !gid.contains('.') => Client::Unix {
            uid: uid.parse().unwrap(),
            gid: gid.parse().unwrap(),
        },
        _ => Client::inet(text.parse().unwrap()),
    }
}

/// Clients of a Unix socket are written `UID.GID`.
#[test]
fn the_longest_prefix_decides_and_deny_in_a_tie() {
    const NET: &str = "192.0.2.0/24";
    for (allow, deny, from, served) in [
        ("", "", "192.0.2.7", true),
        ("", "", "1000.100", true),
        (NET, "", "192.0.2.7", true),
        (NET, "", "192.0.3.7", false),
        (NET, "", "2001:db8::1", false),
        (NET, "", "1000.100", true),
        ("", NET, "192.0.2.7", false),
        ("", NET, "192.0.3.7", true),
        ("", NET, "::ffff:192.0.2.7", false),
        (NET, "192.0.2.7", "192.0.2.7", false),
        (NET, "192.0.2.7", "192.0.2.8", true),
        ("192.0.2.7", NET, "192.0.2.7", true),
        ("192.0.2.7", NET, "192.0.2.8", false),
        ("192.0.2.7", NET, "198.51.100.1", false),
        (NET, NET, "192.0.2.7", false),
        ("192.0.2.7 192.0.0.0/16", NET, "192.0.2.7", true),
        ("192.0.2.7 192.0.0.0/16", NET, "192.0.2.9", false),
        ("192.0.2.7 192.0.0.0/16", NET, "192.0.9.9", true),
        ("", "0.0.0.0/0", "192.0.2.7", false),
        ("", "0.0.0.0/0", "2001:db8::1", true),
        ("", "::/0", "192.0.2.7", true),
        ("", "::/0", "::ffff:192.0.2.7", true),
        ("", "::/0", "2001:db8::1", false),
        ("2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::7", false),
        ("2001:db8::/32", "2001:db8:1::/48", "2001:db8:2::7", true),
        ("", "::ffff:192.0.2.0/120", "192.0.2.7", false),
        ("uid:1000", "", "1000.100", true),
        ("uid:1000", "", "1001.100", false),
        ("uid:1000", "", "192.0.2.7", true),
        ("gid:100", "uid:1000", "1000.100", false),
        ("gid:100", "uid:1000", "1001.100", true),
        ("uid:1000", "gid:100", "1000.100", true),
        ("uid:1000", "uid:1000", "1000.100", false),
        ("", "gid:100", "1.100", false),
        ("", "gid:100", "1.101", true),
    ] {
        let got = rules(allow, deny).check(client(from)).is_ok();
        assert_eq!(got, served, "{from}: --allow {allow} --deny {deny}");
    }
}

#[test]
fn a_refusal_names_what_decided() {
    let rules = rules("192.0.2.0/24", "192.0.2.66 uid:33");
    let name = |from: &str| match rules.check(client(from)).unwrap_err() {
        Refusal::Rule(index) => rules.get(index).unwrap().to_string(),
        Refusal::Unlisted => "unlisted".to_owned(),
    };
    assert_eq!(name("192.0.2.66"), "--deny 192.0.2.66/32");
    assert_eq!(name("33.33"), "--deny uid:33");
    assert_eq!(name("203.0.113.1"), "unlisted");
}

#[test]
fn sources_are_networks_of_the_lengths_asked_for() {
    let limit = |text: &str| per_source(text).unwrap().unwrap();
    let peer = |ip: &str| Peer::Inet(SocketAddr::new(ip.parse().unwrap(), 7));
    for (typed, ip, network) in [
        ("1", "192.0.2.7", "192.0.2.7/32"),
        ("1", "::ffff:192.0.2.7", "192.0.2.7/32"),
        ("1/24:56", "192.0.2.7", "192.0.2.0/24"),
        ("1/1:1", "192.0.2.7", "128.0.0.0/1"),
        ("1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("1/24:56", "2001:db8:1:fff::4", "2001:db8:1:f00::/56"),
        ("1/24:128", "2001:db8::4", "2001:db8::4/128"),
        ("1", "::1", "::/64"),
    ] {
        let limit = limit(typed);
        let policy = Policy {
            per_source: Some(limit),
            ..Policy::default()
        };
        let source = policy.source(peer(ip)).unwrap();
        assert_eq!(limit.network(source).to_string(), network, "{typed} {ip}");
    }
    let policy = Policy {
        per_source: Some(limit("1")),
        exempt: vec![network("192.0.2.0/24").unwrap()],
        ..Policy::default()
    };
    assert_eq!(policy.source(peer("192.0.2.7")), None, "exempt");
    assert_eq!(policy.source(peer("::ffff:192.0.2.7")), None, "exempt");
    assert_eq!(policy.source(Peer::Unix), None);
    assert!(policy.source(peer("192.0.3.7")).is_some());
    assert!(policy.is_counted(Peer::Unix));
}

#[test]
fn what_is_no_source_says_what_would_be() {
    for text in [
        "",
        "localhost",
        "192.0.2.7/33",
        "192.0.2/24",
        "2001:db8::/129",
        "192.0.2.7/24",
        "2001:db8::1/32",
        "uid:",
        "uid:root",
        "uid:+1",
        "uid:4294967296",
        "gid:-1",
        "192.0.2.0/024x",
        "[::1]",
        "192.0.2.0/24 ",
    ] {
        assert!(who(text).is_err(), "{text}");
    }
    let error = who("192.0.2.7/24").unwrap_err().to_string();
    assert!(error.ends_with("192.0.2.0/24 is meant"), "{error}");
    for (text, shown) in [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::1", "::1/128"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("gid:0", "gid:0"),
    ] {
        assert_eq!(who(text).unwrap().to_string(), shown);
    }
}

#[test]
fn limits_per_source() {
    let limit = |most, v4, v6| Ok(Some(PerSource { most, v4, v6 }));
    assert_eq!(per_source("64"), limit(64, 32, 64));
    assert_eq!(per_source("1/24:56"), limit(1, 24, 56));
    assert_eq!(per_source("64/32:64"), limit(64, 32, 64));
    assert_eq!(per_source("off"), Ok(None));
    for text in [
        "",
        "0",
        "+1",
        "1/",
        "1/24",
        "1/24:",
        "1/0:64",
        "1/33:64",
        "1/32:129",
        "1/32:64:1",
        "-1",
        "4294967296",
        "1/:64",
    ] {
        assert!(per_source(text).is_err(), "{text}");
    }
}

#[test]
fn the_start_line_says_all_of_it() {
    assert_eq!(Policy::default().describe(), None);
    assert!(Policy::default().is_off());
    let policy = Policy {
        rules: rules("192.0.2.0/24 ::1", "192.0.2.66"),
        per_source: per_source("64").unwrap(),
        rate: Some(Rate {
            count: 100,
            per: Duration::from_secs(1),
        }),
        exempt: Vec::new(),
    };
    assert_eq!(
        policy.describe().unwrap(),
        "access: at most 64 clients per source (/32, /64), \
         at most 100 new connections in 1.000s, 2 --allow, 1 --deny"
    );
}

const MS: u64 = 1_000_000;

fn pace(count: u32, ms: u64) -> Pace {
    let per = Duration::from_millis(ms);
    Pace::new(Rate { count, per }, 1)
}

#[test]
fn a_burst_passes_and_then_one_at_a_time() {
    let pace = pace(4, 1000);
    let now = 7 * MS;
    let mut due = 0;
    for _ in 0..4 {
        assert_eq!(pace.wait(due, now), None);
        due = pace.admit(due, now).expect("of the burst");
    }
    assert_eq!(pace.admit(due, now), None);
    assert_eq!(pace.wait(due, now), Some(Duration::from_millis(250)));
    let later = now + 249 * MS;
    assert_eq!(pace.wait(due, later), Some(Duration::from_millis(1)));
    let later = now + 250 * MS;
    assert_eq!(pace.wait(due, later), None);
    due = pace.admit(due, later).expect("one");
    assert_eq!(pace.admit(due, later), None);
    // Who comes late has not lost what came together meanwhile.
    let later = later + 750 * MS;
    for _ in 0..3 {
        due = pace.admit(due, later).expect("saved");
    }
    assert_eq!(pace.admit(due, later), None);
}

#[test]
fn nobody_ever_waits_longer_than_an_interval() {
    for (count, ms) in [(1, 1), (1, 1000), (3, 100), (1000, 1000)] {
        let pace = pace(count, ms);
        let interval = Duration::from_millis(ms) / count;
        for due in [0, 1, 500 * MS, 999 * MS, 1000 * MS, 5000 * MS, u64::MAX] {
            let wait = pace.wait(due, 1000 * MS).unwrap_or_default();
            assert!(wait <= interval, "{count}/{ms} due {due}: {wait:?}");
            let admitted = pace.admit(due, 1000 * MS).is_some();
            assert_eq!(wait.is_zero(), admitted, "{count}/{ms} due {due}");
        }
    }
}

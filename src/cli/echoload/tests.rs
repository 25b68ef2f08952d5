use super::*;

#[test]
fn durations_and_sizes_are_read_as_everywhere() {
    for (text, millis) in [
        ("30s", 30_000),
        ("5m", 300_000),
        ("200ms", 200),
        ("1.5", 1500),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "inf", "NaN", "1e300", "-3"] {
        assert!(duration(text).is_err(), "{text}");
    }
    for (text, bytes) in [("64", 64), ("1K", 1024), ("3M", 3 << 20), ("1G", 1 << 30)] {
        assert_eq!(size(text), Ok(bytes));
    }
}

fn typed(line: &str) -> Result<Plan, String> {
    let words = std::iter::once("echoload").chain(line.split_whitespace());
    let typed =
        Typed::parse(words.map(Into::into)).map_err(|error| error.unwrap_err().to_string())?;
    let both = plan(&typed).map_err(|error| error.to_string())?;
    Ok(both.0)
}

#[test]
fn the_defaults_are_the_pages() {
    let plan = typed("127.0.0.1:7").unwrap();
    assert_eq!(
        (plan.mode, plan.bound),
        (Mode::Rr, Bound::Time(DEFAULT_DURATION))
    );
    assert_eq!(plan.target.to_string(), "tcp:127.0.0.1:7");
    assert_eq!((plan.connections, plan.size), (16, 64..=64));
    assert_eq!(
        (plan.threads, plan.rate, plan.warmup),
        (1, None, Duration::ZERO)
    );
    assert_eq!((plan.sources, plan.window), (8, 256 << 10));
    assert_eq!(typed("stream h:1").unwrap().size, 65_536..=65_536);
    assert_eq!(plan.timeout, Duration::from_secs(5));
}

#[test]
fn every_option_reaches_the_plan() {
    let plan = typed(
        "crr h:1 -c 3 -s 2K-3K -n 9 --timeout 200ms -t 2 -R 50 --warmup 1 --sources 3 --lines",
    )
    .unwrap();
    assert_eq!((plan.mode, plan.bound), (Mode::Crr, Bound::Count(9)));
    assert_eq!((plan.threads, plan.rate), (2, Some(50.0)));
    assert!(plan.lines && !typed("h:1").unwrap().lines);
    assert_eq!((plan.warmup, plan.sources), (Duration::from_secs(1), 3));
    assert_eq!(typed("stream h:1 --window 9K").unwrap().window, 9216);
    assert_eq!(plan.target.to_string(), "tcp:h:1");
    assert_eq!((plan.connections, plan.size), (3, 2048..=3072));
    assert_eq!(plan.timeout, Duration::from_millis(200));
    let kept = typed("hold h:1 -d 5").unwrap();
    assert_eq!(
        (kept.mode, kept.keep()),
        (Mode::Hold, Duration::from_secs(5))
    );
    assert!(typed("hold h:1").unwrap().keep().is_zero());
}

#[test]
fn what_people_know_from_other_programs_is_meant() {
    for (line, target) in [
        ("h 7", "tcp:h:7"),
        ("crr ::1 7", "tcp:[::1]:7"),
        ("tcp://h:7", "tcp:h:7"),
        ("--json h:7", "tcp:h:7"),
        ("--json crr h:7", "tcp:h:7"),
        ("crr --json h:7", "tcp:h:7"),
        ("h:7 --json out.json", "tcp:h:7"),
    ] {
        let plan = typed(line).unwrap();
        assert_eq!(plan.target.to_string(), target, "{line}");
        assert_eq!(plan.mode == Mode::Crr, line.contains("crr"), "{line}");
    }
    let plan = typed("h:1 -z 10s -c 1k -R 5k --percentiles 50,99.9").unwrap();
    assert_eq!(plan.bound, Bound::Time(Duration::from_secs(10)));
    assert_eq!((plan.connections, plan.rate), (1000, Some(5000.0)));
    assert_eq!(plan.percentiles, [50.0, 99.9]);
    assert_eq!(typed("h:1 -n 10k").unwrap().bound, Bound::Count(10_000));
    assert!(typed("").unwrap_err().contains("echoload 127.0.0.1:7777"));
    for line in [
        "h:1 --percentiles x",
        "h:1 --percentiles 101",
        "h:1 -n 1.5k",
    ] {
        assert!(typed(line).is_err(), "{line}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "",
        "crr",
        "bulk h:1",
        "stream udp:h:1",
        "hold udp:h:1",
        "udp:h:1 -s 65508",
        "stream h:1 -R 5",
        "stream h:1 --lines",
        "hold h:1 -R 5",
        "stream h:1 -s 1-2",
        "h:1 -s 9-8",
        "h:1 -R 0",
        "h:1 --sweep 5",
        "h:1 --sweep 9:5",
        "h:1 --sweep 0:5",
        "h:1 h:2 --fail-below 0",
        "h:1 h:2 --fail-below 1.5",
        "h:1 -t 0",
        "h:1 h:2 --server-pid 1",
        "h:1 h:2 --hdr x",
        "h:1 --sources 0",
        "rr h:1 h:2 h:3",
        "x h:1 h:2",
        "h:1 --rounds 3",
        "hold h:1 h:2",
        "h:1 -c 0",
        "h:1 -s 0",
        "h:1 -s 2G",
        "h:1 -s K",
        "h:1 -d 0",
        "h:1 -d -1",
        "h:1 -d 5 -n 5",
        "h:1 -n 0",
        "h:1 --timeout 1us",
        "hold h:1 -n 5",
        "nowhere",
    ] {
        assert!(typed(line).is_err(), "{line}");
    }
}

#[test]
fn an_option_that_nothing_uses_is_refused_by_both_names() {
    for (line, option, with) in [
        ("h:1 --window 9K", "--window", "rr"),
        ("crr h:1 --window 9K", "--window", "crr"),
        ("hold h:1 --window 256K", "--window", "hold"),
        ("hold h:1 --warmup 0", "--warmup", "hold"),
        ("stream h:1 -R 5", "-R", "stream"),
        ("hold h:1 -R 5", "-R", "hold"),
        ("h:1 -R 5 --think 1", "--think", "-R"),
        ("stream h:1 --think 1", "--think", "stream"),
        ("hold h:1 --ramp-up 1", "--ramp-up", "hold"),
        ("h:1 h:2 --ramp-up 1", "--ramp-up", "ADDR2"),
        ("sweep h:1 --think 1", "--think", "sweep"),
        ("stream h:1 --percentiles 50", "--percentiles", "stream"),
        ("h:1 --p99 5ms", "--p99", "--sweep"),
        ("sweep h:1 -R 5", "--rate", "sweep"),
        ("sweep h:1 h:2", "ADDR2", "sweep"),
        ("stream h:1 --sweep 1:2", "stream", "sweep"),
        ("stream h:1 --hdr x", "--hdr", "stream"),
        ("h:1 --rounds 3", "--rounds", "ADDR"),
        ("h:1 --fail-below 0.9", "--fail-below", "ADDR"),
        (
            "h:1 h:2 --rounds 5 --fail-below 1",
            "--fail-below",
            "--rounds",
        ),
        ("unix:@e --sources 2", "--sources", "unix:@e"),
        ("h:1 unixgram:/e --sources 8", "--sources", "unixgram:/e"),
    ] {
        let error = typed(line).unwrap_err();
        assert!(error.contains(option) && error.contains(with), "{error}");
    }
}

/// Values at the edge of their type are usage errors that say what works.
#[test]
fn row_106_the_largest_that_works_is_named() {
    let most = u64::MAX;
    for (option, largest) in [
        ("-c", "1000000"),
        ("-s", "1G"),
        ("-d", "365d"),
        ("-t", "1024"),
        ("-R", "100000000"),
        ("--warmup", "365d"),
        ("--timeout", "365d"),
        ("--rounds", "100000"),
        ("--window", "1G"),
        ("--sources", "250"),
        ("--server-pid", "2147483647"),
        ("--interval", "365d"),
    ] {
        let other = if option == "--rounds" { "h:2" } else { "" };
        for value in [most.to_string(), format!("{most}0"), "1e300".to_owned()] {
            let error = typed(&format!("stream h:1 {other} {option} {value}")).unwrap_err();
            let plain = value.starts_with('1') && !error.contains(largest);
            assert!(
                plain || error.contains(largest),
                "{option} {value}: {error}"
            );
        }
    }
    let whole = typed(&format!("stream h:1 -c 1 -s 1G -n {most}")).unwrap();
    assert_eq!(whole.messages(0), Some(most));
}

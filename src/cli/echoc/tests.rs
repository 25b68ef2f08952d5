use super::*;

fn typed(line: &str, terminal: bool) -> Result<Mode, String> {
    let words = std::iter::once("echoc").chain(line.split_whitespace());
    let words: Vec<String> = words.map(str::to_owned).collect();
    let typed = Typed::parse(&words).map_err(|error| error.unwrap_err().to_string())?;
    mode(&typed, terminal).map_err(|error| error.to_string())
}

fn talk(line: &str, terminal: bool) -> Talk {
    match typed(line, terminal) {
        Ok(Mode::Talk(talk)) => talk,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_server_is_named_as_with_nc_or_by_an_address() {
    for (line, server) in [
        ("", "tcp:127.0.0.1:7777"),
        ("h:1", "tcp:h:1"),
        ("h 1", "tcp:h:1"),
        ("::1 7", "tcp:[::1]:7"),
        ("fe80::1%lo 7", "tcp:[fe80::1%lo]:7"),
        ("udp:h:1", "udp:h:1"),
        ("unix:@x", "unix:@x"),
    ] {
        assert_eq!(talk(line, false).server.to_string(), server, "{line}");
    }
}

#[test]
fn a_terminal_tries_five_times_and_a_pipe_does_not() {
    assert_eq!(talk("", true).retry.limit, Some(5));
    assert_eq!(talk("", false).retry.limit, Some(0));
    assert_eq!(talk("--retry 2", false).retry.limit, Some(2));
    assert_eq!(talk("--retry forever", true).retry.limit, None);
    let Ok(Mode::Ping(plan)) = typed("--ping", true) else {
        panic!("a ping");
    };
    assert_eq!(plan.retry.limit, Some(0));
    assert_eq!(talk("", true).timeout, ANSWER);
    assert_eq!(talk("", true).connect_timeout, CONNECT);
    assert_eq!(talk("-W 3", true).connect_timeout, Duration::from_secs(3));
}

#[test]
fn every_option_of_ping_reaches_the_plan() {
    let line = "--ping -c 3 -i 200ms -s 1K -w 9 -W 2 -q -D --connect h 1";
    let Ok(Mode::Ping(plan)) = typed(line, false) else {
        panic!("a ping");
    };
    assert_eq!((plan.count, plan.size), (Some(3), 1024));
    assert_eq!(plan.interval, Duration::from_millis(200));
    assert_eq!(plan.deadline, Some(Duration::from_secs(9)));
    assert_eq!(plan.timeout, Duration::from_secs(2));
    assert!(plan.quiet && plan.timestamps && plan.connect);
}

#[test]
fn a_balancers_four_words_are_a_quiet_check_of_the_last_two() {
    for (line, server) in [
        ("10.0.0.1 80 h 7", "tcp:h:7"),
        ("NOT_USED NOT_USED ::1 7", "tcp:[::1]:7"),
        ("NOT_USED NOT_USED /run/e.sock NOT_USED", "unix:/run/e.sock"),
    ] {
        let Ok(Mode::Check {
            plan, quiet: true, ..
        }) = typed(line, true)
        else {
            panic!("{line}");
        };
        assert_eq!(plan.server.to_string(), server);
        assert_eq!(plan.timeout, CHECK);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "a b c",
        "a b c d e",
        "--ping a b c d",
        "--ping --check",
        "-c 3",
        "-i 3",
        "-s 3",
        "-w 3",
        "-D",
        "--connect",
        "--ping -c 0",
        "--ping -s 0",
        "--ping -s 64K",
        "--ping -w 0",
        "-W 0",
        "--ping --connect udp:h:1",
        "--check --no-verify",
        "--ping --no-verify",
        "--retry often",
        "--retry -1",
        "--check -c x",
        "--check -w -5",
        "--check -w 200 -c 100",
        "--check -w 1 --warning 1",
        "nowhere",
        "*:7",
    ] {
        assert!(typed(line, false).is_err(), "{line}");
    }
}

#[test]
fn a_monitors_limits_are_milliseconds() {
    let ms = Duration::from_millis;
    for (line, warning, critical) in [
        ("--check", None, None),
        ("--check -w 100 -c 200", Some(ms(100)), Some(ms(200))),
        ("--check -qc5", None, Some(ms(5))),
        (
            "--check --warning 1.5 h:1",
            Some(Duration::from_micros(1500)),
            None,
        ),
        ("--check --critical=2s h 1", None, Some(ms(2000))),
        ("-w 3 a b h 7", Some(ms(3)), None),
    ] {
        let Ok(Mode::Check { limits, .. }) = typed(line, false) else {
            panic!("{line}");
        };
        assert_eq!(
            (limits.warning, limits.critical),
            (warning, critical),
            "{line}"
        );
    }
}

#[test]
fn an_option_that_a_mode_cannot_use_is_refused_by_both_names() {
    for (line, option, with) in [
        ("-c 3", "--count", "--ping"),
        ("-i 3", "--interval", "--ping"),
        ("-w 3", "--deadline", "--ping"),
        ("-D", "--timestamps", "--ping"),
        ("--connect", "--connect", "--ping"),
        ("--critical 3", "--critical", "--check"),
        ("--check -i 3", "--interval", "--check"),
        ("--check -s 56", "--size", "--check"),
        ("--check --connect", "--connect", "--check"),
        ("--check -D", "--timestamps", "--check"),
        ("--check --count 3", "--count", "--check"),
        ("--check --deadline=3", "--deadline", "--check"),
        ("--check --no-verify", "--no-verify", "--check"),
        ("-i 3 a b h 7", "--interval", "--check"),
        ("--ping --no-verify", "--no-verify", "--ping"),
        ("--ping --warning 3", "--warning", "--ping"),
        ("--ping --check", "--ping", "--check"),
        ("--ping --connect udp:h:1", "--connect", "udp:h:1"),
        ("--retry-interval 1", "--retry-interval", "--retry"),
        ("--ping --retry-interval 1", "--retry-interval", "--retry"),
    ] {
        let error = typed(line, false).unwrap_err();
        assert!(
            error.contains(option) && error.contains(with),
            "{line}: {error}"
        );
    }
    assert!(
        typed("--retry-interval 1", true).is_ok(),
        "a terminal retries"
    );
}

/// Values at the edge of their type are usage errors that say what works.
#[test]
fn row_106_the_largest_that_works_is_named() {
    let most = u64::MAX;
    for (line, largest) in [
        ("--ping -i", "365d"),
        ("--ping -w", "365d"),
        ("--ping -W", "365d"),
        ("-W", "365d"),
        ("--check -w", "365d"),
        ("--check --critical", "365d"),
        ("--retry 1 --retry-interval", "365d"),
        ("--retry", "4294967295"),
        ("--ping -s", "65507"),
    ] {
        for value in [format!("{}", most >> 1), "400000000".to_owned()] {
            let value = match line {
                "--retry" | "--ping -s" => format!("{most}"),
                "--check -w" | "--check --critical" => format!("{value}000"),
                _ => value,
            };
            let error = typed(&format!("{line} {value}"), false).unwrap_err();
            assert!(error.contains(largest), "{line} {value}: {error}");
            let typed = format!("'{value}'");
            assert!(!error.contains('\'') || error.contains(&typed), "{error}");
        }
        let beyond = typed(&format!("{line} {most}0"), false);
        assert!(beyond.is_err(), "{line}");
    }
    let error = typed(&format!("--ping -c {most}0"), false).unwrap_err();
    assert!(error.contains(&most.to_string()), "{error}");
    assert!(typed(&format!("--ping -c {most}"), false).is_ok());
}

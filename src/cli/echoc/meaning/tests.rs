//! What each command line means.

use clap::Parser;

use super::*;

fn typed(line: &str, terminal: bool) -> Result<Mode, String> {
    let words = std::iter::once("echoc").chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    mode(&cli, terminal).map_err(|error| error.to_string())
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
        let Ok(Mode::Check { plan, quiet: true }) = typed(line, true) else {
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
        "nowhere",
        "*:7",
    ] {
        assert!(typed(line, false).is_err(), "{line}");
    }
}

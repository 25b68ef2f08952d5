//! Numbers, durations and rates at the edge of what holds them: a usage error that
//! names the largest that works, or served with it.

use std::net::UdpSocket;

use crate::common::{Builder, Client, DEADLINE, DESIGNS, Finished, Signal, tool};

/// Beyond every type, and the largest of some.
const HUGE: [&str; 7] = [
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "9223372036854775808",
    "4294967295",
    "4294967296",
    "99999999999999999999999999999999999999999999999999",
];

/// The options that take numbers, with the shape of each, as `--help` has them.
fn numeric() -> Vec<(String, String)> {
    let (ok, help) = tool(env!("CARGO_BIN_EXE_echod"), &["--help"]);
    assert!(ok, "{help}");
    let shapes = [
        "<N",
        "<DURATION>",
        "<FD>",
        "<LIST>",
        "<USER",
        "<SOURCE>",
        "<IDLE/",
    ];
    let options: Vec<_> = help
        .lines()
        .filter_map(|line| {
            let (option, shape) = line.trim().rsplit_once(' ')?;
            let option = option.rsplit(' ').next()?;
            let words = ["<NAME", "<NETWORK"];
            let wanted = shapes.iter().any(|start| shape.starts_with(start))
                && !words.iter().any(|start| shape.starts_with(start));
            (option.starts_with("--") && wanted).then(|| (option.to_owned(), shape.to_owned()))
        })
        .collect();
    assert!(options.len() >= 18, "{options:?}");
    options
}

/// What can be typed for the shape of an option, with this number in it.
fn values(shape: &str, number: &str) -> Vec<String> {
    match shape {
        "<DURATION>" => ["", "s", "y", "ns", ".5"]
            .map(|unit| format!("{number}{unit}"))
            .into(),
        "<N/DURATION>" => vec![
            format!("{number}/1s"),
            format!("1/{number}"),
            format!("{number}/{number}s"),
            format!("{number}/1ns"),
        ],
        "<N[/V4:V6]>" => vec![
            number.to_owned(),
            format!("1/{number}:1"),
            format!("1/1:{number}"),
        ],
        "<IDLE/INTERVAL/COUNT>" => vec![
            format!("{number}/1s/1"),
            format!("1s/{number}/1"),
            format!("1s/1s/{number}"),
        ],
        "<SOURCE>" => vec![
            format!("uid:{number}"),
            format!("gid:{number}"),
            format!("192.0.2.0/{number}"),
        ],
        "<USER[:GROUP]>" => vec![number.to_owned(), format!("0:{number}")],
        _ => vec![number.to_owned()],
    }
}

fn check(option: &str, value: &str) -> Finished {
    let at = [
        "-t",
        "-l",
        "127.0.0.1:0",
        "-l",
        "udp:127.0.0.1:0",
        "-l",
        "unix:@row-106",
    ];
    let word = format!("{option}={value}");
    Builder::new().bare().args(at).args([word]).run(DEADLINE)
}

#[test]
fn row_106_a_number_that_is_too_large_is_a_usage_error_that_names_the_largest() {
    for (option, shape) in numeric() {
        for number in HUGE {
            for value in values(&shape, number) {
                let finished = check(&option, &value);
                let said = finished.stderr;
                match finished.status.code() {
                    // It works, or does on a larger machine.
                    Some(0 | 78) => {}
                    Some(64) => {
                        let named = [
                            "at most ",
                            " 100y",
                            "0 to 65535",
                            " to 32767s",
                            "more than --max-clients",
                            "prefix",
                            "not open",
                            "192.0.2.0/24",
                        ];
                        let named = named.iter().any(|part| said.contains(part));
                        assert!(named && said.contains(&option), "{option}={value}: {said}");
                        assert_eq!(said.lines().count(), 1, "{said}");
                    }
                    // --user: nobody but us, or nobody of that number.
                    Some(77) if option == "--user" => {}
                    _ => panic!("{option}={value}: {}: {said}", finished.status),
                }
            }
        }
    }
}

const DURATIONS: [&str; 6] = [
    "--idle-timeout=100y",
    "--write-timeout=100y",
    "--max-lifetime=100y",
    "--graceful-timeout=100y",
    "--shutdown-delay=100y",
    "--stop-settle=100y",
];

#[test]
fn row_106_the_longest_durations_work_in_every_design() {
    for design in DESIGNS {
        let daemon = Builder::new().args(design.args).args(DURATIONS).start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"served");
        daemon.signal(Signal::SIGHUP);
        for signal in [Signal::SIGTERM, Signal::SIGTERM] {
            daemon.signal(signal);
        }
        client.ping(b"still served");
        daemon.signal(Signal::SIGINT);
        assert_eq!(
            daemon.wait_exit(DEADLINE).code(),
            Some(0),
            "{}",
            design.name
        );
    }
}

#[test]
fn row_106_the_largest_counts_and_rates_work() {
    let most = u32::MAX;
    let rate = format!("{most}/100y");
    for args in [
        vec!["--max-connections-per-child=18446744073709551615".to_owned()],
        vec!["--backlog=2147483647".to_owned()],
        vec![format!("--max-per-source={most}/1:1")],
        vec![format!("--connection-rate={rate}")],
        vec![format!("--connection-rate={most}/1ns")],
        vec!["--connection-rate=1/1ns".to_owned()],
    ] {
        let daemon = Builder::new().args(&args).start();
        for _ in 0..3 {
            let mut client = Client::connect(daemon.addr());
            client.ping(b"served");
        }
    }
    for rate in [rate, format!("{most}/1ns"), "1/1ns".to_owned()] {
        let args = [
            format!("--udp-rate={rate}"),
            format!("--udp-global-rate={rate}"),
        ];
        let daemon = Builder::new()
            .args(["-l", "udp:127.0.0.1:0"])
            .args(args)
            .start();
        let asking = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        asking.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let addr = daemon.addr().trim_start_matches("udp:");
        asking.send_to(b"served", addr).expect("sent");
        let mut answer = [0; 9];
        assert_eq!(asking.recv(&mut answer).expect("an answer"), 6);
    }
}

/// Less than a clock counts in: it must not become none, which is no limit.
#[test]
fn row_106_the_shortest_limit_is_still_one() {
    for design in DESIGNS {
        for option in ["--idle-timeout", "--max-lifetime"] {
            for value in ["1ns", "1e-300"] {
                let word = format!("{option}={value}");
                let daemon = Builder::new().args(design.args).args([word]).start();
                let mut client = Client::connect(daemon.addr());
                let _ = client.end();
            }
        }
    }
}

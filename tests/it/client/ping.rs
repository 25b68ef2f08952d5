//! `--ping`: what it counts, when it stops, and what it says of an outage.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use super::run::{Ran, Running, echoc};
use super::servers::{echo, nobody, tcp, udp};
use crate::common::{DEADLINE, Daemon, Signal, proc, signal};

/// The line of the summary that begins the figures.
#[track_caller]
fn figures(ran: &Ran) -> String {
    let text = ran.text();
    let line = text.lines().find(|line| line.contains(" echoes sent, "));
    line.unwrap_or_else(|| panic!("{text}{}", ran.stderr))
        .to_owned()
}

#[track_caller]
fn counts(ran: &Ran, expected: &str) {
    let line = figures(ran);
    assert!(line.starts_with(expected), "{line}\n{}", ran.text());
}

fn ping<'a>(addr: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--ping", addr], more].concat()
}

#[test]
fn echoes_of_a_stream_are_timed_and_summed_up() {
    let daemon = Daemon::start(&[] as &[&str]);
    let addr = daemon.addr();
    let ran = echoc(&ping(addr, &["-c", "3", "-i", "20ms"]), "").status(0);
    counts(&ran, "3 echoes sent, 3 received, 0% loss, time ");
    let text = ran.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("PING {addr}: 56 bytes"));
    let begin = format!("56 bytes from {}: seq=1 time=", &addr[4..]);
    assert!(lines[1].starts_with(&begin), "{text}");
    assert!(lines[3].contains(" seq=3 time="), "{text}");
    assert_eq!(lines[4], format!("--- {addr} ping statistics ---"));
    assert!(lines[6].starts_with("rtt min/avg/max/mdev = "), "{text}");
    assert!(lines[7].starts_with("rtt p50/p90/p99/p99.9 = "), "{text}");
    assert_eq!(lines.len(), 8, "{text}");
    let times = lines[6]
        .split([' ', '/'])
        .filter_map(|word| word.parse().ok());
    let times: Vec<f64> = times.collect();
    assert!(0.0 < times[0] && times[0] <= times[1] && times[1] <= times[2]);
}

#[test]
fn sizes_and_speeds_of_every_kind() {
    let daemon = Daemon::start(&[] as &[&str]);
    let datagrams = udp(|_, asked| vec![asked]);
    for addr in [daemon.addr(), &datagrams] {
        for size in ["1", "3", "5", "65507", "16K"] {
            let ran = echoc(&ping(addr, &["-c", "20", "-i", "0", "-s", size, "-q"]), "");
            counts(&ran.status(0), "20 echoes sent, 20 received, 0% loss");
        }
        let ran = echoc(&ping(addr, &["-c", "300", "-i", "1ms", "-q"]), "").status(0);
        counts(&ran, "300 echoes sent, 300 received, 0% loss");
        assert_eq!(ran.text().lines().count(), 5, "{}", ran.text());
    }
}

#[test]
fn connecting_is_measured_apart() {
    let daemon = Daemon::start(&[] as &[&str]);
    let args = ping(daemon.addr(), &["-c", "4", "-i", "10ms", "--connect", "-D"]);
    let ran = echoc(&args, "").status(0);
    counts(&ran, "4 echoes sent, 4 received, 0% loss");
    let text = ran.text();
    assert!(text.contains(" seq=4 connect="), "{text}");
    assert!(text.contains("\nconnect min/avg/max/mdev = "), "{text}");
    let stamp = text.lines().nth(1).expect(&text);
    let stamp = stamp.strip_prefix('[').expect(&text).split_once("] ");
    let seconds: f64 = stamp.expect(&text).0.parse().expect("seconds");
    assert!(seconds > 1e9, "{text}");
    drop(daemon);
}

#[test]
fn lost_second_and_overtaken_datagrams_are_told_apart() {
    let mut held = Vec::new();
    let addr = udp(move |n, asked| match n {
        1 => vec![],
        3 => vec![asked.clone(), asked],
        5 => {
            held = asked;
            vec![]
        }
        6 => vec![asked, std::mem::take(&mut held)],
        8 => vec![vec![0; 56]],
        _ => vec![asked],
    });
    let args = ping(&addr, &["-c", "10", "-i", "20ms", "-W", "1s"]);
    let ran = echoc(&args, "").status(0);
    counts(
        &ran,
        "10 echoes sent, 8 received, +1 duplicate, +1 out of order, +1 corrupted, 20% loss",
    );
    let text = ran.text();
    for line in [
        "seq=4 (DUP!)",
        "no echo: seq=2 within 1s",
        "56 bytes that are no echo of ours",
        "2 outages, ",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let overtaken = text.lines().find(|line| line.contains("(out of order)"));
    assert!(overtaken.expect(&text).contains("seq=6 "), "{text}");
}

#[test]
fn a_late_answer_is_lost_and_said_to_be_late() {
    let mut held = Vec::new();
    let addr = udp(move |n, asked| match n {
        0 => {
            held = asked;
            vec![]
        }
        9 => vec![std::mem::take(&mut held), asked],
        _ => vec![asked],
    });
    let args = ping(&addr, &["-c", "10", "-i", "20ms", "-W", "60ms"]);
    let ran = echoc(&args, "").status(0);
    assert!(figures(&ran).contains(", +1 late"), "{}", ran.text());
    assert!(ran.text().contains("seq=1 time="), "{}", ran.text());
    assert!(ran.text().contains("(late, counted as lost)"));
}

#[test]
fn no_answer_at_all_is_status_1() {
    let silent = tcp(|_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ran = echoc(&ping(&silent, &["-c", "2", "-W", "50ms", "-i", "60ms"]), "").status(1);
    counts(&ran, "2 echoes sent, 0 received, 100% loss");
    assert!(ran.text().contains("no echo: seq=1 within 50ms"));
    let nobody = nobody();
    let ran = echoc(&ping(&nobody, &["-c", "2", "-i", "10ms"]), "").status(1);
    counts(&ran, "2 echoes sent, 0 received, 100% loss");
    assert!(ran.text().contains("ECONNREFUSED"), "{}", ran.text());
    let udp_nobody = format!("udp:{nobody}");
    let ran = echoc(&ping(&udp_nobody, &["-c", "2", "-i", "10ms"]), "").status(1);
    assert!(ran.text().contains("ECONNREFUSED"), "{}", ran.text());
}

#[test]
fn a_deadline_ends_it_and_too_few_answers_are_status_1() {
    let daemon = Daemon::start(&[] as &[&str]);
    let begun = Instant::now();
    echoc(&ping(daemon.addr(), &["-w", "200ms", "-i", "20ms"]), "").status(0);
    let args = ["-w", "200ms", "-c", "1000", "-i", "20ms"];
    echoc(&ping(daemon.addr(), &args), "").status(1);
    let args = ["-w", "60", "-c", "3", "-i", "20ms"];
    let ran = echoc(&ping(daemon.addr(), &args), "").status(0);
    counts(&ran, "3 echoes sent, 3 received");
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn a_wrong_echo_is_not_received() {
    let addr = tcp(|_, mut stream| {
        let mut bytes = [0; 56];
        while stream.read_exact(&mut bytes).is_ok() {
            bytes[30] ^= 1;
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let ran = echoc(&ping(&addr, &["-c", "2", "-i", "10ms"]), "").status(1);
    counts(&ran, "2 echoes sent, 0 received, +2 corrupted, 100% loss");
}

#[test]
fn other_errors_are_status_2() {
    for args in [&["--ping", "nowhere"][..], &["--ping", "-c", "0"]] {
        echoc(args, "").status(2);
    }
    let udp = udp(|_, asked| vec![asked]);
    echoc(&ping(&udp, &["--connect"]), "").status(2);
}

#[test]
fn signals_ask_for_a_line_and_for_the_end() {
    let daemon = Daemon::start(&[] as &[&str]);
    let mut run = Running::start(&ping(daemon.addr(), &["-i", "10ms", "-q"]));
    // Before its handlers stand, the signal would end it; the page header is
    // printed after that, but is not seen here.
    crate::common::poll_until(DEADLINE, "handlers", || {
        let caught = proc::status(run.pid(), "SigCgt");
        let mask = caught.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        // INT, QUIT and TERM: bits 2, 3 and 15, counted from 1.
        mask.is_some_and(|mask| mask & 0b100_0000_0000_0110 == 0b100_0000_0000_0110)
    });
    signal(run.pid(), Signal::SIGQUIT);
    run.wait_said(" echoes sent, ");
    signal(run.pid(), Signal::SIGINT);
    let ran = run.end();
    assert!(figures(&ran).contains(" 0% loss, time "), "{}", ran.text());
    // A server that does not even accept does not hold it up.
    let mut run = Running::start(&["--ping", "-i", "1ms", &nobody(), "--retry", "0"]);
    crate::common::poll_until(DEADLINE, "handlers", || {
        proc::status(run.pid(), "SigBlk").as_deref() == Some("0000000000004006")
    });
    signal(run.pid(), Signal::SIGQUIT);
    run.wait_said(" 0 received");
    signal(run.pid(), Signal::SIGTERM);
    run.end().status(1);
}

#[test]
fn an_outage_is_listed_with_its_cost() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound").to_string();
    let serve = |listener: TcpListener, echoes: usize| {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut bytes = [0; 56];
        for _ in 0..echoes {
            stream.read_exact(&mut bytes).expect("an echo");
            stream.write_all(&bytes).expect("its answer");
        }
    };
    let run = Running::start(&["--ping", &addr, "-c", "40", "-i", "20ms"]);
    serve(listener, 3);
    // Nobody there, for a while that the ping's own lines measure.
    thread::sleep(std::time::Duration::from_millis(200));
    let listener = TcpListener::bind(&addr).expect("bind again");
    thread::spawn(move || echo(listener.accept().expect("accept").0));
    let ran = run.end().status(0);
    let text = ran.text();
    assert!(text.contains("\nup again after 0."), "{text}");
    assert!(text.contains("\n1 outage, 0."), "{text}");
    let down = text.lines().find(|line| line.starts_with("down 20"));
    let lost = down.expect(&text).split(", ").nth(1).expect(&text);
    let lost: u64 = lost.split(' ').next().expect(lost).parse().expect(lost);
    counts(&ran, &format!("40 echoes sent, {} received, ", 40 - lost));
    assert!(lost >= 2, "{text}");
}

#[test]
fn the_first_connection_may_be_tried_again() {
    let addr = nobody();
    let args = [
        "--retry",
        "forever",
        "--retry-interval",
        "5ms",
        "-c",
        "2",
        "-i",
        "0",
    ];
    let mut run = Running::start(&ping(&addr, &args));
    run.wait_said("retry 2 in 10ms");
    let listener = TcpListener::bind(&addr).expect("bind");
    thread::spawn(move || echo(listener.accept().expect("accept").0));
    counts(&run.end().status(0), "2 echoes sent, 2 received, 0% loss");
}

//! `--check`: one line and an exit status, for whoever watches the server.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::run::{Ran, echoc};
use super::servers::{echo, nobody, tcp, udp};
use crate::common::{Builder, Daemon};

/// Milliseconds of a line that says OK.
#[track_caller]
fn ok(ran: Ran) -> f64 {
    let text = ran.status(0).text();
    let rest = text.strip_prefix("ECHO OK - ").expect(&text);
    let (millis, rest) = rest.split_once(" ms | rtt=").expect(&text);
    let seconds = rest.strip_suffix("s\n").expect(&text);
    assert_eq!(millis.split_once('.').expect(&text).1.len(), 2, "{text}");
    assert_eq!(seconds.split_once('.').expect(&text).1.len(), 6, "{text}");
    let (millis, seconds): (f64, f64) = (millis.parse().unwrap(), seconds.parse().unwrap());
    assert!((millis / 1e3 - seconds).abs() < 1e-5, "{text}");
    millis
}

#[test]
fn a_server_that_echoes_is_ok() {
    let builder = Builder::new();
    let path = builder.path("sock");
    let unix = format!("unix:{path}");
    let daemon = builder.args(["-l", "tcp:127.0.0.1:0", "-l", &unix]).start();
    for addr in daemon.addrs() {
        assert!(ok(echoc(&["--check", addr], "")) > 0.0);
        let quiet = echoc(&["--check", "-q", addr], "").status(0);
        assert_eq!((quiet.text(), quiet.stderr.as_str()), (String::new(), ""));
    }
    ok(echoc(&["--check", &udp(|_, asked| vec![asked])], ""));
    // As HAProxy calls it.
    let four = ["NOT_USED", "NOT_USED", &path, ""];
    assert_eq!(echoc(&four, "").status(0).text(), "");
}

#[test]
fn haproxys_four_words_are_a_check() {
    let daemon = Daemon::start(&[] as &[&str]);
    let (host, port) = daemon.addr()[4..].rsplit_once(':').expect("a port");
    let ran = echoc(&["10.0.0.1", "80", host, port], "").status(0);
    assert_eq!((ran.text(), ran.stderr), (String::new(), String::new()));
    let nobody = nobody();
    let (host, port) = nobody.rsplit_once(':').expect("a port");
    echoc(&["NOT_USED", "NOT_USED", host, port], "").status(2);
}

#[track_caller]
fn critical(args: &[&str], why: &str) {
    let text = echoc(args, "").status(2).text();
    assert!(text.starts_with("ECHO CRITICAL - "), "{text}");
    assert!(text.contains(why), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn whatever_else_a_server_does_is_critical() {
    critical(&["--check", &nobody()], "ECONNREFUSED");
    let closes = tcp(|_, mut stream| {
        let _ = stream.read(&mut [0; 64]);
    });
    critical(&["--check", &closes], "closed the connection");
    let wrong = tcp(|_, mut stream| {
        let mut bytes = [0; 56];
        stream.read_exact(&mut bytes).expect("the echo");
        bytes[55] ^= 1;
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut bytes);
    });
    critical(&["--check", &wrong], "the echo differs");
    let drops = udp(|_, _| vec![]);
    critical(&["--check", "-W", "100ms", &drops], "no echo within 100ms");
    let udp_nobody = format!("udp:{}", nobody());
    critical(&["--check", &udp_nobody], "ECONNREFUSED");
    critical(&["--check", "unix:/nonexistent/sock"], "ENOENT");
}

#[test]
fn a_silent_server_is_given_up_in_time_also_with_retries() {
    let silent = tcp(|_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let begun = Instant::now();
    let args = ["--check", "-W", "200ms", "--retry", "forever", &silent];
    critical(&args, "no echo within 200ms");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_retry_may_save_it() {
    let addr = tcp(|n, stream| {
        if n > 0 {
            echo(stream);
        }
    });
    let args = ["--check", "--retry", "1", "--retry-interval", "1ms", &addr];
    ok(echoc(&args, ""));
}

#[test]
fn a_bad_command_line_is_unknown() {
    for args in [&["--check", "nowhere"][..], &["--check", "-W", "0"]] {
        let ran = echoc(args, "").status(3);
        assert!(ran.text().starts_with("ECHO UNKNOWN - "), "{}", ran.text());
    }
}

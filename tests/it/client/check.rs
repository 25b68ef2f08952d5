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
    let seconds = rest.strip_suffix("s;;;0.000000;2.000000\n").expect(&text);
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

/// A byte too many is no echo, also when it comes late, or beside the echo.
#[test]
fn a_byte_too_many_is_critical() {
    let beside = tcp(|_, mut stream| {
        let mut bytes = [0; 57];
        stream.read_exact(&mut bytes[..56]).expect("the echo");
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut bytes);
    });
    let late = tcp(|_, mut stream| {
        let mut bytes = Vec::new();
        let mut first = [0; 56];
        stream.read_exact(&mut first).expect("the echo");
        stream.write_all(&first).expect("the echo");
        stream.read_to_end(&mut bytes).expect("the end");
        let _ = stream.write_all(b"!");
    });
    let longer = udp(|_, mut asked| {
        asked.push(0);
        vec![asked]
    });
    for addr in [&beside, &late] {
        critical(&["--check", addr], "more came back than was sent");
    }
    critical(&["--check", &longer], "the echo differs");
    let args = ["--ping", "-c", "1", "--connect", &beside];
    let text = echoc(&args, "").text();
    assert!(text.contains("1 byte that is no echo of ours"), "{text}");
    assert!(text.contains("+1 corrupted"), "{text}");
    // One that leaves the connection open has said nothing wrong.
    let open = tcp(|_, mut stream| {
        let mut bytes = [0; 56];
        stream.read_exact(&mut bytes).expect("the echo");
        stream.write_all(&bytes).expect("the echo");
        std::thread::park();
    });
    ok(echoc(&["--check", &open], ""));
}

/// -w and -c as the monitoring plugins have them.
#[test]
fn a_slow_echo_is_a_warning_and_then_critical() {
    let slow = tcp(|_, mut stream| {
        let mut bytes = [0; 56];
        stream.read_exact(&mut bytes).expect("the echo");
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&bytes).expect("the echo");
    });
    for (args, status, word, limits) in [
        (&["-w", "40"][..], 1, "WARNING", ";0.040000;;"),
        (
            &["-w", "10", "-c", "40"],
            2,
            "CRITICAL",
            ";0.010000;0.040000;",
        ),
        (&["-c", "0.01s"], 2, "CRITICAL", ";;0.010000;"),
        (
            &["-w", "60000", "-c", "70s"],
            0,
            "OK",
            ";60.000000;70.000000;",
        ),
        (
            &["--warning", "40", "-W", "9"],
            1,
            "WARNING",
            ";0.040000;;0.000000;9.000000",
        ),
    ] {
        let args = [&["--check"], args, &[slow.as_str()]].concat();
        let text = echoc(&args, "").status(status).text();
        assert!(text.starts_with(&format!("ECHO {word} - ")), "{text}");
        assert!(text.contains(limits), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let quiet = echoc(&["--check", "-q", "-w", "1", &slow], "").status(1);
    assert_eq!((quiet.text(), quiet.stderr), (String::new(), String::new()));
}

#[test]
fn a_bad_command_line_is_unknown() {
    for args in [
        &["--check", "nowhere"][..],
        &["--check", "-W", "0"],
        &["--check", "-i", "1", "127.0.0.1:7"],
        &["--check", "--connect", "127.0.0.1:7"],
        &["--check", "-w", "2", "-c", "1", "127.0.0.1:7"],
    ] {
        let ran = echoc(args, "").status(3);
        assert!(ran.text().starts_with("ECHO UNKNOWN - "), "{}", ran.text());
    }
}

//! echoload, the program, against servers that behave and servers that do not.
//!
//! Every server is a few threads in this process, so that echoload is tested
//! without echod.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::in_one_of_three;

/// Starts a server on a port of its own: a thread for each connection, which
/// ends with this process. Returns its address.
fn server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    format!("tcp:{addr}")
}

fn echo(mut stream: impl Read + Write) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
}

/// Runs echoload with `--json`; returns its object.
fn json(args: &[&str], status: i32) -> Value {
    let (report, _) = load(&[args, &["--json"]].concat(), status);
    serde_json::from_str(&report).expect(&report)
}

fn echoload(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_echoload"))
        .args(args)
        .output()
        .unwrap()
}

/// Runs echoload and checks its status; returns its report and complaints.
fn load(args: &[&str], status: i32) -> (String, String) {
    let output = echoload(args);
    let report = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    let all = format!("{args:?}\n{report}{complaints}");
    assert_eq!(output.status.code(), Some(status), "{all}");
    (report, complaints)
}

/// How many attempts the report gives this outcome.
fn outcome(report: &str, name: &str) -> u64 {
    let line = report.lines().find(|line| line.starts_with("outcomes "));
    let words: Vec<&str> = line.expect(report).split(' ').collect();
    let at = words.iter().position(|word| *word == name).unwrap();
    words[at + 1].parse().unwrap()
}

#[test]
fn rr_verifies_every_request() {
    let addr = server(echo);
    let (report, complaints) = load(&[&addr, "-c", "4", "-n", "1000"], 0);
    assert_eq!(outcome(&report, "complete"), 1000, "{report}");
    assert!(report.contains("requests/s "), "{report}");
    assert!(report.contains("closed loop"), "{report}");
    assert_eq!(complaints, "");
    let narrow = |line: &str| line.chars().count() <= 80;
    assert!(report.lines().all(narrow), "{report}");
    let args = [&addr, "-n", "1000", "--percentiles", "25,99.5"];
    let (report, _) = load(&args, 0);
    assert!(
        report.contains("\n  p25 ") && report.contains("\n  p99.5 "),
        "{report}"
    );
    let latency = &json(&args, 0)["latency_us"];
    assert!(
        latency["p25"].is_number() && latency["p90"].is_null(),
        "{latency}"
    );
    let (host, port) = addr[4..].split_once(':').unwrap();
    load(&["crr", host, port, "-n", "1"], 0);
}

#[test]
fn crr_makes_as_many_connections_as_asked() {
    let addr = server(echo);
    let (report, _) = load(&["crr", &addr, "-c", "4", "-n", "500", "-s", "1K"], 0);
    assert_eq!(outcome(&report, "complete"), 500, "{report}");
    assert!(report.contains("connections/s "), "{report}");
}

#[test]
fn a_duration_ends_the_run() {
    let addr = server(echo);
    let (report, _) = load(&["crr", &addr, "-c", "2", "-d", "100ms"], 0);
    assert!(outcome(&report, "complete") >= 2, "{report}");
}

#[test]
fn a_message_larger_than_every_buffer_comes_back() {
    let addr = server(echo);
    for mode in ["rr", "crr"] {
        let args = [mode, &addr, "-c", "2", "-n", "4", "-s", "9M"];
        let (report, _) = load(&args, 0);
        assert_eq!(outcome(&report, "complete"), 4, "{report}");
    }
}

#[test]
fn hold_has_all_open_at_once_and_echoes_twice_on_each() {
    let addr = server(echo);
    let (report, _) = load(&["hold", &addr, "-c", "100"], 0);
    assert!(report.contains("held 100 of 100 at once"), "{report}");
    assert_eq!(outcome(&report, "complete"), 100, "{report}");
}

#[test]
fn hold_keeps_all_for_as_long_as_it_is_told() {
    let addr = server(echo);
    let args = ["hold", &addr, "-c", "20", "-t", "3", "-d", "300ms"];
    let object = json(&args, 0);
    assert_eq!(
        (&object["held"], &object["complete"]),
        (&20.into(), &20.into())
    );
    assert!(object["elapsed_s"].as_f64() >= Some(0.3), "{object}");
}

#[test]
fn unix_sockets_are_loaded_by_path_and_by_abstract_name() {
    fn serve(listener: UnixListener) {
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(|| echo(stream.unwrap()));
            }
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    serve(UnixListener::bind(&path).unwrap());
    let name = format!("echoload-test-{}", std::process::id());
    let addr = SocketAddr::from_abstract_name(&name).unwrap();
    serve(UnixListener::bind_addr(&addr).unwrap());
    for addr in [format!("unix:{}", path.display()), format!("unix:@{name}")] {
        for mode in ["rr", "crr"] {
            let (report, _) = load(&[mode, &addr, "-n", "100"], 0);
            assert_eq!(outcome(&report, "complete"), 100, "{report}");
        }
    }
}

#[test]
fn one_wrong_byte_is_a_mismatch() {
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            message[40] ^= 1;
            let _ = stream.write_all(&message);
        }
    });
    for args in [&["rr", &addr, "-n", "3"][..], &["hold", &addr, "-c", "3"]] {
        let (report, complaints) = load(args, 76);
        assert_eq!(outcome(&report, "corrupt"), 3, "{report}");
        assert_eq!(outcome(&report, "complete"), 0, "{report}");
        assert!(complaints.contains("byte 40 of 64 differs"), "{complaints}");
    }
}

#[test]
fn bytes_after_the_message_are_a_mismatch() {
    let addr = server(|mut stream| {
        let mut message = Vec::new();
        let mut first = [0; 64];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&first).unwrap();
        stream.read_to_end(&mut message).unwrap();
        let _ = stream.write_all(b"!");
    });
    for mode in ["rr", "crr"] {
        let (report, _) = load(&[mode, &addr, "-c", "1", "-n", "1"], 76);
        assert_eq!(outcome(&report, "corrupt"), 1, "{report}");
    }
}

#[test]
fn an_early_end_of_file_is_short() {
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message).unwrap();
        stream.write_all(&message[..10]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut message);
    });
    for mode in ["rr", "crr"] {
        let (report, complaints) = load(&[mode, &addr, "-n", "5"], 74);
        assert_eq!(outcome(&report, "short"), 5, "{report}");
        assert!(complaints.contains("after 10 of 64 bytes"), "{complaints}");
    }
}

#[test]
fn a_broken_connection_is_a_reset() {
    let addr = server(|mut stream| {
        // Closing with bytes unread resets, see tcp(7).
        let _ = stream.read_exact(&mut [0; 1]);
    });
    let (report, _) = load(&["crr", &addr, "-n", "5"], 74);
    assert_eq!(outcome(&report, "reset"), 5, "{report}");
}

#[test]
fn a_silent_server_is_a_timeout() {
    let addr = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
        thread::park();
    });
    let args = ["rr", &addr, "-n", "2", "--timeout", "50ms"];
    let (report, complaints) = load(&args, 74);
    assert_eq!(outcome(&report, "timeout"), 2, "{report}");
    assert!(complaints.contains("ETIMEDOUT"), "{complaints}");
}

#[test]
fn nobody_listening_is_unavailable_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    for mode in ["rr", "crr", "hold"] {
        let (report, complaints) = load(&[mode, &addr], 69);
        assert!(outcome(&report, "refused") >= 1, "{report}");
        assert!(complaints.contains("ECONNREFUSED"), "{complaints}");
    }
    load(&["unix:@nobody-listens-on-this-name"], 69);
}

#[test]
fn a_wrong_command_line_is_usage() {
    for args in [
        &[][..],
        &["crr"],
        &["h:1", "-c", "0"],
        &["hold", "h:1", "-n", "1"],
    ] {
        assert_eq!(echoload(args).status.code(), Some(64), "{args:?}");
    }
    assert_eq!(echoload(&["--help"]).status.code(), Some(0));
    assert_eq!(echoload(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_stream_goes_both_ways_and_all_of_it_is_verified() {
    let addr = server(echo);
    let args = [
        "stream", &addr, "-c", "3", "-n", "100", "-s", "100K", "-t", "2",
    ];
    let object = json(&args, 0);
    assert_eq!(object["complete"], 3, "{object}");
    assert_eq!(object["received_bytes"], 100 * 100 * 1024, "{object}");
    assert_eq!(object["sent_bytes"], object["received_bytes"], "{object}");
    assert_eq!(object["latency_us"], Value::Null, "{object}");
    let timed = json(&["stream", &addr, "-c", "2", "-d", "100ms"], 0);
    assert_eq!(timed["complete"], 2, "{timed}");
    assert!(
        timed["throughput_bytes_per_s"].as_f64().unwrap() > 0.0,
        "{timed}"
    );
}

#[test]
fn a_byte_that_is_wrong_deep_in_a_stream_is_seen() {
    let addr = server(|mut stream| {
        let (mut buffer, mut place) = ([0; 4096], 0);
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if (place..place + len).contains(&300_000) {
                buffer[300_000 - place] ^= 1;
            }
            place += len;
            if stream.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
    });
    let args = ["stream", &addr, "-c", "1", "-n", "10"];
    let (_, complaints) = load(&args, 76);
    assert!(complaints.contains("byte 300000 differs"), "{complaints}");
}

/// Answers of the server below.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// A stall of 200 ms, once. A closed loop asks nothing meanwhile, and one of
/// hundreds of latencies shows it; an open loop has all that were due.
#[test]
fn an_open_loop_sees_a_stall_that_a_closed_one_omits() {
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            if ANSWERED.fetch_add(1, Ordering::Relaxed) == 100 {
                thread::sleep(Duration::from_millis(200));
            }
            if stream.write_all(&message).is_err() {
                break;
            }
        }
    });
    // One connection, 1000 in all at 1000 a second: about 200 are due in the
    // stall, and half of those wait for 100 ms and more.
    let args = ["rr", &addr, "-c", "1", "-n", "1000"];
    // Its status is not asked: a busy machine may end it with 75.
    let open = echoload(&[&args[..], &["-R", "1000", "--json"]].concat());
    let open: Value = serde_json::from_slice(&open.stdout).unwrap();
    assert_eq!(open["complete"], 1000, "{open}");
    assert_eq!(open["loop"], "open", "{open}");
    assert!(
        open["latency_us"]["p90"].as_f64().unwrap() > 50_000.0,
        "{open}"
    );
    ANSWERED.store(0, Ordering::Relaxed);
    let closed = json(&args, 0);
    assert_eq!(closed["loop"], "closed", "{closed}");
    let latency = &closed["latency_us"];
    // Less what a busy machine kept this side from its processor.
    let held_up = closed["generator_held_up_s"].as_f64().unwrap() * 1e6;
    let max = latency["max"].as_f64().unwrap();
    assert!(max + held_up >= 200_000.0, "{closed}");
    // Of 1000 latencies, one is the stall's.
    assert!(
        latency["p90"].as_f64() < open["latency_us"]["p90"].as_f64(),
        "{closed}"
    );
}

#[test]
fn a_rate_that_is_not_reached_is_said_first() {
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            thread::sleep(Duration::from_millis(20));
            let _ = stream.write_all(&message);
        }
    });
    let args = ["rr", &addr, "-c", "1", "-d", "300ms", "-R", "1000"];
    let (report, _) = load(&args, 75);
    let first = report.lines().next().unwrap();
    assert!(first.contains("RATE NOT REACHED"), "{report}");
    assert!(!report.contains("closed loop"), "{report}");
}

/// Of 16 connections only 5 have something due in 5 s at 1 a second; the others
/// must not send before, nor have latencies of nothing.
#[test]
fn an_open_loop_sends_nothing_before_it_is_due() {
    let addr = server(echo);
    for (mode, wanted) in [("rr", 5), ("crr", 5)] {
        let args = [mode, &addr, "-R", "5", "-d", "1s"];
        let object = json(&args, 0);
        assert_eq!(object["complete"], wanted, "{object}");
        assert!(object["latency_us"]["min"].as_f64() > Some(1.0), "{object}");
    }
    let args = [&addr, "-R", "3", "-d", "1s", "-c", "100"];
    let object = json(&args, 0);
    assert_eq!(object["complete"], 3, "{object}");
    let args = [&addr, "-R", "4", "-d", "1s", "--warmup", "300ms", "-t", "3"];
    let object = json(&args, 0);
    assert_eq!(object["complete"], 4, "{object}");
    // A count ends it when the last is back, not when another would be due.
    let args = ["rr", &addr, "-R", "5", "-n", "3", "-c", "100"];
    let object = json(&args, 0);
    assert_eq!(object["complete"], 3, "{object}");
}

/// Connections that were seen at once by the server below.
static SEEN: AtomicU64 = AtomicU64::new(0);

#[test]
fn all_connections_are_open_before_an_open_loop_begins() {
    let addr = server(|mut stream| {
        let open = SEEN.fetch_add(1, Ordering::SeqCst) + 1;
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            // Others may still be on their way to a thread here, not to the port.
            assert!(open > 0);
            let _ = stream.write_all(&message);
        }
    });
    let args = [&addr, "-R", "3", "-d", "1s", "-c", "200", "-t", "2"];
    let object = json(&args, 0);
    assert_eq!(object["complete"], 3, "{object}");
    assert_eq!(SEEN.load(Ordering::SeqCst), 200, "{object}");
}

#[test]
fn what_an_overloaded_open_loop_never_sent_is_counted() {
    in_one_of_three(|| {
        let addr = server(|mut stream| {
            let mut message = [0; 64];
            while stream.read_exact(&mut message).is_ok() {
                thread::sleep(Duration::from_millis(50));
                let _ = stream.write_all(&message);
            }
        });
        let args = [
            &addr,
            "-c",
            "1",
            "-d",
            "300ms",
            "-R",
            "1000",
            "--timeout",
            "1s",
        ];
        let object = json(&args, 75);
        let (complete, dropped) = (&object["complete"], &object["dropped"]);
        let all = complete.as_u64().unwrap() + dropped.as_u64().unwrap();
        assert_eq!(all, 300, "{object}");
        let p50 = object["latency_us"]["p50"].as_f64();
        assert!(
            p50 > Some(200_000.0),
            "their wait is in the figures: {object}"
        );
    });
}

/// A process of echoload's that is running, and what becomes of it.
fn start(args: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_echoload"))
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill(child: &std::process::Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// A signal ends it at once, whatever is on its way, with a report, and as a
/// signal ends programs: a shell's loop must not go on.
#[test]
fn an_interrupted_run_reports_and_ends_by_the_signal() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let silent = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            ASKED.fetch_add(1, Ordering::SeqCst);
        }
    });
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for mode in [&["rr"][..], &["crr"], &["rr", "-R", "50"], &["hold"]] {
            let before = ASKED.load(Ordering::SeqCst);
            let args = [mode, &[&silent, "-d", "60s", "--timeout", "60s", "--json"]];
            let child = start(&args.concat());
            while ASKED.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            kill(&child, signal);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), Some(signal as i32), "{output:?}");
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(object["interrupted"], true, "{object}");
            assert_eq!(object["exit_status"], 128 + signal as i32, "{object}");
            assert!(object["unfinished"].as_u64() >= Some(1), "{object}");
            assert!(object["elapsed_s"].as_f64() < Some(50.0), "{object}");
        }
    }
    let addr = server(echo);
    assert_eq!(json(&[&addr, "-n", "5"], 0)["interrupted"], false);
}

/// One that holds connections says how many, and that they live.
#[test]
fn an_interrupted_hold_echoes_once_more() {
    static HELD: AtomicU64 = AtomicU64::new(0);
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            let _ = stream.write_all(&message);
            HELD.fetch_add(1, Ordering::SeqCst);
        }
    });
    let child = start(&["hold", &addr, "-c", "30", "-t", "2", "-d", "1h", "--json"]);
    while HELD.load(Ordering::SeqCst) < 30 {
        thread::yield_now();
    }
    kill(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The last answers may have been on their way.
    let number = |key: &str| object[key].as_u64().unwrap();
    assert_eq!(number("held") + number("unfinished"), 30, "{object}");
    assert_eq!(number("held"), number("complete"), "{object}");
    assert!(number("held") >= 10, "{object}");
}

/// A server that always sends a little more is no reason to go on for ever.
#[test]
fn a_slow_server_does_not_keep_a_run_from_its_end() {
    let addr = server(|mut stream| {
        let mut byte = [0; 1];
        while let Ok(1) = stream.read(&mut byte) {
            thread::sleep(Duration::from_millis(20));
            if stream.write_all(&byte).is_err() {
                break;
            }
        }
    });
    for args in [
        &["stream", "-s", "4K"][..],
        &["rr", "-s", "4K"],
        &["crr", "-s", "4K"],
        &["rr", "-s", "4K", "-R", "100"],
    ] {
        let always = [
            addr.as_str(),
            "-d",
            "200ms",
            "--timeout",
            "300ms",
            "-c",
            "2",
        ];
        let begun = std::time::Instant::now();
        let object = json(&[args, &always].concat(), 74);
        assert!(object["timeout"].as_u64() >= Some(1), "{object}");
        // 4 KiB at 50 bytes a second are 80 s.
        assert!(begun.elapsed() < Duration::from_secs(30), "{object}");
    }
}

/// What echoload itself did not do in time is not the server's.
#[test]
fn its_own_stall_is_no_latency_and_no_timeout() {
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            ANSWERS.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
            let _ = stream.write_all(&message);
        }
    });
    for mode in [
        &["rr"][..],
        &["rr", "-R", "200"],
        &["crr", "-R", "100", "-t", "2"],
    ] {
        in_one_of_three(|| {
            let before = ANSWERS.load(Ordering::SeqCst);
            let args = [&addr, "-c", "4", "-d", "1s", "--timeout", "1s", "--json"];
            let child = start(&[mode, &args].concat());
            while ANSWERS.load(Ordering::SeqCst) < before + 10 {
                thread::yield_now();
            }
            kill(&child, Signal::SIGSTOP);
            thread::sleep(Duration::from_secs(2));
            kill(&child, Signal::SIGCONT);
            let output = child.wait_with_output().unwrap();
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(object["timeout"], 0, "{object}");
            let held_up = object["generator_held_up_s"].as_f64();
            assert!(held_up > Some(1.5), "{object}");
            let latency = object["latency_us"]["max"].as_f64();
            assert!(latency < Some(1_000_000.0), "{object}");
            assert!(object["elapsed_s"].as_f64() < Some(2.5), "{object}");
        });
    }
}

#[test]
fn a_datagram_without_an_answer_is_no_case_for_a_longer_wait() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = format!("udp:{}", socket.local_addr().unwrap());
    let (_, complaints) = load(&[&addr, "-n", "1", "--timeout", "50ms"], 69);
    assert!(complaints.contains("--udp-rate"), "{complaints}");
    assert!(!complaints.contains("--timeout"), "{complaints}");
}

#[test]
fn a_server_that_dies_in_the_middle_is_not_a_hang() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        // Serves four, answers one message each, and is gone.
        let streams: Vec<TcpStream> = listener.incoming().take(4).flatten().collect();
        drop(listener);
        for mut stream in streams {
            let mut message = [0; 64];
            let _ = stream.read_exact(&mut message);
            let _ = stream.write_all(&message);
        }
    });
    let object = json(&["rr", &addr, "-c", "4", "-d", "200ms"], 74);
    assert!(object["complete"].as_u64().unwrap() >= 1, "{object}");
    assert!(object["refused"].as_u64().unwrap() >= 1, "{object}");
}

#[test]
fn datagrams_are_echoed_and_a_lost_one_is_a_timeout() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = format!("udp:{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for nth in 0.. {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                break;
            };
            if nth != 7 {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
    });
    let args = [
        "rr",
        &addr,
        "-n",
        "50",
        "-s",
        "1-1400",
        "--timeout",
        "300ms",
    ];
    let object = json(&args, 74);
    assert_eq!(object["timeout"], 1, "{object}");
    assert_eq!(object["complete"], 49, "{object}");
    let object = json(&["crr", &addr, "-n", "50"], 0);
    assert_eq!(object["complete"], 50, "{object}");
}

#[test]
fn two_servers_are_compared_in_rounds() {
    let (one, other) = (server(echo), server(echo));
    let args = ["rr", &one, &other, "-n", "50", "--rounds", "6"];
    let object = json(&args, 0);
    assert_eq!(object["comparison"], true, "{object}");
    assert_eq!(object["a"]["complete"], 300, "{object}");
    assert_eq!(object["b"]["complete"], 300, "{object}");
    let ratio = &object["rate_ratio"];
    assert_eq!(ratio["pairs"].as_array().unwrap().len(), 6, "{object}");
    let figure = |key: &str| ratio[key].as_f64().unwrap();
    assert!(figure("low") <= figure("median"), "{object}");
    assert!(figure("median") <= figure("high"), "{object}");
    let (report, _) = load(&args, 0);
    let last = report.lines().last().unwrap();
    assert!(last.starts_with("ratio of rates "), "{report}");
}

/// Echoes each message after `T` microseconds.
fn echo_late<const T: u64>(mut stream: TcpStream) {
    let mut message = [0; 64];
    while stream.read_exact(&mut message).is_ok() {
        thread::sleep(Duration::from_micros(T));
        if stream.write_all(&message).is_err() {
            break;
        }
    }
}

/// The gate: a server that is slower by far is caught by its rate, and where
/// both are asked as often, by what requests take; one that is not, passes.
#[test]
fn a_server_that_is_slower_than_it_may_be_ends_with_75() {
    in_one_of_three(|| {
        let (slow, fast) = (server(echo_late::<40_000>), server(echo));
        // Of 12 pairs two may be spoilt on either side by a busy machine.
        let short = [
            "-c",
            "4",
            "-n",
            "12",
            "--rounds",
            "12",
            "--fail-below",
            "0.95",
        ];
        let object = json(&[&["rr", &slow, &fast], &short[..]].concat(), 75);
        assert_eq!(object["slower_by"], "rate_ratio", "{object}");
        let object = json(&[&["crr", &fast, &slow], &short[..]].concat(), 0);
        assert_eq!(object["slower_by"], Value::Null, "{object}");
        let (_, complaints) = load(&[&["rr", &slow, &fast], &short[..]].concat(), 75);
        assert!(complaints.contains("--fail-below 0.95"), "{complaints}");
        let open = [&["rr", &slow, &fast, "-R", "60"], &short[..]].concat();
        let object = json(&open, 75);
        assert_eq!(object["slower_by"], "p50_ratio", "{object}");
        assert!(object["p50_ratio"]["low"].as_f64() > Some(1.05), "{object}");
        assert_eq!(object["p50_ratio"]["pairs"].as_array().unwrap().len(), 12);
        assert_eq!(object["p99_9_ratio"]["median"], Value::Null, "{object}");
        let (report, _) = load(&open, 75);
        assert!(report.contains("ratio of p50 "), "{report}");
        assert!(!report.contains("NOT REACHED"),);
    });
}

/// 4 connections of a server that takes 5 ms hold less than 800 a second.
#[test]
fn a_sweep_finds_the_knee() {
    let addr = server(echo_late::<5_000>);
    let args = ["sweep", &addr, "-c", "4", "-d", "200ms", "--p99", "1s"];
    let object = json(&args, 0);
    let holds = object["holds_per_s"].as_f64().unwrap();
    assert!(holds > 20.0 && holds < 850.0, "{object}");
    assert!(object["missed_per_s"].as_f64() > Some(holds), "{object}");
    let steps = object["steps"].as_array().unwrap();
    assert!(steps.len() >= 3, "{object}");
    let rate = |step: &Value| step["rate_wanted_per_s"].as_f64().unwrap();
    assert!(steps.is_sorted_by_key(rate), "{object}");
    // Nothing is quick enough.
    let args = [&addr, "--sweep", "50:100", "-d", "100ms", "--p99", "2ms"];
    let (report, _) = load(&args, 75);
    assert!(report.contains("holds no rate"), "{report}");
    // A busy machine may miss even these.
    let args = ["crr", &server(echo), "--sweep", "20:40", "-d", "500ms"];
    let output = echoload(&[&args[..], &["--p99", "2s"]].concat());
    let report = String::from_utf8(output.stdout).unwrap();
    let found = report.lines().find(|line| line.starts_with("holds "));
    assert!(
        found.expect(&report).contains(" at p99 below 2.00 s"),
        "{report}"
    );
    let narrow = |line: &str| line.chars().count() <= 80;
    assert!(report.lines().all(narrow), "{report}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    load(&["sweep", &addr], 69);
}

/// 2 connections that think for 100 ms make about 20 requests a second.
#[test]
fn a_client_that_thinks_asks_less_and_ends_in_time() {
    let addr = server(echo);
    for mode in ["rr", "crr"] {
        let args = [mode, &addr, "-c", "2", "-d", "500ms", "--think", "100ms"];
        let object = json(&args, 0);
        let complete = object["complete"].as_u64().unwrap();
        assert!((2..=10).contains(&complete), "{object}");
    }
    let begun = std::time::Instant::now();
    let args = [&addr, "-d", "100ms", "--think", "1h"];
    assert_eq!(json(&args, 0)["complete"], 16);
    let args = [&addr, "-c", "2", "-n", "3", "--think", "10ms"];
    assert_eq!(json(&args, 0)["complete"], 3);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn connections_and_rates_ramp_up() {
    in_one_of_three(|| {
        let addr = server(echo);
        // 100 a second over 1 s that begins with none are 50; the figures begin
        // after that.
        let args = [&addr, "-R", "100", "-d", "500ms", "--ramp-up", "1s"];
        let output = echoload(&[&args[..], &["--json"]].concat());
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        // What is overdue when it was held up itself is due as much later.
        let complete = object["complete"].as_u64().unwrap();
        let most = if object["generator_held_up_s"] == 0.0 {
            50
        } else {
            150
        };
        assert!((50..=most).contains(&complete), "{object}");
        // Sent before the figures began, and back after that: one a connection.
        let more = object["received_bytes"].as_u64().unwrap() / 64 - complete;
        assert!(more <= 16, "{object}");
        let begun = std::time::Instant::now();
        let args = ["crr", &addr, "-c", "4", "-n", "8", "--ramp-up", "400ms"];
        assert_eq!(json(&args, 0)["complete"], 8);
        assert!(begun.elapsed() >= Duration::from_millis(300));
    });
}

/// The network may deliver twice what a server sent once.
#[test]
fn a_second_answer_is_a_duplicate_and_not_corrupt() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = format!("udp:{}", socket.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for nth in 0.. {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                break;
            };
            for _ in 0..1 + u8::from(nth % 5 == 0) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
    });
    let object = json(&[&addr, "-c", "1", "-n", "50"], 0);
    assert_eq!(object["complete"], 50, "{object}");
    assert_eq!(object["datagrams_lost"], 0, "{object}");
    let duplicate = object["datagrams_duplicate"].as_u64().unwrap();
    assert!((8..=10).contains(&duplicate), "{object}");
    let (report, _) = load(&[&addr, "-c", "1", "-n", "50"], 0);
    assert!(
        report.contains("datagrams lost 0 (0.000 %) duplicate "),
        "{report}"
    );
    let tcp = json(&[&server(echo), "-n", "1"], 0);
    assert_eq!(tcp["datagrams_lost"], Value::Null, "{tcp}");
}

#[test]
fn failures_and_latencies_go_to_files() {
    let addr = server(|mut stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message).unwrap();
        stream.write_all(&message[..10]).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (outcomes, hdr) = (path("outcomes"), path("hgrm"));
    let args = ["crr", &addr, "-n", "3", "--outcomes", &outcomes];
    load(&args, 74);
    let text = std::fs::read_to_string(&outcomes).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), 6, "{text}");
        assert!(fields[0].parse::<f64>().unwrap() > 1e9, "{text}");
        assert_eq!(fields[1], "short", "{text}");
        assert!(fields[2].starts_with("127.0.0."), "{text}");
        assert_eq!(fields[3..], [addr.as_str(), "64", "10"], "{text}");
    }
    load(&[&server(echo), "-n", "100", "--hdr", &hdr], 0);
    let text = std::fs::read_to_string(&hdr).unwrap();
    assert!(text.contains("Total count    =          100]"), "{text}");
    let nowhere = path("no/such/place");
    load(&[&addr, "-n", "1", "--hdr", &nowhere], 73);
    load(&[&server(echo), "-n", "1", "--json", &nowhere], 73);
    // Text and JSON of one run.
    let file = path("json");
    let (report, _) = load(&["--json", &file, &server(echo), "-n", "9"], 0);
    assert_eq!(outcome(&report, "complete"), 9, "{report}");
    let object: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(object["complete"], 9, "{object}");
    let (json, _) = load(&["--json", &server(echo), "-n", "9"], 0);
    assert!(json.starts_with('{'), "an address is no file: {json}");
}

#[test]
fn progress_goes_to_standard_error() {
    let addr = server(echo);
    let args = [&addr, "-d", "1s", "--interval", "50ms"];
    let (_, told) = load(&args, 0);
    assert!(told.contains(" requests/s "), "{told}");
    let (_, told) = load(&[&args[..], &["--json"]].concat(), 0);
    for line in told.lines() {
        let object: Value = serde_json::from_str(line).expect(line);
        assert!(object["rate_per_s"].is_number(), "{line}");
    }
    assert!(told.lines().count() >= 2, "{told}");
    let other = server(echo);
    let args = [&addr, &other, "-d", "1200ms", "--interval", "90ms"];
    let (_, told) = load(&args, 0);
    assert!(told.contains(" requests/s "), "{told}");
    let args = [
        "hold",
        &addr,
        "-c",
        "9",
        "-d",
        "300ms",
        "--interval",
        "50ms",
    ];
    let (_, told) = load(&args, 0);
    assert!(told.contains(" 9 of 9 open"), "{told}");
}

#[test]
fn too_few_files_are_named_before_anything_is_opened() {
    let script = "ulimit -n 64; exec \"$0\" hold 127.0.0.1:9 -c 100";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_echoload")])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{complaint}");
    assert!(complaint.contains("ulimit -Hn allows 64"), "{complaint}");
}

//! echoload, the program, against servers that behave and servers that do not.
//!
//! Every server is a few threads in this process, so that echoload is tested
//! without echod.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};
use std::thread;

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
        &["hold", "h:1", "-d", "1"],
    ] {
        assert_eq!(echoload(args).status.code(), Some(64), "{args:?}");
    }
    assert_eq!(echoload(&["--help"]).status.code(), Some(0));
    assert_eq!(echoload(&["--version"]).status.code(), Some(0));
}

//! Input and output in pipes: all of it, both ways at once, verified.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Stdio;
use std::thread;

use super::run::{Running, command, echoc};
use super::servers::{echo, nobody, tcp};
use crate::common::{Builder, Client, Daemon, pattern};

const NONE: &[&str] = &[];

#[test]
fn all_comes_back_over_every_kind_of_stream() {
    let builder = Builder::new();
    let path = format!("unix:{}", builder.path("sock"));
    let name = format!("unix:@echoc-test-{}", std::process::id());
    let daemon = builder
        .args(["-l", "tcp:127.0.0.1:0", "-l", &path, "-l", &name])
        .start();
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for addr in daemon.addrs() {
        for input in [&all[..], b"", b"\n", b"no newline"] {
            let ran = echoc(&[addr], input).status(0);
            assert!(ran.stdout == input, "{addr} {}", input.len());
            assert_eq!(ran.stderr, "");
        }
    }
    let tcp = daemon.addrs().iter().find(|addr| addr.starts_with("tcp:"));
    let (host, port) = tcp.expect("one")[4..].rsplit_once(':').expect("a port");
    assert_eq!(echoc(&[host, port], "nc").status(0).text(), "nc");
}

#[test]
fn a_long_stream_goes_through() {
    let daemon = Daemon::start(NONE);
    let total: u64 = if cfg!(debug_assertions) {
        256 << 20
    } else {
        10 << 30
    };
    let mut child = command(&[daemon.addr()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("echoc starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let block = pattern(0, 1 << 20);
    let sent = block.clone();
    let writer = thread::spawn(move || {
        for _ in 0..total >> 20 {
            stdin.write_all(&sent).expect("echoc reads");
        }
    });
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut got = vec![0; 1 << 20];
    for n in 0..total >> 20 {
        stdout.read_exact(&mut got).expect("the echo");
        assert!(got == block, "MiB {n}");
    }
    assert_eq!(stdout.read(&mut got).expect("end"), 0);
    writer.join().expect("the writer");
    assert!(child.wait().expect("its end").success());
}

/// More than the 64 MiB that are kept byte for byte.
#[test]
fn a_server_silent_until_the_end_is_no_deadlock() {
    let addr = tcp(|_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all of it");
        let _ = stream.write_all(&all);
    });
    let input = pattern(0, 70 << 20);
    let ran = echoc(&[&addr], input.clone()).status(0);
    assert!(ran.stdout == input);
}

#[test]
fn a_difference_beyond_what_is_kept_is_found_too() {
    const WRONG: usize = (64 << 20) + 700_000;
    let addr = tcp(|_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all of it");
        all[WRONG] ^= 1;
        let _ = stream.write_all(&all);
    });
    let ran = echoc(&[&addr], pattern(0, 66 << 20)).status(76);
    let at = (WRONG - (64 << 20)) / 65_536 * 65_536 + (64 << 20);
    ran.says(&format!("differs within 65536 bytes from offset {at}"));
}

/// What a reader does not take holds up neither the server nor the input.
#[test]
fn an_unread_output_does_not_stop_the_input() {
    let daemon = Daemon::start(NONE);
    let input = pattern(9, 400 << 10);
    let mut child = command(&[daemon.addr()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("echoc starts");
    // Far more than the pipe behind echoc holds, and nothing is read yet.
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&input).expect("echoc reads");
    drop(stdin);
    let out = child.wait_with_output().expect("its end");
    assert!(out.status.success() && out.stdout == input);
}

#[test]
fn a_wrong_byte_is_status_76_and_its_offset() {
    let addr = tcp(|_, mut stream| {
        let mut bytes = vec![0; 1000];
        stream.read_exact(&mut bytes).expect("input");
        bytes[777] = !bytes[777];
        let _ = stream.write_all(&bytes);
        echo(stream);
    });
    let ran = echoc(&[&addr], [0x41; 1000]).status(76);
    let ran = ran.says("differs at offset 777: sent 0x41, got 0xbe");
    assert_eq!(ran.stdout[..777], [0x41; 777]);
    assert!(echoc(&["--no-verify", &addr], [0x41; 1000]).status == Some(0));
}

/// A kernel takes what nobody serves, and for as long as one waits.
#[test]
fn a_silent_server_is_given_up_after_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound").to_string();
    let more_than_fits = pattern(3, 16 << 20);
    for args in [&[][..], &["--no-verify"], &["--retry", "0"]] {
        for input in [&b"x"[..], &more_than_fits] {
            let args = [args, &["-W", "200ms", &addr]].concat();
            echoc(&args, input).status(74).says("within 200ms");
        }
    }
    // One that is slow, and not silent, is waited for.
    let slow = tcp(|_, mut stream| {
        let mut byte = [0; 1];
        while let Ok(1) = stream.read(&mut byte) {
            thread::sleep(std::time::Duration::from_millis(150));
            let _ = stream.write_all(&byte);
        }
    });
    let ran = echoc(&["-W", "1s", &slow], "0123456789").status(0);
    assert_eq!(ran.text(), "0123456789");
    drop(listener);
}

#[test]
fn a_server_that_closes_early_is_status_76_and_where() {
    let addr = tcp(|_, mut stream| {
        let mut bytes = vec![0; 100];
        stream.read_exact(&mut bytes).expect("input");
        stream.write_all(&bytes[..60]).expect("a part");
        // The end of file, and no reset: all was read.
    });
    let ran = echoc(&[&addr], [7; 100]).status(76);
    let ran = ran.says("closed the connection: 40 bytes of 100 from offset 60");
    assert_eq!(ran.stdout, [7; 60]);
}

#[test]
fn more_than_was_sent_is_a_difference() {
    let addr = tcp(|_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all of it");
        let _ = stream.write_all(&all);
        let _ = stream.write_all(b"more");
    });
    let ran = echoc(&[&addr], "hello").status(76);
    ran.says("differs at offset 5: more came than was sent");
}

#[test]
fn a_reset_is_status_74() {
    let addr = tcp(|_, stream| {
        let mut client = Client::Tcp(stream);
        client.read_exact(&mut [0; 5]).expect("input");
        client.reset();
    });
    let ran = echoc(&[&addr], "hello").status(74);
    ran.says("ECONNRESET): 5 bytes of 5 from offset 0 had not come back");
}

#[test]
fn a_server_that_ends_before_the_input_is_status_74() {
    let addr = tcp(|_, mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).expect("input");
        stream.write_all(&bytes).expect("the echo");
    });
    let mut run = Running::start(&[&addr]);
    run.write(b"hello");
    run.wait_said("nothing was lost, but the input had not ended");
    assert_eq!(run.end().status(74).text(), "hello");
}

#[test]
fn a_server_that_never_ends_is_not_waited_for() {
    let addr = tcp(|_, mut stream| {
        echo(&stream);
        // Holds its side open until the client leaves.
        while let Ok(1..) = stream.read(&mut [0; 16]) {}
        thread::sleep(std::time::Duration::from_secs(60));
    });
    let ran = echoc(&["-W", "100ms", &addr], "hello").status(0);
    assert_eq!(ran.text(), "hello");
}

#[test]
fn a_command_service_is_copied_without_comparing() {
    let addr = tcp(|_, mut stream| {
        let mut line = [0; 7];
        stream.read_exact(&mut line).expect("the line");
        assert_eq!(&line, b"uptime\n");
        stream.write_all(b"up 3 days\n").expect("the answer");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let ran = echoc(&["--no-verify", &addr], "uptime\n").status(0);
    assert_eq!(ran.text(), "up 3 days\n");
    // It ends when the server does, not when the input does.
    let mut run = Running::start(&["--no-verify", &addr]);
    run.write(b"uptime\n");
    let stdin = run.stdin.take();
    assert_eq!(run.end().status(0).text(), "up 3 days\n");
    drop(stdin);
}

#[test]
fn an_output_that_nobody_reads_is_status_74() {
    let daemon = Daemon::start(NONE);
    let mut child = command(&[daemon.addr()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("echoc starts");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hello\n").expect("echoc reads");
    let out = child.wait_with_output().expect("its end");
    assert_eq!(out.status.code(), Some(74));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        said.contains("write standard output: Broken pipe"),
        "{said}"
    );
    drop(stdin);
}

#[test]
fn nobody_there_is_status_69_and_a_bad_command_line_64() {
    let ran = echoc(&[&nobody()], "x").status(69);
    assert_eq!(ran.text(), "");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    ran.says("echoc: connect tcp:127.212.0.")
        .says("(ECONNREFUSED)");
    for args in [
        &["a", "b", "c"][..],
        &["nowhere"],
        &["--frob"],
        &["-c", "3"],
    ] {
        let ran = echoc(args, "").status(64);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    let help = echoc(&["--help"], "").status(0);
    assert!(help.text().contains("--no-verify"));
}

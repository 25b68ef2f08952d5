//! Pitfalls of the tutorials' clients: waiting for what does not come, and
//! taking a part for the whole.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use crate::client::run::{Running, echoc};
use crate::client::servers::{nobody, tcp, udp};
use crate::common::Daemon;
use crate::common::proc;

/// An empty line, its newline cut off, is a write(2) of 0 bytes: no segment, no
/// answer, and the client waits for one.
#[test]
fn an_empty_line_does_not_hang() {
    let daemon = Daemon::start::<&str>(&[]);
    for input in ["\n", "\n\n\nend\n", ""] {
        assert_eq!(echoc(&[daemon.addr()], input).status(0).text(), input);
    }
}

/// `fgets` gives NULL at the end of the input, nobody looks, and the loop runs
/// at full speed. Here the server does not end either.
#[test]
fn the_end_of_the_input_is_not_a_loop() {
    let addr = tcp(|_, mut stream| {
        // Takes everything, answers nothing, and stays.
        let _ = stream.read_to_end(&mut Vec::new());
        thread::park();
    });
    let mut run = Running::start(&[&addr]);
    run.write(b"hello\n");
    drop(run.stdin.take());
    // A loop would use a tick of every tick.
    thread::sleep(Duration::from_millis(500));
    let used = proc::stat(run.pid()).expect("it runs").ticks;
    assert!(used < 10, "{used} ticks in half a second of waiting");
}

/// The server's end of file, read as an empty line again and again.
#[test]
fn the_servers_end_is_not_a_loop() {
    let addr = tcp(|_, stream| drop(stream));
    // By how far it got, this is a broken connection or an echo that is missing.
    let ran = echoc(&[&addr], "hello\n");
    assert!(matches!(ran.status, Some(74 | 76)), "{ran:?}");
}

/// One read(2) for one line: what comes in two segments is shown as half, and
/// each later line is answered with the rest of the one before.
#[test]
fn a_reply_in_pieces_is_put_together() {
    let addr = tcp(|_, mut stream| {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            if stream.write_all(&byte).is_err() {
                return;
            }
        }
    });
    let input = "one line\nand another, which is longer\n\nend\n";
    assert_eq!(echoc(&[&addr], input).status(0).text(), input);
}

/// `char buffer[1024]`, and 1023 bytes of it for the line.
#[test]
fn a_line_longer_than_1023_bytes_is_a_line() {
    let daemon = Daemon::start::<&str>(&[]);
    for len in [1022, 1023, 1024, 1025, 100_000] {
        let line = format!("{}\n", "x".repeat(len));
        assert_eq!(
            echoc(&[daemon.addr()], &*line).status(0).text(),
            line,
            "{len}"
        );
    }
}

/// `connect` fails, `perror` says so, and the exit status is 0; or the second
/// attempt is made with the socket of the first.
#[test]
fn attempts_are_counted_and_the_last_is_an_error() {
    let addr = nobody();
    echoc(&[&addr], "x\n").status(69).says("ECONNREFUSED");
    let args = ["--retry", "2", "--retry-interval", "1ms", &*addr];
    let ran = echoc(&args, "x\n").status(69);
    assert_eq!(ran.stderr.matches("retry").count(), 2, "{}", ran.stderr);
}

/// `recvfrom` without a limit: one lost datagram, and it waits for ever.
#[test]
fn a_lost_datagram_does_not_hang() {
    let addr = udp(|n, asked| if n == 0 { vec![] } else { vec![asked] });
    let ran = echoc(&["-W", "100ms", &addr], "lost\nfound\n").status(76);
    assert_eq!(ran.says("no answer").text(), "found\n");
}

/// `recvfrom` on a socket that is not connected: whoever knows the port answers.
#[test]
fn a_strangers_reply_is_not_taken() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let addr = format!("udp:{}", server.local_addr().expect("bound"));
    thread::spawn(move || {
        let mut buffer = [0; 100];
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let (len, peer) = server.recv_from(&mut buffer).expect("a line");
        stranger.send_to(b"not the server\n", peer).expect("sent");
        server.send_to(&buffer[..len], peer).expect("sent");
    });
    assert_eq!(
        echoc(&[&addr], "to the server\n").status(0).text(),
        "to the server\n"
    );
}

//! Pitfalls of the tutorials' buffers: bytes that are lost, cut or made up
//! between read(2) and write(2).

use std::io::{Read, Write};
use std::thread;

use nix::sys::socket::{setsockopt, sockopt};

use crate::common::design::{FORK_WAIT, ITERATIVE, PREFORK};
use crate::common::{Client, DESIGNS, Daemon, echo_once, pattern};

const NONE: &[&str] = &[];

/// One write(2) for each read(2), its result thrown away: when the client reads
/// slowly the rest of a buffer is lost.
#[test]
fn a_short_write_loses_nothing() {
    for design in [&PREFORK, &FORK_WAIT, &ITERATIVE] {
        let daemon = Daemon::start(design.args);
        let mut client = Client::connect(daemon.addr());
        // Little room, so that the server's writes are cut.
        setsockopt(&client, sockopt::RcvBuf, &32_768).expect("SO_RCVBUF");
        let sent = pattern(11, 600_000);
        let (mut writer, bytes) = (client.handle(), sent.clone());
        let writer = thread::spawn(move || {
            writer.write_all(&bytes).expect("send");
            writer.shutdown_write().expect("shutdown");
        });
        let (mut got, mut piece) = (Vec::new(), [0; 3000]);
        loop {
            match client.read(&mut piece).expect("the echo") {
                0 => break,
                n => got.extend_from_slice(&piece[..n]),
            }
        }
        writer.join().expect("writer");
        assert!(
            got == sent,
            "{}: {} of {}",
            design.name,
            got.len(),
            sent.len()
        );
    }
}

/// `write(fd, buffer, strlen(buffer))`: nothing after the first 0 comes back.
#[test]
fn a_nul_is_a_byte() {
    let daemon = Daemon::start(NONE);
    for sent in [&b"a\0b\0\0c"[..], b"\0", b"\0first", b"last\0", &[0; 5000]] {
        assert_eq!(echo_once(daemon.addr(), sent), sent);
    }
}

/// `buffer[n] = 0` after a read that filled the buffer: one byte past its end.
/// Sizes around those that buffers have, echod's own among them.
#[test]
fn a_full_buffer_is_not_written_beyond() {
    let daemon = Daemon::start(NONE);
    let mut client = Client::connect(daemon.addr());
    for size in [128, 256, 512, 1024, 4096, 8192, 65_536, 262_144] {
        for len in [size - 1, size, size + 1] {
            let (mut writer, sent) = (client.handle(), pattern(size as u64, len));
            let bytes = sent.clone();
            let writer = thread::spawn(move || writer.write_all(&bytes).expect("send"));
            let mut got = vec![0; len];
            client.read_exact(&mut got).expect("the echo");
            writer.join().expect("writer");
            assert!(got == sent, "{len} bytes");
        }
    }
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty(), "a byte that nobody sent");
}

/// `buffer[n] = 0` after a read that failed: n is -1, and what lies before the
/// buffer is changed.
#[test]
fn a_failed_read_writes_nothing_and_is_said() {
    for design in DESIGNS {
        let daemon = Daemon::start(design.args);
        for _ in 0..5 {
            let mut rude = Client::connect(daemon.addr());
            rude.ping(b"hello");
            let peer = rude.peer_name();
            rude.reset();
            let line = daemon.conn_line(&peer);
            assert_eq!(
                (line.received, line.sent, &*line.end),
                (5, 5, "reset"),
                "{}",
                design.name
            );
        }
        assert_eq!(daemon.log_count("killed:"), 0, "{}", daemon.log());
    }
}

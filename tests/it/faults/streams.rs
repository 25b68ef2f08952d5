//! Bytes under difficulties: half-close, urgent data, interrupted and short
//! reads and writes, long streams. What comes back is what was sent.

use std::io::{Read, Write};
use std::thread;

use crate::common::design::{DESIGNS, FORK_WAIT, PREFORK, side_by_side};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, ONCE, Signal, at_once, need, pattern, poll_some,
    poll_until, proc, signal, skipped, stream, stream_until_broken,
};

/// All that was sent before our end of file comes back, then theirs.
pub fn row_77_half_close_gets_every_byte(design: &Design) {
    let daemon = Daemon::start(design.args);
    for total in [0, 1, 10 << 20] {
        stream(daemon.addr(), total);
    }
}

/// TCP, and a Unix socket where the design can have one.
fn both_families(design: &Design, args: &[&str]) -> Daemon {
    let builder = Builder::new();
    let unix = format!("unix:{}", builder.path("sock"));
    let listen = ["-l", "tcp:127.0.0.1:0", "-l", &unix];
    let families = if design.tcp_only { 1 } else { 2 };
    let builder = builder.args(design.args).args(args);
    builder.args(&listen[..2 * families]).start()
}

/// SO_OOBINLINE over both families: the urgent byte keeps its place.
pub fn row_83_urgent_bytes_stay_in_place(design: &Design) {
    let daemon = both_families(design, &[]);
    for addr in daemon.addrs() {
        let mut client = Client::connect(addr);
        for n in 0..20u8 {
            client.write_all(&[n; 5]).expect("send");
            if !client.send_urgent(b'!') {
                skipped("this kernel has no urgent data on such a socket");
                break;
            }
            client.write_all(&[n; 3]).expect("send");
            let mut got = [0; 9];
            client.read_exact(&mut got).expect("the echo");
            assert_eq!(got, [n, n, n, n, n, b'!', n, n, n], "{addr}");
        }
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
    }
}

/// More than a counter of 32 bits could hold only in the soak; here enough to
/// go through every buffer many times.
pub fn row_86_a_long_stream_comes_back(design: &Design) {
    let total = if cfg!(debug_assertions) {
        64 << 20
    } else {
        1 << 30
    };
    let daemon = Daemon::start(design.args);
    stream(daemon.addr(), total);
    let line = poll_some(crate::common::DEADLINE, "a conn line", || {
        crate::common::ConnLine::all(&daemon.log()).pop()
    });
    assert_eq!((line.received, line.sent), (total, total));
    assert_eq!(line.end, "eof");
}

/// With a timeout on the socket even SIGSTOP and SIGCONT interrupt a read(2)
/// with EINTR, and leave a write(2) half done: signal(7).
pub fn row_82_stop_and_continue_in_mid_stream(design: &Design) {
    let daemon = Daemon::start(design.args);
    let (client, serving) = daemon.connect_served();
    let mut left = 400;
    let control = client.handle();
    // The pattern begins anew: the byte that found the process is not part.
    let count = stream_until_broken(client, |_| {
        if left > 0 {
            signal(serving, Signal::SIGSTOP);
            signal(serving, Signal::SIGCONT);
            left -= 1;
        } else {
            // What breaks the stream in the end is ourselves.
            let _ = shutdown_both(&control);
        }
    });
    assert_eq!(left, 0, "it broke after {count} bytes");
}

fn shutdown_both(client: &Client) -> std::io::Result<()> {
    match client {
        Client::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
        Client::Unix(s) => s.shutdown(std::net::Shutdown::Both),
    }
}

/// An echod whose serving calls are tampered with; strict mode would not let
/// strace(1) answer for the kernel.
fn tampered(design: &Design, inject: &[&str]) -> Option<Daemon> {
    if !need("strace") {
        return None;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let mut builder = builder.under(["strace", "-f", "-o", &trace, "-e", "trace=read,write"]);
    for fault in inject {
        builder = builder.under(["-e", &format!("inject={fault}")]);
    }
    Some(builder.args(design.args).args(["--sandbox", "off"]).start())
}

/// Every third read and every second write is interrupted before it begins.
#[test]
fn row_82_eintr_anywhere() {
    for design in [&FORK_WAIT, &PREFORK] {
        let faults = ["read:error=EINTR:when=1+3", "write:error=EINTR:when=1+2"];
        let Some(daemon) = tampered(design, &faults) else {
            return;
        };
        let clients: Vec<_> = (0..3)
            .map(|n| {
                let addr = daemon.addr().to_owned();
                thread::spawn(move || {
                    let mut client = Client::connect(&addr);
                    for i in 0..100 {
                        client.ping(&pattern(n * 7 + i * 97, 1 + 31 * i as usize));
                    }
                    client.shutdown_write().expect("shutdown");
                    assert!(client.rest().is_empty());
                })
            })
            .collect();
        for client in clients {
            client.join().expect("an exact echo");
        }
        stream(daemon.addr(), 4 << 20);
    }
}

/// strace makes write(2) say that it took one byte, without taking any: the
/// rest of the message must follow, in one more piece.
#[test]
fn row_82_a_write_that_took_one_byte_is_continued() {
    let Some(daemon) = tampered(&FORK_WAIT, &["write:retval=1:when=2"]) else {
        return;
    };
    let mut client = Client::connect(daemon.addr());
    client.ping(b"first");
    client.write_all(b"0123456789").expect("send");
    let mut got = [0; 9];
    client.read_exact(&mut got).expect("the rest");
    assert_eq!(&got, b"123456789");
    client.ping(b"third");
}

/// The other way about: a read(2) that says it brought one byte is answered
/// with one byte, and nothing stays behind in the buffer.
#[test]
fn row_82_a_read_that_brought_one_byte_is_answered_with_one() {
    let Some(daemon) = tampered(&FORK_WAIT, &["read:retval=1:when=2"]) else {
        return;
    };
    let mut client = Client::connect(daemon.addr());
    // The second read brings nothing and says one: the buffer's first byte, of
    // what came before, goes out once more.
    client.write_all(b"first").expect("send");
    let mut got = [0; 6];
    client.read_exact(&mut got).expect("the echo");
    assert_eq!(&got, b"firstf");
    client.ping(b"third");
}

/// One byte a segment: as many short reads as there are bytes.
#[test]
fn row_82_one_byte_at_a_time() {
    let daemon = Daemon::start(PREFORK.args);
    let mut client = Client::connect(daemon.addr());
    let sent = pattern(11, 5_000);
    for byte in &sent {
        client.write_all(std::slice::from_ref(byte)).expect("send");
    }
    client.shutdown_write().expect("shutdown");
    assert!(client.rest() == sent);
}

/// A client that reads once for each time it writes: the first message of a
/// connection, and those after it.
#[test]
fn row_121_one_write_comes_back_in_one_read() {
    let rounds = if cfg!(debug_assertions) { 10 } else { 100 };
    for designs in DESIGNS.chunks(5) {
        side_by_side(designs, |design| {
            let daemon = both_families(design, &[]);
            for (addr, bytes) in pairs(daemon.addrs()) {
                let sent = pattern(bytes as u64, bytes);
                for _ in 0..rounds {
                    let mut client = Client::connect(addr);
                    let first = client.once(&sent);
                    let about = format!("{} {addr} {bytes}", design.name);
                    assert!(first >= at_once(bytes), "{about}: first {first}");
                    let mut rest = vec![0; bytes - first];
                    client.read_exact(&mut rest).expect("the rest");
                    assert!(rest == sent[first..], "{about}: not what was sent");
                    let next = client.once(&sent);
                    assert!(next >= at_once(bytes), "{about}: then {next}");
                }
            }
        });
    }
}

fn pairs(addrs: &[String]) -> impl Iterator<Item = (&String, usize)> {
    addrs
        .iter()
        .flat_map(|addr| ONCE.map(move |bytes| (addr, bytes)))
}

/// The copy of `--print` shows what each read brought: all that had come, and its
/// prefix once.
#[test]
fn row_121_what_arrived_whole_is_one_read() {
    for designs in DESIGNS.chunks(5) {
        side_by_side(designs, |design| {
            let daemon = Builder::new().args(design.args).args(["--print"]).start();
            let (mut client, serving) = daemon.connect_served();
            let sent = vec![b'x'; 65_536];
            signal(serving, Signal::SIGSTOP);
            // In each thread: until then a read may take what is there.
            poll_until(DEADLINE, "it stops", || proc::all_stopped(serving));
            client.write_all(&sent).expect("send");
            // Acknowledged, all of it: it lies in the queue of the other end.
            poll_until(DEADLINE, "all has arrived", || client.unsent() == 0);
            signal(serving, Signal::SIGCONT);
            let mut got = vec![0; sent.len()];
            client.read_exact(&mut got).expect("the echo");
            assert!(got == sent, "{}: not what was sent", design.name);
            let copies: Vec<usize> = daemon.stdout().split('[').map(str::len).collect();
            let prefix = format!("{}] ", client.peer_name()).len();
            let expected = [0, prefix + 1, prefix + sent.len()];
            assert_eq!(copies, expected, "{}", design.name);
        });
    }
}

//! S8: clients that never read, never speak, reset in mid-sentence, shout
//! urgently or hand over descriptors, and good clients beside them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use std::os::fd::AsRawFd;

use crate::card::Row;
use crate::common::client::tcp_addr;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{Builder, Client, DEADLINE, Daemon, Design, poll_until};
use crate::plan::{Dice, Plan};
use crate::traffic::{Report, Traffic};
use crate::watch::Watch;

/// Three designs, the same crowd. Those that hold on cost the good clients nothing.
/// The rude do not wait to be served, so the queue fills with connections that are
/// over, and the good wait behind them: first come, first served.
pub fn crowd(plan: &Plan) -> Vec<Row> {
    let designs = [&PREFORK, &PREFORK_REUSE, &FORK_WAIT];
    let time = if plan.all {
        Duration::from_secs(30)
    } else {
        plan.time / 3
    };
    let n = if time > Duration::from_secs(10) {
        1000
    } else {
        100
    };
    designs
        .iter()
        .map(|design| beside(design, n, time, plan.seed))
        .collect()
}

fn beside(design: &Design, n: usize, time: Duration, seed: u64) -> Row {
    let what = format!(
        "{n} that never read, {n} silent, resets and urgent bytes, {}",
        design.name
    );
    let mut row = Row::new("S8", what);
    let limit = (2 * n + 200).to_string();
    let daemon = Builder::new()
        .args(design.args)
        .args(["--max-clients", &limit])
        .env("RUST_LOG", "error")
        .start();
    let part = time / 3;
    let alone = good(&daemon, part);
    let watch = Watch::start(&daemon);
    let silent: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    let deaf: Vec<TcpStream> = (0..n).map(|_| deaf(daemon.addr())).collect();
    let crowd = good(&daemon, part);
    let stop = AtomicBool::new(false);
    let addr = daemon.addr();
    let (storm, rude, queue) = thread::scope(|scope| {
        let rude = scope.spawn(|| rude(addr, &stop, seed));
        let queue = scope.spawn(|| longest_queue(addr, &stop));
        let storm = good(&daemon, part);
        stop.store(true, Ordering::Relaxed);
        let rude = rude.join().expect("the rude clients");
        (storm, rude, queue.join().expect("the look at the queue"))
    });
    row.tried = (2 * n) as u64 + rude;
    row.survived = if daemon.try_exit().is_none() {
        row.tried
    } else {
        0
    };
    for report in [&alone, &crowd, &storm] {
        report.enter(&mut row, &[]);
    }
    let [alone, crowd, storm] = [alone, crowd, storm].map(|report| report.p99_us / 1e3);
    row.see(format!(
        "p99 of the good {crowd:.1} ms beside those that hold on, alone {alone:.1} ms; \
         {storm:.1} ms behind those that do not wait to be served, up to {queue} of them \
         in the queue"
    ));
    // Who came first is served first, so the storm's depends on how fast it comes.
    if crowd > (10.0 * alone).max(100.0) {
        row.fail("the good wait for those that hold on");
    }
    drop((silent, deaf));
    poll_until(DEADLINE, "the crowd has left", || {
        daemon.role("echod-conn").is_empty()
    });
    watch.finish(&mut row);
    row
}

/// Clients as they should be.
fn good(daemon: &Daemon, time: Duration) -> Report {
    let seconds = format!("{:.2}", time.as_secs_f64().max(0.5));
    let traffic = Traffic::start(&["crr", daemon.addr(), "-c", "8", "-d", &seconds]);
    traffic.report(time + DEADLINE)
}

/// How many were waiting to be accepted at most: the receive queue of the
/// listener, proc(5).
fn longest_queue(addr: &str, stop: &AtomicBool) -> u64 {
    let port = format!(":{:04X}", tcp_addr(addr).port());
    let waiting = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && fields.get(3) == Some(&"0A");
        let (_, queue) = fields.get(4).filter(|_| listens)?.split_once(':')?;
        u64::from_str_radix(queue, 16).ok()
    };
    let mut longest = 0;
    while !stop.load(Ordering::Relaxed) {
        // Listeners come first: the rest, perhaps 100,000 lines, is not read.
        let table = File::open("/proc/net/tcp").map(BufReader::new);
        let mut lines = table.into_iter().flat_map(BufRead::lines).flatten();
        longest = longest.max(lines.find_map(|line| waiting(&line)).unwrap_or_default());
        thread::sleep(Duration::from_millis(20));
    }
    longest
}

/// Sends until nobody takes any more, and reads nothing.
fn deaf(addr: &str) -> TcpStream {
    let mut stream = TcpStream::connect(tcp_addr(addr)).expect("connect");
    setsockopt(&stream, sockopt::RcvBuf, &4096).expect("SO_RCVBUF");
    stream.set_nonblocking(true).expect("nonblocking");
    // Bounded: socket buffers grow as long as somebody fills them.
    for _ in 0..64 {
        if stream.write(&[b'x'; 16 << 10]).is_err() {
            break;
        }
    }
    stream
}

/// One rude client after another; returns how many.
fn rude(addr: &str, stop: &AtomicBool, seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(tcp_addr(addr)) else {
            continue;
        };
        let bytes = vec![b'r'; dice.below(20_000) as usize + 1];
        match dice.below(4) {
            0 => {
                let _ = stream.write(&bytes);
                let now = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                let _ = setsockopt(&stream, sockopt::Linger, &now);
            }
            1 => {
                let _ = send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB);
            }
            2 => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            _ => {
                // Closed with the echo unread: the kernel answers with a reset.
                let _ = stream.write(&bytes);
            }
        }
        count += 1;
    }
    count
}

//! The listen queue: full, shared by many sleepers, or one a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::common::client::tcp_addr;
use crate::common::design::{
    FORK_WAIT, PREFORK, PREFORK_REUSE, PREFORK_REUSEPORT, pool, side_by_side,
};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, Signal, echo_once, must, need, need_root,
    poll_until, proc, signal,
};

/// A TCP client on its way, that does not wait to be connected.
pub fn connect_now(addr: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("socket");
    let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(tcp_addr(addr)));
    assert!(
        matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)),
        "{begun:?}"
    );
    fd
}

/// Whether it is connected, or has failed, within `time`.
fn is_settled(client: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::try_from(time).expect("a short time")) == Ok(1)
}

#[track_caller]
fn expect_service(client: OwnedFd) {
    assert!(is_settled(&client, DEADLINE), "left outside");
    let mut stream = TcpStream::from(client);
    assert!(matches!(stream.take_error(), Ok(None)), "refused");
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream.write_all(b"late").expect("send");
    let mut got = [0; 4];
    stream.read_exact(&mut got).expect("the echo");
    assert_eq!(&got, b"late");
}

/// Who finds the queue full tries again by itself; nobody is reset.
#[test]
fn row_10_a_full_queue_resets_nobody_and_is_said_once() {
    side_by_side(&[&PREFORK, &FORK_WAIT], |design| {
        let (args, _) = design.limited_to(1);
        let builder = Builder::new().args(args);
        let daemon = builder.args(["--backlog", "2"]).start();
        let (mut held, _) = daemon.connect_served();
        let clients: Vec<_> = (0..8).map(|_| connect_now(daemon.addr())).collect();
        let outside = clients
            .iter()
            .filter(|client| !is_settled(client, Duration::ZERO));
        assert!(
            outside.count() > 0,
            "{}: the queue is not full",
            design.name
        );
        held.ping(b"undisturbed");
        drop(held);
        // Side by side: each tries again when its kernel likes, and holds the
        // only slot then.
        thread::scope(|scope| {
            for client in clients {
                scope.spawn(|| expect_service(client));
            }
        });
        daemon.wait_log("is full: the kernel drops who comes", DEADLINE);
        assert_eq!(daemon.log_count("the kernel drops who comes"), 1);
    });
}

#[test]
fn row_10_the_default_backlog_is_all_the_kernel_allows() {
    if !need("ss") {
        return;
    }
    let daemon = Daemon::start(PREFORK.args);
    let port = tcp_addr(daemon.addr()).port();
    let addr = format!("src = {}", tcp_addr(daemon.addr()));
    let listening = must("ss", &["-ltnH", &addr]);
    let words: Vec<_> = listening.split_whitespace().collect();
    let allowed = proc::machine("sys/net/core/somaxconn").expect("a sysctl");
    assert_eq!(words.get(2), Some(&allowed.trim()), "{port}: {listening}");
}

/// Do so many wait, and sleep? One that is on its way there has its last sleep
/// before it, which is no wake-up.
fn asleep(daemon: &Daemon, n: usize) -> bool {
    let members = daemon.members().into_iter();
    let asleep = members.filter(|p| p.comm == "echod-idle" && p.state == 'S');
    asleep.count() == n
}

/// Wake-ups of each idle worker.
fn wakeups(daemon: &Daemon) -> BTreeMap<i32, u64> {
    let idle = daemon.role("echod-idle").into_iter();
    idle.filter_map(|pid| Some((pid, proc::wakeups(pid)?)))
        .collect()
}

/// A client wakes one of 64: counted are the wake-ups of all who took nothing.
#[test]
fn row_11_a_client_wakes_one_worker_of_64() {
    const ROUNDS: u64 = 5;
    const EACH: u64 = 20;
    for (design, limits) in [
        (&PREFORK, pool(64, 64, 64)),
        // Room for one to serve without the pool's being resized, which wakes all.
        (&PREFORK_REUSE, pool(64, 32, 128)),
    ] {
        let daemon = Builder::new().args(design.args).args(limits).start();
        let mut in_vain = 0;
        for round in 1..=ROUNDS {
            poll_until(DEADLINE, "64 asleep", || asleep(&daemon, 64));
            let before = wakeups(&daemon);
            for _ in 0..EACH {
                assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
                // A newborn looks at the queue before it sleeps, and would take
                // the next client from the one who is woken for it.
                poll_until(DEADLINE, "64 asleep", || asleep(&daemon, 64));
            }
            poll_until(DEADLINE, "a line each", || {
                daemon.log_count("conn pid=") as u64 == round * EACH
            });
            let lines = ConnLine::all(&daemon.log());
            let served: BTreeSet<i32> = lines.iter().map(|line| line.pid).collect();
            let spared = before.iter().filter(|(pid, _)| !served.contains(pid));
            let more = |(pid, before): (&i32, &u64)| Some(proc::wakeups(*pid)? - before);
            in_vain += spared.filter_map(more).sum::<u64>();
        }
        // The one that served is the first wake-up.
        let each = 1.0 + in_vain as f64 / (ROUNDS * EACH) as f64;
        println!("{}: {each:.3} wake-ups a connection", design.name);
        assert!(each <= 1.1, "{}: {each} wake-ups", design.name);
    }
}

/// Which of the sleepers is woken is the kernel's choice. Nobody takes its place
/// in the queue of waiters anew to be fair: that would cost each connection two
/// calls, and a worker that serves one at a time cannot be overloaded.
#[test]
fn row_12_a_worker_takes_its_place_once() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let trace = builder.path("trace");
    let daemon = builder
        .under(["strace", "-f", "-o", &trace, "-e", "trace=epoll_ctl"])
        .args(PREFORK_REUSE.args)
        .args(pool(4, 1, 8))
        .start();
    poll_until(DEADLINE, "4 idle", || daemon.role("echod-idle").len() == 4);
    for _ in 0..200 {
        assert_eq!(echo_once(daemon.addr(), b"one"), b"one");
    }
    let mut share = BTreeMap::new();
    for line in ConnLine::all(&daemon.log()) {
        *share.entry(line.pid).or_insert(0) += 1;
    }
    println!("connections of each worker: {share:?}");
    // Who has that name has taken its place.
    let idle = daemon.role("echod-idle");
    let calls = fs::read_to_string(&trace).expect("a trace");
    for pid in idle {
        let of_it = format!("{pid} ");
        let calls = calls.lines().filter(|line| line.starts_with(&of_it));
        // The listener and the pipe of death.
        assert_eq!(calls.filter(|c| c.contains("EPOLL_CTL")).count(), 2);
    }
}

/// The listening sockets of the supervisor, by their inodes.
fn sockets(daemon: &Daemon) -> BTreeSet<String> {
    let all = proc::fd_targets(daemon.pid()).expect("we are root");
    let sockets = all.into_iter().map(|(_, target)| target);
    sockets.filter(|t| t.starts_with("socket:")).collect()
}

/// With a socket a worker, what is queued at one would be lost if it closed with
/// its worker. The supervisor owns them all.
#[test]
fn row_13_a_killed_worker_leaves_its_queue_to_its_replacement() {
    if !need_root() {
        return;
    }
    const N: usize = 4;
    let daemon = Builder::new()
        .args(PREFORK_REUSEPORT.args)
        .args(pool(N, N, N))
        .start();
    let owned = sockets(&daemon);
    assert!(owned.len() >= N, "{owned:?}");
    for round in 0..5u8 {
        poll_until(DEADLINE, "the pool", || {
            daemon.role("echod-idle").len() == N
        });
        let idle = daemon.role("echod-idle");
        // Deaf, so that clients stay in the queues, which die with nobody.
        for &pid in &idle {
            signal(pid, Signal::SIGSTOP);
        }
        poll_until(DEADLINE, "all of them stopped", || {
            idle.iter().all(|&pid| proc::state(pid) == Some('T'))
        });
        let mut queued: Vec<Client> = (0..40).map(|_| Client::connect(daemon.addr())).collect();
        for client in &mut queued {
            client.write_all(&[round; 4]).expect("the kernel takes it");
        }
        for &pid in &idle {
            signal(pid, Signal::SIGKILL);
        }
        for client in &mut queued {
            let mut got = [0; 4];
            client.read_exact(&mut got).expect("served");
            assert_eq!(got, [round; 4]);
            client.shutdown_write().expect("shutdown");
            assert!(client.rest().is_empty());
        }
        assert_eq!(sockets(&daemon), owned, "the same sockets all along");
    }
}

//! What is said of full listen queues: that clients found no room, and not that
//! somebody looked whether the port is open.

use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrStorage, bind, connect, getsockname, listen, sendto, socket,
};

use crate::common::client::tcp_addr;
use crate::common::design::{
    FORK_WAIT, ITERATIVE, PREFORK, PREFORK_PASS, PREFORK_REUSE, PREFORK_REUSEPORT, PRETHREAD,
    THREAD, side_by_side,
};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, echo_once, must, need, need_root, poll_until,
};
use crate::limits::queue::connect_now;

const FULL: &str = "is full: the kernel drops who comes";

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;

/// Sends a TCP segment with these flags from a port that nobody has, so that our
/// kernel resets what is answered: a SYN is then the check of a load balancer.
fn segment(to: SocketAddrV4, port: u16, flags: u8) {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Tcp,
    );
    let raw = raw.expect("a raw socket");
    let mut tcp = [0_u8; 20];
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[7] = 1;
    (tcp[12], tcp[13], tcp[14]) = (5 << 4, flags, 0x20);
    // From 127.0.0.1: the pseudo header of RFC 9293, then the segment.
    let mut sum = 0x7f00 + 1 + u32::from(libc::IPPROTO_TCP as u16) + 20;
    for pair in to.ip().octets().chunks(2).chain(tcp.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    bind(raw.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bind");
    let to = SockaddrIn::from(to);
    sendto(raw.as_raw_fd(), &tcp, &to, MsgFlags::empty()).expect("send");
}

/// Gives this thread, and the daemons it starts, a network of their own: whatever
/// overflows in other tests counts there and not here.
fn alone() -> bool {
    if !need_root() || !need("ip") {
        return false;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
    must("ip", &["link", "set", "lo", "up"]);
    true
}

/// A scan: of each kind some, which the kernel counts as dropped.
fn probe(daemon: &Daemon) {
    let std::net::SocketAddr::V4(to) = tcp_addr(daemon.addr()) else {
        panic!("{}", daemon.addr());
    };
    for n in 0..5 {
        segment(to, 1 + n, SYN);
        segment(to, 1 + n, FIN);
    }
    // A check that gets as far as a connection.
    Client::connect(daemon.addr()).reset();
}

/// Serves for longer than the supervisor may leave the counters alone.
fn serve_a_while(daemon: &Daemon) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(1300) {
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    }
}

/// One place, and a queue for two: the others are dropped, for the time `nth`.
fn overflow(daemon: &Daemon, nth: usize) -> Vec<OwnedFd> {
    let mut holder = Client::connect(daemon.addr());
    holder.ping(b"here");
    let clients: Vec<_> = (0..8).map(|_| connect_now(daemon.addr())).collect();
    poll_until(DEADLINE, "a line that the queue is full", || {
        daemon.log_count(FULL) == nth
    });
    clients
}

const LISTENING: [&Design; 8] = [
    &PREFORK,
    &PREFORK_REUSE,
    &PREFORK_PASS,
    &PREFORK_REUSEPORT,
    &FORK_WAIT,
    &ITERATIVE,
    &THREAD,
    &PRETHREAD,
];

/// One client at a time.
fn small(design: &Design, more: &[&str]) -> Daemon {
    let (args, _) = design.limited_to(1);
    Builder::new().args(args).args(more).start()
}

#[test]
fn row_122_a_probe_is_no_full_queue_and_an_overflow_is_one_each_time() {
    side_by_side(&LISTENING, |design| {
        if !alone() {
            return;
        }
        let daemon = small(design, &["--backlog", "1"]);
        probe(&daemon);
        serve_a_while(&daemon);
        assert_eq!(
            daemon.log_count(FULL),
            0,
            "{}: {}",
            design.name,
            daemon.log()
        );
        for nth in 1..=2 {
            let clients = overflow(&daemon, nth);
            drop(clients);
            let room = "has room again: ";
            poll_until(DEADLINE, "it has room again", || {
                daemon.log_count(room) == nth
            });
            let log = daemon.log();
            let line = log.lines().rfind(|line| line.contains(room));
            let line = line.expect("counted");
            let lost = line.split_once(room).expect("found").1;
            let lost: u64 = lost
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("n");
            // Each of 8 but two, and perhaps once more each.
            assert!((1..=24).contains(&lost), "{}: {line}", design.name);
            probe(&daemon);
            serve_a_while(&daemon);
            assert_eq!(daemon.log_count(FULL), nth, "{}", design.name);
        }
    });
}

/// Another program's queue is its own affair, also while we are probed.
#[test]
fn row_122_another_programs_full_queue_is_not_ours() {
    if !alone() {
        return;
    }
    let stream = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("socket")
    };
    let other = stream();
    bind(other.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bind");
    listen(&other, Backlog::new(1).expect("a backlog")).expect("listen");
    let at: SockaddrStorage = getsockname(other.as_raw_fd()).expect("a name");
    for design in [&PREFORK, &FORK_WAIT] {
        let daemon = small(design, &["--backlog", "8"]);
        let clients: Vec<_> = (0..6).map(|_| stream()).collect();
        for client in &clients {
            let _ = connect(client.as_raw_fd(), &at);
        }
        probe(&daemon);
        serve_a_while(&daemon);
        assert_eq!(daemon.log_count(FULL), 0, "{}", design.name);
    }
}

/// In a root of its own, and where there never was a /proc.
#[test]
fn row_122_it_works_without_proc() {
    if !alone() || !need("unshare") {
        return;
    }
    let hidden = "mount --make-rprivate / && mount -t tmpfs none /proc && exec \"$@\"";
    for (wrapper, more) in [
        (&[][..], &["--chroot"][..]),
        (&["unshare", "-m", "sh", "-c", hidden, "sh"], &[]),
    ] {
        let builder = Builder::new();
        let dir = builder.dir().display().to_string();
        let chroot = more.iter().map(|&option| option.to_owned());
        let chroot = chroot.flat_map(|option| [option, dir.clone()]);
        let daemon = builder
            .under(wrapper)
            .args(FORK_WAIT.args)
            .args(["-c", "1", "--backlog", "1"])
            .args(chroot)
            .start();
        probe(&daemon);
        serve_a_while(&daemon);
        assert_eq!(daemon.log_count(FULL), 0, "{}", daemon.log());
        drop(overflow(&daemon, 1));
    }
}

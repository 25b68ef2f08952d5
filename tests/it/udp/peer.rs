//! Clients for datagrams, and what forges them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::common::{DEADLINE, Daemon, Signal, poll_until};

/// All limits off.
pub const OFF: [&str; 6] = [
    "--udp-rate",
    "off",
    "--udp-global-rate",
    "off",
    "--udp-refuse-port",
    "off",
];

/// The socket address in `udp:HOST:PORT`.
pub fn net(addr: &str) -> SocketAddr {
    let bare = addr.strip_prefix("udp:").expect("udp");
    bare.parse().expect("an address")
}

/// A UDP client that takes replies from anywhere and says from where.
pub struct Peer {
    pub socket: UdpSocket,
    pub server: SocketAddr,
}

impl Peer {
    pub fn to(addr: &str) -> Peer {
        let server = net(addr);
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).expect("bind");
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Peer { socket, server }
    }

    pub fn send(&self, bytes: &[u8]) {
        let sent = self.socket.send_to(bytes, self.server).expect("send");
        assert_eq!(sent, bytes.len());
    }

    /// The next datagram and its sender; `None` at the deadline.
    pub fn next(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = vec![0; 70_000];
        let (n, from) = self.socket.recv_from(&mut buffer).ok()?;
        buffer.truncate(n);
        Some((buffer, from))
    }

    /// One datagram, and exactly that back from where it was sent to.
    #[track_caller]
    pub fn ping(&self, bytes: &[u8]) {
        self.send(bytes);
        let (reply, from) = self.next().expect("a reply");
        assert_eq!(from, self.server);
        assert!(reply == bytes, "the echo is not what was sent");
    }

    /// Whether an echo comes within `time`.
    pub fn answered_within(&self, time: Duration, bytes: &[u8]) -> bool {
        self.socket.set_read_timeout(Some(time)).expect("timeout");
        self.send(bytes);
        let reply = self.next();
        self.socket
            .set_read_timeout(Some(DEADLINE))
            .expect("timeout");
        reply.is_some_and(|(reply, _)| reply == bytes)
    }
}

/// A client of a Unix datagram socket, with an abstract name of its own: a file
/// would have to be writable for the server's user.
pub struct Gram {
    pub socket: UnixDatagram,
}

impl Gram {
    pub fn to(addr: &str) -> Gram {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echod-gram-{}-{n}", std::process::id());
        let own = UnixAddr::from_abstract_name(name).expect("a name");
        let socket = UnixDatagram::bind_addr(&own).expect("bind");
        let path = addr.strip_prefix("unixgram:").expect("unixgram");
        match path.strip_prefix('@') {
            Some(name) => {
                let server = UnixAddr::from_abstract_name(name).expect("a name");
                socket.connect_addr(&server).expect("connect");
            }
            None => socket.connect(path).expect("connect"),
        }
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Gram { socket }
    }

    pub fn send(&self, bytes: &[u8]) {
        assert_eq!(self.socket.send(bytes).expect("send"), bytes.len());
    }

    #[track_caller]
    pub fn ping(&self, bytes: &[u8]) {
        self.send(bytes);
        let mut reply = vec![0; 70_000];
        let n = self.socket.recv(&mut reply).expect("a reply");
        assert!(&reply[..n] == bytes, "the echo is not what was sent");
    }
}

/// Sends IPv4 datagrams in anybody's name; for root.
pub struct Forger(OwnedFd);

impl Forger {
    pub fn new() -> Forger {
        let raw = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        );
        Forger(raw.expect("a raw socket"))
    }

    /// raw(7): the kernel fills in length, identification and IP checksum; a UDP
    /// checksum of 0 is none.
    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(u16::try_from(8 + bytes.len()).expect("fits").to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(bytes);
        let to = SockaddrIn::from(to);
        let sent = sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty());
        assert_eq!(sent, Ok(packet.len()), "{from} to {to}");
    }
}

/// `127.0.0.HOST:PORT`.
pub fn lo(host: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), port)
}

/// The address as the forger wants it.
pub fn v4(addr: &str) -> SocketAddrV4 {
    match net(addr) {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(v6) => panic!("{v6}"),
    }
}

/// Stops the daemon; what its first datagram socket said of itself at the end:
/// `120 datagrams answered, 3 dropped (--udp-rate 3)`.
#[track_caller]
pub fn end(daemon: &Daemon) -> String {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    let log = daemon.log();
    let said =
        |line: &&str| line.contains("datagrams answered") || line.contains("datagram answered");
    let line = log.lines().find(said);
    line.expect("a summary").to_owned()
}

/// The number before `word` in a summary; 0 if it is not there.
pub fn count(said: &str, word: &str) -> u64 {
    let words: Vec<_> = said.split([' ', ',', '(', ')']).collect();
    let is = |said: &str| said.trim_end_matches('s') == word.trim_end_matches('s');
    let before = |w: &[&str]| is(w[1]).then(|| w[0].parse().expect("a number"));
    words.windows(2).find_map(before).unwrap_or(0)
}

/// Waits until this host, an IPv6 address just given to an interface, is ours;
/// until then the kernel looks for it on the link. `within` is what to run ip(8)
/// by: nothing, or nsenter(1) and its words.
pub fn wait_local(within: &[&str], host: &str) {
    let (first, rest) = match within {
        [] => ("ip", &[][..]),
        [first, rest @ ..] => (*first, rest),
    };
    let ip = (!rest.is_empty()).then_some("ip");
    let local = format!("local {host} ");
    poll_until(DEADLINE, "a local address", || {
        let words = rest.iter().copied().chain(ip);
        let show = words.chain(["-6", "route", "show", "table", "local"]);
        let out = Command::new(first).args(show).output().expect("ip");
        String::from_utf8_lossy(&out.stdout).contains(&local)
    });
}

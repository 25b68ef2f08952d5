use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, socket};

use super::*;
use crate::config::Timeouts;

const OPTIONS: ListenOptions = ListenOptions {
    backlog: None,
    timeouts: Timeouts {
        idle: None,
        write: None,
        lifetime: None,
    },
    sockets: 1,
    dry: false,
};

fn look(fd: impl Into<OwnedFd>) -> Result<Handed, Error> {
    Handed::new(fd.into(), "descriptor 3 (test)".to_owned())
}

fn family(family: AddressFamily, kind: SockType) -> OwnedFd {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket")
}

#[test]
fn what_cannot_be_served_at_is_refused_by_what_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (pair, _other) = UnixStream::pair().expect("pair");
    let dual = {
        let fd = family(AddressFamily::Inet6, SockType::Datagram);
        nix::sys::socket::setsockopt(&fd, sockopt::Ipv6V6Only, &false).expect("option");
        let any = SockaddrStorage::from(SocketAddr::from(([0u16; 8], 0)));
        nix::sys::socket::bind(fd.as_raw_fd(), &any).expect("bind");
        fd
    };
    let table: [(OwnedFd, &str); 9] = [
        (
            std::fs::File::open("/dev/null").expect("open").into(),
            "not a socket",
        ),
        (client.into(), "a connection"),
        (pair.into(), "a connection"),
        (
            family(AddressFamily::Inet, SockType::Stream),
            "does not listen",
        ),
        (family(AddressFamily::Inet, SockType::Datagram), "no port"),
        (
            UnixDatagram::unbound().expect("socket").into(),
            "no address",
        ),
        (family(AddressFamily::Unix, SockType::SeqPacket), "neither"),
        (family(AddressFamily::Netlink, SockType::Datagram), "family"),
        (dual, "BindIPv6Only"),
    ];
    for (fd, part) in table {
        let error = look(fd).expect_err(part);
        assert_eq!(error.status(), Exit::Config, "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("LISTEN_FDS: descriptor 3 (test): "),
            "{text}"
        );
        assert!(text.contains(part), "{text}: {part}");
    }
}

#[test]
fn a_stream_is_left_to_its_owner_at_the_end() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    let theirs = UnixListener::bind(&path).expect("bind");
    let handed = look(theirs.try_clone().expect("copy")).expect("a listener");
    assert_eq!(
        handed.spec().to_string(),
        format!("unix:{}", path.display())
    );
    let Ok(Opened::Stream(ours)) = handed.open(&OPTIONS) else {
        panic!("a stream");
    };
    assert!(ours.is_handed());
    ours.refuse_new().expect("nothing to do");
    ours.shut().expect("nothing to do");
    assert_eq!(ours.unlink(), Ok(false));
    let _queued = UnixStream::connect(&path).expect("still open");
    assert_eq!(ours.accept().map(drop), Ok(()));
    assert_eq!(ours.accept().map(drop), Err(Errno::EAGAIN), "non-blocking");
    drop(ours);
    UnixStream::connect(&path).expect("theirs");
}

#[test]
fn options_of_a_former_echod_do_not_stay() {
    let theirs = TcpListener::bind("127.0.0.1:0").expect("bind");
    let open = |idle: Option<std::time::Duration>| {
        let timeouts = Timeouts {
            idle,
            write: idle,
            ..OPTIONS.timeouts
        };
        let options = ListenOptions {
            timeouts,
            ..OPTIONS
        };
        let copy = theirs.try_clone().expect("copy");
        look(copy)
            .expect("a listener")
            .open(&options)
            .expect("opens");
        let micros = getsockopt(&theirs, sockopt::ReceiveTimeout).expect("option");
        let user = getsockopt(&theirs, sockopt::TcpUserTimeout).expect("option");
        (micros.tv_sec(), user)
    };
    assert_eq!(open(Some(std::time::Duration::from_secs(7))), (7, 7000));
    assert_eq!(open(None), (0, 0));
}

#[test]
fn datagrams_wait_and_are_not_made_deaf() {
    let theirs = UdpSocket::bind("127.0.0.1:0").expect("bind");
    theirs.set_nonblocking(true).expect("nonblocking");
    let to = theirs.local_addr().expect("address");
    let handed = look(theirs.try_clone().expect("copy")).expect("a socket");
    let Ok(Opened::Datagram(ours)) = handed.open(&OPTIONS) else {
        panic!("datagrams");
    };
    assert_eq!(ours.name(), format!("udp:{to}"));
    assert_eq!(ours.port(), Some(to.port()));
    let flags = fcntl(ours.as_fd(), FcntlArg::F_GETFL).expect("flags");
    assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    ours.deafen().expect("nothing to do");
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.send_to(b"late", to).expect("send");
    assert_eq!(theirs.recv(&mut [0; 8]).expect("it came"), 4);
}

//! Clients that come in masses and behave badly: resets, scans, descriptors
//! sent along.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::pipe;

use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_REUSE, PRETHREAD, THREAD, pool};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Design, echo_once, pattern, poll_until, proc,
    zombies,
};

/// How many; a soak sets more.
fn clients() -> u64 {
    let asked = std::env::var("ECHOD_TEST_CONNECTIONS").ok();
    asked.map_or(600, |n| n.parse().expect("a number"))
}

/// A reset at any byte is how some clients leave: not worth a line, and nobody
/// dies of SIGPIPE.
#[test]
fn row_81_resets_in_mid_stream_are_ordinary_ends() {
    for design in [&PREFORK, &PREFORK_REUSE, &FORK_WAIT, &THREAD] {
        let daemon = Builder::new()
            .args(design.args)
            .env("RUST_LOG", "info")
            .start();
        let before = daemon.log().lines().count();
        for n in 0..clients() {
            let mut client = Client::connect(daemon.addr());
            // Not random, but every stage: before, in and after an echo.
            let sent = pattern(n, 1 + (n as usize * 977) % 50_000);
            client.write_all(&sent).expect("the kernel takes it");
            let mut got = vec![0; n as usize * 31 % sent.len()];
            client.read_exact(&mut got).expect("the echo");
            client.reset();
        }
        poll_until(DEADLINE, "nobody serves", || {
            daemon.role("echod-conn").is_empty()
        });
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
        let lines = daemon.log().lines().count() - before;
        assert_eq!(lines, 0, "{}: {}", design.name, daemon.log());
        poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
    }
}

/// With the access log on, each is named for what it was.
#[test]
fn row_81_a_reset_is_called_one_in_the_access_log() {
    let daemon = Builder::new().args(PREFORK.args).start();
    for _ in 0..20 {
        let mut client = Client::connect(daemon.addr());
        let peer = client.peer_name();
        client.ping(b"served");
        client.write_all(&pattern(0, 30_000)).expect("send");
        client.reset();
        let line = daemon.conn_line(&peer);
        assert_eq!(line.end, "reset", "{line:?}");
    }
}

/// Connections that end before they say anything: no line each, workers that are
/// reused cost no fork, and afterwards there is rest.
#[test]
fn row_85_a_scan_costs_no_line_and_leaves_rest_behind() {
    for (design, forks) in [
        (&PREFORK, true),
        (&PREFORK_REUSE, false),
        (&PRETHREAD, false),
    ] {
        let daemon = Builder::new()
            .args(design.args)
            .args(pool(8, 4, 64))
            .env("RUST_LOG", "info")
            .start();
        poll_until(DEADLINE, "the pool", || {
            !design.name.starts_with("prefork") || daemon.role("echod-idle").len() == 8
        });
        assert_eq!(echo_once(daemon.addr(), b"warm"), b"warm");
        let workers = proc::children(daemon.pid());
        let before = daemon.log().lines().count();
        for _ in 0..3 * clients() {
            drop(Client::connect(daemon.addr()));
        }
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
        let lines = daemon.log().lines().count() - before;
        assert_eq!(lines, 0, "{}: {}", design.name, daemon.log());
        if !forks {
            let now = proc::children(daemon.pid());
            let stayed = workers.iter().all(|pid| now.contains(pid));
            assert!(stayed, "{}: {workers:?}, then {now:?}", design.name);
        }
        poll_until(DEADLINE, "nobody serves", || {
            daemon.role("echod-conn").is_empty()
        });
        let rests = || {
            let members = || daemon.members().iter().map(|p| p.ticks).sum::<u64>();
            let before = members();
            std::thread::sleep(std::time::Duration::from_millis(300));
            members() == before
        };
        poll_until(DEADLINE, "a third of a second of rest", rests);
    }
}

/// As many descriptors as a message takes (SCM_MAX_FD, unix(7)), and a byte.
fn send_descriptors(to: &impl AsFd, fd: &OwnedFd) {
    let fds = [fd.as_raw_fd(); 253];
    let bytes = [std::io::IoSlice::new(b"x")];
    let message = [ControlMessage::ScmRights(&fds)];
    let to = to.as_fd().as_raw_fd();
    let sent = sendmsg::<()>(to, &bytes, &message, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(1));
}

/// The write end of a pipe is sent along, many times. Once ours is closed the
/// reader finds the end of file, or somebody has kept a copy.
fn sent_and_dropped(design: &Design, send: impl Fn(&OwnedFd)) {
    let (reader, writer) = pipe().expect("pipe");
    for _ in 0..40 {
        send(&writer);
    }
    drop(writer);
    let mut fds = [nix::poll::PollFd::new(
        reader.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    let timeout = nix::poll::PollTimeout::try_from(DEADLINE).expect("fits");
    let ended = nix::poll::poll(&mut fds, timeout);
    assert_eq!(ended, Ok(1), "{}: descriptors are kept", design.name);
}

#[test]
fn row_87_descriptors_sent_along_are_dropped() {
    for design in DESIGNS.iter().filter(|design| !design.tcp_only) {
        let builder = Builder::new();
        let path = format!("unix:{}", builder.path("sock"));
        let daemon = builder.args(design.args).args(["-l", &path]).start();
        let mut client = Client::connect(daemon.addr());
        sent_and_dropped(design, |fd| {
            send_descriptors(&client, fd);
            client.handle().read_exact(&mut [0]).expect("the echo");
        });
        client.ping(b"served on");
        assert_eq!(ConnLine::all(&daemon.log()).len(), 0, "the same connection");
    }
}

/// The datagram worker lives for ever, and would keep them as long.
#[test]
fn row_87_descriptors_sent_with_a_datagram_are_dropped() {
    let builder = Builder::new();
    let path = builder.path("sock");
    let daemon = builder.args(["-l", &format!("unixgram:{path}")]).start();
    let own = daemon.dir().join("client");
    let socket = std::os::unix::net::UnixDatagram::bind(&own).expect("bind");
    crate::common::must("chmod", &["0777", &own.display().to_string()]);
    socket.connect(&path).expect("connect");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    sent_and_dropped(&PREFORK, |fd| {
        send_descriptors(&socket, fd);
        assert_eq!(socket.recv(&mut [0; 8]).expect("the echo"), 1);
    });
}

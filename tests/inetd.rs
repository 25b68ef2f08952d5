//! `--inetd`: one connection, accepted by somebody else, is descriptor 0.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::client::tcp_addr;
use common::{
    Client, DEADLINE, Signal, is_root, need, need_root, pattern, poll_some, proc, signal,
};

/// echod under a test's own hands; killed if the test fails before its end.
struct Inetd(Child);

impl Inetd {
    fn spawn(mut command: Command) -> Inetd {
        Inetd(command.stdout(Stdio::null()).spawn().expect("it starts"))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        poll_some(DEADLINE, "echod ends", || {
            self.0.try_wait().expect("our own child")
        })
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ECHOD: &str = env!("CARGO_BIN_EXE_echod");

fn echod(args: &[&str], stdin: impl Into<Stdio>) -> Command {
    let mut command = Command::new(ECHOD);
    command.arg("--inetd").args(args).stdin(stdin);
    command
}

/// Our end, and an echod on the other.
fn connected(args: &[&str]) -> (UnixStream, Inetd) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    ours.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    let inetd = Inetd::spawn(echod(args, OwnedFd::from(theirs)));
    (ours, inetd)
}

#[track_caller]
fn ping(client: &mut (impl Read + Write), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.write_all(bytes).expect("send");
    client.read_exact(&mut got).expect("the echo");
    assert!(got == bytes, "the echo is not what was sent");
}

/// Sends our end of file and expects the server's.
#[track_caller]
fn leave(mut client: UnixStream) {
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn it_echoes_honours_half_close_and_exits_0() {
    for sandbox in ["strict", "best-effort", "off"] {
        let (mut client, mut inetd) = connected(&["--sandbox", sandbox]);
        ping(&mut client, b"hello");
        let sent = pattern(3, 60_000);
        client.write_all(&sent).expect("send");
        client.shutdown(Shutdown::Write).expect("shutdown");
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the rest");
        assert!(got == sent, "{sandbox}: not what was sent");
        assert_eq!(inetd.wait().code(), Some(0), "{sandbox}");
    }
}

#[test]
fn a_tcp_connection_is_served_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", listener.local_addr().expect("an address"));
    let mut client = Client::connect(&addr);
    let (theirs, _) = listener.accept().expect("accept");
    let mut inetd = Inetd::spawn(echod(&[], OwnedFd::from(theirs)));
    client.ping(&pattern(0, 10_000));
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    assert_eq!(inetd.wait().code(), Some(0));
}

#[test]
fn its_worker_is_locked_in_and_holds_the_connection_alone() {
    let (mut client, inetd) = connected(&["--sandbox", "strict"]);
    ping(&mut client, b"hello");
    let pid = inetd.pid();
    assert_eq!(proc::comm(pid), "echod-conn");
    let seccomp = proc::status(pid, "Seccomp");
    assert!(matches!(seccomp.as_deref(), Some("1" | "2")), "{seccomp:?}");
    assert_eq!(proc::status(pid, "NoNewPrivs").as_deref(), Some("1"));
    if let Some(fds) = proc::fd_targets(pid).filter(|_| is_root()) {
        assert_eq!(fds.len(), 1, "{fds:?}");
        assert!(fds[0].1.starts_with("socket:"), "{fds:?}");
    }
    leave(client);
}

#[test]
fn root_is_given_up() {
    if !need_root() {
        return;
    }
    for (args, uid) in [(&[][..], "65534"), (&["--user", "65533:65533"], "65533")] {
        let (mut client, inetd) = connected(args);
        ping(&mut client, b"hello");
        let uids = proc::status(inetd.pid(), "Uid").expect("a process");
        assert!(uids.split_whitespace().all(|one| one == uid), "{uids}");
        assert_eq!(
            proc::status(inetd.pid(), "CapEff").as_deref(),
            Some("0000000000000000")
        );
        leave(client);
    }
}

#[test]
fn the_timeouts_hold() {
    for args in [["--idle-timeout", "200ms"], ["--max-lifetime", "200ms"]] {
        let (mut client, mut inetd) = connected(&args);
        ping(&mut client, b"hello");
        assert_eq!(client.read(&mut [0]).expect("the end"), 0, "{args:?}");
        inetd.wait();
    }
}

#[test]
fn term_ends_it() {
    let (mut client, mut inetd) = connected(&[]);
    ping(&mut client, b"hello");
    signal(inetd.pid(), Signal::SIGTERM);
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    inetd.wait();
}

#[test]
fn a_descriptor_0_that_is_no_connection_is_64() {
    let (_, pipe) = std::io::pipe().map(|(r, w)| (w, r)).expect("a pipe");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let datagrams = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let table: [(&str, Stdio); 4] = [
        ("/dev/null", Stdio::null()),
        ("a pipe", pipe.into()),
        ("a listener", OwnedFd::from(listener).into()),
        ("datagrams", OwnedFd::from(datagrams).into()),
    ];
    for (what, stdin) in table {
        let out = echod(&[], stdin).output().expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(64), "{what}: {said}");
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        assert!(said.contains("--inetd"), "{what}: {said}");
    }
}

/// inetd(8) gives the connection as 0, 1 and 2: a message would be an echo of
/// something nobody sent.
#[test]
fn nothing_is_written_to_a_standard_error_that_is_the_client() {
    for args in [&["--user", "no-such-user"][..], &["--no-such-option"], &[]] {
        let (mut client, theirs) = UnixStream::pair().expect("a pair");
        let mut command = echod(args, theirs.try_clone().map(OwnedFd::from).expect("dup"));
        command.stderr(OwnedFd::from(theirs));
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut inetd = Inetd::spawn(command);
        client.shutdown(Shutdown::Write).expect("shutdown");
        let status = inetd.wait();
        assert_eq!(status.success(), args.is_empty());
        let mut text = String::new();
        // An echod that fails closes with our end of file unread, or read.
        let _ = client.read_to_string(&mut text);
        assert_eq!(text, "", "{args:?}");
    }
}

#[test]
fn it_serves_behind_socat() {
    if !need("socat") {
        return;
    }
    let exec = format!("EXEC:{ECHOD} --inetd");
    let mut command = Command::new("socat");
    let listen = "TCP-LISTEN:0,bind=127.0.0.1,fork";
    command
        .args(["-d", "-d", listen, &exec])
        .stdin(Stdio::null());
    let mut socat = Inetd::spawn({
        command.stderr(Stdio::piped());
        command
    });
    let mut said = BufReader::new(socat.0.stderr.take().expect("a pipe"));
    let addr = loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("read") > 0, "socat ended");
        if let Some((_, addr)) = line.trim().split_once("listening on AF=2 ") {
            break format!("tcp:{addr}");
        }
    };
    for n in 0..3 {
        let sent = pattern(n, 20_000);
        assert!(common::echo_once(&addr, &sent) == sent);
    }
}

#[test]
fn it_serves_under_systemds_accept_yes() {
    if !need("systemd-socket-activate") {
        return;
    }
    let picked = TcpListener::bind("127.9.8.7:0").expect("bind");
    let addr = format!("tcp:{}", picked.local_addr().expect("an address"));
    drop(picked);
    let mut command = Command::new("systemd-socket-activate");
    let listen = tcp_addr(&addr).to_string();
    command.args(["-l", &listen, "-a", "--inetd", ECHOD, "--inetd"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let _activator = Inetd::spawn(command);
    let mut client = poll_some(DEADLINE, "somebody listens", || {
        Client::try_connect(&addr).ok()
    });
    client.ping(b"hello");
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
}

//! `--inetd`: one connection, accepted by somebody else, is descriptor 0.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::common::client::{is_timeout, tcp_addr};
use crate::common::{
    Client, DEADLINE, ONCE, at_once, is_root, need, need_root, pattern, poll_some, poll_until, proc,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

/// A client that reads once for each time it writes, over both families; and what
/// follows a small answer does not wait for its acknowledgement.
#[test]
fn row_121_one_write_comes_back_in_one_read() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", listener.local_addr().expect("an address"));
    for bytes in ONCE {
        let sent = pattern(bytes as u64, bytes);
        for _ in 0..5 {
            let mut tcp = Client::connect(&addr);
            let (theirs, _) = listener.accept().expect("accept");
            let socket = theirs.try_clone().expect("dup");
            let _served = Inetd::spawn(echod(&[], OwnedFd::from(theirs)));
            let (ours, _inetd) = connected(&[]);
            let mut unix = Client::Unix(ours);
            for client in [&mut tcp, &mut unix] {
                let came = client.once(&sent);
                assert!(came >= at_once(bytes), "{came} of {bytes}: {client:?}");
            }
            assert!(socket.nodelay().expect("an option"));
        }
    }
}

/// Row 121 again, whoever has accepted: what was written once comes in one read.
#[track_caller]
fn comes_at_once(addr: &str, most: usize) {
    for bytes in ONCE.into_iter().filter(|bytes| *bytes <= most) {
        let sent = pattern(bytes as u64, bytes);
        for _ in 0..3 {
            let mut client = Client::connect(addr);
            client.set_timeouts(DEADLINE);
            let first = client.once(&sent);
            assert!(first >= at_once(bytes), "{first} of {bytes}: {addr}");
            client
                .read_exact(&mut vec![0; bytes - first])
                .expect("the rest");
            let next = client.once(&sent);
            assert!(next >= at_once(bytes), "{next} of {bytes}: {addr}");
        }
    }
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
fn row_103_the_timeouts_hold_and_are_no_failure() {
    for args in [["--idle-timeout", "200ms"], ["--max-lifetime", "200ms"]] {
        let (mut client, mut inetd) = connected(&args);
        ping(&mut client, b"hello");
        assert_eq!(client.read(&mut [0]).expect("the end"), 0, "{args:?}");
        assert_eq!(inetd.wait().code(), Some(0), "{args:?}");
    }
}

/// Who accepted it may have made it so, for an event loop of its own.
#[test]
fn row_118_a_nonblocking_connection_is_served() {
    for args in [&[][..], &["--sandbox", "off"], &["--idle-timeout", "10s"]] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        theirs.set_nonblocking(true).expect("fcntl");
        let inetd = Inetd::spawn(echod(args, OwnedFd::from(theirs)));
        served_slowly(ours, inetd);

        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (theirs, _) = listener.accept().expect("accept");
        theirs.set_nonblocking(true).expect("fcntl");
        let inetd = Inetd::spawn(echod(args, OwnedFd::from(theirs)));
        served_slowly(ours, inetd);
    }
}

/// Waits for each client's word, and for room for each answer.
#[track_caller]
fn served_slowly(mut client: impl AsFd + Read + Write, mut inetd: Inetd) {
    let mut late = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    // An absence: nothing is asked, so nothing comes, not even an end.
    let quiet = poll(&mut late, PollTimeout::from(200u8));
    assert_eq!(quiet, Ok(0), "it did not wait for its client");
    ping(&mut client, b"late");
    // More than all buffers hold, and read only then.
    let sent = pattern(118, 8 << 20);
    let fd = client.as_fd().try_clone_to_owned().expect("dup");
    std::thread::scope(|scope| {
        scope.spawn(|| std::fs::File::from(fd).write_all(&sent).expect("send"));
        poll_until(DEADLINE, "it waits for room", || {
            proc::state(inetd.pid()) == Some('S')
        });
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).expect("the echo");
        assert!(got == sent, "not what was sent");
    });
    drop(client);
    assert_eq!(inetd.wait().code(), Some(0));
}

#[test]
fn row_119_an_alarm_of_the_starter_ends_nobody() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command = echod(&[], OwnedFd::from(theirs));
    // SAFETY: alarm(2) takes an integer, sigprocmask(2) a set on the stack, and both
    // are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // The program may take longer to start than that.
            nix::sys::signal::SigSet::all().thread_block()?;
            nix::libc::alarm(1);
            Ok(())
        });
    }
    let mut inetd = Inetd::spawn(command);
    let mut client = ours;
    ping(&mut client, b"before");
    client
        .set_read_timeout(Some(Duration::from_millis(1200)))
        .expect("a timeout");
    let silent = client.read(&mut [0]).expect_err("silence");
    assert!(is_timeout(&silent), "{silent}");
    ping(&mut client, b"after");
    leave(client);
    assert_eq!(inetd.wait().code(), Some(0));
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
        assert!(crate::common::echo_once(&addr, &sent) == sent);
    }
    // It copies, by 8 KiB.
    comes_at_once(&addr, 8192);
}

#[test]
fn it_serves_under_systemds_accept_yes() {
    if !need("systemd-socket-activate") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let unix = format!("unix:{}", dir.path().join("s").display());
    for addr in [picked(), unix] {
        let mut command = Command::new("systemd-socket-activate");
        let listen = match addr.strip_prefix("unix:") {
            Some(path) => path.to_owned(),
            None => tcp_addr(&addr).to_string(),
        };
        command.args(["-l", &listen, "-a", "--inetd", ECHOD, "--inetd"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let _activator = Inetd::spawn(command);
        let mut client = poll_some(DEADLINE, "somebody listens", || {
            Client::try_connect(&addr).ok()
        });
        client.ping(b"hello");
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
        comes_at_once(&addr, usize::MAX);
    }
}

/// A port that nobody has, at an address that nobody uses.
fn picked() -> String {
    let picked = TcpListener::bind("127.9.8.6:0").expect("bind");
    format!("tcp:{}", picked.local_addr().expect("an address"))
}

/// Our own user: a super-server that is not root can serve as no other.
fn user() -> String {
    let out = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8(out.stdout)
        .expect("a name")
        .trim()
        .to_owned()
}

/// Several clients one after the other and at once, from a super-server that
/// starts an echod for each; afterwards it has no child left.
#[track_caller]
fn serves(server: &Inetd, addr: &str) {
    let mut first = poll_some(DEADLINE, "somebody listens", || {
        Client::try_connect(addr).ok()
    });
    first.set_timeouts(DEADLINE);
    first.ping(b"hello");
    for n in 0..3 {
        let sent = pattern(n, 20_000);
        assert!(crate::common::echo_once(addr, &sent) == sent);
    }
    comes_at_once(addr, usize::MAX);
    let echods = || {
        let all = proc::all().into_iter().filter(|p| p.ppid == server.pid());
        all.filter(|p| p.comm == "echod-conn").collect::<Vec<_>>()
    };
    let mut second = Client::connect(addr);
    second.ping(b"and at once");
    let serving = poll_some(DEADLINE, "an echod for each", || {
        Some(echods()).filter(|echods| echods.len() == 2)
    });
    if is_root() {
        for echod in serving {
            let uids = proc::status(echod.pid, "Uid").expect("a process");
            assert!(uids.split_whitespace().all(|uid| uid == "65534"), "{uids}");
        }
    }
    first.ping(b"hello");
    for mut client in [first, second] {
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
    }
    crate::common::poll_until(DEADLINE, "no child is left", || {
        proc::children(server.pid()).is_empty()
    });
}

/// GNU's.
const INETD: &str = "inetutils-inetd";

#[test]
fn it_serves_under_inetd() {
    if !need(INETD) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let conf = dir.path().join("inetd.conf");
    let addr = picked();
    let (service, user) = (tcp_addr(&addr), user());
    let line = format!("{service} stream tcp nowait {user} {ECHOD} echod --inetd\n");
    std::fs::write(&conf, line).expect("its configuration");
    let mut command = Command::new(INETD);
    // -d: in the foreground. The pidfile is else the machine's.
    let pidfile = format!("--pidfile={}", dir.path().join("pid").display());
    command.args(["-d", &pidfile]).arg(&conf);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    serves(&Inetd::spawn(command), &addr);
}

#[test]
fn it_serves_under_xinetd() {
    if !need("xinetd") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let addr = picked();
    let (socket, user) = (tcp_addr(&addr), user());
    let (bind, port) = (socket.ip(), socket.port());
    let conf = format!(
        "service echod\n{{\n\
         type = UNLISTED\nsocket_type = stream\nprotocol = tcp\nwait = no\n\
         user = {user}\nbind = {bind}\nport = {port}\n\
         server = {ECHOD}\nserver_args = --inetd\n}}\n"
    );
    std::fs::write(path("conf"), conf).expect("its configuration");
    let mut command = Command::new("xinetd");
    command.arg("-dontfork").arg("-f").arg(path("conf"));
    command.arg("-pidfile").arg(path("pid"));
    command.arg("-filelog").arg(path("log"));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    serves(&Inetd::spawn(command), &addr);
}

#[test]
fn it_serves_under_tcpserver() {
    if !need("tcpserver") {
        return;
    }
    // -1: says its port; the others: looks up nothing about a client.
    let mut command = Command::new("tcpserver");
    command.args(["-1", "-q", "-H", "-R", "-l", "0", "127.0.0.1", "0", ECHOD]);
    command.arg("--inetd").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut server = Inetd(child);
    let mut said = BufReader::new(server.0.stdout.take().expect("a pipe"));
    let mut port = String::new();
    said.read_line(&mut port).expect("its port");
    serves(&server, &format!("tcp:127.0.0.1:{}", port.trim()));
}

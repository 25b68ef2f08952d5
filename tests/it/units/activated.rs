//! systemd-socket-activate(1), which hands over as systemd itself does.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::common::{Client, DEADLINE, Daemon, Signal, need, poll_until, proc};

const TOOL: &str = "systemd-socket-activate";

/// Under the tool, which listens at once and executes echod in its place when
/// the first client comes.
fn under(options: &[&str], args: &[&str]) -> Daemon {
    let builder = Daemon::builder();
    let dir = builder.dir();
    let options = options
        .iter()
        .map(|word| word.replace("{}", &dir.display().to_string()));
    // It passes on what it is told to, and no more.
    let words = [TOOL.to_owned(), "-ERUST_LOG".to_owned()];
    builder
        .bare()
        .under(words.into_iter().chain(options))
        .args(args)
        .spawn()
}

/// The supervisor is the tool's process; it has echod's name when it serves.
fn wait_serving(daemon: &Daemon) {
    let serves = || proc::comm(daemon.pid()) == "echod";
    poll_until(DEADLINE, "echod in the tool's place", serves);
}

fn wait_socket(path: &Path) {
    poll_until(DEADLINE, "a socket file", || path.exists());
}

#[test]
fn several_streams_with_names_are_served() {
    if !need(TOOL) {
        return;
    }
    let unique = format!("@echod-activated-{}", std::process::id());
    let options = ["-l", "{}/one", "-l", &unique, "--fdname=one:two"];
    let daemon = under(&options, &["--stop-settle", "0"]);
    let path = daemon.dir().join("one");
    wait_socket(&path);
    let addrs = [format!("unix:{}", path.display()), format!("unix:{unique}")];
    for addr in &addrs {
        let mut client = {
            // The second is bound after the first, and the tool may be at it.
            let mut made = None;
            poll_until(DEADLINE, "a connection", || {
                made = Client::try_connect(addr).ok();
                made.is_some()
            });
            made.expect("connected")
        };
        client.ping(b"served");
    }
    wait_serving(&daemon);
    for (addr, label) in addrs.iter().zip(["3 (one)", "4 (two)"]) {
        let line = format!("listening on {addr}, handed over as descriptor {label}");
        daemon.wait_log(&line, DEADLINE);
    }
    assert_eq!(daemon.log_count("listening on"), 2);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(path.exists(), "a file that is not ours");
}

#[test]
fn a_datagram_socket_is_served() {
    if !need(TOOL) {
        return;
    }
    let daemon = under(&["-d", "-l", "{}/gram"], &["--stop-settle", "0"]);
    let (path, own) = (daemon.dir().join("gram"), daemon.dir().join("client"));
    let client = UnixDatagram::bind(&own).expect("bind");
    let all = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&own, all).expect("chmod");
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    wait_socket(&path);
    // What starts it came before anybody asked whose it is, and goes unanswered.
    client.send_to(b"start", &path).expect("send");
    wait_serving(&daemon);
    client.set_nonblocking(true).expect("nonblocking");
    poll_until(DEADLINE, "the echo", || {
        let _ = client.send_to(b"gram", &path);
        client.recv(&mut [0; 16]).is_ok_and(|n| n == 4)
    });
    let line = format!("listening on unixgram:{}, handed over", path.display());
    daemon.wait_log(&line, DEADLINE);
}

/// `Accept=yes` hands a connection over for `--inetd`, and that is served.
#[test]
fn a_connection_for_inetd_is_served() {
    if !need(TOOL) {
        return;
    }
    let daemon = under(&["--accept", "--inetd", "-l", "{}/each"], &["--inetd"]);
    let path = daemon.dir().join("each");
    wait_socket(&path);
    let mut client = Client::connect(&format!("unix:{}", path.display()));
    client.ping(b"served");
    client.shutdown_write().expect("shutdown");
    assert_eq!(client.rest(), b"");
}

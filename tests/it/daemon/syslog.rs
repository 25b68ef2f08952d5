//! Where a daemon's log goes when nobody says: /dev/log, if there is one.
//!
//! With a /dev of the test's own in a mount namespace, so that no real syslog
//! hears of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, echo_once, need, need_root, poll_until,
};
use crate::daemon::{detached, stop};

/// An echod that sees the builder's `dev` as /dev, with null and no more.
fn with_own_dev(builder: Builder) -> (Builder, PathBuf) {
    let dev = builder.dir().join("dev");
    fs::create_dir(&dev).expect("mkdir");
    fs::set_permissions(&dev, Permissions::from_mode(0o755)).expect("chmod");
    let script = "touch \"$0/null\" && mount --bind /dev/null \"$0/null\" \
                  && mount --rbind \"$0\" /dev && exec \"$@\"";
    let dir = dev.display().to_string();
    (
        builder.under(["unshare", "-m", "sh", "-c", script, &dir]),
        dev,
    )
}

fn bind_log(dev: &Path) -> UnixDatagram {
    let path = dev.join("log");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("bind");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("chmod");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buf = [0; 8192];
    let n = socket.recv(&mut buf).expect("a line");
    String::from_utf8(buf[..n].to_vec()).expect("text")
}

/// The next line that holds `text`, without its header, which is checked.
#[track_caller]
fn hear(socket: &UnixDatagram, daemon: &Daemon, priority: u8, text: &str) -> String {
    loop {
        let line = receive(socket);
        assert!(!line.contains('\n'), "one line a datagram: {line}");
        if line.contains(text) {
            let header = format!("<{priority}>echod[{}]: ", daemon.pid());
            let rest = line.strip_prefix(&header);
            return rest
                .unwrap_or_else(|| panic!("not {header}: {line}"))
                .to_owned();
        }
    }
}

fn possible() -> bool {
    need_root() && need("unshare")
}

#[test]
fn without_dev_log_the_starter_warns_and_names_the_option() {
    if !possible() {
        return;
    }
    // Whatever the log's own filter lets through.
    for filter in ["", "conn=debug"] {
        let (builder, _) = with_own_dev(Builder::new());
        let pidfile = builder.path("pid");
        let builder = builder.env("RUST_LOG", filter);
        let builder = builder.args(["--daemon", "--pidfile", &pidfile]);
        let daemon = detached(builder, pidfile.as_ref());
        let said = daemon.log();
        let warnings: Vec<&str> = said.lines().filter(|l| l.contains("/dev/log")).collect();
        assert_eq!(warnings.len(), 1, "{said}");
        assert!(warnings[0].starts_with("echod: "), "{said}");
        assert!(warnings[0].contains("--log-target PATH"), "{said}");
        assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
        stop(&daemon);
        assert_eq!(daemon.log(), said, "the starter's terminal is left alone");
    }
}

#[test]
fn syslog_asked_for_and_not_there_is_69() {
    if !possible() {
        return;
    }
    for more in [&["--daemon"][..], &[]] {
        let (builder, _) = with_own_dev(Builder::new());
        let builder = builder.args(["--log-target", "syslog"]).args(more);
        let finished = builder.run(DEADLINE);
        let said = finished.stderr;
        assert_eq!(finished.status.code(), Some(69), "{said}");
        assert!(
            said.contains("/dev/log") && said.contains("--log-target"),
            "{said}"
        );
    }
}

#[test]
fn a_daemon_logs_to_syslog_in_datagrams_of_rfc_3164() {
    if !possible() {
        return;
    }
    let (builder, dev) = with_own_dev(Builder::new());
    let syslog = bind_log(&dev);
    let pidfile = builder.path("pid");
    let builder = builder.args(["--daemon", "--pidfile", &pidfile]);
    let daemon = detached(builder, pidfile.as_ref());
    assert_eq!(daemon.log(), "", "nothing for the starter");
    hear(&syslog, &daemon, 30, "listening on tcp:");
    let mut client = Client::connect(daemon.addr());
    client.ping(b"hello");
    client.shutdown_write().expect("shutdown");
    let line = hear(&syslog, &daemon, 31, "conn pid=");
    let line = ConnLine::parse(&line).expect("a conn line");
    assert_eq!((line.received, line.sent), (5, 5));
    assert_eq!(line.end, "eof");
    // A syslogd that is replaced is found again.
    drop(syslog);
    let syslog = bind_log(&dev);
    assert_eq!(echo_once(daemon.addr(), b"again"), b"again");
    hear(&syslog, &daemon, 31, "conn pid=");
    stop(&daemon);
    hear(&syslog, &daemon, 30, "stopped");
}

/// Its buffer full and its reader asleep, syslog must not hold a client up.
#[test]
fn row_66_a_stopped_syslog_delays_nobody() {
    if !possible() {
        return;
    }
    let (builder, dev) = with_own_dev(Builder::new());
    let syslog = bind_log(&dev);
    let pidfile = builder.path("pid");
    let builder = builder.args(["--daemon", "--pidfile", &pidfile]);
    let daemon = detached(builder, pidfile.as_ref());
    // net.unix.max_dgram_qlen is 10 to a few hundred.
    crate::daemon::many(daemon.addr(), 700, 4, 100).assert_all_complete();
    syslog.set_nonblocking(true).expect("nonblocking");
    let mut heard = Vec::new();
    poll_until(DEADLINE, "a line that tells how many were lost", || {
        let mut buf = [0; 8192];
        while let Ok(n) = syslog.recv(&mut buf) {
            heard.push(String::from_utf8_lossy(&buf[..n]).into_owned());
        }
        // It comes before the next line there is.
        echo_once(daemon.addr(), b"one more");
        heard.iter().any(|line| line.ends_with(" log lines lost"))
    });
    let notice = heard.iter().find(|line| line.ends_with(" log lines lost"));
    let header = format!("<28>echod[{}]: ", daemon.pid());
    let notice = notice.and_then(|line| line.strip_prefix(&header));
    let count = notice.and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(count.is_some_and(|n| n > 0), "{notice:?}");
    stop(&daemon);
}

//! Row 25: a container of one file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::design::{FORK_DOUBLE, PREFORK, PREFORK_FCNTL, PREFORK_REUSE, THREAD};
use crate::common::{Builder, DEADLINE, Signal, echo_once, need, need_root, pattern};

/// A root directory that is read-only and holds the program alone: no /proc, no
/// /dev, no /etc. Descriptors 0 to 2 are open, as container runtimes have them:
/// where one is closed and there is no /dev/null, Rust's runtime aborts before main.
const SCRIPT: &str = "jail=$0; echod=$1; shift; \
    cp \"$echod\" \"$jail/echod\" && mount --bind \"$jail\" \"$jail\" && \
    mount -o remount,bind,ro \"$jail\" && exec chroot $AS \"$jail\" /echod \"$@\"";

#[test]
fn row_25_a_root_of_one_file_serves() {
    if !need_root() || !need("unshare") {
        return;
    }
    for design in [
        &PREFORK,
        &PREFORK_REUSE,
        &PREFORK_FCNTL,
        &FORK_DOUBLE,
        &THREAD,
    ] {
        // Root becomes nobody; a uid that no passwd(5) knows stays itself.
        for user in ["", "--userspec=4242:4242"] {
            let builder = Builder::new();
            let jail = builder.dir().join("jail");
            fs::create_dir(&jail).expect("mkdir");
            fs::set_permissions(&jail, Permissions::from_mode(0o755)).expect("chmod");
            let daemon = builder
                .args(design.args)
                .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
                .env("AS", user)
                .under(["unshare", "--mount", "sh", "-c", SCRIPT])
                .under([jail.display().to_string()])
                .start();
            assert_eq!(daemon.log_count("no /dev/null here"), 1, "{}", design.name);
            let bytes = &pattern(7, 40_000)[..20_000];
            assert_eq!(echo_once(daemon.addr(), bytes), bytes, "{}", design.name);
            let udp = daemon.addrs()[1]
                .strip_prefix("udp:")
                .expect("a udp socket");
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            socket.send_to(b"datagram", udp).expect("send");
            let mut got = [0; 16];
            assert_eq!(socket.recv(&mut got).expect("the echo"), 8);
            daemon.signal(Signal::SIGHUP);
            daemon.wait_log("generation 2", DEADLINE);
            assert_eq!(echo_once(daemon.addr(), b"again"), b"again");
            daemon.signal(Signal::SIGTERM);
            assert_eq!(
                daemon.wait_exit(DEADLINE).code(),
                Some(0),
                "{}",
                design.name
            );
        }
    }
}

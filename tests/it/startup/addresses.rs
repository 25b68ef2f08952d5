//! Addresses that cannot be had, each with its own message and status, and the
//! life of a Unix socket's file.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::common::{
    Builder, Client, DEADLINE, Daemon, Signal, echo_once, is_root, need, need_root, proc,
};
use crate::startup::{as_another_user, refused};

fn listening(addr: &str) -> Builder {
    Builder::new().args(["-l", addr])
}

fn is_socket(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[track_caller]
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn row_26_an_address_in_use_is_named_and_69() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", taken.local_addr().expect("an address"));
    refused(listening(&addr), 69, &[&addr, "EADDRINUSE", "ss -ltnp"]);
}

#[test]
fn row_26_an_address_this_machine_lacks_is_named_and_69() {
    let addr = "tcp:192.0.2.1:7777"; // RFC 5737: nobody's
    refused(listening(addr), 69, &[addr, "EADDRNOTAVAIL", "freebind"]);
    let name = format!("tcp:{}.invalid:0", "x".repeat(64));
    refused(listening(&name), 69, &[&name]);
}

#[test]
fn row_26_freebind_takes_an_address_before_the_machine_has_it() {
    let daemon = listening("tcp:192.0.2.1:0,freebind").start();
    assert!(daemon.addr().starts_with("tcp:192.0.2.1:"));
}

#[test]
fn an_interface_that_is_not_there_is_named_and_69() {
    for addr in ["tcp:127.0.0.1:0", "udp:127.0.0.1:0"] {
        let tied = format!("{addr},device=nosuch0");
        refused(listening(&tied), 69, &[&tied, "ENODEV", "ip link"]);
    }
    if need_root() {
        let daemon = listening("tcp:127.0.0.1:0,device=lo").start();
        assert_eq!(echo_once(daemon.addr(), b"here"), b"here");
    }
}

/// The low ports' limit is a setting of each network namespace.
#[test]
fn row_26_a_low_port_without_privilege_is_named_and_77() {
    let parts = ["bind tcp:0.0.0.0:7", "EACCES", "CAP_NET_BIND_SERVICE"];
    let builder = listening("tcp:0.0.0.0:7");
    if !is_root() {
        let first = proc::machine("sys/net/ipv4/ip_unprivileged_port_start");
        if first.is_some_and(|first| first.trim() == "1024") {
            refused(builder, 77, &parts);
        }
        return;
    }
    if !need("unshare") || !need("setpriv") {
        return;
    }
    let dir = builder.dir().display().to_string();
    let script = "cp \"$1\" \"$0/echod\" && shift && exec setpriv --reuid=65533 \
                  --regid=65533 --clear-groups \"$0/echod\" \"$@\"";
    let wrapped = builder.under(["unshare", "-n", "sh", "-c", script, &dir]);
    refused(wrapped, 77, &parts);
}

/// One listener that cannot be opened is none: the others leave no file.
#[test]
fn one_bad_address_opens_none_and_leaves_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = format!("tcp:{}", taken.local_addr().expect("an address"));
    let builder = Builder::new();
    let (sock, pid) = (builder.path("sock"), builder.path("pid"));
    let dir = builder.dir();
    let first = format!("unix:{sock}");
    // The directory goes with the daemon: let its shell look first.
    let script = "\"$@\"; s=$?; ls \"$0\"; exit $s";
    let finished = builder
        .under(["sh", "-c", script, &dir.display().to_string()])
        .args(["-l", &first, "-l", &addr, "--pidfile", &pid])
        .run(DEADLINE);
    assert_eq!(finished.status.code(), Some(69), "{}", finished.stderr);
    assert!(!finished.stdout.contains("sock"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("pid"), "{}", finished.stdout);
}

#[test]
fn row_73_a_stale_socket_is_replaced() {
    let builder = Builder::new();
    let path = builder.path("sock");
    drop(UnixListener::bind(&path).expect("bind"));
    assert!(is_socket(&path), "std leaves the file");
    let daemon = builder.args(["-l", &format!("unix:{path}")]).start();
    assert_eq!(echo_once(daemon.addr(), b"mine"), b"mine");
}

#[test]
fn row_73_a_live_server_keeps_its_path() {
    let builder = Builder::new();
    let path = builder.path("sock");
    let live = UnixListener::bind(&path).expect("bind");
    live.set_nonblocking(true).expect("nonblocking");
    let before = fs::metadata(&path).expect("stat").ino();
    let addr = format!("unix:{path}");
    let keep = tempfile::TempDir::new().expect("a directory");
    let second = keep.path().join("sock");
    refused(builder.args(["-l", &addr]), 69, &[&addr, "EADDRINUSE"]);
    // The same for another echod, and for an abstract name.
    let abstract_name = format!("unix:@echod-test-{}", std::process::id());
    let path = format!("unix:{}", second.display());
    fs::set_permissions(keep.path(), Permissions::from_mode(0o777)).expect("chmod");
    let args = ["-l", &path, "-l", &abstract_name];
    let first = Builder::new().args(args).start();
    for addr in [&path, &abstract_name] {
        refused(listening(addr), 69, &[addr, "EADDRINUSE"]);
        assert_eq!(echo_once(addr, b"untouched"), b"untouched");
    }
    drop(first);
    assert!(
        before > 0 && live.accept().is_err(),
        "it was not connected to"
    );
}

#[test]
fn row_73_what_is_no_socket_stays_and_is_73() {
    type Make = fn(&Path);
    let table: [(&str, Make, &str); 4] = [
        (
            "file",
            |at| fs::write(at, "mine").expect("write"),
            "a regular file",
        ),
        (
            "dir",
            |at| fs::create_dir(at).expect("mkdir"),
            "a directory",
        ),
        (
            "dangling",
            |at| symlink("/nowhere/at/all", at).expect("symlink"),
            "a dangling symbolic link",
        ),
        (
            "link",
            |at| symlink("/dev/null", at).expect("symlink"),
            "a symbolic link",
        ),
    ];
    let keep = tempfile::TempDir::new().expect("a directory");
    for (name, make, what) in table {
        let at = keep.path().join(name);
        make(&at);
        let before = fs::symlink_metadata(&at).expect("stat").ino();
        let addr = format!("unix:{}", at.display());
        refused(listening(&addr), 73, &[&addr, what]);
        let after = fs::symlink_metadata(&at).expect("stat").ino();
        assert_eq!(before, after, "{name} was replaced");
    }
}

#[test]
fn row_73_a_path_too_long_is_64_and_the_longest_serves() {
    let keep = tempfile::TempDir::new().expect("a directory");
    fs::set_permissions(keep.path(), Permissions::from_mode(0o777)).expect("chmod");
    let room = 107 - keep.path().as_os_str().len() - 1;
    let longest = keep.path().join("s".repeat(room));
    let daemon = listening(&format!("unix:{}", longest.display())).start();
    assert_eq!(echo_once(daemon.addr(), b"long"), b"long");
    let addr = format!("unix:{}s", longest.display());
    refused(listening(&addr), 64, &[&addr, "108 bytes", "107"]);
}

#[test]
fn row_73_a_missing_directory_is_73() {
    let addr = "unix:/no/such/directory/sock";
    let parts = [addr, "ENOENT", "there is no /no/such/directory"];
    refused(listening(addr), 73, &parts);
}

#[test]
fn a_directory_that_may_not_be_written_is_77() {
    let builder = Builder::new();
    let dir = builder.dir().join("closed");
    fs::create_dir(&dir).expect("mkdir");
    fs::set_permissions(&dir, Permissions::from_mode(0o555)).expect("chmod");
    let addr = format!("unix:{}/sock", dir.display());
    let builder = as_another_user(builder.args(["-l", &addr]));
    refused(builder, 77, &[&addr, "EACCES"]);
}

#[test]
fn our_socket_file_goes_when_we_stop() {
    for how in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let builder = Builder::new();
        let path = builder.path("sock");
        let daemon = builder.args(["-l", &format!("unix:{path}")]).start();
        assert!(is_socket(&path));
        daemon.signal(how);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        assert!(!Path::new(&path).exists(), "{how}");
    }
}

#[test]
fn row_57_a_socket_file_of_somebody_else_survives_our_stop() {
    let builder = Builder::new();
    let path = builder.path("sock");
    let daemon = builder.args(["-l", &format!("unix:{path}")]).start();
    fs::remove_file(&path).expect("unlink");
    let theirs = UnixListener::bind(&path).expect("bind");
    stop(&daemon);
    assert!(is_socket(&path), "theirs is gone");
    assert!(Client::try_connect(&format!("unix:{path}")).is_ok());
    drop(theirs);
}

/// Whoever gave up root cannot unlink in root's directory: the next start can.
#[test]
fn row_57_a_socket_left_behind_by_a_dropped_privilege_is_replaced() {
    if !need_root() {
        return;
    }
    let keep = tempfile::TempDir::new().expect("a directory");
    fs::set_permissions(keep.path(), Permissions::from_mode(0o755)).expect("chmod");
    let path = keep.path().join("sock").display().to_string();
    for _ in 0..2 {
        let daemon = listening(&format!("unix:{path}")).start();
        assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
        stop(&daemon);
        assert!(is_socket(&path), "left stale");
    }
}

#[test]
fn a_unix_socket_has_the_mode_asked_for_whatever_the_umask() {
    for umask in ["0777", "0000", "0027"] {
        let builder = Builder::new();
        let paths = ["default", "group", "own"].map(|name| builder.path(name));
        let wanted = [("", 0o666), (",mode=0660", 0o660), (",mode=600", 0o600)];
        let mut words: Vec<String> = Vec::new();
        for (path, (attr, _)) in paths.iter().zip(wanted) {
            words.extend(["-l".to_owned(), format!("unix:{path}{attr}")]);
        }
        let script = format!("umask {umask}; exec \"$@\"");
        let daemon = builder
            .under(["sh", "-c", &script, "sh"])
            .args(words)
            .start();
        for (path, (_, mode)) in paths.iter().zip(wanted) {
            let is = fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
            assert_eq!(is, mode, "{path} under umask {umask}: {is:o}");
        }
        assert_eq!(daemon.addrs().len(), 3);
    }
}

#[test]
fn a_unix_socket_has_the_owner_asked_for() {
    if !need_root() {
        return;
    }
    let builder = Builder::new();
    let path = builder.path("sock");
    let daemon = builder
        .args([
            "-l",
            &format!("unix:{path},mode=0640,user=65533,group=65532"),
        ])
        .start();
    let is = fs::metadata(&path).expect("stat");
    assert_eq!((is.uid(), is.gid()), (65533, 65532));
    assert_eq!(is.permissions().mode() & 0o7777, 0o640);
    drop(daemon);
}

/// Anyone who can read a directory can lock it, flock(2).
#[test]
fn row_116_a_directory_that_somebody_keeps_locked_is_used_all_the_same() {
    use nix::fcntl::{Flock, FlockArg};
    let builder = Builder::new();
    let dir = fs::File::open(builder.dir()).expect("open");
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).expect("a lock");
    let (stream, gram) = (builder.path("s"), builder.path("g"));
    let args = [format!("unix:{stream}"), format!("unixgram:{gram}")];
    let daemon = builder.args(["-l", &args[0], "-l", &args[1]]).start();
    assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
    assert_eq!(daemon.log_count("keeps this directory locked"), 2);
    stop(&daemon);
    assert!(!is_socket(&stream) && !is_socket(&gram));
}

/// A root directory of one program, and a shell's usual umask.
#[test]
fn row_117_a_socket_has_its_mode_without_proc() {
    if !need_root() {
        return;
    }
    for (attrs, expected) in [("", 0o666), (",mode=0777", 0o777), (",mode=0620", 0o620)] {
        let builder = Builder::new();
        let jail = builder.path("jail");
        fs::create_dir(&jail).expect("mkdir");
        let script = "umask 022; jail=$0; cp \"$1\" \"$jail/echod\"; shift; \
                      exec chroot \"$jail\" /echod \"$@\"";
        let daemon = builder
            .under(["sh", "-c", script, &jail])
            .args([
                "-l",
                &format!("unix:/s{attrs}"),
                "-l",
                &format!("unixgram:/g{attrs}"),
            ])
            .start();
        for name in ["s", "g"] {
            let meta = fs::symlink_metadata(format!("{jail}/{name}")).expect("a socket");
            assert_eq!(meta.mode() & 0o777, expected, "{name}{attrs}");
        }
        daemon.signal(Signal::SIGINT);
        assert!(daemon.wait_exit(DEADLINE).success());
    }
}

/// Whoever looks for another program that listens there would look in vain.
#[test]
fn an_address_that_is_ours_already_is_said_to_be_ours() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s").display().to_string();
    for (first, second) in [
        (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
        (format!("*:{port}"), format!("127.0.0.1:{port}")),
        (format!("127.0.0.1:{port}"), format!("*:{port}")),
        (
            format!("udp:127.0.0.1:{port}"),
            format!("udp:localhost:{port}"),
        ),
        (format!("unix:{path}"), format!("unix:{path}")),
        (format!("unix:{path}"), format!("unixgram:{path}")),
        ("unix:@ours-twice".to_owned(), "unix:@ours-twice".to_owned()),
    ] {
        for check in [&[][..], &["--check"]] {
            let args = ["-l", &first, "-l", &second];
            let builder = Builder::new().bare().args(args).args(check);
            let finished = builder.args(["-qq"]).run(DEADLINE);
            let said = finished.stderr;
            assert_eq!(finished.status.code(), Some(69), "{first} {second}: {said}");
            assert!(said.contains("(EADDRINUSE)"), "{said}");
            assert!(
                said.contains("echod itself serves there already, at "),
                "{said}"
            );
            assert!(!said.contains("another"), "{said}");
        }
    }
}

/// Where a supervisor is killed, its idle workers have its address until they know.
#[test]
fn row_124_an_address_is_waited_for_until_a_killed_ones_workers_are_gone() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
    let [pid, sock] = ["pid", "s"].map(|name| dir.path().join(name).display().to_string());
    let tcp = format!("tcp:127.0.0.1:{port}");
    let (udp, unix) = (format!("udp:127.0.0.1:{port}"), format!("unix:{sock}"));
    let pool = [
        "--start-servers=200",
        "--min-spare-servers=200",
        "--max-spare-servers=200",
    ];
    let prefork: Vec<&str> = pool.into();
    let reuse: Vec<&str> = pool
        .into_iter()
        .chain(["--max-connections-per-child=0"])
        .collect();
    for (times, addr, args) in [
        (30, &tcp, &prefork),
        (5, &tcp, &reuse),
        (5, &unix, &prefork),
        (5, &udp, &prefork),
        (5, &tcp, &vec!["-m", "thread"]),
        (5, &tcp, &vec!["-m", "fork"]),
    ] {
        let start = || {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_echod"))
                .args(["-qq", "-l", addr, "--pidfile", &pid, "--ready-fd", "1"])
                .args(args)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut ready = String::new();
            let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
            std::io::BufRead::read_line(&mut out, &mut ready).expect("a line");
            (child, ready)
        };
        let mut last: Option<std::process::Child> = None;
        for n in 0..times {
            let (child, ready) = start();
            assert_eq!(ready.trim_end(), addr, "the {n}th: {args:?}");
            if let Some(mut dead) = last.replace(child) {
                dead.wait().expect("killed");
            }
            // The next one starts at once.
            last.as_mut().expect("set above").kill().expect("a signal");
        }
        last.expect("several").wait().expect("killed");
    }
}

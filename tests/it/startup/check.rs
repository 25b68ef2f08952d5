//! `--check`: what a start would end with, found without starting.

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use crate::common::{
    Builder, DEADLINE, Finished, echo_once, must, need, need_root, poll_some, proc, tool,
};

/// A directory of files in the way, and what else a case needs.
struct Place {
    dir: tempfile::TempDir,
    taken: u16,
    /// One of 127.9.8.7 that nobody has.
    free: u16,
    _tcp: TcpListener,
    _udp: UdpSocket,
    _live: (UnixListener, UnixDatagram),
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let mode = |name: &str, mode| {
            fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("chmod");
        };
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
        fs::write(path("file"), "a file\n").expect("write");
        fs::write(path("private"), "").expect("write");
        mode("private", 0o600);
        fs::write(path("two"), "").expect("write");
        fs::hard_link(path("two"), path("names")).expect("link");
        fs::create_dir(path("dir")).expect("mkdir");
        fs::create_dir(path("closed")).expect("mkdir");
        mode("closed", 0o755);
        fs::create_dir(path("sticky")).expect("mkdir");
        mode("sticky", 0o1777);
        symlink(path("file"), path("link")).expect("symlink");
        symlink(path("nowhere"), path("dangling")).expect("symlink");
        symlink(path("dir"), path("other")).expect("symlink");
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        drop(UnixListener::bind(path("stale")).expect("bind"));
        drop(UnixListener::bind(path("sticky/stale")).expect("bind"));
        drop(UnixDatagram::bind(path("stale-gram")).expect("bind"));
        let live = (
            UnixListener::bind(path("live")).expect("bind"),
            UnixDatagram::bind(path("live-gram")).expect("bind"),
        );
        let (tcp, udp, taken) = poll_some(DEADLINE, "a port of both", || {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
            let taken = tcp.local_addr().expect("an address").port();
            let udp = UdpSocket::bind(("127.0.0.1", taken)).ok()?;
            Some((tcp, udp, taken))
        });
        let free = TcpListener::bind("127.9.8.7:0").and_then(|free| free.local_addr());
        Place {
            dir,
            taken,
            free: free.expect("an address").port(),
            _tcp: tcp,
            _udp: udp,
            _live: live,
        }
    }

    /// Every name there, with what can change about it but a directory's time, which a
    /// file of another name moves.
    fn listing(&self) -> String {
        let dir = self.dir.path().display().to_string();
        must(
            "find",
            &[
                &dir,
                "-type",
                "d",
                "-printf",
                "%p %m %u %i\n",
                "-o",
                "-printf",
                "%p %y %m %u %s %n %i %T@\n",
            ],
        )
    }
}

/// Who starts: root, or somebody else.
const ROOT: Option<u32> = None;
const OTHER: Option<u32> = Some(65533);

/// Words of a command line, in which `@` is the place, `%` its taken port and `FREE`
/// its free one; who
/// types them; and the status of the start.
type Case = (&'static str, Option<u32>, i32);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Addresses.
    ("-l 127.0.0.1:%", ROOT, 69),
    ("-l *:%", ROOT, 69),
    ("-l udp:127.0.0.1:%", ROOT, 69),
    ("-l localhost:%", ROOT, 69),
    ("-l 127.0.0.1:% --accept reuseport", ROOT, 69),
    ("-l 127.0.0.1:0 -l 127.0.0.1:%", ROOT, 69),
    ("-l 127.0.0.1:7", OTHER, 77),
    ("-l udp:127.0.0.1:7", OTHER, 77),
    ("-l 127.9.8.7:FREE -l 127.9.8.7:FREE", ROOT, 69),
    ("-l *:FREE -l 127.9.8.7:FREE", ROOT, 69),
    ("-l udp:127.9.8.7:FREE -l udp:127.9.8.7:FREE", ROOT, 69),
    ("-l 192.0.2.1:7777", ROOT, 69),
    ("-l udp:192.0.2.1:7777", ROOT, 69),
    ("-l [fe80::1%nothing]:7777", ROOT, 69),
    ("-l no-such-host.invalid:7777", ROOT, 69),
    ("-l 127.0.0.1:0,service=chargen", ROOT, 64),
    // Socket files.
    ("-l unix:@/no/s", ROOT, 73),
    ("-l unix:@/file/s", ROOT, 73),
    ("-l unix:@/file", ROOT, 73),
    ("-l unix:@/dir", ROOT, 73),
    ("-l unix:@/link", ROOT, 73),
    ("-l unix:@/dangling", ROOT, 73),
    ("-l unix:@/fifo", ROOT, 73),
    ("-l unix:@/live", ROOT, 69),
    ("-l unix:@/live-gram", ROOT, 69),
    ("-l unixgram:@/live-gram", ROOT, 69),
    ("-l unixgram:@/dir", ROOT, 73),
    ("-l unix:@/closed/s", OTHER, 77),
    ("-l unixgram:@/closed/s", OTHER, 77),
    ("-l unix:@/sticky/stale", OTHER, 77),
    ("-l unix:@/s,user=no-such-user", ROOT, 64),
    ("-l unix:@/s,group=no-such-group", ROOT, 64),
    ("-l unix:@/s,user=0", OTHER, 77),
    ("-l unix:@/s,group=0", OTHER, 77),
    ("-l unix:@/s -l unix:@/s", ROOT, 69),
    ("-l unix:@/s -l unixgram:@/s", ROOT, 69),
    ("-l unix:@/dir/s -l unix:@/other/s", ROOT, 69),
    ("-l unixgram:@/s -l unix:@/dir/../s", ROOT, 69),
    ("--pidfile @/s -l unix:@/s", ROOT, 73),
    ("--log-target @/dir/s -l unixgram:@/other/s", ROOT, 73),
    // The pidfile and the log.
    ("--pidfile @/dir", ROOT, 73),
    ("--pidfile @/link", ROOT, 73),
    ("--pidfile @/dangling", ROOT, 73),
    ("--pidfile @/fifo", ROOT, 73),
    ("--pidfile @/names", ROOT, 73),
    ("--pidfile @/no/pid", ROOT, 73),
    ("--pidfile @/file/pid", ROOT, 73),
    ("--pidfile /dev/null", ROOT, 73),
    ("--pidfile /proc/pid", ROOT, 73),
    ("--pidfile @/private", OTHER, 77),
    ("--pidfile @/closed/pid", OTHER, 77),
    ("--log-target @/dir", ROOT, 73),
    ("--log-target @/link", ROOT, 73),
    ("--log-target @/dangling", ROOT, 73),
    ("--log-target @/fifo", ROOT, 73),
    ("--log-target @/names", ROOT, 73),
    ("--log-target @/no/log", ROOT, 73),
    ("--log-target @/file/log", ROOT, 73),
    ("--log-target /dev/fd/77", ROOT, 73),
    ("--log-target /sys/log", ROOT, 77),
    ("--log-target @/private", OTHER, 77),
    ("--log-target @/closed/log", OTHER, 77),
    ("--daemon --log-target @/dir", ROOT, 73),
    ("--ready-fd 9", ROOT, 64),
    // Who it is to be.
    ("--chroot @/no", ROOT, 78),
    ("--chroot @/file", ROOT, 78),
    ("--chroot @", OTHER, 77),
    ("--user no-such-user", ROOT, 78),
    ("--user nobody:no-such-group", ROOT, 78),
    ("--user root", ROOT, 77),
    ("--user root", OTHER, 77),
    ("--user 65532", OTHER, 77),
    // What it serves.
    ("--service command --allow-command d=/bin/date --allow-root", ROOT, 77),
    ("--service command --allow-command d=@/no", ROOT, 78),
    ("--service command --allow-command d=@/file", ROOT, 78),
    ("--service command --allow-command d=/bin/date --chroot @", ROOT, 78),
    // None, or no connection, at descriptor 0.
    ("--inetd", ROOT, 64),
    ("--inetd --user no-such-user", ROOT, 64),
];

fn words(place: &Place, line: &str) -> Vec<String> {
    let dir = place.dir.path().display().to_string();
    let (port, free) = (place.taken.to_string(), place.free.to_string());
    let word = |word: &str| match word.contains("fe80") {
        true => word.to_owned(),
        false => word
            .replace('@', &dir)
            .replace('%', &port)
            .replace("FREE", &free),
    };
    line.split(' ').map(word).collect()
}

/// Runs it to its end, in the middle of nowhere: no default address.
fn run(args: &[String], who: Option<u32>, check: bool) -> Finished {
    let lacks = |words: &[&str]| !args.iter().any(|arg| words.contains(&arg.as_str()));
    let mut builder = Builder::new().bare().args(args);
    if let Some(uid) = who {
        builder = builder.uid(uid);
    }
    if lacks(&["-l", "--inetd"]) {
        builder = builder.args(["-l", "127.0.0.1:0"]);
    }
    if check {
        builder = builder.args(["--check"]);
    }
    builder.env("RUST_LOG", "warn").run(DEADLINE)
}

#[test]
fn row_102_check_ends_as_a_start_does_with_its_message_and_leaves_nothing() {
    if !need_root() {
        return;
    }
    let low_ports = proc::machine("sys/net/ipv4/ip_unprivileged_port_start");
    let open_ports = low_ports.is_some_and(|first| first.trim() != "1024");
    for (line, who, status) in CASES {
        if open_ports && line.contains(".1:7") && who.is_some() {
            continue;
        }
        let place = Place::new();
        let args = words(&place, line);
        let before = place.listing();
        let checked = run(&args, *who, true);
        assert_eq!(place.listing(), before, "{line}: it leaves something");
        let started = run(&args, *who, false);
        assert_eq!(
            started.status.code(),
            Some(*status),
            "{line}: {}",
            started.stderr
        );
        assert_eq!(checked.stderr, started.stderr, "{line}");
        assert_eq!(checked.status, started.status, "{line}: {}", checked.stderr);
    }
}

/// What starts is found to start, and nothing has changed.
#[test]
fn row_102_check_finds_no_fault_with_what_starts() {
    if !need_root() {
        return;
    }
    for line in [
        "-l 127.0.0.1:0 -l udp:127.0.0.1:0 -l unix:@/s -l unixgram:@/g -l unix:@row-102 -l unixgram:@row-102",
        "-l *:0 -l unix:@/stale -l unixgram:@/stale-gram",
        "-l unix:@/s,user=65532,group=65532,mode=0600",
        "-l 127.0.0.1:0 --pidfile @/file --log-target @/file2",
        "-l 127.0.0.1:0 --pidfile @/pid --log-target @/file",
        "-l 127.0.0.1:0 --accept reuseport",
        "-l 127.0.0.1:0 -m thread --user 65532:65532 --chroot @/dir",
        "-l 127.0.0.1:0 --service command --allow-command d=/bin/date",
        "-l 127.0.0.1:0 --sandbox strict",
        "-l 192.0.2.1:0,freebind",
    ] {
        let place = Place::new();
        let args: Vec<String> = words(&place, line)
            .into_iter()
            .map(|word| match word.split_once(':') {
                Some((kind, name)) if name.ends_with("row-102") => format!("{kind}:@row-102"),
                _ => word,
            })
            .collect();
        let before = place.listing();
        let checked = run(&args, ROOT, true);
        assert_eq!(place.listing(), before, "{line}: it leaves something");
        assert_eq!(checked.stderr, "", "{line}");
        assert_eq!(checked.status.code(), Some(0), "{line}");
        assert_eq!(checked.stdout, "", "{line}");
        let daemon = Builder::new().args(&args).start();
        drop(daemon);
    }
}

#[test]
fn row_102_check_knows_what_surrounds_it() {
    if !need_root() || !need("unshare") || !need("prlimit") {
        return;
    }
    let at = ["-l", "127.0.0.1:0"];
    let each = |wrapper: &[&str], args: &[&str], status: i32, part: &str| {
        let run = |check: &[&str]| {
            let builder = Builder::new().bare().under(wrapper).args(args).args(check);
            builder.env("RUST_LOG", "warn").run(DEADLINE)
        };
        let (checked, started) = (run(&["-t"]), run(&[]));
        assert_eq!(
            started.status.code(),
            Some(status),
            "{args:?}: {}",
            started.stderr
        );
        assert!(started.stderr.contains(part), "{}", started.stderr);
        let last = |finished: &Finished| finished.stderr.lines().last().map(str::to_owned);
        assert_eq!(last(&checked), last(&started), "{wrapper:?} {args:?}");
        assert_eq!(checked.status, started.status, "{wrapper:?} {args:?}");
    };
    // One uid, and so nobody to become.
    if tool("unshare", &["-Ur", "true"]).0 {
        each(&["unshare", "-Ur"], &at, 77, "--allow-root keeps root");
    }
    let no_log = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /dev; exec \"$@\"",
        "sh",
    ];
    let syslog = ["-l", "127.0.0.1:0", "--daemon", "--log-target", "syslog"];
    each(&no_log, &syslog, 69, "/dev/log");
    let no_memory = ["prlimit", "--as=100000000"];
    each(
        &no_memory,
        &["-l", "127.0.0.1:0", "-c", "4194304"],
        71,
        "the scoreboard",
    );
    let no_room = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs -o size=4k none /mnt; head -c 4096 /dev/zero >/mnt/all; \
         : >/mnt/empty; exec \"$@\"",
        "sh",
    ];
    for path in ["/mnt/pid", "/mnt/empty"] {
        let pidfile = ["-l", "127.0.0.1:0", "--pidfile", path];
        each(&no_room, &pidfile, 73, "(ENOSPC)");
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("pid").display().to_string();
    let pidfile = ["-l", "127.0.0.1:0", "--pidfile", &path];
    // What is said goes to a file here.
    each(&["prlimit", "--fsize=0"], &pidfile, 73, "");
    // The process that checks is one more than a start has.
    let alone = ["prlimit", "--nproc=2", "setpriv", "--clear-groups"];
    let alone = [&alone[..], &["--reuid=54321", "--regid=54321"]].concat();
    let builder = Builder::new().bare().under(alone).args(at).args(["-t"]);
    let finished = builder.run(DEADLINE);
    assert_eq!(finished.status.code(), Some(78), "{}", finished.stderr);
    assert!(finished.stderr.contains("ulimit -u"), "{}", finished.stderr);
    let listen = |word: &'static str| ["sh", "-c", word, "sh"];
    for stdin in [
        "exec \"$@\" </etc/passwd",
        "exec \"$@\" <&-",
        "exec \"$@\" </dev/ptmx",
    ] {
        each(
            &listen(stdin),
            &["--inetd"],
            64,
            "descriptor 0 is not a connection",
        );
    }
    // An assumed log that is not there is a warning to whoever starts it.
    let builder = Builder::new()
        .bare()
        .under(no_log)
        .args(at)
        .args(["--daemon", "-t"]);
    let finished = builder.run(DEADLINE);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("--log-target"),
        "{}",
        finished.stderr
    );
}

/// nginx -t, beside the nginx that runs.
#[test]
fn row_102_what_the_running_echod_of_the_same_pidfile_has_is_a_note() {
    let dir = tempfile::TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let (tcp, udp) = (format!("127.0.0.1:{port}"), format!("udp:127.0.0.1:{port}"));
    let (unix, gram) = (
        format!("unix:{}", path("s")),
        format!("unixgram:{}", path("g")),
    );
    let (pid, abstract_name) = (path("pid"), format!("unix:@row-102-{port}"));
    let listeners = [&tcp, &udp, &unix, &gram, &abstract_name];
    let all: Vec<&str> = listeners
        .iter()
        .flat_map(|at| ["-l", at.as_str()])
        .collect();
    let daemon = Builder::new().args(&all).args(["--pidfile", &pid]).start();
    let check = |args: &[&str]| Builder::new().bare().args(["-t"]).args(args).run(DEADLINE);
    let with_pidfile = [&all[..], &["--pidfile", &pid]].concat();
    let finished = check(&with_pidfile);
    let said = finished.stderr;
    assert_eq!(finished.status.code(), Some(0), "{said}");
    for what in [&pid, &tcp, &udp, &unix, &gram, &abstract_name] {
        let note = said.lines().find(|line| line.contains(what.as_str()));
        let note = note.unwrap_or_else(|| panic!("{what} is not named: {said}"));
        let who = format!("the running echod {} has it", daemon.pid());
        assert!(note.contains("not tried") && note.contains(&who), "{note}");
    }
    // Another pidfile, or none, is somebody else.
    for other in [
        &all[..],
        &[&all[..], &["--pidfile", &path("other")]].concat(),
    ] {
        assert_eq!(check(other).status.code(), Some(69));
    }
    for at in listeners {
        assert_eq!(check(&["-l", at]).status.code(), Some(69), "{at}");
    }
    // What it has not, it has not.
    let theirs = TcpListener::bind("127.0.0.1:0").expect("bind");
    let theirs = theirs
        .local_addr()
        .map(|at| (at.to_string(), theirs))
        .expect("one");
    let args = [&with_pidfile[..], &["-l", &theirs.0]].concat();
    assert_eq!(check(&args).status.code(), Some(69));
    assert_eq!(echo_once(daemon.addr(), b"undisturbed"), b"undisturbed");
    assert_eq!(daemon.log_count(" WARN "), 0, "{}", daemon.log());
}

/// A lock that is no echod's is somebody else's.
#[test]
fn row_102_a_pidfile_that_another_program_holds_is_69() {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("pid");
    let held = fs::File::create(&path).expect("create");
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(held.as_fd(), FcntlArg::F_SETLK(&lock)).expect("a lock");
    let args = [
        "-l",
        "127.0.0.1:0",
        "--pidfile",
        &path.display().to_string(),
    ]
    .map(str::to_owned);
    let (checked, started) = (run(&args, ROOT, true), run(&args, ROOT, false));
    assert_eq!(started.status.code(), Some(69), "{}", started.stderr);
    assert_eq!(checked.stderr, started.stderr);
    assert_eq!(checked.status, started.status);
}

/// A connection that `--inetd` would serve, and one that it would refuse, are there
/// as before.
#[test]
fn row_102_check_does_not_touch_the_connection_of_inetd() {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::process::Command;
    for (args, status) in [(&[][..], 0), (&["--deny", "127.0.0.1"], 77)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("an address");
        let mut client = std::net::TcpStream::connect(addr).expect("connect");
        let (mut conn, _) = listener.accept().expect("accept");
        let stdin = OwnedFd::from(conn.try_clone().expect("a copy"));
        let output = Command::new(env!("CARGO_BIN_EXE_echod"))
            .args(["--inetd", "-t", "--idle-timeout", "1ms"])
            .args(args)
            .stdin(stdin)
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert_eq!(conn.read_timeout().expect("asked"), None);
        conn.write_all(b"still here").expect("write");
        drop(conn);
        let mut text = String::new();
        client
            .read_to_string(&mut text)
            .expect("an end of file, and no reset");
        assert_eq!(text, "still here");
    }
}

/// Whoever looks meanwhile sees no file at the name.
#[test]
fn row_102_a_socket_of_that_name_is_never_there() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("s");
    let args = ["-l".to_owned(), format!("unix:{}", path.display())];
    let seen = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
            let mut seen = false;
            while std::time::Instant::now() < until {
                seen |= Path::new(&path).exists();
            }
            seen
        });
        for _ in 0..5 {
            assert_eq!(run(&args, ROOT, true).status.code(), Some(0));
        }
        looks.join().expect("it looked")
    });
    assert!(!seen);
}

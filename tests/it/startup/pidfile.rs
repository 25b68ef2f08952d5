//! The pidfile, and instances that start together.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::{
    Builder, DEADLINE, Daemon, Signal, echo_once, need, need_root, poll_until, proc,
};
use crate::startup::{as_another_user, refused};

fn with_pidfile(path: &Path) -> Builder {
    Builder::new().args(["--pidfile", &path.display().to_string()])
}

/// A directory of its own that all may write to, for files that outlive one
/// daemon.
fn shared_dir() -> tempfile::TempDir {
    let dir = tempfile::TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
    dir
}

fn holds(path: &Path, daemon: &Daemon) {
    let text = fs::read_to_string(path).expect("a pidfile");
    assert_eq!(text, format!("{}\n", daemon.pid()));
}

#[test]
fn row_69_a_stale_pidfile_is_taken_over_whoever_has_the_number() {
    let dir = shared_dir();
    let path = dir.path().join("pid");
    // Our own number: a live process that is no echod.
    for stale in [
        format!("{}\n", std::process::id()),
        "x".repeat(5000),
        String::new(),
    ] {
        fs::write(&path, stale).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("chmod");
        let daemon = with_pidfile(&path).start();
        holds(&path, &daemon);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        assert!(!path.exists(), "removed at the end");
    }
}

#[test]
fn row_69_a_pidfile_held_by_another_is_69_and_names_it() {
    let dir = shared_dir();
    let path = dir.path().join("pid");
    let first = with_pidfile(&path).start();
    for _ in 0..3 {
        let pid = first.pid().to_string();
        refused(
            with_pidfile(&path),
            69,
            &[&path.display().to_string(), &pid],
        );
        holds(&path, &first);
    }
    assert_eq!(echo_once(first.addr(), b"untouched"), b"untouched");
}

#[test]
fn row_69_a_pidfile_of_a_killed_instance_is_taken_over() {
    let dir = shared_dir();
    let path = dir.path().join("pid");
    let first = with_pidfile(&path).start();
    proc::signal(first.pid(), Signal::SIGKILL);
    first.wait_exit(DEADLINE);
    holds(&path, &first);
    let second = with_pidfile(&path).start();
    holds(&path, &second);
    first.assert_gone(DEADLINE);
}

#[test]
fn a_pidfile_is_not_written_where_it_may_not_be() {
    let builder = Builder::new();
    let closed = builder.dir().join("closed");
    fs::create_dir(&closed).expect("mkdir");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("chmod");
    let path = closed.join("pid").display().to_string();
    let builder = as_another_user(builder.args(["--pidfile", &path]));
    refused(builder, 77, &[&path, "EACCES", "--pidfile"]);

    let missing = "/no/such/directory/pid";
    refused(
        with_pidfile(missing.as_ref()),
        73,
        &["/no/such/directory", "ENOENT"],
    );

    let dir = shared_dir();
    let (link, target) = (dir.path().join("link"), dir.path().join("target"));
    fs::write(&target, "precious").expect("write");
    symlink(&target, &link).expect("symlink");
    refused(with_pidfile(&link), 73, &["link", "symbolic link"]);
    let hard = dir.path().join("hard");
    fs::hard_link(&target, &hard).expect("link");
    refused(with_pidfile(&hard), 73, &["hard", "hard link"]);
    assert_eq!(fs::read_to_string(&target).expect("read"), "precious");
    refused(with_pidfile(dir.path()), 73, &["--pidfile"]);
}

/// In a mount namespace of its own: a file system of one page, and that taken.
#[test]
fn row_70_a_pidfile_on_a_full_disk_fails_the_start_and_is_removed() {
    if !need_root() || !need("unshare") {
        return;
    }
    let builder = Builder::new();
    let disk = builder.dir().join("disk");
    fs::create_dir(&disk).expect("mkdir");
    let disk = disk.display().to_string();
    let script = "mount -t tmpfs -o size=4k none \"$0\" \
                  && head -c 4096 /dev/zero >\"$0/full\" || exit 99; \
                  \"$@\"; s=$?; ls \"$0\"; exit $s";
    let path = format!("{disk}/pid");
    let finished = builder
        .under(["unshare", "-m", "sh", "-c", script, &disk])
        .args(["--pidfile", &path])
        .run(DEADLINE);
    assert_eq!(finished.status.code(), Some(73), "{}", finished.stderr);
    assert!(finished.stderr.contains(&path), "{}", finished.stderr);
    assert!(finished.stderr.contains("ENOSPC"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert_eq!(finished.stdout, "full\n", "nothing is left");
}

/// Starts `n` at once; all but one must leave with 69.
fn race(n: usize, args: &[String]) -> Daemon {
    let one = || {
        let small = ["--start-servers", "1", "--min-spare-servers", "1"];
        Builder::new().bare().args(args).args(small).spawn()
    };
    let mut all: Vec<Daemon> = (0..n).map(|_| one()).collect();
    poll_until(DEADLINE, "all but one have left", || {
        all.iter().filter(|one| one.try_exit().is_some()).count() >= n - 1
    });
    let alive = all.iter().position(|one| one.try_exit().is_none());
    let winner = all.remove(alive.expect("one lives"));
    for loser in &all {
        let said = loser.log();
        assert_eq!(loser.try_exit().and_then(|s| s.code()), Some(69), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    poll_until(DEADLINE, "the winner serves", || {
        winner.log_count("listening on") > 0
    });
    winner
}

/// With everything contested the pidfile decides; alone, each must decide too.
#[test]
fn row_72_of_instances_that_start_together_exactly_one_lives() {
    let dir = shared_dir();
    let port = TcpListener::bind("127.7.2.1:0").expect("bind");
    let tcp = format!("tcp:{}", port.local_addr().expect("an address"));
    drop(port);
    let unix = format!("unix:{}", dir.path().join("sock").display());
    let pidfile = dir.path().join("pid");
    let word = |text: &str| text.to_owned();
    let on_tcp = [word("-l"), tcp.clone()];
    let on_unix = [word("-l"), unix.clone()];
    let pid = [word("--pidfile"), pidfile.display().to_string()];
    let all = [&on_tcp[..], &on_unix, &pid].concat();
    for (args, addrs) in [
        (&all[..], &[&tcp, &unix][..]),
        (&on_tcp, &[&tcp]),
        (&on_unix, &[&unix]),
    ] {
        let winner = race(20, args);
        for addr in addrs {
            assert_eq!(echo_once(addr, b"the one"), b"the one", "{addr}");
        }
        if args.contains(&pid[0]) {
            holds(&pidfile, &winner);
        }
        winner.signal(Signal::SIGTERM);
        assert_eq!(winner.wait_exit(DEADLINE).code(), Some(0));
        let left = fs::read_dir(dir.path()).expect("a directory").count();
        assert_eq!(left, 0, "files left by {args:?}");
    }
}

/// Anyone who can read a file can lock it for reading, fcntl(2).
#[test]
fn row_116_a_pidfile_that_is_only_read_locked_is_made_anew_and_said_so() {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};
    let dir = shared_dir();
    let path = dir.path().join("pid");
    fs::write(&path, "1\n").expect("write");
    let reader = fs::File::open(&path).expect("open");
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(reader.as_fd(), FcntlArg::F_SETLK(&lock)).expect("a lock");
    for _ in 0..2 {
        let daemon = with_pidfile(&path).start();
        holds(&path, &daemon);
        let said = format!(
            "process {}, which is no echod, had it locked",
            std::process::id()
        );
        assert_eq!(daemon.log_count(&said), 1, "{}", daemon.log());
        let mode = fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "others may read it");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        // The next one finds the old file again.
        fs::write(&path, "1\n").expect("write");
        let again = fs::File::open(&path).expect("open");
        fcntl(again.as_fd(), FcntlArg::F_SETLK(&lock)).expect("a lock");
        std::mem::forget(again);
    }
}

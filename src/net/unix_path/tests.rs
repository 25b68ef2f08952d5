use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Barrier;
use std::thread;

use nix::unistd::setfsuid;

use super::*;
use crate::config::Timeouts;
use crate::net::{ListenOptions, Listener, open as open_listener};

fn serve(spec: &str) -> Result<Listener, Error> {
    let timeouts = Timeouts {
        idle: None,
        write: None,
        lifetime: None,
        keepalive: None,
    };
    let opts = ListenOptions {
        sockets: 1,
        dry: false,
        backlog: None,
        timeouts,
    };
    let mut listeners = open_listener(&spec.parse()?, &opts)?;
    assert_eq!(listeners.len(), 1);
    Ok(listeners.remove(0))
}

fn serve_at(path: &Path) -> Result<Listener, Error> {
    serve(&format!("unix:{}", path.display()))
}

fn permissions(path: &Path) -> u32 {
    let meta = fs::symlink_metadata(path).expect("stat");
    assert!(meta.file_type().is_socket());
    meta.permissions().mode() & 0o7777
}

/// Runs as nobody: file permissions are checked against the thread's fsuid, see
/// setfsuid(2), and nothing of it outlives the thread.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            if nix::unistd::geteuid().is_root() {
                setfsuid(nix::unistd::Uid::from_raw(65534));
            }
            work()
        });
        nobody.join().expect("no panic")
    })
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).expect("bind"));
    let listener = serve_at(&path).expect("replaced");
    UnixStream::connect(&path).expect("connect");
    assert!(listener.accept().is_ok());
    assert_eq!(
        fs::read_dir(dir.path()).expect("dir").count(),
        1,
        "no lock file"
    );
    drop(UnixDatagram::bind(dir.path().join("d")).expect("bind"));
    serve_at(&dir.path().join("d")).expect("a stale datagram socket too");
}

#[test]
fn a_live_server_keeps_its_path_and_is_not_disturbed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    let live = serve_at(&path).expect("first");
    let error = serve_at(&path).expect_err("second");
    assert_eq!(error.status(), Exit::Unavailable);
    assert!(error.to_string().contains("live server"), "{error}");
    assert_eq!(live.accept().expect_err("no client"), Errno::EAGAIN);
    UnixStream::connect(&path).expect("still served");

    let datagrams = dir.path().join("d");
    let _live = UnixDatagram::bind(&datagrams).expect("bind");
    let error = serve_at(&datagrams).expect_err("live");
    assert_eq!(error.status(), Exit::Unavailable, "{error}");
}

#[test]
fn what_is_no_socket_stays_and_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "precious").expect("write");
    fs::create_dir(at("dir")).expect("mkdir");
    symlink(at("nowhere"), at("dangling")).expect("symlink");
    symlink(at("file"), at("link")).expect("symlink");
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).expect("mkfifo");
    for (name, why) in [
        ("file", "a regular file"),
        ("dir", "a directory"),
        ("dangling", "a dangling symbolic link"),
        ("link", "a symbolic link"),
        ("fifo", "no socket"),
        ("missing/s", "there is no "),
        ("file/s", "is no directory"),
    ] {
        let error = serve_at(&at(name)).expect_err(name);
        assert_eq!(error.status(), Exit::CantCreate, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(fs::read_to_string(at("file")).expect("kept"), "precious");
    assert!(!at("nowhere").exists());
}

#[test]
fn no_permission_is_told_apart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).expect("mkdir");
    mode(dir.path(), 0o755);
    // Unlistable, then listable but not to be written.
    for bits in [0o000, 0o555] {
        mode(&closed, bits);
        let error = as_nobody(|| serve_at(&closed.join("s"))).expect_err("refused");
        assert_eq!(error.status(), Exit::NoPermission, "{bits:o}: {error}");
        assert!(error.to_string().contains("EACCES"), "{error}");
    }
    mode(&closed, 0o755);
}

#[test]
fn a_path_that_grows_too_long_when_made_absolute_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let name = "p".repeat(107 - dir.path().as_os_str().len() - 1);
    serve_at(&dir.path().join(&name)).expect("107 bytes fit");
    let error = serve_at(&dir.path().join(name + "p")).expect_err("108 do not");
    assert_eq!(error.status(), Exit::Usage);
    let error = absolute(Path::new(&"p".repeat(107))).expect_err("relative");
    assert_eq!(error.status(), Exit::Usage);
    assert!(error.to_string().contains("path too long"), "{error}");
}

#[test]
fn a_relative_path_is_made_absolute() {
    let dir = tempfile::tempdir().expect("tempdir");
    let here = std::env::current_dir().expect("working directory");
    let up = "../".repeat(here.components().count() - 1);
    let path = dir.path().strip_prefix("/").expect("absolute");
    let listener = serve(&format!("unix:{up}{}/s", path.display())).expect("open");
    assert!(listener.name().starts_with("unix:/"), "{}", listener.name());
    assert_eq!(listener.unlink(), Ok(true));
    assert!(!dir.path().join("s").exists());
}

#[test]
fn of_twenty_servers_started_at_once_exactly_one_wins() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    for round in 0..20 {
        let _ = fs::remove_file(&path);
        drop(UnixListener::bind(&path).expect("a stale socket"));
        let start = Barrier::new(20);
        let results: Vec<_> = thread::scope(|scope| {
            let one = || {
                start.wait();
                serve_at(&path)
            };
            let all: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
            all.into_iter()
                .map(|one| one.join().expect("no panic"))
                .collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) = results.iter().partition(|r| r.is_ok());
        assert_eq!((winners.len(), losers.len()), (1, 19), "round {round}");
        for loser in losers {
            let error = loser.as_ref().expect_err("lost");
            assert_eq!(error.status(), Exit::Unavailable, "{error}");
        }
        let _client = UnixStream::connect(&path).expect("connect");
        let winner = winners[0].as_ref().expect("won");
        assert!(winner.accept().is_ok(), "the path leads to the winner");
    }
}

#[test]
fn the_mode_is_what_was_asked_for_whatever_the_umask() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (n, (attrs, mode)) in [
        ("", 0o666),
        (",mode=0600", 0o600),
        (",mode=0777", 0o777),
        (",mode=0", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(n.to_string());
        let _listener = serve(&format!("unix:{}{attrs}", path.display())).expect("open");
        assert_eq!(permissions(&path), mode, "{attrs}");
    }
}

#[test]
fn the_file_is_born_with_no_bit_more_than_asked() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    bind_narrow(&fd.expect("socket"), &path, Mode::S_IRUSR).expect("bind");
    assert_eq!(permissions(&path) & !0o400, 0);
}

#[test]
fn the_owner_is_set_or_the_file_is_not_left_behind() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let path = dir.path().join("s");
    let spec = format!("unix:{},mode=0660,user=65533,group=65532", path.display());
    if nix::unistd::geteuid().is_root() {
        let listener = serve(&spec).expect("open");
        let meta = fs::symlink_metadata(&path).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (65533, 65532));
        assert_eq!(permissions(&path), 0o660);
        assert_eq!(listener.unlink(), Ok(true));
    }
    let error = as_nobody(|| serve(&spec)).expect_err("cannot give it away");
    assert_eq!(error.status(), Exit::NoPermission, "{error}");
    assert!(error.to_string().starts_with("chown unix:"), "{error}");
    assert!(!path.exists());
}

#[test]
fn only_our_own_file_is_removed_and_only_on_request() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("s");
    drop(serve_at(&path).expect("open"));
    assert!(
        path.exists(),
        "dropping, as every forked child does, only closes"
    );

    let ours = serve_at(&path).expect("replaced");
    assert_eq!(ours.unlink(), Ok(true));
    assert!(!path.exists());
    assert_eq!(ours.unlink(), Ok(false), "gone already");

    let ours = serve_at(&path).expect("open");
    fs::remove_file(&path).expect("remove");
    let _theirs = UnixListener::bind(&path).expect("bind");
    assert_eq!(ours.unlink(), Ok(false), "another server's");
    assert!(path.exists());
}

#[test]
fn a_directory_kept_locked_does_not_hold_us_for_ever() {
    let dir = tempfile::tempdir().expect("tempdir");
    let held = open_dir(dir.path(), "unix:/s").expect("open");
    let ours = open_dir(dir.path(), "unix:/s").expect("open");
    let lock_held = lock(&held, Duration::ZERO).expect("lock");
    let refused = lock(&ours, Duration::from_millis(20)).expect_err("held");
    assert_eq!(refused, Errno::EWOULDBLOCK);
    drop(lock_held);
    assert!(lock(&ours, Duration::ZERO).is_ok());
}

fn find(user: &str, group: &str) -> Result<(Option<u32>, Option<u32>), Error> {
    let attrs = Attrs {
        user: (!user.is_empty()).then(|| user.to_owned()),
        group: (!group.is_empty()).then(|| group.to_owned()),
        ..Attrs::default()
    };
    let owner = Owner::find(&attrs, "unix:/s")?;
    Ok((owner.user.map(Uid::as_raw), owner.group.map(Gid::as_raw)))
}

#[test]
fn an_owner_is_a_name_or_a_number() {
    assert_eq!(find("", ""), Ok((None, None)));
    assert_eq!(find("root", "0"), Ok((Some(0), Some(0))));
    assert_eq!(find("65534", ""), Ok((Some(65534), None)));
    for (user, group, why) in [
        ("no-such-user", "", "user: no user no-such-user"),
        ("", "no-such-group", "group: no group no-such-group"),
        ("4294967295", "", "user: no user 4294967295"),
    ] {
        let error = find(user, group).expect_err("not there");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.status(), crate::error::Exit::Usage);
    }
}

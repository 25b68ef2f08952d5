//! Files that somebody planted where ours are to be, and who owns ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Builder, DEADLINE, Daemon, must, need_root};

/// A directory of the service's user, in which that user has planted a file of
/// the name that we are told to use.
struct Trap {
    dir: tempfile::TempDir,
    victim: PathBuf,
}

const PRECIOUS: &str = "precious\n";

impl Trap {
    fn new() -> Trap {
        let dir = tempfile::TempDir::new().expect("a directory");
        let victim = dir.path().join("victim");
        fs::write(&victim, PRECIOUS).expect("write");
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).expect("chmod");
        // Nobody's: who serves could have done it.
        let owner = Some(65_534);
        std::os::unix::fs::chown(dir.path(), owner, owner).expect("chown");
        Trap { dir, victim }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn assert_untouched(&self, how: &str) {
        let text = fs::read_to_string(&self.victim).expect("the victim");
        assert_eq!(text, PRECIOUS, "{how}");
        let meta = fs::metadata(&self.victim).expect("the victim");
        assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600), "{how}");
    }
}

/// Plants what it is named after.
fn plant(how: &str, trap: &Trap, path: &Path) {
    match how {
        "symlink" => symlink(&trap.victim, path).expect("symlink"),
        "hard link" => fs::hard_link(&trap.victim, path).expect("link"),
        _ => drop(must("mkfifo", &[&path.display().to_string()])),
    }
}

/// CVE-2016-1247: root opened a log by its name in a directory of the service.
#[test]
fn row_68_what_the_service_user_planted_is_not_followed() {
    if !need_root() {
        return;
    }
    for how in ["symlink", "hard link", "fifo"] {
        for option in ["--pidfile", "--log-target"] {
            let case = format!("{option}, {how}");
            let trap = Trap::new();
            let path = trap.path("planted");
            plant(how, &trap, &path);
            let builder = Builder::new().args([option, &path.display().to_string()]);
            let mut daemon = builder.spawn();
            let served = daemon.wait_ready(DEADLINE).is_ok();
            if served {
                daemon.signal(crate::common::Signal::SIGTERM);
            }
            let status = daemon.wait_exit(DEADLINE);
            println!("{case}: served {served}, {status:?}");
            trap.assert_untouched(&case);
            // A log may be a FIFO; nothing else of these can be ours.
            let may = option == "--log-target" && how == "fifo";
            assert!(!served || may, "{case}: taken");
            if !served {
                assert_eq!(status.code(), Some(73), "{case}: {}", daemon.log());
                let named = daemon.log().contains(&path.display().to_string());
                assert!(named, "{case}: {}", daemon.log());
            }
        }
    }
}

/// CVE-2017-14159: who can write a pidfile chooses whom an init script kills.
#[test]
fn row_71_the_pidfile_is_roots_and_nobody_else_can_write_it() {
    if !need_root() {
        return;
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    let log = dir.path().join("log").display().to_string();
    for how in [&["--daemon", "--log-target", &log][..], &[]] {
        let path = dir.path().join("pid");
        let mut daemon: Daemon = Builder::new()
            .args(how)
            .args(["--pidfile", &path.display().to_string()])
            .start();
        let pid = fs::read_to_string(&path).expect("a pidfile");
        let pid = pid.trim().parse().expect("a number");
        if !how.is_empty() {
            daemon.track(pid);
        }
        assert_eq!(crate::common::comm(pid), "echod");
        let serving = crate::common::proc::status(pid, "Uid").expect("alive");
        assert!(serving.starts_with("65534"), "it gave root up: {serving}");
        let meta = fs::metadata(&path).expect("a pidfile");
        assert_eq!((meta.uid(), meta.gid()), (0, 0));
        assert_eq!(meta.mode() & 0o022, 0, "{:o}", meta.mode());
    }
}

//! Tests of [`super`]: second instances are processes of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::rerun;

const ROLE: &str = "daemon::start::pidfile::tests::holder_role";

/// A second process: tries once told to, says how it went, and holds on.
#[test]
fn holder_role() {
    let Some(path) = rerun::role() else { return };
    rerun::wait_for_line();
    let outcome = PidFile::create(Path::new(&path));
    match &outcome {
        Ok(_) => rerun::say("won"),
        Err(error) => rerun::say(format!("{} {error}", error.status() as u8)),
    }
    rerun::wait_for_end();
    drop(outcome);
}

#[test]
fn it_holds_our_pid_and_goes_when_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pid");
    let pidfile = PidFile::create(&path).expect("create");
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text, format!("{}\n", std::process::id()));
    let mode = fs::metadata(&path).expect("stat").permissions().mode();
    assert_eq!(mode & 0o133, 0, "{mode:o}");
    pidfile.remove();
    assert!(!path.exists());
}

#[test]
fn row_69_a_stale_file_with_a_strangers_pid_is_taken_over() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pid");
    fs::write(&path, "1\nand more than a pid needs\n").expect("write");
    let _pidfile = PidFile::create(&path).expect("create");
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn a_second_instance_is_refused_and_the_first_untouched() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pid");
    let mut holder = rerun::start(ROLE, path.to_str().expect("utf-8"));
    holder.tell();
    assert_eq!(holder.hear(), "won");
    let error = PidFile::create(&path).expect_err("it is held");
    assert_eq!(error.status(), Exit::Unavailable);
    let by = format!("held by process {}", holder.pid());
    assert!(error.to_string().contains(&by), "{error}");
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text, format!("{}\n", holder.pid()));
    holder.end();
    // It only dropped its pidfile: the file is stale now, and ours to take.
    PidFile::create(&path).expect("take over").remove();
}

#[test]
fn exactly_one_of_twenty_wins() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pid");
    let path = path.to_str().expect("utf-8");
    let mut roles: Vec<_> = (0..20).map(|_| rerun::start(ROLE, path)).collect();
    roles.iter_mut().for_each(rerun::Role::tell);
    let said: Vec<_> = roles.iter_mut().map(rerun::Role::hear).collect();
    let (won, lost): (Vec<_>, Vec<_>) = said.iter().partition(|line| *line == "won");
    assert_eq!(won.len(), 1, "{said:?}");
    assert!(lost.iter().all(|line| line.starts_with("69 ")), "{lost:?}");
    roles.into_iter().for_each(|role| {
        role.end();
    });
}

#[test]
fn remove_leaves_a_file_that_is_not_ours() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pid");
    let pidfile = PidFile::create(&path).expect("create");
    fs::rename(&path, dir.path().join("moved")).expect("rename");
    fs::write(&path, "77\n").expect("write");
    pidfile.remove();
    assert_eq!(fs::read_to_string(&path).expect("read"), "77\n");
}

#[test]
fn row_68_what_was_planted_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("tempdir");
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious\n").expect("write");
    let (link, hard, fifo) = (
        dir.path().join("link"),
        dir.path().join("hard"),
        dir.path().join("fifo"),
    );
    std::os::unix::fs::symlink(&victim, &link).expect("symlink");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("mkfifo");
    for path in [&link, &fifo] {
        let error = PidFile::create(path).expect_err("planted");
        assert_eq!(error.status(), Exit::CantCreate, "{error}");
    }
    fs::hard_link(&victim, &hard).expect("link");
    let error = PidFile::create(&hard).expect_err("planted");
    assert_eq!(error.status(), Exit::CantCreate, "{error}");
    assert_eq!(fs::read_to_string(&victim).expect("read"), "precious\n");
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("no/pid");
    let error = PidFile::create(&path).expect_err("no directory");
    assert_eq!(error.status(), Exit::CantCreate);
    assert!(error.to_string().contains("(ENOENT)"), "{error}");
    assert!(PidFile::create(Path::new("/")).is_err());
}

/// Whoever may write to the directory plants a second name of somebody's file and
/// takes it away again, over and over.
#[test]
fn row_115_a_second_name_that_comes_and_goes_is_never_written_to() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (path, victim) = (dir.path().join("pid"), dir.path().join("victim"));
    fs::write(&victim, "precious\n").expect("write");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                if fs::hard_link(&victim, &path).is_ok() {
                    let _ = fs::remove_file(&path);
                }
            }
        });
        for _ in 0..3000 {
            if let Ok(pidfile) = PidFile::create(&path) {
                pidfile.remove();
            }
        }
        done.store(true, Relaxed);
    });
    assert_eq!(fs::read_to_string(&victim).expect("read"), "precious\n");
}

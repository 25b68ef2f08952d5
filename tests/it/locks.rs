//! The trap of echod-models(7): a lock on a descriptor that was inherited
//! through fork(2) may exclude nobody. It belongs to the open file, and that is
//! shared; a record lock belongs to the process.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use echod::sys::process;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

const PROCESSES: usize = 64;

/// How many of 64 children hold the lock at once, all being alive.
fn holders(take: impl Fn() -> bool) -> usize {
    let (mut answers, mut answer) = std::io::pipe().expect("pipe");
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let child = process::fork(|| {
                let _ = answer.write_all(&[u8::from(take())]);
                loop {
                    nix::unistd::pause();
                }
            });
            child.expect("fork")
        })
        .collect();
    let mut said = [0; PROCESSES];
    answers.read_exact(&mut said).expect("an answer from each");
    for child in children {
        kill(child, Signal::SIGKILL).expect("our own child");
        waitpid(child, None).expect("our own child");
    }
    said.iter().map(|&holds| usize::from(holds)).sum()
}

fn flock(file: File) -> bool {
    // Forgotten, not dropped: that would unlock.
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map(std::mem::forget)
        .is_ok()
}

fn record_lock(file: &OwnedFd) -> bool {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_SETLK(&whole)).is_ok()
}

/// One test, since it forks: no other thread may be about.
#[test]
fn flock_on_an_inherited_descriptor_excludes_nobody() {
    let dir = tempfile::tempdir().expect("tempdir");
    // Three files: what the children got in the first case, we hold too.
    let create = |name| File::create(dir.path().join(name)).expect("create");
    let inherited = create("shared");
    let n = holders(|| flock(inherited.try_clone().expect("dup")));
    assert_eq!(n, PROCESSES, "flock(2) on an inherited descriptor");
    let path = dir.path().join("opened");
    drop(create("opened"));
    let n = holders(|| flock(File::open(&path).expect("open")));
    assert_eq!(n, 1, "flock(2) on a file each has opened");
    let inherited = OwnedFd::from(create("record"));
    let n = holders(|| record_lock(&inherited));
    assert_eq!(n, 1, "a record lock on an inherited descriptor");
}

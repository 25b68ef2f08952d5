use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use super::*;

const NONE: Descriptors = Descriptors {
    born_below: 0,
    null: 0,
};

fn ended(child: impl FnOnce() -> i32) -> WaitStatus {
    waitpid(process::fork(child).unwrap(), None).unwrap()
}

#[test]
fn strict_mode_ends_a_child_that_asks_for_more() {
    let sandbox = Sandbox::probe(&[]).unwrap();
    if !matches!(sandbox.one, One::Strict) {
        eprintln!("skipped: a filter is inherited here, strict mode is refused");
        return;
    }
    assert!(matches!(
        ended(|| i32::from(sandbox.enter_for_one().is_err())),
        WaitStatus::Exited(_, 0)
    ));
    let killed = ended(|| {
        let _ = sandbox.enter_for_one();
        nix::unistd::getppid().as_raw()
    });
    assert!(
        matches!(killed, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{killed:?}"
    );
}

#[test]
fn under_an_inherited_filter_the_four_calls_are_a_filter_too() {
    let calls: Vec<_> = EVERYTHING_THE_PROBE_NEEDS.iter().map(|&n| any(n)).collect();
    let outer = ended(|| {
        if apply(&permit(&calls, NONE).unwrap()).is_err() {
            return 10;
        }
        let Ok(sandbox) = Sandbox::probe(&[]) else {
            return 11;
        };
        if !matches!(sandbox.one, One::Bpf(_)) {
            return 13;
        }
        let child = process::fork(|| {
            let _ = sandbox.enter_for_one();
            nix::unistd::getppid().as_raw()
        });
        match child.map(|pid| waitpid(pid, None)) {
            Ok(Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))) => 0,
            _ => 12,
        }
    });
    assert!(matches!(outer, WaitStatus::Exited(_, 0)), "{outer:?}");
}

#[test]
fn a_worker_with_threads_starts_threads_and_no_process() {
    let sandbox = Sandbox::probe(&[]).unwrap();
    if !sandbox.has_seccomp() {
        eprintln!("skipped: no seccomp here");
        return;
    }
    let limits = startup::Worker {
        descriptors: 64,
        memory: None,
        writes_files: false,
    };
    let threads = ended(|| {
        if sandbox.enter_for_threads(limits, NONE).is_err() {
            return 1;
        }
        let sum: i32 = (0..20)
            .map(|n| std::thread::spawn(move || n).join().unwrap_or(1000))
            .sum();
        process::exit_all(i32::from(sum != 190))
    });
    assert!(matches!(threads, WaitStatus::Exited(_, 0)), "{threads:?}");
    let forked = ended(|| {
        let _ = sandbox.enter_for_threads(limits, NONE);
        i32::from(process::fork(|| 0).is_ok())
    });
    assert!(
        matches!(forked, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
        "{forked:?}"
    );
}

/// To lose lines is what a worker could do anyway; those of others stay.
#[test]
fn row_114_a_worker_appends_to_the_log_and_rewrites_nothing() {
    let sandbox = Sandbox::probe(&[Need::Log]).unwrap();
    if !sandbox.has_seccomp() {
        eprintln!("skipped: no seccomp here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "before\n").unwrap();
    let log = std::fs::File::options().append(true).open(&path).unwrap();
    let limits = startup::Worker {
        descriptors: 64,
        memory: None,
        writes_files: true,
    };
    const NOAPPEND: libc::c_int = 0x20; // RWF_NOAPPEND, not in the libc crate
    let part = libc::iovec {
        iov_base: c"XXXX".as_ptr().cast_mut().cast(),
        iov_len: 4,
    };
    let put = |at: i64, flags: libc::c_int| {
        // SAFETY: one iovec over four static bytes, which the kernel only reads.
        unsafe { libc::pwritev2(log.as_raw_fd(), &raw const part, 1, at, flags) }
    };
    for enter in [Sandbox::enter_for_many, Sandbox::enter_for_threads] {
        let appended = ended(|| {
            let entered = enter(&sandbox, limits, NONE).is_ok();
            i32::from(!entered || crate::sys::fd::write_now(log.as_fd(), b"line\n") != Ok(5))
        });
        assert!(matches!(appended, WaitStatus::Exited(_, 0)), "{appended:?}");
        for (at, flags) in [(0, NOAPPEND), (0, 0), (0, libc::RWF_NOWAIT), (-1, NOAPPEND)] {
            let killed = ended(|| {
                let _ = enter(&sandbox, limits, NONE);
                i32::from(put(at, flags) != 4)
            });
            assert!(
                matches!(killed, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
                "{at} {flags}: {killed:?}"
            );
        }
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "before\nline\nline\n");
}

/// The table of echod(8), CONTAINMENT.
#[test]
fn the_page_counts_the_calls_of_each_worker() {
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: the page counts for x86-64");
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/echod.8");
    let page = std::fs::read_to_string(path).expect("the page");
    let rows = page.lines().filter_map(|line| {
        let (worker, rest) = line.strip_prefix(".It ")?.split_once(" Ta ")?;
        Some((worker, rest.split(' ').next()?.parse::<usize>().ok()?))
    });
    let (accept, pass) = ([Need::Accept, Need::Release], [Need::Message]);
    let counted = [
        ("one connection", Kind::One, &[][..]),
        ("several connections", Kind::Many, &accept),
        ("several connections, passed to it", Kind::Many, &pass),
        (
            "several connections, a line for each",
            Kind::Many,
            &[Need::Accept, Need::Release, Need::Log],
        ),
        ("threads", Kind::Threads, &accept[..1]),
        (
            "threads, a line for each",
            Kind::Threads,
            &[Need::Accept, Need::Log],
        ),
        ("datagrams", Kind::Datagrams, &[]),
        ("datagrams of a Unix socket", Kind::UnixDatagrams, &[]),
    ]
    .map(|(worker, kind, needs)| (worker, calls::count(kind, needs)));
    assert_eq!(rows.collect::<Vec<_>>(), counted);
}

const EVERYTHING_THE_PROBE_NEEDS: &[libc::c_long] = &[
    libc::SYS_landlock_create_ruleset,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_clone,
    libc::SYS_clone3,
    // musl's.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    libc::SYS_wait4,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getppid,
    libc::SYS_set_robust_list,
    libc::SYS_gettid,
    libc::SYS_getpid,
];

/// A call with any arguments.
fn any(number: libc::c_long) -> calls::Call {
    calls::Call { number, tests: &[] }
}

#[test]
fn each_abi_is_asked_for_what_it_knows() {
    for (abi, files, ports, scoped, bytes) in [
        (1, 0x1fff, 0, 0, 8),
        (2, 0x3fff, 0, 0, 8),
        (3, 0x7fff, 0, 0, 8),
        (4, 0x7fff, 3, 0, 16),
        (5, 0xffff, 3, 0, 16),
        (6, 0xffff, 3, 3, 24),
        (9, 0xffff, 3, 3, 24),
    ] {
        let all = Ruleset {
            files,
            ports,
            scoped,
        };
        assert_eq!(
            (every_right(abi, false), size(abi)),
            (all, bytes),
            "ABI {abi}"
        );
        assert_eq!(every_right(abi, true).scoped, scoped & SIGNALS, "ABI {abi}");
    }
}

/// In a forked child: it cannot be undone.
#[test]
fn nothing_can_be_opened_bound_or_signalled() {
    let Some(landlock) = Landlock::probe() else {
        eprintln!("skipped: no Landlock here");
        return;
    };
    let child = process::fork(|| {
        let _ = nix::sys::prctl::set_no_new_privs();
        if landlock.enter(false).is_err() {
            return 1;
        }
        if std::fs::File::open("/etc/passwd").is_ok() || std::fs::read_dir("/").is_ok() {
            return 2;
        }
        if landlock.abi() >= 4 && std::net::TcpListener::bind("127.0.0.1:0").is_ok() {
            return 3;
        }
        let outside = nix::unistd::getppid();
        if landlock.abi() >= 6 && nix::sys::signal::kill(outside, None).is_ok() {
            return 4;
        }
        0
    });
    let status = waitpid(child.unwrap(), None).unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

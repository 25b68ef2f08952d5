//! The supervisor killed with -9, or being PID 1: what becomes of its children,
//! and of other people's.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::{is_timeout, tcp_addr};
use crate::common::design::{FORK_DOUBLE, FORK_WAIT, PREFORK, PREFORK_REUSE};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, Signal, children, echo_once, need, need_root,
    pattern, poll_some, poll_until, proc, signal, stream_until_broken, zombies,
};
use crate::faults::deaths::SetAtEnd;
use crate::faults::wrapper::{rest, wrapper};

/// Promised is "at once", 200 ms measured at worst.
const AT_ONCE: Duration = Duration::from_secs(2);

fn with_orphans(design: &Design, how: &str) -> Daemon {
    Builder::new()
        .args(design.args)
        .args(["--orphans", how])
        .start()
}

fn clients_of(design: &Design) -> u64 {
    if design.one_at_a_time { 1 } else { 4 }
}

/// Kills the supervisor and binds its address, by the bind(2) and listen(2) of
/// any server (std sets SO_REUSEADDR, which does not help where somebody still
/// listens).
#[track_caller]
fn kill_and_bind(daemon: &Daemon, what: &str) {
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(DEADLINE);
    let start = Instant::now();
    poll_until(AT_ONCE, "the address is free", || {
        TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
    });
    println!("{what}: free after {:?}", start.elapsed());
}

/// Every client ends, with an exact prefix of what it sent.
pub fn row_43_orphans_end_with_the_supervisor(design: &Design) {
    let daemon = with_orphans(design, "terminate");
    let (addr, begun) = (daemon.addr(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..clients_of(design) {
            scope.spawn(|| {
                let mut counted = false;
                let client = Client::connect(addr);
                stream_until_broken(client, |seen| {
                    if seen > 1 << 20 && !std::mem::replace(&mut counted, true) {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
        }
        poll_until(DEADLINE, "every client in mid-transfer", || {
            begun.load(Ordering::Relaxed) == clients_of(design)
        });
        kill_and_bind(&daemon, design.name);
    });
    daemon.assert_gone(AT_ONCE);
    let successor = Daemon::start(&["-l", daemon.addr()]);
    assert_eq!(echo_once(successor.addr(), b"next"), b"next");
}

/// Streams in pieces until told to stop, then ends in good order.
fn transfer(addr: &str, stop: &AtomicBool, done: &AtomicU64) {
    let mut client = Client::connect(addr);
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        client.ping(&pattern(at, 40_000));
        at += 40_000;
        done.fetch_add(1, Ordering::Relaxed);
    }
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
}

/// Nobody is cut, nobody else is left, and a successor serves beside them.
pub fn row_44_orphans_finish_their_clients(design: &Design) {
    let daemon = with_orphans(design, "finish");
    let (addr, n) = (daemon.addr(), clients_of(design));
    let stop = AtomicBool::new(false);
    let done: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
    let all_beyond = |what: &str, pieces: u64| {
        poll_until(DEADLINE, what, || {
            done.iter().all(|n| n.load(Ordering::Relaxed) > pieces)
        });
    };
    thread::scope(|scope| {
        let _stop = SetAtEnd(&stop);
        for done in &done {
            scope.spawn(|| transfer(addr, &stop, done));
        }
        all_beyond("every client in mid-transfer", 5);
        kill_and_bind(&daemon, design.name);
        let killed_at = done.iter().map(|n| n.load(Ordering::Relaxed)).max();
        poll_until(AT_ONCE, "only who serves is left", || {
            daemon.members().len() == n as usize
        });
        let successor = Daemon::start(&["-l", daemon.addr()]);
        assert_eq!(echo_once(successor.addr(), b"next"), b"next");
        all_beyond("every client served on", killed_at.unwrap_or(0) + 5);
    });
    daemon.assert_gone(DEADLINE);
}

/// Orphans below come to this process, not to init: PR_SET_CHILD_SUBREAPER(2const),
/// which execve(2) keeps.
#[test]
fn role_subreaper() {
    let Some(mut command) = rest() else { return };
    nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
    panic!("exec: {}", command.exec());
}

/// The supervisor dies while its child is on its way to PR_SET_PDEATHSIG, which
/// is then too late: the child must find out by itself, also where orphans go to
/// a subreaper, whose pid is not 1.
#[test]
fn row_45_a_child_born_to_a_dead_supervisor_leaves() {
    if !need("strace") {
        return;
    }
    for (design, reaper) in [
        (&FORK_WAIT, false),
        (&FORK_WAIT, true),
        (&PREFORK, true),
        (&PREFORK_REUSE, true),
        (&FORK_DOUBLE, true),
    ] {
        let mut builder = Builder::new();
        let trace = builder.path("trace");
        if reaper {
            // strace will be who forked the supervisor, and so the reaper.
            builder = builder.under(wrapper("faults::orphans::role_subreaper"));
        }
        let daemon = builder
            .under(["strace", "-f", "-o", &trace, "-e", "trace=prctl,fcntl"])
            .under(["-e", "inject=prctl,fcntl:delay_enter=150000:when=1..3"])
            .args(design.args)
            .args(["--sandbox", "off", "--orphans", "terminate"])
            .start();
        let mut client = Client::connect(daemon.addr());
        poll_until(DEADLINE, "a newborn child", || {
            let members = daemon.members().into_iter();
            let mut echods = members.filter(|p| p.comm.starts_with("echod"));
            echods.any(|p| p.pid != daemon.pid())
        });
        signal(daemon.pid(), Signal::SIGKILL);
        let end = client.end();
        let late = end.is_err_and(|error| is_timeout(&error));
        assert!(!late, "{} {reaper}: served by an orphan", design.name);
        // Once all that is traced is gone, so is strace.
        poll_until(DEADLINE, "every process is gone", || {
            daemon.members().is_empty()
        });
        let free = TcpListener::bind(tcp_addr(daemon.addr()));
        assert!(free.is_ok(), "{} {reaper}: {free:?}", design.name);
    }
}

/// As PID 1 of a namespace echod is everybody's foster parent.
#[test]
fn row_48_pid_1_reaps_strangers_and_grandchildren() {
    if !need_root() || !need("unshare") || !need("nsenter") {
        return;
    }
    for design in [&PREFORK, &FORK_DOUBLE, &FORK_WAIT] {
        let daemon = Builder::new()
            .under(["unshare", "-pf", "--mount-proc", "--kill-child"])
            .args(design.args)
            .start();
        let (mut client, serving) = daemon.connect_served();
        assert_eq!(
            proc::status(daemon.pid(), "NSpid").and_then(|s| last_word(&s)),
            Some("1".to_owned())
        );
        if design.name == FORK_DOUBLE.name {
            let parent = proc::stat(serving).map(|p| p.ppid);
            assert_eq!(parent, Some(daemon.pid()), "the grandchild came back");
        }
        orphan_100(&daemon);
        client.ping(b"still served");
        // Reaping one that is known, among a hundred that are not.
        signal(serving, Signal::SIGKILL);
        let late = client.end().is_err_and(|error| is_timeout(&error));
        assert!(!late);
        for n in 0..50 {
            assert_eq!(echo_once(daemon.addr(), &[n]), [n]);
        }
        poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
        // PID 1 has no default dispositions: an unhandled TERM would be lost.
        daemon.signal(Signal::SIGTERM);
        poll_until(DEADLINE, "it ends", || proc::is_dead(daemon.pid()));
    }
}

fn last_word(text: &str) -> Option<String> {
    text.split_whitespace().next_back().map(str::to_owned)
}

/// A hundred processes of the namespace lose their parent, live a moment as
/// echod's children, and end there.
fn orphan_100(daemon: &Daemon) {
    let flag = daemon.dir().join("go").display().to_string();
    let script = "n=0; while [ $n -lt 100 ]; do \
        (read x <\"$0\" &) >/dev/null 2>&1; n=$((n + 1)); done";
    crate::common::must("mkfifo", &[&flag]);
    let pid = daemon.pid().to_string();
    let before = children(daemon.pid());
    crate::common::must("nsenter", &["-t", &pid, "-p", "sh", "-c", script, &flag]);
    let strangers = poll_some(DEADLINE, "100 strangers", || {
        let now = children(daemon.pid());
        (now.len() >= before.len() + 100).then_some(now)
    });
    // Ends every read at once: a mass of deaths nobody has announced. Open for
    // both, or this would wait for readers, and late readers for us.
    let mut held = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&flag)
        .expect("open");
    held.write_all(&[b'\n'; 100]).expect("a line for each");
    poll_until(DEADLINE, "all of them are reaped", || {
        let now = children(daemon.pid());
        let left = strangers.iter().filter(|pid| now.contains(pid)).count();
        left <= before.len()
    });
}

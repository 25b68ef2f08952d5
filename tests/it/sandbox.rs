//! What a serving process can still do: the calls it makes, as strace(1) sees
//! them, the mode the kernel reports, the descriptors it holds.
//!
//! A child that serves one connection can read, write, exit and return from a
//! signal. Workers that live on have a longer filter. `--sandbox off` has none.

use crate::faults::wrapper;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::common::client::is_timeout;
use crate::common::design::{
    FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, ITERATIVE, PREFORK, PREFORK_MUTEX, PREFORK_REUSE, THREAD,
};
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Design, Signal, is_root, must, need, pattern, poll_some,
    poll_until, proc, skipped, tool,
};

const ONE_CONNECTION: [&Design; 4] = [&PREFORK, &FORK_WAIT, &FORK_IGNORE, &FORK_DOUBLE];
const MANY: [&Design; 2] = [&PREFORK_REUSE, &ITERATIVE];

fn with_sandbox(design: &Design, how: &str) -> Builder {
    Builder::new().args(design.args).args(["--sandbox", how])
}

fn threaded(design: &Design) -> bool {
    design.threaded
}

/// Whether the kernel here still gives strict mode: not under somebody's filter.
fn unfiltered() -> bool {
    let mode = proc::status(std::process::id().cast_signed(), "Seccomp");
    mode.as_deref() == Some("0") || skipped("these tests run under a seccomp filter")
}

/// Mode of a process: 0 none, 1 strict, 2 filter.
fn mode(pid: i32) -> String {
    proc::status(pid, "Seccomp").unwrap_or_default()
}

/// The trace of the one process that entered strict mode and served `bytes`,
/// once strace(1) has written its end.
fn serving_trace(dir: &Path) -> String {
    poll_some(DEADLINE, "one whole trace of a serving process", || {
        let traces = fs::read_dir(dir).expect("a directory").flatten();
        let mut strict: Vec<String> = traces
            .filter(|f| f.file_name().to_string_lossy().starts_with("trace."))
            .filter_map(|f| fs::read_to_string(f.path()).ok())
            .filter(|t| t.contains(STRICT) && t.contains("\"traced\""))
            .collect();
        assert!(strict.len() <= 1, "one process served");
        strict.pop().filter(|trace| trace.contains("\n+++ "))
    })
}

const STRICT: &str = "SECCOMP_MODE_STRICT";

/// Between its prctl and its exit a serving child makes no call but these.
#[test]
fn a_serving_child_only_reads_and_writes() {
    if !need("strace") || !unfiltered() {
        return;
    }
    for design in ONE_CONNECTION {
        let builder = with_sandbox(design, "strict");
        let dir = builder.dir();
        // Every call, and the trace of each process in a file of its own.
        let daemon = builder
            .under(["strace", "-ff", "-s", "64", "-o"])
            .under([dir.join("trace").display().to_string()])
            .start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"traced");
        client.ping(&pattern(0, 100_000)[..60_000]);
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
        assert_eq!(daemon.conn_line(&client.peer_name()).end, "eof");
        let trace = serving_trace(&dir);
        let (before, after) = trace
            .split_once(STRICT)
            .and_then(|(before, after)| Some((before, after.split_once('\n')?.1)))
            .expect("strict mode");
        assert!(before.contains("close_range("), "{}", design.name);
        let calls: Vec<&str> = after
            .lines()
            .map(|line| line.split(['(', ' ']).next().unwrap_or(line))
            .collect();
        let (exit, served) = calls.split_last().expect("calls");
        assert_eq!(*exit, "+++", "{}: {after}", design.name);
        let (exit, served) = served.split_last().map(|(e, s)| (*e, s)).expect("calls");
        assert_eq!(exit, "exit", "{}: {after}", design.name);
        assert!(served.contains(&"read") && served.contains(&"write"));
        for call in served {
            assert!(["read", "write"].contains(call), "{}: {after}", design.name);
        }
    }
}

#[test]
fn the_kernel_reports_strict_mode_for_one_connection_and_a_filter_for_many() {
    if !unfiltered() {
        return;
    }
    for how in ["best-effort", "strict"] {
        for design in DESIGNS {
            let daemon = with_sandbox(design, how).start();
            let (mut client, serving) = daemon.connect_served();
            let expected = if design.reuses || threaded(design) {
                "2"
            } else {
                "1"
            };
            assert_eq!(mode(serving), expected, "{} {how}", design.name);
            // The supervisor forks: it cannot be locked in.
            assert_eq!(mode(daemon.pid()), "0");
            client.ping(b"and it works");
            daemon.wait_log("sandbox seccomp strict", DEADLINE);
        }
    }
}

/// Strict mode lets a process write to any descriptor that is open.
#[test]
fn a_serving_child_holds_its_connection_alone() {
    for design in ONE_CONNECTION {
        for (how, looked_at) in [("best-effort", is_root()), ("off", true)] {
            let daemon = with_sandbox(design, how).start();
            let (client, serving) = daemon.connect_served();
            if !looked_at {
                skipped("whose descriptors are whose needs root here");
                continue;
            }
            let held = proc::fd_targets(serving).expect("/proc/PID/fd");
            let port = crate::common::client::tcp_addr(daemon.addr()).port();
            let inode = proc::socket_inode(daemon.pid(), port, client.local_port());
            let socket = format!("socket:[{}]", inode.expect("the connection"));
            assert!(held.iter().any(|(_, what)| *what == socket), "{held:?}");
            // The double-forked keep their tie to the supervisor as well.
            let expected = if design.name == FORK_DOUBLE.name {
                2
            } else {
                1
            };
            assert_eq!(held.len(), expected, "{}: {held:?}", design.name);
            assert!(held.iter().all(|(_, what)| what.starts_with("socket:")));
        }
    }
}

/// Lists a process's descriptors as the user it runs as.
fn readable_by_its_user(pid: i32) -> bool {
    let fds = format!("/proc/{pid}/fd/");
    if !is_root() {
        return tool("ls", &[&fds]).0;
    }
    let uid = proc::status(pid, "Uid").expect("a live process");
    let uid = uid.split_whitespace().next().expect("a uid").to_owned();
    let ids = ["--reuid", &uid, "--regid", &uid, "--clear-groups"];
    must("setpriv", &[&ids[..], &["true"]].concat());
    tool("setpriv", &[&ids[..], &["ls", &fds]].concat()).0
}

#[test]
fn off_leaves_a_process_that_can_be_looked_into() {
    if is_root() && !need("setpriv") {
        return;
    }
    for design in DESIGNS {
        let daemon = with_sandbox(design, "off").start();
        let (_client, serving) = daemon.connect_served();
        assert_eq!(mode(serving), "0", "{}", design.name);
        for pid in [serving, daemon.pid()] {
            assert!(readable_by_its_user(pid), "{}", design.name);
        }
        daemon.wait_log("sandbox off", DEADLINE);
        let guarded = with_sandbox(design, "best-effort").start();
        let (_client, serving) = guarded.connect_served();
        for pid in [serving, guarded.pid()] {
            assert!(!readable_by_its_user(pid), "{}", design.name);
        }
    }
}

/// Becomes the rest of the command line under a filter that allows everything,
/// as every container has one: strict mode is then refused.
#[test]
fn role_filtered() {
    let Some(mut command) = wrapper::rest() else {
        return;
    };
    let action = seccompiler::SeccompAction::Allow;
    let denied = seccompiler::SeccompAction::KillProcess;
    // A filter must deny something: a call that no architecture gives this number.
    let rules = [(1_000_000, Vec::new())].into_iter().collect();
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("a known architecture");
    let filter = seccompiler::SeccompFilter::new(rules, action, denied, arch);
    let program: seccompiler::BpfProgram =
        filter.and_then(TryInto::try_into).expect("a valid filter");
    seccompiler::apply_filter(&program).expect("seccomp(2)");
    panic!("exec: {}", command.exec());
}

#[test]
fn under_an_inherited_filter_the_four_calls_are_a_filter() {
    for how in ["strict", "best-effort"] {
        for design in DESIGNS {
            let daemon = with_sandbox(design, how)
                .under(wrapper::wrapper("sandbox::role_filtered"))
                .start();
            daemon.wait_log("sandbox seccomp filter", DEADLINE);
            let (mut client, serving) = daemon.connect_served();
            assert_eq!(mode(serving), "2", "{} {how}", design.name);
            client.ping(&pattern(0, 50_000));
            let filters = |pid| proc::status(pid, "Seccomp_filters");
            let own = filters(serving).and_then(|n| n.parse::<u32>().ok());
            let inherited = filters(daemon.pid()).and_then(|n| n.parse::<u32>().ok());
            if let (Some(own), Some(inherited)) = (own, inherited) {
                // Threads have a second one, which denies that there is a clone3(2).
                let ours = if threaded(design) { 2 } else { 1 };
                assert_eq!(own, inherited + ours, "{} {how}", design.name);
            }
            client.shutdown_write().expect("shutdown");
            assert!(client.rest().is_empty());
            assert_eq!(daemon.conn_line(&client.peer_name()).end, "eof");
        }
    }
}

/// A kernel without seccomp, as far as echod can tell: a filter is inherited, so
/// strict mode is refused, and a further filter is refused too.
fn without_seccomp(how: &str) -> Builder {
    let builder = Builder::new();
    let trace = builder.path("trace");
    builder
        .under(wrapper::wrapper("sandbox::role_filtered"))
        .under(["strace", "-f", "-o", &trace, "-e", "trace=seccomp"])
        .under(["-e", "inject=seccomp:error=ENOSYS"])
        .args(["--sandbox", how])
}

#[test]
fn strict_without_seccomp_refuses_to_serve() {
    if !need("strace") {
        return;
    }
    let end = without_seccomp("strict").run(DEADLINE);
    assert_eq!(end.status.code(), Some(78), "{}", end.stderr);
    let said = end.stderr.lines().find(|line| line.starts_with("echod: "));
    assert!(
        said.is_some_and(|line| line.contains("--sandbox strict")),
        "{}",
        end.stderr
    );
}

#[test]
fn best_effort_without_seccomp_says_so_and_serves() {
    if !need("strace") {
        return;
    }
    let daemon = without_seccomp("best-effort").start();
    daemon.wait_log("no sandbox: this kernel offers no seccomp", DEADLINE);
    assert_eq!(
        crate::common::echo_once(daemon.addr(), b"served"),
        b"served"
    );
}

/// A filter that kills would show as SIGSYS: everything a worker that lives on
/// may be asked to do, and no death.
#[test]
fn workers_that_live_on_have_all_the_calls_they_need() {
    for design in MANY {
        let builder = with_sandbox(design, "strict");
        let log = builder.path("log");
        let daemon = builder
            .args(["--idle-timeout", "300ms", "--max-lifetime", "1m"])
            .args(["--log-target", &log])
            .log_at(Path::new(&log))
            .start();
        for n in 0..30 {
            let mut client = Client::connect(daemon.addr());
            client.ping(&pattern(n, 2000));
            match n % 3 {
                0 => client.shutdown_write().expect("shutdown"),
                1 => {
                    client.reset();
                    continue;
                }
                _ => {}
            }
            // The third kind ends by the idle timeout.
            let late = client.end().is_err_and(|error| is_timeout(&error));
            assert!(!late);
        }
        poll_until(DEADLINE, "a line for each", || {
            daemon.log_count("conn pid=") == 30
        });
        let mut last = Client::connect(daemon.addr());
        last.write_all(b"alive").expect("send");
        assert_eq!(daemon.log_count("killed:"), 0);
    }
}

/// What a worker that was taken over might set on the listener, where no filter
/// forbade it. A copy of it is kept here, as the opener of a socket has one.
fn spoil(listener: &TcpListener) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(listener, sockopt::Linger, &at_once).expect("setsockopt");
    let moment = TimeVal::new(0, 1);
    setsockopt(listener, sockopt::ReceiveTimeout, &moment).expect("setsockopt");
    setsockopt(listener, sockopt::SendTimeout, &moment).expect("setsockopt");
    setsockopt(listener, sockopt::OobInline, &false).expect("setsockopt");
    listener.set_nonblocking(false).expect("fcntl");
}

fn is_spoiled(listener: &TcpListener) -> bool {
    let flags = fcntl(listener, FcntlArg::F_GETFL).expect("fcntl");
    let moment = |found: TimeVal| found.tv_sec() == 0;
    let linger = getsockopt(listener, sockopt::Linger).expect("getsockopt");
    linger.l_onoff != 0
        || !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
        || !getsockopt(listener, sockopt::OobInline).expect("getsockopt")
        || moment(getsockopt(listener, sockopt::ReceiveTimeout).expect("getsockopt"))
        || moment(getsockopt(listener, sockopt::SendTimeout).expect("getsockopt"))
}

#[test]
fn row_109_a_reload_and_a_killed_workers_replacement_set_the_listener_right() {
    for design in DESIGNS.iter().filter(|design| !design.tcp_only) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let daemon = Builder::new()
            .args(design.args)
            .handed(listener.try_clone().expect("a copy"))
            .start();
        let set_right = |why: &str| {
            let name = design.name;
            poll_until(DEADLINE, &format!("{name}: set right by {why}"), || {
                !is_spoiled(&listener)
            });
        };
        assert!(!is_spoiled(&listener), "{}", design.name);
        spoil(&listener);
        daemon.signal(Signal::SIGHUP);
        set_right("a reload");
        if design.reuses || threaded(design) {
            let (_client, serving) = daemon.connect_served();
            spoil(&listener);
            proc::signal(serving, Signal::SIGKILL);
            set_right("a death");
        }
        assert_eq!(
            crate::common::echo_once(daemon.addr(), b"served"),
            b"served"
        );
    }
}

/// What the filter permits on a connection is permitted on each, whatever its number
/// is, beside listeners that are many and have gaps between them.
#[test]
fn row_109_workers_that_live_on_set_what_a_connection_needs() {
    for design in [&PREFORK_REUSE, &ITERATIVE, &THREAD] {
        let builder = with_sandbox(design, "strict");
        let unix = format!("unix:{}", builder.path("s"));
        let daemon = builder
            .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
            .args(["-l", &unix])
            .args(["--deny", "127.0.0.0/8", "--idle-timeout", "300ms"])
            .args(["--max-lifetime", "1m"])
            .start();
        let addr = |of: &str| {
            let mut all = daemon.addrs().iter();
            all.rfind(|addr| addr.starts_with(of)).expect("it").clone()
        };
        for _ in 0..10 {
            let mut client = Client::connect(&addr("unix:"));
            client.ping(b"by a Unix socket");
            // By the timeout that was set on it.
            let late = client.end().is_err_and(|error| is_timeout(&error));
            assert!(!late, "{}", design.name);
            // Reset, by an option.
            let denied = Client::try_connect(&addr("tcp:"));
            let served = denied.is_ok_and(|mut client| client.try_ping(b"no"));
            assert!(!served, "{}", design.name);
        }
        assert_eq!(daemon.log_count("SIGSYS"), 0, "{}", design.name);
    }
}

/// Of the memory that processes share a child with one client has the scoreboard,
/// and no table of those who serve others or let others in.
#[test]
fn row_112_a_child_with_one_client_shares_the_scoreboard_alone() {
    if !is_root() {
        skipped("whose mappings are whose needs root here");
        return;
    }
    let rate = &["--connection-rate", "1000/1s"][..];
    for (design, more) in [
        (&PREFORK, &[][..]),
        (&PREFORK, rate),
        (&PREFORK_MUTEX, &[]),
        (&FORK_WAIT, &[]),
        (&FORK_WAIT, rate),
        (&FORK_DOUBLE, &[]),
    ] {
        let daemon = with_sandbox(design, "best-effort")
            .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
            .args(more)
            .start();
        let (_client, serving) = daemon.connect_served();
        // With a rate, where the supervisor lets clients in, who was refused as well.
        let most = if more.is_empty() { 1 } else { 2 };
        let name = design.name;
        poll_until(
            DEADLINE,
            &format!("{name} {more:?}: reaches no more"),
            || {
                let maps = proc::file(serving, "maps").expect("maps");
                let shared = |line: &&str| line.contains("/dev/zero") && line.contains(" rw-s ");
                (1..=most).contains(&maps.lines().filter(shared).count())
            },
        );
    }
}

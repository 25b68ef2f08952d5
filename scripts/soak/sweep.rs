//! S5: every system call that can fail, with every error it is documented to
//! have, injected by strace(1): at the start, and into a daemon that serves.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::card::Row;
use crate::common::design::{FORK_WAIT, PREFORK, PREFORK_PASS, PREFORK_REUSE};
use crate::common::{Builder, Client, DEADLINE, Daemon, Design, Signal, holds_within, need, proc};
use crate::plan::{Dice, Plan};

/// System calls of the start and their documented errors.
const START: &[(&str, &[&str])] = &[
    (
        "socket",
        &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EACCES",
            "EAFNOSUPPORT",
        ],
    ),
    ("bind", &["EACCES", "EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM"]),
    ("listen", &["EADDRINUSE", "EOPNOTSUPP"]),
    ("setsockopt", &["ENOPROTOOPT", "ENOMEM", "EINVAL"]),
    ("getsockname", &["ENOBUFS"]),
    (
        "openat",
        &["EACCES", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "ENOSPC"],
    ),
    ("eventfd2", &["EMFILE", "ENFILE", "ENOMEM", "ENODEV"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("fcntl", &["EMFILE"]),
    ("setgroups", &["EPERM", "ENOMEM"]),
    ("setresgid", &["EPERM", "EAGAIN", "EINVAL"]),
    ("setresuid", &["EPERM", "EAGAIN", "EINVAL"]),
    ("capset", &["EPERM"]),
    ("prctl", &["EPERM", "EINVAL", "ENOSYS"]),
    ("prlimit64", &["EPERM"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("close_range", &["ENOSYS", "EPERM", "EINVAL"]),
    ("epoll_create1", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("newfstatat", &["EACCES", "ENOENT", "ENOMEM"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("wait4", &["EINTR"]),
    ("rt_sigprocmask", &["EINVAL"]),
    ("getgroups", &["EINVAL"]),
    ("seccomp", &["EPERM", "ENOSYS", "EINVAL", "ENOMEM"]),
];

/// System calls of a daemon that serves. Of accept4, EBADF, EINVAL and ENOTSOCK
/// are missing: they end the daemon, as row 7 wants.
const SERVING: &[(&str, &[&str])] = &[
    (
        "accept4",
        &[
            "EAGAIN",
            "ECONNABORTED",
            "EINTR",
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EPERM",
            "EPROTO",
            "ENETDOWN",
            "EHOSTUNREACH",
            "ETIMEDOUT",
            "ECONNRESET",
        ],
    ),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("wait4", &["EINTR"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("epoll_create1", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_wait", &["EINTR"]),
    ("close_range", &["ENOSYS", "EPERM"]),
    ("close", &["EINTR", "EIO"]),
    ("setsockopt", &["ENOPROTOOPT", "ENOMEM"]),
    ("socketpair", &["EMFILE", "ENFILE", "ENOMEM"]),
    (
        "sendmsg",
        &["EAGAIN", "EINTR", "ENOBUFS", "ENOMEM", "ETOOMANYREFS"],
    ),
    ("recvmsg", &["EAGAIN", "EINTR", "ENOMEM"]),
    ("fcntl", &["EINTR"]),
    ("madvise", &["EAGAIN", "ENOMEM"]),
    ("prctl", &["EPERM", "EINVAL"]),
    ("seccomp", &["ENOMEM", "EPERM"]),
    ("getpeername", &["ENOBUFS", "ENOTCONN"]),
];

/// Which of the calls fail: `strace -e inject=…:when=`.
const WHEN: [&str; 3] = ["1", "2", "1+"];

/// Calls that wait: one that never does lets no signal in, which no kernel does.
const WAITING: [&str; 4] = ["ppoll", "poll", "epoll_wait", "wait4"];

/// One call, one error, one moment.
type Case = (&'static str, &'static str, &'static str);

fn cases(table: &[(&'static str, &'static [&'static str])]) -> Vec<Case> {
    let each = |&(call, errors): &(&'static str, &'static [&'static str])| {
        let pairs = errors
            .iter()
            .flat_map(move |&error| WHEN.map(|when| (call, error, when)));
        pairs.collect::<Vec<_>>()
    };
    let possible = |case: &Case| case.2 != "1+" || !WAITING.contains(&case.0);
    table.iter().flat_map(each).filter(possible).collect()
}

/// All of the cases when there is time, else as many as there is time for, in
/// the order the seed gives.
pub fn errors(plan: &Plan) -> Vec<Row> {
    if !need("strace") {
        return Vec::new();
    }
    let mut rows = vec![at_start(&plan.share(1, 3))];
    for design in [&PREFORK, &PREFORK_REUSE, &PREFORK_PASS, &FORK_WAIT] {
        rows.push(while_serving(design, &plan.share(1, 6)));
    }
    rows
}

fn shuffled(mut cases: Vec<Case>, seed: u64) -> Vec<Case> {
    let mut dice = Dice::new(seed);
    for n in (1..cases.len()).rev() {
        cases.swap(n, dice.below(n as u64 + 1) as usize);
    }
    cases
}

/// It serves all the same, or it ends with a status and a line; never a hang,
/// never half a daemon.
fn at_start(plan: &Plan) -> Row {
    let mut row = Row::new("S5", "errors injected at the start");
    let start = std::time::Instant::now();
    for case in shuffled(cases(START), plan.seed) {
        if start.elapsed() > plan.time {
            break;
        }
        row.tried += 1;
        match start_with(case) {
            Ok(()) => row.survived += 1,
            Err(why) => row.fail(format!("{case:?}: {why}")),
        }
    }
    row
}

fn start_with((call, error, when): Case) -> Result<(), String> {
    let inject = format!("inject={call}:error={error}:when={when}");
    let builder = Builder::new();
    let trace = builder.path("trace");
    let strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        &trace,
        "-e",
        &format!("trace={call}"),
        "-e",
        &inject,
    ];
    let mut daemon = builder.under(strace).spawn();
    let serves = daemon.wait_ready(Duration::from_secs(10)).is_ok();
    if serves && daemon.try_exit().is_none() {
        // Persistent errors may keep every worker from its work: row 18.
        if when != "1+" && !holds_within(DEADLINE, || echo(daemon.addr())) {
            return Err("it says ready and does not echo".to_owned());
        }
        daemon.signal(Signal::SIGTERM);
    }
    if !holds_within(DEADLINE, || daemon.try_exit().is_some()) {
        return Err("it hangs".to_owned());
    }
    let status = daemon.wait_exit(DEADLINE);
    let said = daemon.log().lines().any(|line| line.contains("echod"));
    match status.code() {
        Some(0) if serves => Ok(()),
        Some(1..=63 | 79..) | None => Err(format!("{status}: {}", daemon.log())),
        Some(_) if said => Ok(()),
        Some(_) => Err(format!("{status} without a word")),
    }
}

/// One echo, without a panic when it does not come.
fn echo(addr: &str) -> bool {
    let Ok(mut client) = Client::try_connect(addr) else {
        return false;
    };
    client.set_timeouts(Duration::from_millis(500));
    client.try_ping(b"injected")
}

/// While the errors last clients may wait or be cut; when they have passed the
/// same daemon serves as before.
fn while_serving(design: &Design, plan: &Plan) -> Row {
    let mut row = Row::new(
        "S5",
        format!("errors injected while serving, {}", design.name),
    );
    let begin = || Builder::new().args(design.args).sigsys_is_fine().start();
    let mut daemon = begin();
    let start = std::time::Instant::now();
    for case in shuffled(cases(SERVING), plan.seed) {
        if start.elapsed() > plan.time {
            break;
        }
        row.tried += 1;
        match serve_with(&daemon, case) {
            Ok(()) => row.survived += 1,
            Err(why) => {
                row.fail(format!("{case:?}: {why}"));
                daemon = begin();
            }
        }
    }
    row
}

fn serve_with(daemon: &Daemon, (call, error, when): Case) -> Result<(), String> {
    let mut strace = attach(daemon, &format!("inject={call}:error={error}:when={when}"))?;
    for _ in 0..3 {
        if let Ok(mut client) = Client::try_connect(daemon.addr()) {
            client.set_timeouts(Duration::from_millis(100));
            let _ = client.try_ping(b"while it lasts");
        }
    }
    proc::signal(strace.id().cast_signed(), Signal::SIGTERM);
    let _ = strace.wait();
    if daemon.try_exit().is_some() {
        return Err("the daemon ended".to_owned());
    }
    if !holds_within(DEADLINE, || echo(daemon.addr())) {
        return Err("it does not recover".to_owned());
    }
    Ok(())
}

/// strace on the supervisor and all it forks from now on.
fn attach(daemon: &Daemon, inject: &str) -> Result<Child, String> {
    let call = inject.split([':', '=']).nth(1).unwrap_or_default();
    let strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            &daemon.pid().to_string(),
        ])
        .args(["-e", &format!("trace={call}"), "-e", inject])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("strace: {error}"))?;
    let attached = || proc::status(daemon.pid(), "TracerPid").is_some_and(|pid| pid != "0");
    if holds_within(DEADLINE, attached) {
        Ok(strace)
    } else {
        Err("strace does not attach".to_owned())
    }
}

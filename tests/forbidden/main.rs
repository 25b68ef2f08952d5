//! Row 95, S12: what a taken-over worker would try. This binary is echod with
//! another service in the place of the echo: it commits the act whose number a
//! client sends. Tried in every design, each act by its name, and once without a
//! sandbox, where each must go through to the kernel: a test that could not fail
//! would prove nothing.
//!
//! No release build contains it: it links the library, as any program could.

mod acts;
#[path = "../it/common/mod.rs"]
mod common;
mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use acts::{ACTS, Act};
use common::design::{FORK_DOUBLE, PREFORK, PREFORK_PASS_REUSE, PREFORK_REUSE, THREAD, pool};
use common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Design, Signal, is_root, poll_some, proc, skipped,
};
use echod::net::connection::{Connection, End};
use echod::sys::sandbox::{Descriptors, Sandbox};
use echod::sys::startup::Worker;

const AS_ECHOD: &str = "--as-echod";
const AS_DATAGRAMS: &str = "--as-datagram-worker";

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match rest.first().map(String::as_str) {
        Some(AS_ECHOD) => {
            let argv = rest.into_iter().skip(1);
            let argv = std::iter::once(program).chain(argv).map(Into::into);
            ExitCode::from(echod::daemon::main_with(argv, hook) as u8)
        }
        Some(AS_DATAGRAMS) => as_datagram_worker(&rest[1]),
        _ => harness::run(rest.into_iter(), tests()),
    }
}

fn tests() -> Vec<harness::Test> {
    let mut all = Vec::new();
    let mut add = |name: String, run: Box<dyn Fn()>| all.push(harness::Test { name, run });
    for design in DESIGNS {
        let name = format!("row_95_{}_refuses_every_act", design.name);
        add(name, Box::new(|| refuses_every_act(design, "info")));
    }
    for design in [&PREFORK_REUSE, &THREAD] {
        let name = format!("row_95_{}_with_a_log_refuses_every_act", design.name);
        add(
            name,
            Box::new(|| refuses_every_act(design, "info,conn=debug")),
        );
    }
    add(
        "row_95_datagram_worker_refuses_every_act".to_owned(),
        Box::new(datagram_worker_refuses_every_act),
    );
    add(
        "without_a_sandbox_every_act_reaches_the_kernel".to_owned(),
        Box::new(every_act_reaches_the_kernel),
    );
    for design in DESIGNS {
        let name = format!("row_112_{}_counts_whom_it_serves", design.name);
        add(name, Box::new(|| counts_whom_it_serves(design)));
    }
    for design in [&PREFORK_REUSE, &PREFORK_PASS_REUSE] {
        let name = format!("row_113_{}_serves_beside_a_thief", design.name);
        add(name, Box::new(|| serves_beside_a_thief(design)));
    }
    let name = "row_113_prefork_reuse_serves_beside_one_that_does_not_come";
    add(
        name.to_owned(),
        Box::new(|| serves_beside_one_that_does_not_come(&PREFORK_REUSE)),
    );
    for design in DESIGNS {
        let name = format!("row_95_{}_writes_to_nobody_else", design.name);
        add(name, Box::new(|| writes_to_nobody_else(design)));
    }
    all
}

/// An order from the client: the act, the descriptors that it is to try, and the
/// supervisor's pid.
const ORDER: usize = 6;
/// Long enough for who would be served to be so.
const SHORT: Duration = Duration::from_millis(300);
/// More than a worker has beside its connection.
const DESCRIPTORS: u8 = 64;
/// Acts that are none of [`ACTS`]: one byte to every descriptor, and either be done
/// or stay with the client.
const WRITE_TO_ALL: u8 = u8::MAX;
const WRITE_AND_STAY: u8 = u8::MAX - 1;
/// Nothing that is forbidden: one byte back, and stay.
const STAY: u8 = u8::MAX - 3;
/// Whatever can be read from descriptors that the order names, for ever.
const READ_ALL: u8 = u8::MAX - 2;
/// And what would wake a worker.
const WAIT_FOR_ALL: u8 = u8::MAX - 4;

/// What is served in the place of the echo.
fn hook(conn: &mut Connection<'_>, buffer: &mut [u8]) -> End {
    let order = match conn.read(buffer) {
        Ok(came) => <[u8; ORDER]>::try_from(came),
        Err(end) => return end,
    };
    let Ok([act, descriptors, a, b, c, d]) = order else {
        return End::Error(nix::errno::Errno::EBADMSG);
    };
    if act == WRITE_TO_ALL {
        write_to_all();
        return End::Eof;
    }
    if act == WRITE_AND_STAY || act == STAY {
        if act == STAY {
            let _ = conn.write_all(b"!");
        } else {
            write_to_all();
        }
        return match conn.read(buffer) {
            Ok(_) => End::Eof,
            Err(end) => end,
        };
    }
    if act == WAIT_FOR_ALL {
        wait_for_all();
    }
    if act == READ_ALL {
        read_all(&[descriptors, a, b, c, d]);
    }
    acts::aim(i32::from_ne_bytes([a, b, c, d]), descriptors);
    // No formatting, which may allocate.
    let answer = match ACTS[usize::from(act)].commit() {
        Ok(_) => [b'+', 0, 0],
        Err(errno) => {
            let [high, low] = (errno as u16).to_be_bytes();
            [b'-', high, low]
        }
    };
    match conn.write_all(&answer) {
        Ok(()) => End::Eof,
        Err(end) => end,
    }
}

/// By write(2), the one call that no sandbox here can do without.
fn write_to_all() {
    for fd in 0..1024 {
        // SAFETY: one byte of a static; the numbers are whatever is open there.
        unsafe { libc::write(fd, b"!".as_ptr().cast(), 1) };
    }
}

/// As fast as it can, so that nobody else finds anything there.
fn read_all(fds: &[u8]) -> ! {
    let mut taken = [0u64; 64];
    loop {
        for &fd in fds {
            // SAFETY: into a live array of that size.
            unsafe { libc::read(fd.into(), taken.as_mut_ptr().cast(), size_of_val(&taken)) };
        }
    }
}

/// At its own epoll, for every wake-up there is, and it obeys none.
fn wait_for_all() -> ! {
    let mut came = [libc::epoll_event { events: 0, u64: 0 }; 4];
    loop {
        for fd in 0..i32::from(DESCRIPTORS) {
            // SAFETY: into a live array of that size; no mask.
            unsafe { libc::epoll_pwait(fd, came.as_mut_ptr(), 4, -1, std::ptr::null()) };
        }
    }
}

/// What became of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was done, or the kernel had another reason not to.
    Reached(Option<i32>),
    /// The process is gone, of that signal where the supervisor learns it.
    Killed(String),
}

fn builder(design: &Design, sandbox: &str, log: &str) -> Builder {
    let exe = std::env::current_exe().expect("this binary");
    Builder::new()
        .program([exe.display().to_string(), AS_ECHOD.to_owned()])
        .args(design.args)
        .args(["--sandbox", sandbox])
        .env("RUST_LOG", log)
        .sigsys_is_fine()
}

fn start(design: &Design, sandbox: &str, log: &str) -> Daemon {
    builder(design, sandbox, log).start()
}

fn try_act(daemon: &Daemon, design: &Design, index: usize, target: i32) -> Outcome {
    let deaths = || {
        let log = daemon.log();
        let died = log.lines().filter_map(|line| line.split_once("died of "));
        died.map(|(_, rest)| rest.split(' ').next().unwrap_or(rest).to_owned())
            .collect::<Vec<_>>()
    };
    let before = deaths().len();
    let mut client = Client::connect(daemon.addr());
    let descriptors = if target == INIT { 0 } else { DESCRIPTORS };
    let order = [&[index as u8, descriptors][..], &target.to_ne_bytes()].concat();
    client.write_all(&order).expect("send");
    let mut answer = Vec::new();
    // A killed process may leave a reset behind.
    let _ = client.read_to_end(&mut answer);
    match answer[..] {
        [b'+', ..] => Outcome::Reached(None),
        [b'-', high, low] => Outcome::Reached(Some(u16::from_be_bytes([high, low]).into())),
        _ if !design.exit_status_seen => Outcome::Killed("?".to_owned()),
        _ => Outcome::Killed(poll_some(DEADLINE, "the death is logged", || {
            deaths().get(before).cloned()
        })),
    }
}

/// Every act ends the worker, by the signal of its sandbox, and the next client
/// finds another worker.
fn refuses_every_act(design: &Design, log: &str) {
    let daemon = start(design, "strict", log);
    let threads = design.threaded;
    let strict = daemon.log().contains("sandbox seccomp strict");
    let signal = match (design.exit_status_seen, design.reuses || threads) {
        (false, _) => "?",
        (true, false) if strict => "SIGKILL",
        _ => "SIGSYS",
    };
    let mut wrong = Vec::new();
    for (index, act) in ACTS.iter().enumerate() {
        let outcome = try_act(&daemon, design, index, daemon.pid());
        let expected = match threads && acts::is_clone3(act) {
            true => Outcome::Reached(Some(libc::ENOSYS)),
            false => Outcome::Killed(signal.to_owned()),
        };
        if outcome != expected {
            wrong.push(format!("{}: {outcome:?}", act.name));
        }
    }
    println!("{}: {} acts, each {signal}", design.name, ACTS.len());
    assert!(wrong.is_empty(), "{}: {wrong:#?}", design.name);
    assert!(daemon.try_exit().is_none(), "the supervisor lives");
}

/// Who is safe from us by other means.
const INIT: i32 = 1;

/// The same acts where nothing forbids them, aimed at nobody of ours, and at no
/// descriptor: a traced supervisor would stop, and a listener be spoiled.
fn every_act_reaches_the_kernel() {
    for design in [&PREFORK, &PREFORK_REUSE] {
        let daemon = start(design, "off", "info");
        let gone = |act: &Act| acts::is_exec(act);
        for (index, act) in ACTS.iter().enumerate().filter(|(_, act)| !gone(act)) {
            let outcome = try_act(&daemon, design, index, INIT);
            assert!(
                matches!(outcome, Outcome::Reached(_)),
                "{}: {outcome:?}",
                act.name
            );
        }
    }
}

/// Of what a write(2) can reach, only the connection takes a byte, and where there
/// is one the worker's own tie to the supervisor.
fn writes_to_nobody_else(design: &Design) {
    let builder = builder(design, "strict", "info");
    let (pidfile, log) = (builder.path("pid"), builder.path("log"));
    let files = ["--pidfile", &pidfile, "--log-target", &log];
    let daemon = builder.args(files).log_at(Path::new(&log)).start();
    let read = || (daemon.log(), fs::read(&pidfile).expect("the pidfile"));
    let before = read();
    let mut client = Client::connect(daemon.addr());
    client
        .write_all(&[WRITE_TO_ALL, 0, 0, 0, 0, 0])
        .expect("send");
    client.shutdown_write().expect("shutdown");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the worker lives");
    assert_eq!(answer, b"!", "{}", design.name);
    assert_eq!(read(), before, "{}", design.name);
    assert!(daemon.stdout().is_empty(), "{}", design.name);
    let tied = [&FORK_DOUBLE, &PREFORK_PASS_REUSE];
    let tied = tied.iter().any(|one| one.name == design.name);
    println!(
        "{}: 1 connection, tie to the supervisor: {tied}",
        design.name
    );
    assert!(!proc::is_dead(daemon.pid()));
}

/// Children that write a byte wherever they can are served to the end like others:
/// the limit holds, and a stop leaves none of them behind.
fn counts_whom_it_serves(design: &Design) {
    let (most, limit) = match design.one_at_a_time {
        true => (1, &[][..]),
        false => (2, &["--max-clients", "2"][..]),
    };
    let daemon = builder(design, "strict", "info")
        .args(["--graceful-timeout", "500ms"])
        .args(limit)
        .start();
    let holds = || {
        let mut client = Client::connect(daemon.addr());
        let order = [WRITE_AND_STAY, 0, 0, 0, 0, 0];
        client.write_all(&order).expect("send");
        client
    };
    let mut clients: Vec<Client> = (0..most).map(|_| holds()).collect();
    for client in &mut clients {
        // What was written to all reached it, too.
        client.read_exact(&mut [0]).expect("it is served");
    }
    let mut more: Vec<Client> = (0..2).map(|_| holds()).collect();
    for client in &mut more {
        assert!(
            client.silent_for(SHORT),
            "{}: beyond the limit",
            design.name
        );
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(
        daemon.wait_exit(DEADLINE).code(),
        Some(0),
        "{}",
        design.name
    );
    daemon.assert_gone(DEADLINE);
}

/// One worker reads whatever would wake somebody: the others' clients are served, at
/// each listener, more of them than waited for.
fn serves_beside_a_thief(design: &Design) {
    if !is_root() {
        skipped("whose descriptors are whose needs root here");
        return;
    }
    let builder = builder(design, "strict", "info");
    let listeners = ["-l", "tcp:127.0.0.1:0", "-l", "tcp:127.0.0.1:0"];
    let daemon = builder
        .args(listeners)
        .args(pool(3, 3, 6))
        .args(["--max-clients", "16", "--graceful-timeout", "300ms"])
        .start();
    // The same numbers in a worker, those of them that it keeps; none of them waits.
    let mut order = vec![READ_ALL];
    for (fd, what) in proc::fd_targets(daemon.pid()).unwrap_or_default() {
        if fd > 2 && (what.contains("eventfd") || what.starts_with("pipe:")) {
            order.push(fd as u8);
        }
    }
    order.resize(ORDER, u8::MAX);
    let mut thief = Client::connect(daemon.addr());
    thief.write_all(&order).expect("send");
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..10)
            .map(|n| Client::connect(&daemon.addrs()[n % 2]))
            .collect();
        for client in &mut clients {
            client.write_all(&[STAY, 0, 0, 0, 0, 0]).expect("send");
        }
        for client in &mut clients {
            client.read_exact(&mut [0]).expect("it is served");
        }
        for mut client in clients {
            client.shutdown_write().expect("shutdown");
            assert_eq!(client.rest(), b"", "{}", design.name);
        }
    }
}

/// One worker lets itself be woken for clients, and takes none: others do, whether
/// there is room for another worker or not.
fn serves_beside_one_that_does_not_come(design: &Design) {
    for limit in ["8", "4"] {
        let daemon = builder(design, "strict", "info")
            .args(pool(4, 3, 4))
            .args(["--max-clients", limit, "--graceful-timeout", "300ms"])
            .start();
        let mut thief = Client::connect(daemon.addr());
        thief
            .write_all(&[WAIT_FOR_ALL, 0, 0, 0, 0, 0])
            .expect("send");
        for _ in 0..12 {
            let mut client = Client::connect(daemon.addr());
            client.write_all(&[STAY, 0, 0, 0, 0, 0]).expect("send");
            let served = client.read_exact(&mut [0]);
            served.unwrap_or_else(|e| panic!("{} {limit}: {e}", design.name));
        }
    }
}

/// The sandbox of a datagram worker, whose work is no service's, entered by a
/// process of its own: `7`, or `unix7` for a Unix socket's.
fn as_datagram_worker(order: &str) -> ExitCode {
    let index = order.trim_start_matches("unix");
    let act = &ACTS[index.parse::<usize>().expect("a number")];
    acts::aim(nix::unistd::getppid().as_raw(), 3);
    nix::sys::prctl::set_no_new_privs().expect("prctl");
    let limits = Worker {
        descriptors: 3,
        memory: Some(u64::MAX),
        writes_files: false,
    };
    let sandbox = Sandbox::probe(&[]).expect("fork");
    let descriptors = Descriptors {
        born_below: 3,
        null: 3,
    };
    let entered = match order == index {
        true => sandbox.enter_for_datagrams(limits, descriptors),
        false => sandbox.enter_for_unix_datagrams(limits, descriptors),
    };
    entered.expect("seccomp");
    let reached = act.commit();
    echod::sys::process::exit(if reached.is_ok() { 1 } else { 2 })
}

fn datagram_worker_refuses_every_act() {
    let exe = std::env::current_exe().expect("this binary");
    let mut wrong = Vec::new();
    for (index, act) in ACTS.iter().enumerate() {
        for order in [index.to_string(), format!("unix{index}")] {
            let status = Command::new(&exe)
                .args([AS_DATAGRAMS, &order])
                .status()
                .expect("this binary runs");
            if status.signal() != Some(libc::SIGSYS) {
                wrong.push(format!("{order} {}: {status}", act.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("datagram workers: {} acts, each SIGSYS", ACTS.len());
}

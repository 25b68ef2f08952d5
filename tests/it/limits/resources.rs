//! No more processes to be had, and a network that goes away.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::client::{is_timeout, tcp_addr};
use crate::common::design::pool;
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, Signal, echo_once, holds_within, inside_netns,
    must, need, need_root, pattern, poll_until, proc, zombies,
};

/// A user nobody else is: RLIMIT_NPROC counts all processes of one, and does
/// not bind root.
fn lonely_uid(n: u32) -> u32 {
    60_000 + std::process::id() % 800 * 6 + n
}

fn able() -> bool {
    need_root() && need("prlimit")
}

/// Sets the supervisor's RLIMIT_NPROC: `1` makes every fork fail with EAGAIN.
/// As the daemon's own user, who may: root may not where CAP_SYS_RESOURCE is
/// missing, as in many containers (see prlimit(2)).
fn limit_processes(daemon: &Daemon, uid: u32, soft: u32) {
    let out = Command::new("prlimit")
        .args(["--pid", &daemon.pid().to_string()])
        .arg(format!("--nproc={soft}:"))
        .uid(uid)
        .gid(uid)
        .output()
        .expect("prlimit");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
}

/// Enough for every process these tests need.
const PLENTY: u32 = 500;

fn wait_idle(daemon: &Daemon, n: usize) {
    poll_until(DEADLINE, "the pool", || {
        daemon.role("echod-idle").len() == n
    });
}

fn send_one(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    client.write_all(b"wait").expect("the kernel takes it");
    client
}

fn expect_echo(client: &mut Client) {
    let mut got = [0; 4];
    client.read_exact(&mut got).expect("served in the end");
    assert_eq!(&got, b"wait");
}

#[test]
fn row_15_fork_eagain_keeps_client_waiting() {
    if !able() {
        return;
    }
    let uid = lonely_uid(0);
    let daemon = Builder::new().uid(uid).args(pool(2, 2, 2)).start();
    wait_idle(&daemon, 2);
    limit_processes(&daemon, uid, 1);
    let mut served: Vec<_> = (0..2).map(|_| daemon.connect_served().0).collect();
    let mut waiting: Vec<_> = (0..3).map(|_| send_one(&daemon)).collect();
    assert!(waiting[0].silent_for(Duration::from_millis(800)));
    for client in &mut served {
        client.ping(b"not affected");
    }
    assert_eq!(daemon.log_count("EAGAIN"), 1, "a line an episode");
    limit_processes(&daemon, uid, PLENTY);
    for client in &mut waiting {
        expect_echo(client);
    }
}

#[test]
fn row_15_a_stop_does_not_wait_for_the_back_off() {
    if !able() {
        return;
    }
    let uid = lonely_uid(1);
    let daemon = Builder::new().uid(uid).args(pool(1, 1, 1)).start();
    wait_idle(&daemon, 1);
    limit_processes(&daemon, uid, 1);
    let (mut served, _) = daemon.connect_served();
    let mut waiting = send_one(&daemon);
    assert!(waiting.silent_for(Duration::from_millis(800)));
    served.ping(b"still here");
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait_exit(Duration::from_secs(5)).code(), Some(0));
}

/// The other ways in which fork(2) fails, met by the supervisor of a daemon that
/// serves already.
fn fork_fails(daemon: &Daemon, errno: &str, release: impl FnOnce()) {
    let mut served: Vec<_> = (0..2).map(|_| Client::connect(daemon.addr())).collect();
    for client in &mut served {
        client.ping(b"by whom there is");
    }
    let mut waiting: Vec<_> = (0..3).map(|_| send_one(daemon)).collect();
    daemon.wait_log(errno, DEADLINE);
    assert!(waiting[0].silent_for(Duration::from_millis(300)));
    for client in &mut served {
        client.ping(b"not affected");
    }
    assert_eq!(daemon.log_count(errno), 1, "a line an episode");
    release();
    for client in &mut waiting {
        expect_echo(client);
    }
}

#[test]
fn row_16_fork_enomem_keeps_clients_waiting() {
    if !need("strace") {
        return;
    }
    let daemon = Builder::new()
        .args(pool(2, 2, 2))
        .args(["--sandbox", "off"]) // stays traceable for its own user
        .start();
    wait_idle(&daemon, 2);
    let mut strace = inject_forks(&daemon, "error=ENOMEM");
    fork_fails(&daemon, "ENOMEM", || {
        // It lets go of what it traces.
        proc::signal(strace.id().cast_signed(), Signal::SIGTERM);
    });
    strace.wait().expect("strace");
}

/// A control group of this test's own, of either version.
pub struct ControlGroup(pub PathBuf);

impl ControlGroup {
    /// One with a file of this name; `None` where we may not make one, which is
    /// no fault of the machine's: other tests show the same by another failure.
    pub fn with(controller: &str, file: &str) -> Option<ControlGroup> {
        let name = format!("echod-test-{}-{file}", std::process::id());
        let roots = [
            format!("/sys/fs/cgroup/{controller}"),
            "/sys/fs/cgroup".to_owned(),
        ];
        for root in roots {
            let dir = Path::new(&root).join(&name);
            if fs::create_dir(&dir).is_ok() {
                let group = ControlGroup(dir);
                if group.0.join(file).exists() {
                    return Some(group);
                }
            }
        }
        println!("skipped: no control group with {file} can be made here");
        None
    }

    pub fn set(&self, file: &str, value: impl ToString) {
        let path = self.0.join(file);
        fs::write(&path, value.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Words for `Builder::under`: a shell that joins it and executes the rest.
    pub fn enter(&self) -> [String; 4] {
        let procs = self.0.join("cgroup.procs");
        let script = "echo $$ >\"$0\" && exec \"$@\"";
        ["sh", "-c", script, &procs.display().to_string()].map(str::to_owned)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Busy until the last of its processes is gone.
        holds_within(DEADLINE, || fs::remove_dir(&self.0).is_ok());
    }
}

/// As with `TasksMax` in a unit: the limit is not one user's but the service's.
#[test]
fn row_16_pids_max_keeps_clients_waiting() {
    let Some(group) = need_root()
        .then(|| ControlGroup::with("pids", "pids.max"))
        .flatten()
    else {
        return;
    };
    let daemon = Builder::new()
        .under(group.enter())
        .args(pool(2, 2, 2))
        .start();
    wait_idle(&daemon, 2);
    // The supervisor and its two.
    group.set("pids.max", 3);
    fork_fails(&daemon, "EAGAIN", || group.set("pids.max", "max"));
}

/// Both kinds of group, in whichever version is here.
#[test]
fn row_23_check_names_the_control_group_that_is_too_small() {
    if !need_root() {
        return;
    }
    for (controller, file, limit, about) in [
        ("pids", "pids.max", 100, "tasks (pids.max"),
        ("memory", "memory.max", 40 << 20, "memory (memory.max"),
        (
            "memory",
            "memory.limit_in_bytes",
            40 << 20,
            "memory (memory.max",
        ),
    ] {
        let Some(group) = ControlGroup::with(controller, file) else {
            continue;
        };
        group.set(file, limit);
        let check = Builder::new().bare().under(group.enter()).args(["--check"]);
        let done = check.run(DEADLINE);
        let name = group.0.file_name().expect("a name").to_string_lossy();
        let said = format!("{about} of the control group /{name}) is ");
        assert_eq!(done.status.code(), Some(78), "{}", done.stderr);
        assert!(done.stderr.contains(&said), "{}", done.stderr);
    }
}

#[test]
fn row_17_no_accepted_client_is_closed_when_fork_fails() {
    if !able() {
        return;
    }
    for (n, reap) in (2..).zip(["wait", "ignore", "double-fork"]) {
        let uid = lonely_uid(n);
        let daemon = Builder::new()
            .uid(uid)
            .args(["--model", "fork", "--reap", reap])
            .start();
        Client::connect(daemon.addr()).ping(b"before");
        limit_processes(&daemon, uid, 1);
        let mut waiting: Vec<_> = (0..5).map(|_| send_one(&daemon)).collect();
        for client in &mut waiting {
            assert!(client.silent_for(Duration::from_millis(100)), "{reap}");
        }
        limit_processes(&daemon, uid, PLENTY);
        for client in &mut waiting {
            expect_echo(client);
        }
    }
}

/// From now on the forks of the supervisor and of its new children fail as told.
fn inject_forks(daemon: &Daemon, fault: &str) -> std::process::Child {
    let fault = format!("inject=?fork,clone,clone3:{fault}");
    let words = ["-f", "-o", "/dev/null", "-e", "trace=clone", "-e", &fault];
    proc::strace(daemon.pid(), &words)
}

/// The connection of a child that cannot fork again may end, but not its slot.
#[test]
fn row_19_a_failed_second_fork_frees_the_slot() {
    if !need("strace") {
        return;
    }
    let daemon = Builder::new()
        .args(["--model", "fork", "--reap", "double-fork"])
        .args(["--max-clients", "1", "--sandbox", "off"])
        .start();
    // The supervisor's next, and that of each child in the middle.
    let mut strace = inject_forks(&daemon, "error=EAGAIN:when=1");
    for _ in 0..4 {
        let mut client = send_one(&daemon);
        let end = client.read(&mut [0; 4]);
        let late = end.is_err_and(|error| is_timeout(&error));
        assert!(!late, "neither served nor closed");
    }
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
    drop(daemon);
    strace.wait().expect("strace ends with what it traces");
}

#[test]
fn row_84_a_vanished_peer_frees_its_slot() {
    let name = "limits::resources::row_84_a_vanished_peer_frees_its_slot";
    if !["nsenter", "ss"].iter().all(|t| need(t)) || !inside_netns(name) {
        return;
    }
    let (daemon, port) = across_a_cable(&["--write-timeout", "2s"]);
    let mut client = Client::connect(&format!("tcp:10.77.0.2:{port}"));
    client.ping(b"plugged in");
    let timers = in_there(&daemon, &["ss", "-tno"]);
    assert!(timers.contains("keepalive"), "no keepalive: {timers}");

    client.set_timeouts(Duration::from_millis(50));
    let chunk = pattern(0, 1 << 16);
    while client.write(&chunk).is_ok() {}
    unplug_and_expect_the_end_of(&client, &daemon);
}

/// A peer that is owed nothing is found out by questions alone.
#[test]
fn keepalive_ends_who_vanished_in_silence() {
    let name = "limits::resources::keepalive_ends_who_vanished_in_silence";
    if !need("nsenter") || !inside_netns(name) {
        return;
    }
    let options = ["--keepalive", "1s/1s/2", "--write-timeout", "off"];
    let (daemon, port) = across_a_cable(&options);
    let mut client = Client::connect(&format!("tcp:10.77.0.2:{port}"));
    client.ping(b"plugged in");
    unplug_and_expect_the_end_of(&client, &daemon);
    let line = daemon.conn_line(&client.peer_name());
    assert_eq!(line.end, "write-timeout");
}

/// What comes by another interface is not for a listener of one.
#[test]
fn device_serves_what_comes_by_it_alone() {
    let name = "limits::resources::device_serves_what_comes_by_it_alone";
    if !need("nsenter") || !inside_netns(name) {
        return;
    }
    let (daemon, port) = across_a_cable(&["-l", "tcp:0.0.0.0:0,device=lo"]);
    let tied = tcp_addr(&daemon.addrs()[1]).port();
    assert_eq!(
        echo_once(&format!("tcp:10.77.0.2:{port}"), b"by the cable"),
        b"by the cable"
    );
    let error = std::net::TcpStream::connect(("10.77.0.2", tied)).expect_err("by the cable");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{tied}; echo at home >&3; head -n 1 <&3");
    assert_eq!(in_there(&daemon, &["bash", "-c", &script]), "at home\n");
}

/// Runs a command in the daemon's namespace.
fn in_there(daemon: &Daemon, words: &[&str]) -> String {
    let pid = daemon.pid().to_string();
    must("nsenter", &[&["-t", &pid, "-n"], words].concat())
}

/// Ours is one end of a cable, the daemon's namespace has the other. Returns the
/// port it listens at.
fn across_a_cable(options: &[&str]) -> (Daemon, u16) {
    must("ip", &["link", "set", "lo", "up"]);
    let daemon = Builder::new()
        .under(["unshare", "-n"])
        .args(["-l", "tcp:0.0.0.0:0", "--idle-timeout", "off"])
        .args(options)
        .start();
    for words in [
        "link add v0 type veth peer name v1",
        &format!("link set v1 netns {}", daemon.pid()),
        "addr add 10.77.0.1/24 dev v0",
        "link set v0 up",
    ] {
        must("ip", &words.split(' ').collect::<Vec<_>>());
    }
    for words in [
        "ip link set lo up",
        "ip addr add 10.77.0.2/24 dev v1",
        "ip link set v1 up",
    ] {
        in_there(&daemon, &words.split(' ').collect::<Vec<_>>());
    }
    let port = tcp_addr(daemon.addr()).port();
    (daemon, port)
}

#[track_caller]
fn unplug_and_expect_the_end_of(client: &Client, daemon: &Daemon) {
    must("ip", &["link", "set", "v0", "down"]);
    let name = client.peer_name();
    poll_until(DEADLINE, "the connection ends", || {
        let lines = ConnLine::all(&daemon.log());
        lines.iter().any(|line| line.peer == name)
    });
}

//! S6: nothing left to serve with, then enough again. Nobody is turned away in
//! between, and nobody waits long after.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::card::Row;
use crate::common::design::{FORK_DOUBLE, FORK_WAIT, PREFORK};
use crate::common::{
    Builder, Client, DEADLINE, Daemon, Design, holds_within, is_root, must, poll_until, proc,
};
use crate::plan::Plan;
use crate::watch::Watch;

/// Service must be back this soon; 1 s is promised.
const BACK: Duration = Duration::from_secs(5);

/// Descriptors and processes, over three designs.
pub fn squeezes(plan: &Plan) -> Vec<Row> {
    let n = if plan.time > Duration::from_secs(20) {
        1000
    } else {
        100
    };
    let mut rows = Vec::new();
    for design in [&PREFORK, &FORK_WAIT, &FORK_DOUBLE] {
        rows.push(squeeze("descriptors", design, n, |daemon, on| {
            descriptors(daemon, on);
            Ok(())
        }));
        rows.push(squeeze("processes", design, n, processes));
    }
    rows
}

/// Clients come while there is nothing, and are served when there is again.
fn squeeze(
    what: &str,
    design: &Design,
    n: usize,
    limit: impl Fn(&Daemon, bool) -> Result<(), String>,
) -> Row {
    let mut row = Row::new(
        "S6",
        format!("out of {what}, {n} clients queued, {}", design.name),
    );
    let daemon = Builder::new()
        .args(design.args)
        .args(["--max-clients", &(n + 10).to_string()])
        .start();
    let watch = Watch::start(&daemon);
    if let Err(why) = limit(&daemon, true) {
        row.seen = format!("not here: {why}");
        return row;
    }
    let mut clients: Vec<Client> = (0..n).map(|_| Client::connect(daemon.addr())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&(n as u64).to_be_bytes()).expect("send");
    }
    // Until it has met the limit and said so; a worker that has closed what was
    // the supervisor's may have room enough, and serves.
    let told = || daemon.log_count("WARN") + daemon.log_count("ERROR") > 0;
    if !holds_within(Duration::from_secs(3), told) {
        row.see("it did not say so");
    }
    // Workers that waited have served the first of them: whom nobody has.
    let unserved = clients.iter().position(|client| !has_echo(client));
    if let Err(why) = limit(&daemon, false) {
        row.fail(why);
    }
    let released = Instant::now();
    let mut first = None;
    for (n, client) in clients.iter_mut().enumerate() {
        row.tried += 1;
        let mut got = [0; 8];
        match client.read_exact(&mut got) {
            Ok(()) if got == (n as u64).to_be_bytes() => {
                row.echoed += 1;
                row.survived += 1;
            }
            Ok(()) => row.corrupt += 1,
            Err(_) => row.lost += 1,
        }
        if Some(n) == unserved {
            first = Some(released.elapsed());
        }
    }
    match first {
        None => row.see("all were served before the release"),
        Some(first) => row.see(format!("first echo {first:.1?} after the release")),
    }
    if first.is_some_and(|first| first > BACK) {
        row.fail("late");
    }
    drop(clients);
    poll_until(DEADLINE, "nobody is served any more", || {
        daemon.role("echod-conn").is_empty()
    });
    let _ = limit(&daemon, false);
    watch.finish(&mut row);
    row
}

/// Is there anything to read?
fn has_echo(client: &Client) -> bool {
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}

/// RLIMIT_NOFILE of the supervisor, which its children inherit.
fn descriptors(daemon: &Daemon, on: bool) {
    let used = proc::fd_targets(daemon.pid()).unwrap_or_default();
    let free = |n: &i32| used.iter().all(|(fd, _)| fd != n);
    let lowest = (0..1024).find(free).unwrap_or(1024);
    let soft = if on { lowest } else { 1024 };
    let (pid, words) = (daemon.pid().to_string(), format!("--nofile={soft}:"));
    let prlimit = ["prlimit", "--pid", &pid, &words];
    if is_root() {
        // As itself: a container's root may not (CAP_SYS_RESOURCE, prlimit(2)).
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        must("setpriv", &[&nobody[..], &prlimit].concat());
    } else {
        must(prlimit[0], &prlimit[1..]);
    }
}

/// pids.max of a control group made for it, as a container or a unit has.
fn processes(daemon: &Daemon, on: bool) -> Result<(), String> {
    let group = group_of(daemon.pid());
    let write = |file: &str, text: String| {
        let path = group.join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    if !on {
        write("pids.max", "max".to_owned())?;
        // Back to where everybody is, so that the group can be removed.
        let root = group.parent().unwrap_or(&group).join("cgroup.procs");
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = fs::write(&root, pid);
        }
        let _ = fs::remove_dir(&group);
        return Ok(());
    }
    fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
    let mut members = vec![daemon.pid()];
    members.extend(crate::watch::children(daemon.pid()));
    for pid in &members {
        let _ = fs::write(group.join("cgroup.procs"), pid.to_string());
    }
    write("pids.max", members.len().to_string())
}

/// Where this supervisor's group is: version 1 or 2 of cgroups(7).
fn group_of(pid: i32) -> PathBuf {
    let one = PathBuf::from("/sys/fs/cgroup/pids");
    let root = if one.is_dir() {
        one
    } else {
        "/sys/fs/cgroup".into()
    };
    root.join(format!("echod-soak-{pid}"))
}

//! Pids that are used again: the number of a dead child is soon a stranger's, or
//! that of the next child. A pid namespace and ns_last_pid make it happen now:
//! pid_namespaces(7).

use std::fs;

use crate::common::client::is_timeout;
use crate::common::design::{FORK_IGNORE, FORK_WAIT, PREFORK, pool, side_by_side};
use crate::common::{
    Builder, DEADLINE, Daemon, Design, Signal, must, need, need_root, poll_until, proc, signal,
};
use crate::faults::deaths::{expect_answer, send};

fn able() -> bool {
    need_root() && need("unshare") && need("nsenter")
}

/// An echod in a pid namespace that outlives it, until its file `end` is there.
fn in_namespace(design: &Design, more: &[String]) -> Daemon {
    let builder = Builder::new();
    let script = format!(
        "\"$@\"; until [ -e {} ]; do sleep 0.02; done",
        builder.path("end")
    );
    builder
        .under(["unshare", "-pf", "--mount-proc", "--kill-child"])
        .under(["sh", "-c", &script, "sh"])
        .args(design.args)
        .args(more)
        .start()
}

/// Ends the namespace when the test does.
struct End<'a>(&'a Daemon);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let _ = fs::write(self.0.dir().join("end"), "");
    }
}

/// The pid a process has inside.
fn inside(pid: i32) -> Option<i32> {
    let all = proc::status(pid, "NSpid")?;
    all.split_whitespace().next_back()?.parse().ok()
}

/// The process with this pid there.
fn outside(daemon: &Daemon, number: i32) -> Option<i32> {
    let namespace = |pid: i32| proc::link(pid, "ns/pid");
    let ours = namespace(daemon.pid())?;
    let mut all = proc::all().into_iter().map(|p| p.pid);
    all.find(|&pid| inside(pid) == Some(number) && namespace(pid).as_ref() == Some(&ours))
}

/// Runs a shell script in there; the first process it starts gets `number`.
fn run_with_next(daemon: &Daemon, number: i32, script: &str) -> String {
    let pid = daemon.pid().to_string();
    let script = format!(
        "echo {} >/proc/sys/kernel/ns_last_pid; {script}",
        number - 1
    );
    must("nsenter", &["-t", &pid, "-p", "-m", "sh", "-c", &script])
}

fn hold(daemon: &Daemon) {
    signal(daemon.pid(), Signal::SIGSTOP);
    poll_until(DEADLINE, "it is stopped", || {
        proc::state(daemon.pid()) == Some('T')
    });
}

/// The kernel reaps, so that a child's pid may be another's before echod knows
/// that the child is gone; and then comes the order to end every child.
#[test]
fn row_46_a_stranger_with_a_dead_childs_pid_is_left_alone() {
    if !able() {
        return;
    }
    for _ in 0..5 {
        let daemon = in_namespace(&FORK_IGNORE, &[]);
        let _end = End(&daemon);
        let (mut client, child) = daemon.connect_served();
        let number = inside(child).expect("alive");
        hold(&daemon);
        signal(child, Signal::SIGKILL);
        let late = client.end().is_err_and(|error| is_timeout(&error));
        assert!(!late, "the client is left open");
        poll_until(DEADLINE, "the kernel has reaped it", || {
            proc::state(child).is_none()
        });
        // The number may be free a moment after the process is gone.
        let script =
            format!("sleep 600 >/dev/null 2>&1 & [ $! = {number} ] && echo same || kill $!");
        poll_until(DEADLINE, "the same number", || {
            run_with_next(&daemon, number, &script).trim() == "same"
        });
        let stranger = outside(&daemon, number).expect("it sleeps");
        daemon.signal(Signal::SIGINT);
        daemon.signal(Signal::SIGCONT);
        poll_until(DEADLINE, "echod ends", || proc::is_dead(daemon.pid()));
        assert!(!proc::is_dead(stranger), "a stranger was killed");
    }
}

/// The next child has the slot and the pid of the one that was killed: what that
/// one had told is not taken for its successor's.
#[test]
fn row_47_a_successor_with_the_same_pid_is_another() {
    if !able() {
        return;
    }
    side_by_side(&[&FORK_WAIT, &PREFORK], |design| {
        let mut more = vec!["--max-clients".to_owned(), "1".to_owned()];
        if design.pooled {
            more.extend(pool(1, 1, 1));
        }
        let daemon = in_namespace(design, &more);
        let _end = End(&daemon);
        let mut same = 0;
        for n in 0..6 {
            let (mut first, child) = daemon.connect_served();
            let (name, number) = (first.peer_name(), inside(child).expect("alive"));
            hold(&daemon);
            signal(child, Signal::SIGKILL);
            let mut second = send(daemon.addr(), n);
            run_with_next(&daemon, number, "");
            signal(daemon.pid(), Signal::SIGCONT);
            let late = first.end().is_err_and(|error| is_timeout(&error));
            assert!(!late, "the client is left open");
            expect_answer(&mut second, n);
            let mut third = send(daemon.addr(), n);
            assert!(
                third.silent_for(crate::faults::deaths::A_WHILE),
                "beyond the limit"
            );
            let line = daemon.conn_line(&name);
            assert_eq!((line.pid, line.end.as_str()), (number, "killed:KILL"));
            let name = second.peer_name();
            drop(second);
            let line = daemon.conn_line(&name);
            assert_eq!((line.received, line.sent), (4, 4));
            assert_eq!(line.end, "eof");
            same += u32::from(line.pid == number);
            expect_answer(&mut third, n);
            drop(third);
            poll_until(DEADLINE, "nobody serves", || {
                daemon.role("echod-conn").is_empty()
            });
        }
        println!("{}: {same} of 6 successors had the same pid", design.name);
        assert!(same > 0, "{}: no pid was used again", design.name);
        // The namespace ends with the file, the daemon before it.
        daemon.signal(Signal::SIGTERM);
        poll_until(DEADLINE, "echod ends", || proc::is_dead(daemon.pid()));
    });
}

//! Kernels and containers that refuse calls: what works without them, and what
//! is said.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::common::design::{PREFORK, PREFORK_REUSE, pool};
use crate::common::{
    Builder, DEADLINE, DESIGNS, Signal, echo_once, fd_count, holds_within, is_root, pattern,
    poll_until, proc,
};
use crate::faults::wrapper;
use std::time::{Duration, Instant};

/// What a filter refuses.
#[derive(Clone, Copy)]
pub enum Denied {
    Call(libc::c_long),
    /// prctl(2) with this option.
    Prctl(libc::c_int),
}

/// Becomes the rest of the command line under a filter that answers EPERM to
/// these, or kills whoever makes them. Nothing follows in an ordinary run.
pub fn become_under(denied: &[Denied], deadly: bool) {
    let Some(mut command) = wrapper::rest() else {
        return;
    };
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    for one in denied {
        match *one {
            Denied::Call(number) => drop(rules.insert(number, Vec::new())),
            Denied::Prctl(option) => {
                let (width, same) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
                let condition = SeccompCondition::new(0, width, same, option as u64);
                let rule = condition.and_then(|c| SeccompRule::new(vec![c]));
                rules.insert(libc::SYS_prctl, vec![rule.expect("a valid rule")]);
            }
        }
    }
    let action = match deadly {
        true => SeccompAction::KillProcess,
        false => SeccompAction::Errno(libc::EPERM as u32),
    };
    let arch = std::env::consts::ARCH.try_into().expect("a known one");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a valid filter");
    seccompiler::apply_filter(&program).expect("seccomp(2)");
    panic!("exec: {}", command.exec());
}

#[test]
fn row_24_calls_that_a_container_refuses_have_substitutes() {
    for design in DESIGNS {
        let builder = Builder::new().args(design.args);
        let daemon = builder
            .under(wrapper::wrapper("contained::role_old_container"))
            .args(["--sandbox", "strict"])
            .start();
        let (mut client, serving) = daemon.connect_served();
        client.ping(&pattern(0, 50_000));
        let mode = proc::status(serving, "Seccomp");
        assert_eq!(mode.as_deref(), Some("2"), "{}", design.name);
        // Without close_range(2) too it has let go of all else.
        if is_root() && !design.reuses && !design.threaded {
            let held = fd_count(serving).expect("/proc/PID/fd");
            let tie = usize::from(design.args.contains(&"double-fork"));
            assert_eq!(held, 1 + tie, "{}", design.name);
        }
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
        // And it is signalled without a pidfd, at a stop that cuts a client.
        let (mut cut, _) = daemon.connect_served();
        daemon.signal(Signal::SIGINT);
        let _ = cut.end();
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        assert_eq!(
            daemon.log_count("no Landlock"),
            usize::from(lives_on(design))
        );
    }
}

fn lives_on(design: &crate::common::Design) -> bool {
    design.reuses || design.threaded
}

#[test]
fn row_95_without_any_sandbox_strict_refuses_and_best_effort_says_so_once() {
    let here = || Builder::new().under(wrapper::wrapper("contained::role_no_sandbox_here"));
    let end = here().args(["--sandbox", "strict"]).run(DEADLINE);
    assert_eq!(end.status.code(), Some(78), "{}", end.stderr);
    assert!(end.stderr.contains("--sandbox strict"), "{}", end.stderr);
    for design in DESIGNS {
        let daemon = here().args(design.args).start();
        let (mut client, serving) = daemon.connect_served();
        client.ping(b"served all the same");
        assert_eq!(daemon.log_count("no sandbox: this kernel"), 1);
        // What needs neither is there; in a worker that lives on, more of it.
        assert_eq!(proc::limit(serving, "Max core file size"), "0 0");
        assert_eq!(proc::status(serving, "NoNewPrivs").as_deref(), Some("1"));
        if design.reuses {
            assert_eq!(
                proc::limit(serving, "Max processes"),
                "0 0",
                "{}",
                design.name
            );
        }
        drop(client);
    }
}

#[test]
fn row_95_a_worker_killed_by_its_sandbox_is_named_with_the_cause() {
    for design in [&PREFORK, &PREFORK_REUSE] {
        let daemon = Builder::new().args(design.args).sigsys_is_fine().start();
        let (client, pid) = daemon.connect_served();
        proc::signal(pid, Signal::SIGSYS);
        let told = format!("while serving {}: the sandbox forbids", client.peer_name());
        daemon.wait_log(&told, DEADLINE);
        assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    }
}

/// Workers that die of a call at birth: forked again slowly, said once, and the
/// supervisor takes orders meanwhile.
#[test]
fn row_95_a_sandbox_that_kills_at_birth_is_no_fork_storm() {
    const WATCHED: Duration = Duration::from_secs(2);
    let daemon = Builder::new()
        .args(PREFORK_REUSE.args)
        .args(pool(4, 4, 8))
        .under(wrapper::wrapper("contained::role_deadly_epoll"))
        .sigsys_is_fine()
        .start();
    daemon.wait_log("died of SIGSYS: the sandbox forbids", DEADLINE);
    let start = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    let more = holds_within(10 * WATCHED, || {
        seen.extend(proc::children(daemon.pid()));
        start.elapsed() > WATCHED
    });
    assert!(more);
    // 100 ms, 200, 400...: a storm would be thousands.
    assert!(seen.len() <= 40, "{} workers in {WATCHED:?}", seen.len());
    assert_eq!(daemon.log_count("died of SIGSYS"), 1, "a line an episode");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    poll_until(DEADLINE, "nobody is left", || daemon.members().is_empty());
}

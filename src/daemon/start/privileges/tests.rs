//! Tests of [`super`]: the decision as a table, the deed in a process of its
//! own.

use std::process::Command;

use nix::sys::resource::{Resource, getrlimit};

use super::*;
use crate::rerun;

/// A machine with one user, `echo`, uid 101 of group 102.
struct Machine;

impl Lookup for Machine {
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, Errno> {
        match name {
            "root" => Ok(Some((Uid::from_raw(0), Gid::from_raw(0)))),
            "echo" => Ok(Some((Uid::from_raw(101), Gid::from_raw(102)))),
            "ldap" => Err(Errno::EIO),
            _ => Ok(None),
        }
    }

    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, Errno> {
        Ok((uid.as_raw() == 101).then(|| Gid::from_raw(102)))
    }

    fn group(&self, name: &str) -> Result<Option<Gid>, Errno> {
        Ok((name == "adm").then(|| Gid::from_raw(4)))
    }
}

fn decide(user: Option<&str>, allow_root: bool, uid: u32, gid: u32) -> Result<Plan> {
    let identity = Identity {
        user: user.map(str::to_owned),
        chroot: None,
        allow_root,
    };
    let current = Current {
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
    };
    plan(&identity, current, &Machine)
}

/// uid and gid of the account planned.
fn ids(plan: &Plan) -> Option<(u32, u32)> {
    let account = plan.account.as_ref();
    account.map(|account| (account.uid.as_raw(), account.gid.as_raw()))
}

#[test]
fn who_root_becomes() {
    for (user, allow_root, expected) in [
        (None, false, Some((65534, 65534))),
        (None, true, None),
        (Some("echo"), false, Some((101, 102))),
        (Some("echo"), true, Some((101, 102))),
        (Some("echo:adm"), false, Some((101, 4))),
        (Some("echo:7"), false, Some((101, 7))),
        (Some("101"), false, Some((101, 102))),
        (Some("5000:adm"), false, Some((5000, 4))),
        (Some("5000:5000"), false, Some((5000, 5000))),
        (Some("root:adm"), true, Some((0, 4))),
    ] {
        let plan = decide(user, allow_root, 0, 0).expect("a plan");
        assert_eq!(ids(&plan), expected, "{user:?} {allow_root}");
        assert!(plan.notice().is_some());
    }
}

#[test]
fn what_root_is_refused() {
    for (user, exit) in [
        ("", Exit::Usage),
        (":adm", Exit::Usage),
        ("echo:", Exit::Usage),
        ("4294967295", Exit::Usage),
        ("1:99999999999", Exit::Usage),
        ("ghost", Exit::Config),
        ("echo:ghosts", Exit::Config),
        ("5000", Exit::Config),
        ("ldap", Exit::Os),
        ("root", Exit::NoPermission),
        ("0:0", Exit::NoPermission),
    ] {
        let error = decide(Some(user), false, 0, 0).expect_err(user);
        assert_eq!(error.status(), exit, "{error}");
        assert!(error.to_string().contains("--user"), "{error}");
    }
}

#[test]
fn whoever_is_not_root_stays_who_they_are() {
    for user in [
        None,
        Some("echo"),
        Some("echo:102"),
        Some("101"),
        Some("101:102"),
    ] {
        let plan = decide(user, false, 101, 102).expect("a plan");
        assert_eq!((ids(&plan), plan.notice()), (None, None), "{user:?}");
    }
    for user in ["5000:5000", "echo:adm", "root", "0"] {
        let error = decide(Some(user), true, 101, 102).expect_err(user);
        assert_eq!(error.status(), Exit::NoPermission, "{error}");
        assert!(error.to_string().contains("101:102"), "{error}");
    }
}

#[test]
fn the_default_is_said_in_one_line() {
    let plan = decide(None, false, 0, 0).expect("a plan");
    assert_eq!(
        plan.notice(),
        Some(
            "started as root: giving it up, now nobody (65534:65534); \
             --user names another, --allow-root keeps it"
        )
    );
}

#[test]
fn this_machine_has_a_root() {
    let root = System::new().user("root").expect("passwd");
    assert_eq!(root.map(|(uid, _)| uid), Some(Uid::from_raw(0)));
    assert_eq!(System::new().user("no such user"), Ok(None));
}

/// Drops to what its argument says, and tells what it is then.
#[test]
fn dropper_role() {
    let Some(argument) = rerun::role() else {
        return;
    };
    let (user, traceable) = argument.split_once(' ').expect("two words");
    let identity = Identity {
        user: (user != "-").then(|| user.to_owned()),
        chroot: None,
        allow_root: false,
    };
    let plan = plan(&identity, Current::now(), &System::new()).expect("a plan");
    let open = Open {
        traceable: traceable == "traceable",
        executable: traceable == "traceable",
    };
    if let Err(error) = apply(&plan, open) {
        rerun::say(format!("{} {error}", error.status() as u8));
        return;
    }
    // Of this thread: a harness has others, echod has not.
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
    for key in [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapEff:",
        "CapPrm:",
        "CapInh:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "THP_enabled:",
    ] {
        let line = status.lines().find(|l| l.starts_with(key)).expect(key);
        rerun::say(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE).expect("getrlimit");
    let none = traceable == "traceable" || (soft, hard) == (0, 0);
    rerun::say(format!("no core {none}"));
    let dumpable = nix::sys::prctl::get_dumpable().expect("prctl");
    rerun::say(format!("dumpable {dumpable}"));
    // None: a kernel before 6.3.
    let as_asked = memory::refuses_exec_gain() != Some(open.executable);
    rerun::say(format!("exec gain as asked {as_asked}"));
}

const ROLE: &str = "daemon::start::privileges::tests::dropper_role";

#[test]
fn row_94_root_is_gone_for_good() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    for (argument, uid, gid, dumpable) in [
        ("- not", 65534, 65534, false),
        ("- traceable", 65534, 65534, true),
        ("4242:4243 not", 4242, 4243, false),
    ] {
        let mut role = rerun::start(ROLE, argument);
        let said: Vec<_> = (0..13).map(|_| role.hear()).collect();
        let expected = [
            format!("Uid: {uid} {uid} {uid} {uid}"),
            format!("Gid: {gid} {gid} {gid} {gid}"),
            "Groups:".to_owned(),
            "CapEff: 0000000000000000".to_owned(),
            "CapPrm: 0000000000000000".to_owned(),
            "CapInh: 0000000000000000".to_owned(),
            "CapBnd: 0000000000000000".to_owned(),
            "CapAmb: 0000000000000000".to_owned(),
            "NoNewPrivs: 1".to_owned(),
            "THP_enabled: 0".to_owned(),
            "no core true".to_owned(),
            format!("dumpable {dumpable}"),
            "exec gain as asked true".to_owned(),
        ];
        assert_eq!(said, expected, "{argument}");
        role.end();
    }
}

#[test]
fn a_namespace_that_refuses_the_change_is_answered_with_both_ways_out() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|s| s.success()) {
        println!("skipped: unshare --user does not work here");
        return;
    }
    let mut role = rerun::start_under(unshare(), ROLE, "- not");
    let said = role.hear();
    assert!(said.starts_with("77 "), "{said}");
    assert!(
        said.contains("--user") && said.contains("--allow-root"),
        "{said}"
    );
    role.end();
}

#[test]
fn kept_capabilities_are_found_out() {
    let setpriv = || {
        let mut command = Command::new("setpriv");
        command.args(["--securebits", "+no_setuid_fixup"]);
        command
    };
    if !setpriv().arg("true").status().is_ok_and(|s| s.success()) {
        println!("skipped: setpriv --securebits does not work here");
        return;
    }
    let mut role = rerun::start_under(setpriv(), ROLE, "- not");
    let said = role.hear();
    assert!(
        said.starts_with("77 ") && said.contains("--allow-root"),
        "{said}"
    );
    role.end();
}

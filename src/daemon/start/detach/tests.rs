//! Tests of [`super`]: the message as a pure function, the steps in a process of their own.

use super::*;
use crate::config::LogFormat;
use crate::rerun;

#[test]
fn an_answer_survives_the_pipe() {
    let text = "bind tcp:127.0.0.1:7: Permission denied (EACCES)";
    let bytes = encode(Exit::NoPermission, text);
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Heard::Partial, "{end} bytes");
    }
    let failure = Failure {
        exit: Exit::NoPermission,
        message: text.to_owned(),
    };
    assert_eq!(decode(&bytes), Heard::Failed(failure));
    assert_eq!(decode(&encode(Exit::Ok, "")), Heard::Serving);
}

#[test]
fn a_long_message_stays_one_write() {
    let bytes = encode(Exit::Os, &"é".repeat(4000));
    assert!(bytes.len() <= 4096);
    let Heard::Failed(failure) = decode(&bytes) else {
        panic!("a failure")
    };
    assert_eq!(failure.message, "é".repeat(LONGEST / 2));
}

#[test]
fn a_status_nobody_knows_is_internal() {
    assert_eq!(Exit::of(77), Exit::NoPermission);
    assert_eq!(Exit::of(3), Exit::Internal);
}

/// Starts a daemon that serves, fails or dies, in a process of its own.
#[test]
fn starter_role() {
    let Some(how) = rerun::role() else { return };
    let starter = std::process::id();
    let exit = detach(Voice::new(LogFormat::Text), |ready| match how.as_str() {
        "serve" => {
            let cwd = std::env::current_dir().expect("cwd");
            let session = nix::unistd::getsid(None).expect("getsid");
            let leads = session == nix::unistd::getpid();
            rerun::say(format!("{} {}", cwd.display(), leads));
            ready.serving();
            Exit::Ok
        }
        "fail" => ready.failed(&Error::usage("no", "never").exit(Exit::CantCreate)),
        _ => Exit::Ok,
    });
    assert_eq!(std::process::id(), starter, "run never returns here");
    rerun::say(format!("{exit:?}"));
}

#[test]
fn the_starter_answers_for_the_daemon() {
    const ROLE: &str = "daemon::start::detach::tests::starter_role";
    for (how, said) in [
        ("serve", &["/ false", "Ok"][..]),
        ("fail", &["CantCreate"]),
        ("die", &["Internal"]),
    ] {
        let mut role = rerun::start(ROLE, how);
        for line in said {
            assert_eq!(role.hear(), *line, "{how}");
        }
        assert!(role.end().success(), "{how}");
    }
}

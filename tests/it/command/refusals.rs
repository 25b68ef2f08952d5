//! Where commands are not served, and that it is said at start.

use super::serving;
use crate::common::{Builder, DEADLINE, Finished, need_root};

#[track_caller]
fn refused(finished: &Finished, status: i32, words: &[&str]) {
    let text = &finished.stderr;
    assert_eq!(finished.status.code(), Some(status), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn as_root_it_is_refused_and_says_why() {
    if !need_root() {
        return;
    }
    for (more, status) in [
        (&["--allow-root"][..], 77),
        (&["--allow-root", "--user", "root"], 77),
        (&["--allow-root", "-l", "udp:127.0.0.1:0"], 77),
        (&["--allow-root", "--check"], 77),
    ] {
        let finished = serving(&["d=/bin/date"]).args(more).run(DEADLINE);
        refused(&finished, status, &["--allow-root", "not run as root"]);
    }
    // Unless it is another user in the end.
    let daemon = serving(&["id=/usr/bin/id,-u"])
        .args(["--user", "65534:65534", "--allow-root"])
        .start();
    assert_eq!(super::asked(&daemon, "id\n"), "65534\n");
}

#[test]
fn it_is_off_unless_asked_for() {
    let daemon = Builder::new().start();
    assert_eq!(super::asked(&daemon, "date\n"), "date\n");
    let finished = Builder::new()
        .args(["--allow-command", "d=/bin/date"])
        .run(DEADLINE);
    refused(&finished, 64, &["--allow-command d", "--service command"]);
    let finished = Builder::new().args(["--service", "command"]).run(DEADLINE);
    refused(&finished, 64, &["--service command", "--allow-command"]);
    let listener = ["-l", "tcp:127.0.0.1:0,service=command"];
    let finished = Builder::new().args(listener).run(DEADLINE);
    refused(&finished, 64, &["service=command", "--allow-command"]);
}

#[test]
fn what_cannot_be_served_names_both() {
    for (more, words) in [
        (
            &["-m", "iterative"][..],
            ["service command", "--model iterative"],
        ),
        (&["-m", "thread"], ["service command", "--model thread"]),
        (
            &["--max-connections-per-child", "0"],
            ["service command", "--max-connections-per-child"],
        ),
        // Datagrams need no model, streams beside them do.
        (
            &["-l", "udp:127.0.0.1:0", "-l", "unix:@x", "-m", "prethread"],
            ["at --listen unix:@x", "--model prethread"],
        ),
    ] {
        let finished = serving(&["d=/bin/date"]).args(more).run(DEADLINE);
        refused(&finished, 64, &words);
    }
}

#[test]
fn a_program_that_cannot_be_run_is_found_at_start() {
    for (program, why) in [
        ("/no/such/program", "ENOENT"),
        ("/etc/passwd", "EACCES"),
        ("/bin", "EACCES"),
    ] {
        let command = format!("bad={program}");
        for check in [&[][..], &["--check"][..]] {
            let finished = serving(&[&command]).args(check).run(DEADLINE);
            refused(&finished, 78, &["--allow-command bad", program, why]);
        }
    }
}

#[test]
fn a_program_that_is_gone_later_is_one_line() {
    let builder = Builder::new();
    let program = builder.path("program");
    crate::common::must("cp", &["/bin/true", &program]);
    let command = format!("gone={program}");
    let daemon = builder
        .args(["--service", "command", "--allow-command", &command])
        .start();
    assert_eq!(super::asked(&daemon, "gone\n"), "");
    std::fs::remove_file(&program).expect("remove");
    let got = super::asked(&daemon, "gone\n");
    assert_eq!(got, "cannot run it: No such file or directory (ENOENT)\n");
}

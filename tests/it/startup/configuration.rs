//! The configuration file and the environment, from outside: what is served by
//! them, and what is said of their mistakes.

use std::fs;

use crate::common::{Builder, Client, DEADLINE};

#[test]
fn a_file_is_served_by_and_the_command_line_beats_it() {
    let builder = Builder::new();
    let file = builder.path("echod.toml");
    let text = "max-clients = 7\nmodel = 'fork'\nidle-timeout = '300ms'\n";
    fs::write(&file, text).expect("written");
    let daemon = builder.args(["-c", "5", "-f", &file]).start();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"by a file");
    client.end().expect("the file's idle timeout");
    assert!(
        daemon.log().contains("fork, reap wait, "),
        "{}",
        daemon.log()
    );
    assert!(
        daemon.log().contains("at most 5 clients"),
        "{}",
        daemon.log()
    );
}

#[test]
fn every_mistake_is_a_line_and_nothing_is_served() {
    let builder = Builder::new();
    let file = builder.path("echod.toml");
    let text = "max-clients = 7\nmax-client = 5\n\nmodel = 'spoon'\nlisten = 3\n";
    fs::write(&file, text).expect("written");
    for check in [&[][..], &["--check"][..]] {
        let run = Builder::new()
            .bare()
            .args(["-f", &file])
            .args(check)
            .run(DEADLINE);
        assert_eq!(run.status.code(), Some(78), "{}", run.stderr);
        let begins = [
            (2, "max-client: unknown key; max-clients?"),
            (4, "invalid value 'spoon' for '--model <MODEL>'"),
            (5, "--listen 3: expected HOST:PORT"),
        ];
        let lines: Vec<_> = run.stderr.lines().collect();
        assert_eq!(lines.len(), begins.len(), "{}", run.stderr);
        for (said, (line, what)) in lines.iter().zip(begins) {
            let begin = format!("echod: {}:{line}: {what}", file);
            assert!(said.starts_with(&begin), "{said}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let builder = Builder::new();
    let dir = builder.path("");
    let binary = builder.path("binary");
    fs::write(&binary, [0xff, 0xfe]).expect("written");
    let missing = builder.path("missing");
    let huge = "/dev/zero".to_owned();
    for (file, what) in [
        (&missing, "No such file or directory (ENOENT)"),
        (&dir, "Is a directory (EISDIR)"),
        (&binary, "not text in UTF-8"),
        (&huge, "larger than 1 MiB"),
    ] {
        let run = Builder::new().bare().args(["-f", file]).run(DEADLINE);
        assert_eq!(run.status.code(), Some(78), "{}", run.stderr);
        assert!(
            run.stderr.contains(file.as_str()) && run.stderr.contains(what),
            "{}",
            run.stderr
        );
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
}

#[test]
fn the_environment_speaks_for_options_and_others_may_have_the_prefix() {
    let daemon = Builder::new()
        .env("ECHOD_MAX_CLIENTS", "9")
        .env("ECHOD_MODEL", "fork")
        // What Kubernetes sets for a service of this name.
        .env("ECHOD_PORT", "tcp://10.0.0.1:7777")
        .env("ECHOD_SERVICE_HOST", "10.0.0.1")
        .start();
    assert!(
        daemon.log().contains("at most 9 clients"),
        "{}",
        daemon.log()
    );
    let run = Builder::new()
        .bare()
        .env("ECHOD_MAX_CLIENTS", "many")
        .run(DEADLINE);
    assert_eq!(run.status.code(), Some(64), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("echod: ECHOD_MAX_CLIENTS: "),
        "{}",
        run.stderr
    );
}

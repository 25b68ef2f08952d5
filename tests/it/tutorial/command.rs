//! The pitfall of the tutorials' command server: a list of forbidden words
//! before popen(3). The long list of injections is in tests/it/command.

use std::path::Path;
use std::process::Command;

use crate::client::run::echoc;
use crate::common::Builder;

/// What the tutorial forbids.
const FORBIDDEN: [&str; 4] = ["rm", "mv", "while", "kill"];

/// Ways round it; `M` stands for a file's path. Each makes that file, and some do
/// it by a word that is forbidden.
const ROUND: [&str; 8] = [
    "hello; touch M",
    "hello $(touch M)",
    "hello `touch M`",
    "> M",
    "touch M & k\\ill -0 $$",
    "touch M; r''m -f /nonexistent",
    "t\\ouch${IFS}M",
    "until touch M; do :; done",
];

/// The tutorial's server, without its socket. The path, which may contain any
/// letters, is not looked at.
fn filtered_popen(line: &str, path: &str) {
    if !FORBIDDEN.iter().any(|word| line.contains(word)) {
        let line = line.replace('M', path);
        let ran = Command::new("sh").arg("-c").arg(line).output();
        ran.expect("sh");
    }
}

/// `strstr(buffer, "rm")`, and what passes goes to a shell.
#[test]
fn the_word_filter_walked_round() {
    let dir = tempfile::tempdir().expect("a directory");
    let marker = dir.path().join("marker");
    let path = marker.to_str().expect("text");
    for line in ROUND {
        filtered_popen(line, path);
        assert!(marker.exists(), "no way round: {line}");
        std::fs::remove_file(&marker).expect("remove");
    }

    let allowed = [
        "--service",
        "command",
        "--allow-command",
        "hello=/bin/echo,hello",
    ];
    let listen = ["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"];
    let builder = Builder::new();
    let path = builder.path("marker");
    let daemon = builder.args(allowed).args(listen).start();
    for addr in daemon.addrs() {
        let ask = |line: &str| {
            let line = format!("{line}\n");
            echoc(&["--no-verify", addr], &*line).status(0).text()
        };
        for line in ROUND {
            let told = ask(&line.replace('M', &path));
            assert_eq!(told, "unknown command; allowed: hello\n", "{line}");
            assert!(!Path::new(&path).exists(), "{line}");
        }
        assert_eq!(ask("hello"), "hello\n");
    }
}

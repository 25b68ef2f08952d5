//! Completions for the shells: scripts/dist/completions has what clap makes of the
//! options, and each shell completes with it.
//!
//! After a change of options, `ECHOD_WRITE_COMPLETIONS=1 cargo test completions`
//! writes them anew.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use ::echod::cli::{echoc, echod, echoload};
use clap_complete::{Shell, generate};
use nix::pty::openpty;

use crate::common::{DEADLINE, need};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dist/completions")
}

/// By the name each shell looks for.
fn files() -> Vec<(String, Vec<u8>)> {
    let programs = [
        ("echod", echod::command()),
        ("echoc", echoc::command()),
        ("echoload", echoload::command()),
    ];
    let mut files = Vec::new();
    for (name, command) in programs {
        for (shell, file) in [
            (Shell::Bash, name.to_owned()),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut script = Vec::new();
            generate(shell, &mut command.clone(), name, &mut script);
            files.push((file, script));
        }
    }
    files
}

#[test]
fn completions_are_those_of_the_options() {
    let write = std::env::var_os("ECHOD_WRITE_COMPLETIONS").is_some();
    for (name, script) in files() {
        let path = dir().join(&name);
        if write {
            fs::write(&path, &script).expect("written");
        }
        let there = fs::read(&path).unwrap_or_default();
        let how = "is stale: ECHOD_WRITE_COMPLETIONS=1 cargo test completions";
        assert!(there == script, "{} {how}", path.display());
    }
}

/// Runs a script of this shell and returns what it printed.
fn run(shell: &str, options: &[&str], script: &str) -> Option<String> {
    if !need(shell) {
        return None;
    }
    let out = Command::new(shell)
        .args(options)
        .args(["-c", script])
        .current_dir(dir())
        .output()
        .expect("the shell runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{shell}: {said}");
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What is typed, and a completion that it must have.
const TYPED: [(&str, &str, &str); 5] = [
    ("echod", "--mo", "--model"),
    ("echod", "--model pref", "prefork"),
    ("echod", "--overflow cl", "close"),
    ("echoc", "--pin", "--ping"),
    ("echoload", "--outc", "--outcomes"),
];

#[test]
fn bash_completes() {
    for (program, typed, expected) in TYPED {
        let last = typed.rsplit(' ').next().expect("a word");
        let script = format!(
            "source ./{program}; COMP_WORDS=({program} {typed}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _{program} {program} {last} \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let Some(said) = run("bash", &["--norc"], &script) else {
            return;
        };
        assert!(said.lines().any(|line| line == expected), "{typed}: {said}");
    }
}

#[test]
fn fish_completes() {
    for (program, typed, expected) in TYPED {
        let script = format!("source ./{program}.fish; complete -C '{program} {typed}'");
        let Some(said) = run("fish", &["--no-config"], &script) else {
            return;
        };
        let words: Vec<_> = said
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        assert!(words.contains(&expected), "{typed}: {said}");
    }
}

/// zsh completes for a line editor only, so it gets a terminal and a key press.
#[test]
fn zsh_completes() {
    if !need("zsh") {
        return;
    }
    for (program, typed, expected) in TYPED {
        let pty = openpty(None, None).expect("a terminal");
        let slave = || Stdio::from(pty.slave.try_clone().expect("dup"));
        let mut zsh = Command::new("zsh")
            .args(["-f", "-i"])
            .env("TERM", "dumb")
            .current_dir(dir())
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("zsh runs");
        drop(pty.slave);
        let mut terminal = File::from(pty.master);
        let mut screen = terminal.try_clone().expect("dup");
        let (show, shown) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                if show.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let wait_for = |what: &str| {
            let mut all = String::new();
            while !all.contains(what) {
                let more = shown.recv_timeout(DEADLINE);
                let more = more.unwrap_or_else(|_| panic!("{program} {typed}: {all:?}"));
                all += &String::from_utf8_lossy(&more);
            }
        };
        let setup = "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; print rea''dy\n";
        terminal.write_all(setup.as_bytes()).expect("typed");
        wait_for("ready\r\n");
        let keys = format!("{program} {typed}\t");
        terminal.write_all(keys.as_bytes()).expect("typed");
        wait_for(expected);
        let _ = zsh.kill();
        zsh.wait().expect("zsh ends");
    }
}

//! The examples of the pages: every literal block of all four is either run, each in
//! a network and a /run of its own, or has a reason here why it is not. A block that
//! is new or changed is in neither list, and fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{need, need_root};

/// What becomes of a block, which is named by its page and how it begins.
#[derive(Debug)]
enum Fate {
    /// Its commands are run, and this is seen in what they print.
    Run(&'static str),
    /// The same with other words in some places: what and for what.
    RunWith(&'static [(&'static str, &'static str)], &'static str),
    /// It is not, for this reason.
    Not(&'static str),
}
use Fate::{Not, Run, RunWith};

const A_LINE: &str = "what a program prints; tests of the log and of usage have it";
const OTHERS: &str = "the configuration of another program";

const BLOCKS: &[(&str, &str, Fate)] = &[
    (
        "echoc.1",
        "$ echoc",
        Not("it is typed at a terminal: tests/it/client/terminal.rs"),
    ),
    (
        "echoc.1",
        "$ head -c 10G",
        RunWith(&[("10G", "10M")], "equal"),
    ),
    ("echoc.1", "$ echo uptime", Run("load average")),
    (
        "echoc.1",
        "$ echoc --ping",
        RunWith(&[("--ping", "--ping -c 3")], "3 received"),
    ),
    ("echoc.1", "command_line", Not(OTHERS)),
    ("echoc.1", "external-check", Not(OTHERS)),
    ("echoc.1", "readinessProbe:", Not(OTHERS)),
    ("echoc.1", "echoc: connect", Not(A_LINE)),
    (
        "echod-models.7",
        "$ echod --model thread",
        // It says that it listens before it forks.
        RunWith(
            &[(
                "kill -SEGV",
                "until pgrep -x echod-thread >/dev/null; do rest; done; kill -SEGV",
            )],
            "",
        ),
    ),
    (
        "echod-models.7",
        "$ echod -m prethread",
        Run("listening on tcp:127.0.0.1:7777"),
    ),
    (
        "echod-models.7",
        "$ echod --accept fcntl",
        RunWith(
            &[(
                "ps -o pid,comm,wchan:20 --ppid $!",
                "until ps -o wchan:20 --ppid $! | grep fcntl; do rest; done",
            )],
            "fcntl_setlk",
        ),
    ),
    (
        "echod-models.7",
        "1$ echod --accept pass",
        Not("three terminals by hand: tests/it/accept.rs"),
    ),
    ("echod-models.7", "while ((pid", Not("C, for reading")),
    (
        "echod-models.7",
        "1$ echod --model iterative",
        Not("two clients typed at by hand: tests/it/models"),
    ),
    ("echod-models.7", "$ ss -tan '(", Run("LISTEN")),
    ("echod-models.7", "1$ strace", Run("")),
    (
        "echod-models.7",
        "$ exec 3<>",
        // The page's reader takes longer than a script.
        RunWith(
            &[(
                "kill %1",
                "kill %1; until ss -Htan state time-wait dport = :7777 | grep -q .; do rest; done",
            )],
            "TIME-WAIT",
        ),
    ),
    ("echod-models.7", "$ seq 100000", Run("100000")),
    ("echod-models.7", "$ echo hello | nc", Run("hello")),
    (
        "echod-models.7",
        "1$ echod --idle-timeout",
        RunWith(&[("nc 127", "nc -d 127")], ""),
    ),
    (
        "echod-models.7",
        "1$ echod -v",
        Not("a client typed at by hand: row 39"),
    ),
    ("echod.8", "echod -l '*:7777' --allow", Run("access: ")),
    ("echod.8", "64 crashes", Not(A_LINE)),
    ("echod.8", "refusing 198.51.100.7", Not(A_LINE)),
    (
        "echod.8",
        "listen = [",
        Not("the file is read by the tests of src/cli/echod"),
    ),
    ("echod.8", "echod: /etc/echod.toml", Not(A_LINE)),
    ("echod.8", "too low for", Not(A_LINE)),
    (
        "echod.8",
        "# sysctl",
        Not("it changes the machine: scripts/scale.sh --raise"),
    ),
    ("echod.8", "2026-11-20T12:00:00", Not(A_LINE)),
    ("echod.8", "conn pid=1240", Not(A_LINE)),
    (
        "echod.8",
        "/var/log/echod.log {",
        Not("logrotate runs with it in tests/it/log"),
    ),
    ("echod.8", "$ echod\n", Run("hello")),
    ("echod.8", "pid=$(mktemp", Run("hello")),
    ("echod.8", "server$ echod", Run("hello")),
    ("echod.8", "$ echod -l '*:7777' --allow", Run("access: ")),
    ("echod.8", "# echod --daemon -l '*:7'", Run("")),
    ("echod.8", "# mkdir -p /run/echod", Run("hello")),
    (
        "echod.8",
        "$ printf 'listen",
        Run("max-clients = 32  # command line"),
    ),
    (
        "echod.8",
        "echo stream tcp",
        Not("super-servers: tests/it/inetd.rs"),
    ),
    (
        "echod.8",
        "$ echod -l 127.0.0.1:7777 -l",
        Run("unknown command; allowed: date load"),
    ),
    ("echod.8", "$ RUST_LOG=conn=debug", Run("")),
    (
        "echod.8",
        "$ systemd-socket-activate",
        Not("socket activation: tests/it/units"),
    ),
    (
        "echod.8",
        "$ echod -l '*:7777' --shutdown",
        Run("listening on tcp:0.0.0.0:7777"),
    ),
    ("echod.8", "echod: bind", Not(A_LINE)),
    ("echoload.1", "holds 41,000/s", Not(A_LINE)),
    (
        "echoload.1",
        "$ echoload 127.0.0.1:7777\n",
        RunWith(&[("7777", "7777 -d 1s")], "requests"),
    ),
    (
        "echoload.1",
        "$ echoload crr 127.0.0.1:7777 -d",
        RunWith(&[("5s", "1s")], "connections"),
    ),
    (
        "echoload.1",
        "$ echoload hold",
        RunWith(&[("500", "50")], "50"),
    ),
    (
        "echoload.1",
        "$ echoload stream",
        RunWith(&[("-c 4", "-c 4 -d 1s")], "MiB/s"),
    ),
    (
        "echoload.1",
        "$ echoload 127.0.0.1:7777 -R",
        RunWith(&[("2000", "200 -d 1s")], "requests"),
    ),
    (
        "echoload.1",
        "$ echoload sweep",
        RunWith(&[("2ms", "5s --sweep 100:200 -d 300ms")], "holds"),
    ),
    (
        "echoload.1",
        "$ echoload crr 127.0.0.1:7777 127.0.0.1:7778 -d",
        RunWith(&[("30s", "3s")], "ratio"),
    ),
    (
        "echoload.1",
        "$ echoload crr 127.0.0.1:7777 127.0.0.1:7778 --fail",
        RunWith(&[("0.95", "0.01 -d 3s")], "ratio"),
    ),
];

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    fs::read_to_string(path).expect(name)
}

/// The literal blocks of a page, as they are read.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut inside: Option<String> = None;
    for line in page.lines() {
        match &mut inside {
            None if line.starts_with(".Bd -literal") => inside = Some(String::new()),
            None => {}
            Some(_) if line == ".Ed" => blocks.extend(inside.take()),
            Some(block) => {
                *block += &line.replace("\\e", "\\").replace("\\&", "");
                block.push('\n');
            }
        }
    }
    blocks
}

fn fate<'a>(name: &str, block: &str) -> Option<&'a (&'static str, &'static str, Fate)> {
    let fits = |entry: &&(&str, &str, Fate)| entry.0 == name && block.starts_with(entry.1);
    // The most particular one.
    BLOCKS.iter().filter(fits).max_by_key(|entry| entry.1.len())
}

const PAGES: [&str; 4] = ["echoc.1", "echod-models.7", "echod.8", "echoload.1"];

#[test]
fn every_example_is_run_or_says_why_not() {
    let mut met = BTreeSet::new();
    for name in PAGES {
        for block in blocks(&page(name)) {
            let entry =
                fate(name, &block).unwrap_or_else(|| panic!("{name}: no fate for:\n{block}"));
            met.insert((entry.0, entry.1));
        }
    }
    let gone: Vec<_> = BLOCKS
        .iter()
        .map(|entry| (entry.0, entry.1))
        .filter(|e| !met.contains(e))
        .collect();
    assert!(gone.is_empty(), "no longer on the pages: {gone:?}");
}

/// Is it a program that goes on until it is told to stop?
fn serves(command: &str) -> bool {
    let first = command.split_whitespace().find(|word| !word.contains('='));
    let once = ["--daemon", " -T", "--check", "&"];
    matches!(first, Some("echod" | "strace")) && !once.iter().any(|word| command.contains(word))
}

/// The commands of a block, without their prompts and with their continuations.
fn commands(block: &str) -> Vec<String> {
    let has_prompts = block.lines().any(|line| prompt(line).is_some());
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        let text = match prompt(line) {
            Some(text) => text,
            None if goes_on || !has_prompts => line,
            None => continue,
        };
        match (goes_on, commands.last_mut()) {
            (true, Some(last)) => {
                last.push('\n');
                last.push_str(text);
            }
            _ => commands.push(text.to_owned()),
        }
        goes_on = text.ends_with('\\');
    }
    commands
}

/// What follows `$ `, `# `, `1$ ` or `server$ `.
fn prompt(line: &str) -> Option<&str> {
    let (who, text) = line.split_once("$ ").or_else(|| line.split_once("# "))?;
    let plain = who.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(text)
}

/// What a shell makes of a block: what serves is in the background, and waited for.
fn script(name: &str, block: &str, words: &[(&str, &str)]) -> String {
    let block = words
        .iter()
        .fold(block.to_owned(), |text, (from, to)| text.replace(from, to));
    let bin = Path::new(env!("CARGO_BIN_EXE_echod"))
        .parent()
        .expect("a directory");
    let mut script = format!(
        "set -u; export PATH={0}:$PATH\n\
         ip link set lo up; mount -t tmpfs none /run; dir=$(mktemp -d); cd \"$dir\"; chmod 777 .\n\
         echo '127.0.0.1 localhost server' >hosts; mount --bind hosts /etc/hosts\n\
         mkfifo /run/ready /run/never; exec 8<>/run/never; rest() {{ read -r -t 0.05 -u 8 || true; }}\n\
         mkdir bin; PATH=$dir/bin:$PATH; cat >bin/echod <<'END'; chmod 755 bin/echod\n\
         #!/bin/bash\n\
         case \" $* \" in *' -T '*|*' --check '*|*' --daemon '*) exec {0}/echod \"$@\" ;; esac\n\
         exec 9>/run/ready; exec {0}/echod --ready-fd 9 \"$@\"\n\
         END\n\
         serves() {{ read -r -t 200 </run/ready || {{ echo 'it does not serve'; exit 1; }}; }}\n",
        bin.display(),
    );
    let commands = commands(&block);
    // These talk to somebody that the page has started before.
    if !commands.iter().any(|command| command.contains("echod")) || name == "echoload.1" {
        script += "mkdir -p /run/echod; ( echod -l '*:7777' -l 127.0.0.1:7778,service=command \
                   --allow-command uptime=/usr/bin/uptime -l unix:/run/echod/sock & ) ; serves\n";
    }
    if name == "echoload.1" {
        script = script.replace(
            "-l 127.0.0.1:7778,service=command --allow-command uptime=/usr/bin/uptime",
            "-l 127.0.0.1:7778",
        );
    }
    for command in commands {
        match serves(&command) {
            true => script += &format!("{command} &\nserves\n"),
            // Started by the page itself in the background.
            false if command.contains("echod") && command.trim_end().ends_with('&') => {
                script += &format!("{command}\nserves\n");
            }
            false => script += &format!("{command}\n"),
        }
    }
    script
}

/// Runs the examples of one page, each below an init of its own, with which all that
/// it has started ends.
fn run(name: &str) {
    let tools = ["unshare", "ip", "ss", "nc", "strace", "socat"];
    if !need_root() || !tools.iter().all(|tool| need(tool)) {
        return;
    }
    let mut failed = Vec::new();
    for block in blocks(&page(name)) {
        let Some((_, begins, fate)) = fate(name, &block) else {
            continue;
        };
        let (words, expected) = match fate {
            Run(expected) => (&[][..], *expected),
            RunWith(words, expected) => (*words, *expected),
            Not(why) => {
                println!("{name}: not run: {begins}: {why}");
                continue;
            }
        };
        let script = script(name, &block, words);
        let out = Command::new("timeout")
            .args([
                "400",
                "unshare",
                "-n",
                "-m",
                "-p",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["bash", "-c", &format!("{{ {script} }} 2>&1")])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() || !said.contains(expected) {
            failed.push(format!(
                "{name}: {begins}\n{script}\n{}: {said}",
                out.status
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n----\n"));
}

#[test]
fn the_examples_of_echoc_do_what_they_show() {
    run("echoc.1");
}

#[test]
fn the_examples_of_echod_do_what_they_show() {
    run("echod.8");
}

#[test]
fn the_examples_of_echod_models_do_what_they_show() {
    run("echod-models.7");
}

#[test]
fn the_examples_of_echoload_do_what_they_show() {
    run("echoload.1");
}

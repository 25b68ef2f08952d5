//! What walks around a filter of words, and that none of it runs anything.
//!
//! The tutorial's server hands the client's line to popen(3) unless it contains
//! "rm", "mv", "while" or "kill". Each line here would create a file through it.

use std::path::Path;

use super::peer::{OFF, Peer};
use super::{ask, asked, datagrams, serving};
use crate::common::{Builder, DEADLINE, need, poll_until};

/// `M` stands for the marker's path, and `hello` is the one allowed command.
const LINES: [&str; 76] = [
    // chains and pipes
    "touch M",
    "hello;touch M",
    "hello; touch M",
    "hello;",
    "; touch M",
    "hello && touch M",
    "hello || touch M",
    "hello & touch M",
    "hello | touch M",
    "hello |& touch M",
    "!touch M",
    // substitutions
    "$(touch M)",
    "hello $(touch M)",
    "hello$(touch M)",
    "`touch M`",
    "hello`touch M`",
    "<(touch M)",
    "${x:-$(touch M)}",
    "$((`touch M`1))",
    "$'touch' M",
    "\"$(touch M)\"",
    "'hello'$(touch M)",
    // the filter's words, spelt otherwise
    "r\\m -f M; touch M",
    "r''m -f M; touch M",
    "\"r\"m M; touch M",
    "m\\v /dev/null M",
    "k\\ill -0 1; touch M",
    "wh\\ile :; do touch M; break; done",
    "$(printf '\\162\\155') M; touch M",
    "$(echo dG91Y2gK | base64 -d) M",
    "t?uch M",
    "/bin/t[o]uch M",
    "/b*n/touch M",
    "/???/t??ch M",
    "{touch,M}",
    "touch${IFS}M",
    "touch$IFS$9M",
    "IFS=,;touch,M",
    "x=touch;$x M",
    "eval touch M",
    "exec touch M",
    ". /dev/stdin",
    "sh -c 'touch M'",
    "env touch M",
    "until touch M; do :; done",
    "for i in M; do touch $i; done",
    "if touch M; then :; fi",
    "(touch M)",
    "{ touch M; }",
    "f(){ touch M; };f",
    "trap 'touch M' EXIT",
    // redirections
    "> M",
    "hello > M",
    "hello >> M",
    "hello 2>M",
    "hello >| M",
    "<>M",
    "hello<<E\ntouch M\nE",
    // the name and what lies around it
    " hello",
    "hello ",
    "\thello",
    "HELLO",
    "/bin/echo",
    "../bin/echo",
    "./hello",
    "hello/../hello",
    "hello=/usr/bin/touch,M",
    "-c touch M",
    "--allow-command=x=/usr/bin/touch,M",
    // the environment
    "PATH=/tmp hello",
    "LD_PRELOAD=M hello",
    "ENV=M BASH_ENV=M sh",
    "HOME=/tmp ~/hello",
    "() { :;}; touch M",
    // formats
    "%n%n%s%x hello",
    "hello\x1b[2J",
];

/// What cannot be written in text.
pub fn bytes(marker: &str) -> Vec<Vec<u8>> {
    let text = |t: &str| t.replace('M', marker).into_bytes();
    let mut all = vec![
        b"hello\0".to_vec(),
        b"hello\0;touch x".to_vec(),
        b"\0hello".to_vec(),
        b"hello\r".repeat(2),
        b"hello\x0b".to_vec(),
        b"hello\x7f\x08".to_vec(),
        b"\xef\xbb\xbfhello".to_vec(),
        b"\xff\xfehello".to_vec(),
        b"\xc0\xaf\xc0\xae".to_vec(),
        text("hello\u{2028}touch M"),
        text("hello\u{85}touch M"),
        text("hello\u{a0}"),
        text("h\u{435}llo"),
        text("\u{202e}olleh"),
        text("hello\u{200b}"),
        b"hello".repeat(51),
        b"hello".repeat(52),
        b"A".repeat(255),
        b"A".repeat(256),
        b"A".repeat(257),
        b"A".repeat(65_536),
        b"A".repeat(1 << 20),
        [b"hello".to_vec(), b" ".repeat(300)].concat(),
        [b" ".repeat(300), b"hello".to_vec()].concat(),
        text(&format!("{};touch M", "A".repeat(255))),
        (0..=255).filter(|&b| b != b'\n').collect(),
    ];
    all.extend(LINES.iter().map(|line| text(line)));
    all
}

pub const UNKNOWN: &[u8] = b"unknown command; allowed: hello\n";

fn attack(addr: &str, marker: &str) -> usize {
    let lines = bytes(marker);
    for line in &lines {
        let shown = line.escape_ascii().to_string();
        let shown = &shown[..shown.len().min(100)];
        for end in [&b"\n"[..], b"\r\n", b""] {
            let got = ask(addr, &[line, end].concat());
            // The one trailing carriage return of a line is not part of it.
            assert_eq!(got, UNKNOWN, "{shown} said {}", got.escape_ascii());
        }
    }
    lines.len()
}

#[test]
fn what_defeats_a_filter_of_words_gets_the_one_line_and_runs_nothing() {
    let builder = serving(&["hello=/bin/echo,hello"]);
    let (dir, marker) = (builder.dir(), builder.path("marker"));
    let daemon = builder.start();
    let before = files(&dir);
    assert!(attack(daemon.addr(), &marker) >= 100);
    assert_eq!(files(&dir), before);
    assert!(!Path::new(&marker).exists());
    assert_eq!(asked(&daemon, "hello\n"), "hello\n");
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("a directory").count()
}

/// The marker's absence shows that no file came; the kernel's word shows that no
/// program was executed, nor the helper's child so much as forked.
#[test]
fn the_kernel_saw_no_program_executed() {
    if !need("strace") {
        return;
    }
    let base = Builder::new();
    let trace = base.path("trace");
    let (marker, calls) = (base.path("marker"), "trace=execve,execveat");
    let daemon = base
        .under(["strace", "-f", "-o", &trace, "-e", calls])
        .args([
            "--service",
            "command",
            "--allow-command",
            "hello=/bin/echo,hello",
        ])
        .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
        .args(OFF)
        .start();
    let seen = || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.lines().filter(|line| line.contains("execve")).count()
    };
    let own = seen();
    assert_eq!(own, 1, "echod itself");
    let peer = Peer::to(&daemon.addrs()[1]);
    attack(daemon.addr(), &marker);
    datagrams::attack(&peer, &marker);
    assert_eq!(seen(), own);
    assert_eq!(asked(&daemon, "hello\n"), "hello\n");
    peer.ping(b"hello\n");
    poll_until(DEADLINE, "the allowed one is seen", || seen() == own + 2);
}

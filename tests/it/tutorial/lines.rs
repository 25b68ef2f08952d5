//! Runs the lines of FROM A TUTORIAL, as they stand on the page but for the
//! address: each test has one of its own in place of port 7777.

use std::fs;
use std::path::Path;

use crate::client::run::echoc;
use crate::common::{Builder, DEADLINE, Daemon, echo_once, poll_until};

/// A line of the page, and how it is shown to work.
enum Line {
    /// echod with these options; a client sends the first text and gets the
    /// second.
    Server(&'static str, &'static str, &'static str),
    /// echoc with these options beside an echod with those; its input and its
    /// output.
    Client(&'static str, &'static str, &'static str, &'static str),
}
use Line::{Client, Server};

/// One entry a line.
const LINES: &[Line] = &[
    Server("echod --model iterative", "hello\n", "hello\n"),
    Server("echod --model fork --reap wait", "hello\n", "hello\n"),
    Server(
        "echod --model fork --reap double-fork",
        "hello\n",
        "hello\n",
    ),
    Server("echod --model fork --reap ignore", "hello\n", "hello\n"),
    Server("echod --model thread", "hello\n", "hello\n"),
    Client(
        "echoc --retry 5",
        "echod",
        "hello\n\nbye\n",
        "hello\n\nbye\n",
    ),
    Server("echod -l udp:127.0.0.1:7777", "hello\n", "hello\n"),
    Client(
        "echoc udp:127.0.0.1:7777",
        "echod -l udp:127.0.0.1:7777",
        "hello\n",
        "hello\n",
    ),
];

/// What it writes is another every day.
const COMMANDS: &str = "echod -l tcp:127.0.0.1:7777,service=command --allow-command date=/bin/date";
const COMMAND: &str = "echo date | echoc --no-verify";
const UDP_COMMANDS: &str =
    "echod -l udp:127.0.0.1:7777,service=command --allow-command date=/bin/date";
const UDP_COMMAND: &str = "echo date | echoc --no-verify udp:127.0.0.1:7777";
/// What it writes goes to its own terminal.
const PRINT: &str = "echod --print";

/// The default address, as the lines write it.
const DEFAULT: &str = "127.0.0.1:7777";

/// The lines of the section, without their prompts.
fn page() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/echod-models.7");
    let page = fs::read_to_string(page).expect("the page");
    let (_, section) = page.split_once(".Sh FROM A TUTORIAL\n").expect("a section");
    let (section, _) = section.split_once("\n.Sh ").expect("another section");
    let lines = section
        .lines()
        .filter_map(|line| line.strip_prefix(".Dl $ "));
    lines.map(str::to_owned).collect()
}

/// An echod with the options of a line.
fn start(line: &str) -> Daemon {
    let options = line.strip_prefix("echod").expect("a line that runs echod");
    let options = options.replace(DEFAULT, "127.0.0.1:0");
    Builder::new().args(options.split_whitespace()).start()
}

fn run(line: &Line) {
    match *line {
        Server(line, sent, expected) => {
            let daemon = start(line);
            let got = if daemon.addr().starts_with("udp:") {
                echoc(&[daemon.addr()], sent).status(0).stdout
            } else {
                echo_once(daemon.addr(), sent.as_bytes())
            };
            assert_eq!(String::from_utf8_lossy(&got), expected, "{line}");
        }
        Client(line, server, input, expected) => {
            let daemon = start(server);
            let (_, options) = line.split_once("echoc").expect("a line that runs echoc");
            let options: Vec<String> = options
                .split_whitespace()
                .filter(|word| !word.contains(DEFAULT))
                .map(str::to_owned)
                .chain([daemon.addr().to_owned()])
                .collect();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            assert_eq!(echoc(&options, input).status(0).text(), expected, "{line}");
        }
    }
}

#[test]
fn every_line_of_the_page_runs() {
    let alone = [COMMANDS, COMMAND, UDP_COMMANDS, UDP_COMMAND, PRINT];
    let listed = LINES
        .iter()
        .map(|(Server(text, ..) | Client(text, ..))| *text)
        .chain(alone);
    let mut listed: Vec<&str> = listed.collect();
    let mut page = page();
    listed.sort_unstable();
    page.sort_unstable();
    assert_eq!(page, listed, "the page and this file");
    LINES.iter().for_each(run);
}

#[test]
fn the_command_server_answers_the_command_client() {
    for (server, client) in [(COMMANDS, COMMAND), (UDP_COMMANDS, UDP_COMMAND)] {
        let daemon = start(server);
        let (input, options) = client.split_once(" | echoc ").expect("a pipe");
        let input = input.replace("echo ", "") + "\n";
        let option = options.split_whitespace().next().expect("an option");
        let got = echoc(&[option, daemon.addr()], input.as_str())
            .status(0)
            .text();
        assert!(got.contains("20") && got.ends_with('\n'), "a date: {got:?}");
    }
}

#[test]
fn the_server_that_prints_says_who_sent_what() {
    let daemon = start(PRINT);
    assert_eq!(echo_once(daemon.addr(), b"hello\n"), b"hello\n");
    poll_until(DEADLINE, "the copy", || {
        let printed = daemon.stdout();
        printed.starts_with("[127.0.0.1:") && printed.ends_with("] hello\n")
    });
}

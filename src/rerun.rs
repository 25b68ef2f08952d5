//! Tests of what a process can do to itself only once: one test runs another,
//! its role, as a process of its own.
//!
//! A fork in a test harness with many threads may do next to nothing; running
//! this same binary again may do all. The role finds itself named in the
//! environment, speaks in lines, and lives until its input ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

const ROLE: &str = "ECHOD_TEST_ROLE";

/// What the libtest output around it does not begin with.
const MARK: &str = "@ ";

/// The argument of this process, if it is a role.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// From the role to the test that started it.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    // In one write, after whatever libtest left on the line.
    let text = format!("\n{MARK}{line}\n");
    out.write_all(text.as_bytes()).expect("the test listens");
    out.flush().expect("the test listens");
}

/// The role waits for its starter to end it.
pub fn wait_for_end() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}

/// The role waits for a line.
pub fn wait_for_line() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

pub struct Role {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Runs the test `name` (its full path in the crate) with `argument`.
pub fn start(name: &str, argument: &str) -> Role {
    let exe = std::env::current_exe().expect("this binary");
    start_command(Command::new(exe), name, argument)
}

/// The same, by a command that runs the program its arguments name.
pub fn start_under(mut wrapper: Command, name: &str, argument: &str) -> Role {
    wrapper.arg(std::env::current_exe().expect("this binary"));
    start_command(wrapper, name, argument)
}

fn start_command(mut command: Command, name: &str, argument: &str) -> Role {
    let mut child = command
        .args(["--exact", "--nocapture", "--test-threads=1", name])
        .env(ROLE, argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    Role {
        input: child.stdin.take(),
        output: BufReader::new(child.stdout.take().expect("piped")),
        child,
    }
}

impl Role {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it said; panics when it ended instead.
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("a line");
            assert!(read > 0, "the role ended without a word");
            if let Some(said) = line.strip_prefix(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    pub fn tell(&mut self) {
        let input = self.input.as_mut().expect("not ended");
        input.write_all(b"go\n").expect("the role listens");
    }

    /// Lets it end, and waits for that.
    pub fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().expect("our child")
    }
}

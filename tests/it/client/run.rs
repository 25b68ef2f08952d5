//! Running echoc: to its end, or step by step.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::common::{DEADLINE, poll_some};

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts the exit status.
    #[track_caller]
    pub fn status(self, status: i32) -> Ran {
        let out = &self.stdout[..self.stdout.len().min(2000)];
        let out = String::from_utf8_lossy(out);
        assert_eq!(self.status, Some(status), "{out}\n{}", self.stderr);
        self
    }

    /// Asserts that standard error holds this.
    #[track_caller]
    pub fn says(self, text: &str) -> Ran {
        assert!(self.stderr.contains(text), "{text:?} in {}", self.stderr);
        self
    }
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoc"));
    command.args(args);
    command
}

/// Runs echoc to its end with this input, in a pipe.
pub fn echoc(args: &[&str], input: impl Into<Vec<u8>>) -> Ran {
    let input = input.into();
    let mut run = Running::start(args);
    let mut stdin = run.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || {
        // One that has seen enough reads no further.
        let _ = stdin.write_all(&input);
    });
    let ran = run.end();
    writer.join().expect("the writer");
    ran
}

/// An echoc in pipes.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    pub fn start(args: &[&str]) -> Running {
        Running::of(command(args))
    }

    /// Starts this command, which becomes echoc.
    pub fn of(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("echoc starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (tell, lines) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let stdout = thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).expect("its output");
            all
        });
        Running {
            stdin: child.stdin.take(),
            stdout: Some(stdout),
            child,
            lines,
            said: Vec::new(),
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("not closed yet");
        stdin.write_all(bytes).expect("echoc reads");
    }

    /// Waits for a line of standard error that holds this.
    #[track_caller]
    pub fn wait_said(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("{text:?} not in {:?}", self.said));
            self.said.push(line);
            if self.said.last().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
    }

    /// Closes its input and waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        drop(self.stdin.take());
        let status = poll_some(DEADLINE * 3, "echoc ends", || {
            self.child.try_wait().expect("our own child")
        });
        let stdout = self.stdout.take().expect("once").join().expect("reader");
        self.said.extend(self.lines.iter());
        Ran {
            status: status.code(),
            stdout,
            stderr: self.said.join("\n"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

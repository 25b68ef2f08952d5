//! echoc as a person meets it: in a terminal, with a prompt.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use nix::pty::openpty;

use super::run::command;
use super::servers::{echo, nobody, tcp, udp};
use crate::common::{DEADLINE, Daemon, poll_some};

const END_OF_FILE: &[u8] = &[4];

/// An echoc whose standard descriptors are all one terminal.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Terminal {
    fn start(args: &[&str]) -> Terminal {
        let pty = openpty(None, None).expect("a terminal");
        let slave = || Stdio::from(pty.slave.try_clone().expect("dup"));
        let child = command(args)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("echoc starts");
        drop(pty.slave);
        let keys = File::from(pty.master);
        let mut screen = keys.try_clone().expect("dup");
        let (show, shown) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO once nobody has the other end: pty(7).
            while let Ok(len @ 1..) = screen.read(&mut buffer) {
                if show.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal {
            child,
            keys,
            screen: shown,
            shown: String::new(),
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("a terminal");
    }

    /// Waits until the screen ends with this, and forgets what it showed.
    #[track_caller]
    fn shows(&mut self, end: &str) -> String {
        let until = Instant::now() + DEADLINE;
        while !self.shown.ends_with(end) {
            let left = until.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left);
            let more = more.unwrap_or_else(|_| panic!("{end:?} not after {:?}", self.shown));
            self.shown += &String::from_utf8_lossy(&more);
        }
        std::mem::take(&mut self.shown)
    }

    #[track_caller]
    fn ends(&mut self, status: i32) -> String {
        let ended = poll_some(DEADLINE, "echoc ends", || {
            self.child.try_wait().expect("our own child")
        });
        for more in self.screen.iter() {
            self.shown += &String::from_utf8_lossy(&more);
        }
        assert_eq!(ended.code(), Some(status), "{}", self.shown);
        std::mem::take(&mut self.shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_line_in_the_echo_out_and_the_prompt_again() {
    let daemon = Daemon::start(&[] as &[&str]);
    let mut terminal = Terminal::start(&[daemon.addr()]);
    let greeting = terminal.shows("> ");
    let expected = format!("echoc: connected to {}; ^D ends\r\n> ", daemon.addr());
    assert_eq!(greeting, expected);
    for line in ["hello", "two words", "", "umlaut \u{e4}"] {
        terminal.types(format!("{line}\n").as_bytes());
        // Once by the terminal as it is typed, once by the server.
        let both = format!("{line}\r\n{line}\r\n> ");
        assert_eq!(terminal.shows(&both), both);
    }
    terminal.types(END_OF_FILE);
    assert_eq!(terminal.ends(0), "\r\n");
}

#[test]
fn what_is_on_its_way_at_the_end_is_shown() {
    let addr = tcp(|_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all of it");
        let _ = stream.write_all(&all);
    });
    let mut terminal = Terminal::start(&[&addr]);
    terminal.shows("> ");
    terminal.types(b"later\n");
    terminal.shows("later\r\n");
    terminal.types(END_OF_FILE);
    assert_eq!(terminal.ends(0), "later\r\n");
}

#[test]
fn a_server_that_goes_away_is_called_again() {
    let addr = tcp(|n, mut stream| {
        if n > 0 {
            return echo(stream);
        }
        let mut line = [0; 4];
        stream.read_exact(&mut line).expect("a line");
        stream.write_all(&line).expect("its echo");
        stream.read_exact(&mut line).expect("a line");
    });
    let mut terminal = Terminal::start(&[&addr]);
    terminal.shows("> ");
    terminal.types(b"one\n");
    terminal.shows("one\r\n> ");
    terminal.types(b"two\n");
    let shown = terminal.shows("> ");
    let lost = "closed the connection: 4 bytes of 8 from offset 4 had not come back\r\n";
    assert!(shown.contains(lost), "{shown}");
    assert!(shown.contains("echoc: connected again to tcp:"), "{shown}");
    terminal.types(b"six\n");
    terminal.shows("six\r\n> ");
    terminal.types(END_OF_FILE);
    terminal.ends(76);
}

#[test]
fn it_is_tried_five_times_more() {
    let args = ["--retry-interval", "10ms", &nobody()];
    let mut terminal = Terminal::start(&args);
    let shown = terminal.ends(69);
    for n in 1..=5 {
        assert!(
            shown.contains(&format!("retry {n} of 5 in 10ms")),
            "{shown}"
        );
    }
    assert_eq!(shown.lines().count(), 6, "{shown}");
}

#[test]
fn a_wrong_byte_is_said_and_the_conversation_goes_on() {
    let addr = tcp(|_, mut stream| {
        let mut line = [0; 4];
        stream.read_exact(&mut line).expect("a line");
        line[1] = b'!';
        stream.write_all(&line).expect("the answer");
        echo(stream);
    });
    let mut terminal = Terminal::start(&[&addr]);
    terminal.shows("> ");
    terminal.types(b"one\n");
    let shown = terminal.shows("> ");
    assert!(shown.contains("o!e\r\n"), "{shown}");
    assert!(shown.contains("differs at offset 1: sent 0x6e, got 0x21"));
    terminal.types(b"two\n");
    terminal.shows("two\r\ntwo\r\n> ");
    terminal.types(END_OF_FILE);
    terminal.ends(76);
}

#[test]
fn datagrams_have_a_prompt_too_and_never_hang() {
    let addr = udp(|n, asked| if n == 1 { vec![] } else { vec![asked] });
    let mut terminal = Terminal::start(&["-W", "100ms", &addr]);
    terminal.shows("> ");
    terminal.types(b"\n");
    assert_eq!(terminal.shows("> "), "\r\n\r\n> ");
    terminal.types(b"lost\n");
    let shown = terminal.shows("> ");
    assert!(
        shown.contains("if this is echod, see --udp-rate"),
        "{shown}"
    );
    terminal.types(b"back\n");
    terminal.shows("back\r\nback\r\n> ");
    terminal.types(END_OF_FILE);
    terminal.ends(76);
}

#[test]
fn quiet_is_the_echo_alone() {
    let daemon = Daemon::start(&[] as &[&str]);
    let mut terminal = Terminal::start(&["-q", daemon.addr()]);
    terminal.types(b"hello\n");
    assert_eq!(terminal.shows("hello\r\nhello\r\n"), "hello\r\nhello\r\n");
    terminal.types(END_OF_FILE);
    assert_eq!(terminal.ends(0), "");
}

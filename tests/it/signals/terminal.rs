//! The terminal of a foreground echod is closed, or is not: what HUP means then.

use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;

use crate::common::design::{PREFORK, side_by_side};
use crate::common::{Client, DEADLINE, DESIGNS, Design, Signal, poll_some, poll_until, signal};

/// How an echod is tied to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tie {
    /// As a shell's child has it.
    Whole,
    /// With everything redirected.
    Controlling,
    /// A standard descriptor, and no more.
    Input,
}

struct OnTerminal {
    child: Child,
    master: Option<PtyMaster>,
    addr: String,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl OnTerminal {
    fn start(design: &Design, tie: Tie, nohup: bool) -> OnTerminal {
        let dir = tempfile::TempDir::with_prefix("echod-test-").expect("a directory");
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), all).expect("chmod");
        let log = dir.path().join("log");
        // Closed on exec: a child of another test would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = CString::new(ptsname_r(&master).expect("its name")).expect("a path");
        let slave = || open(name.as_c_str(), flags, Mode::empty()).expect("its other end");
        let stdio = |on_it: bool| match on_it {
            true => Stdio::from(slave()),
            false => Stdio::null(),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_echod"));
        command
            .args(design.args)
            .args(["-l", "tcp:127.0.0.1:0", "--ready-fd", "1"])
            .args(["--graceful-timeout", "60s", "--log-target"])
            .arg(&log)
            .env("RUST_LOG", "info,conn=debug")
            .stdin(stdio(tie != Tie::Controlling))
            .stdout(Stdio::piped())
            .stderr(stdio(tie == Tie::Whole));
        let for_child = name.clone();
        // SAFETY: system calls alone, of what was made before the fork.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                if tie != Tie::Input {
                    // The first that a session's leader opens is its own.
                    let fd = libc::open(for_child.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
                    drop(OwnedFd::from_raw_fd(fd));
                }
                // Whoever runs the tests may be under nohup(1), too.
                let hup = if nohup { libc::SIG_IGN } else { libc::SIG_DFL };
                libc::signal(libc::SIGHUP, hup);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("it starts");
        let mut addr = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut addr).expect("ready");
        assert!(master.as_raw_fd() > 2);
        OnTerminal {
            child,
            master: Some(master),
            addr: addr.trim().to_owned(),
            log,
            _dir: dir,
        }
    }

    fn hup(&self) {
        signal(self.child.id().cast_signed(), Signal::SIGHUP);
    }

    fn close_terminal(&mut self) {
        drop(self.master.take());
    }

    #[track_caller]
    fn wait_log(&self, text: &str) {
        poll_until(DEADLINE, text, || self.has_logged(text));
    }

    fn has_logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    fn wait_exit(&mut self) -> Option<i32> {
        poll_some(DEADLINE, "it ends", || {
            self.child.try_wait().expect("our own child")
        })
        .code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        signal(self.child.id().cast_signed(), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

/// Closed under it: a stop as by TERM, however many say so.
fn stops(design: &Design, tie: Tie) {
    let mut echod = OnTerminal::start(design, tie, false);
    let mut client = Client::connect(&echod.addr);
    client.ping(b"before");
    echod.close_terminal();
    poll_until(DEADLINE, "the end of the terminal is seen", || {
        // The kernel's word goes to the leader of the terminal's session. Again,
        // since a child of another test may hold the terminal until its exec.
        if tie == Tie::Input {
            echod.hup();
        }
        echod.has_logged("the terminal is gone")
    });
    echod.wait_log("stopping");
    for _ in 0..3 {
        echod.hup();
        client.ping(b"served on");
    }
    drop(client);
    assert_eq!(echod.wait_exit(), Some(0), "{} {tie:?}", design.name);
    echod.wait_log("stopped; no client was cut");
}

#[test]
fn closing_the_terminal_is_a_stop() {
    side_by_side(&DESIGNS, |design| stops(design, Tie::Whole));
    for tie in [Tie::Controlling, Tie::Input] {
        stops(&PREFORK, tie);
    }
}

#[test]
fn hup_beside_a_living_terminal_is_a_reload() {
    for tie in [Tie::Whole, Tie::Controlling, Tie::Input] {
        let echod = OnTerminal::start(&PREFORK, tie, false);
        let mut client = Client::connect(&echod.addr);
        client.ping(b"before");
        echod.hup();
        echod.wait_log("generation 2");
        client.ping(b"after");
    }
}

/// Started with HUP ignored it is to outlive its terminal; HUP is a reload.
#[test]
fn under_nohup_it_outlives_its_terminal() {
    for tie in [Tie::Whole, Tie::Controlling, Tie::Input] {
        let mut echod = OnTerminal::start(&PREFORK, tie, true);
        let mut client = Client::connect(&echod.addr);
        client.ping(b"before");
        echod.close_terminal();
        echod.hup();
        echod.wait_log("generation 2");
        client.ping(b"after");
        assert_eq!(echod.child.try_wait().expect("our own child"), None);
    }
}

//! How a test asks for an echod: arguments, environment, identity, and what
//! runs around it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::daemon::{Daemon, Finished};
use super::{DEADLINE, has_ipv6, must};

/// Numbers the daemons of this test process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A loopback address of its own for every daemon: a client that comes late,
/// after a stop, must not reach another test's daemon on the same port.
fn own_address(n: u32) -> String {
    let host = std::process::id().wrapping_mul(251).wrapping_add(n);
    let [_, _, b, c] = host.to_be_bytes();
    format!("127.{}.{b}.{}", 1 + n % 200, 1 + c % 250)
}

/// An echod about to be started.
#[derive(Debug)]
pub struct Builder {
    number: u32,
    args: Vec<String>,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    program: Vec<String>,
    uid: Option<u32>,
    stderr: Option<Stdio>,
    log: PathBuf,
    listeners: Option<usize>,
    ready_fd: bool,
    handed: Option<OwnedFd>,
    sigsys_is_fine: bool,
    dir: TempDir,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// An echod with no arguments but those the harness adds: `-l` with an
    /// address of its own and port 0, and `--ready-fd`.
    pub fn new() -> Builder {
        let dir = TempDir::with_prefix("echod-test-").expect("a temporary directory");
        // echod started as root serves as nobody, and must be able to create
        // and remove its files here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
        Builder {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            args: Vec::new(),
            env: vec![("RUST_LOG".to_owned(), "info,conn=debug".to_owned())],
            wrapper: Vec::new(),
            program: Vec::new(),
            uid: None,
            stderr: None,
            log: dir.path().join("stderr"),
            listeners: None,
            ready_fd: true,
            handed: None,
            sigsys_is_fine: false,
            dir,
        }
    }

    /// Adds arguments.
    pub fn args<I, S>(mut self, args: I) -> Builder
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Sets a variable of the environment (`RUST_LOG` is `info,conn=debug`
    /// unless set here).
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs echod under a command that ends by executing its arguments:
    /// `["strace", "-f", "-o", "trace"]`, `["prlimit", "--nofile=64"]`.
    pub fn under<I, S>(mut self, command: I) -> Builder
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let words = command.into_iter().map(|word| word.as_ref().to_owned());
        self.wrapper.extend(words);
        self
    }

    /// Runs this, and its first arguments, in the place of echod.
    pub fn program<I, S>(mut self, words: I) -> Builder
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.program = words.into_iter().map(Into::into).collect();
        self
    }

    /// Starts as another user (and group, and without further groups); needs
    /// root.
    pub fn uid(mut self, uid: u32) -> Builder {
        self.uid = Some(uid);
        self
    }

    /// Standard error goes there instead of the file that [`Daemon::log`] reads.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Builder {
        self.stderr = Some(to.into());
        self
    }

    /// [`Daemon::log`] reads this file; for `--log-target PATH`.
    pub fn log_at(mut self, path: &Path) -> Builder {
        self.log = path.to_owned();
        self
    }

    /// How many listener lines mean ready, where counting `-l` does not tell
    /// (a name with several addresses).
    pub fn listeners(mut self, n: usize) -> Builder {
        self.listeners = Some(n);
        self
    }

    /// Adds neither `-l` nor `--ready-fd`: the arguments are all there is.
    pub fn bare(mut self) -> Builder {
        self.ready_fd = false;
        self
    }

    /// Hands over a socket, as a service manager does: LISTEN_FDS=1, and no `-l`
    /// but those of the arguments.
    pub fn handed(mut self, socket: impl Into<OwnedFd>) -> Builder {
        self.handed = Some(socket.into());
        self
    }

    /// Lets children die of SIGSYS; without this, one such death fails the test
    /// when the daemon is dropped: the sandbox forbids what the child does.
    pub fn sigsys_is_fine(mut self) -> Builder {
        self.sigsys_is_fine = true;
        self
    }

    /// A directory for this daemon's files, writable by all; removed with the
    /// daemon.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A file in [`Builder::dir`], as an argument.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts and waits until it serves; panics with its log if it does not.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        if let Err(why) = daemon.wait_ready(DEADLINE) {
            panic!("echod does not get ready: {why}");
        }
        daemon
    }

    /// Runs it to its end, for usage errors and `--check`.
    #[track_caller]
    pub fn run(self, deadline: Duration) -> Finished {
        let daemon = self.spawn();
        let status = daemon.wait_exit(deadline);
        Finished {
            status,
            stdout: daemon.stdout(),
            stderr: daemon.log(),
        }
    }

    /// Starts and waits for nothing; see [`Daemon::wait_ready`].
    #[track_caller]
    pub fn spawn(mut self) -> Daemon {
        let expected = self.complete_args();
        let id = format!("ECHOD_TEST_ID={}-{}", std::process::id(), self.number);
        let mut command = self.command();
        let (name, value) = id.split_once('=').expect("written above");
        command.env(name, value);
        let child = command.spawn().expect("sh starts");
        let wrapped = !self.wrapper.is_empty() || self.args.iter().any(|arg| arg == "--daemon");
        let mut daemon = Daemon::new(child, id, wrapped, expected, self.log, self.dir);
        daemon.sigsys_is_fine = self.sigsys_is_fine;
        daemon
    }

    /// Adds what the harness needs; returns how many listener lines to expect.
    fn complete_args(&mut self) -> usize {
        let mut listen: Vec<String> = Vec::new();
        let mut words = self.args.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-l" | "--listen" => listen.extend(words.next().cloned()),
                _ => listen.extend(word.strip_prefix("--listen=").map(str::to_owned)),
            }
        }
        if self.ready_fd && listen.is_empty() && self.handed.is_none() {
            let addr = format!("tcp:{}:0", own_address(self.number));
            self.args.extend(["-l".to_owned(), addr.clone()]);
            listen.push(addr);
        }
        let ready = match self.handed {
            None => READY,
            Some(_) => READY_BESIDE,
        };
        if self.ready_fd {
            self.args
                .extend(["--ready-fd".to_owned(), ready.to_string()]);
        }
        let both = if has_ipv6() { 2 } else { 1 };
        let lines = |addr: &String| if addr.contains("*:") { both } else { 1 };
        let handed = usize::from(self.handed.is_some());
        self.listeners
            .unwrap_or_else(|| handed + listen.iter().map(lines).sum::<usize>())
    }

    /// A shell moves the ready pipe from 1 to its number and execs the rest:
    /// the pipe stays close-on-exec in this process, where another thread may
    /// be forking, and the pid stays the one std knows.
    fn command(&mut self) -> Command {
        let mut command = Command::new("/bin/sh");
        // A socket that is handed over comes as 0, the only way that needs no
        // descriptor to be inheritable in this process.
        let (stdin, script) = match self.handed.take() {
            None => (Stdio::null(), format!("exec \"$@\" {READY}>&1 1>>\"$0\"")),
            Some(socket) => (
                Stdio::from(socket),
                format!(
                    "export LISTEN_PID=$$ LISTEN_FDS=1
                     exec \"$@\" {READY_BESIDE}>&1 1>>\"$0\" 3<&0 0</dev/null"
                ),
            ),
        };
        let binary = self.binary();
        command
            .arg("-c")
            .arg(script)
            .arg(self.dir.path().join("stdout"))
            .args(&self.wrapper)
            .args(binary)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(self.stderr.take().unwrap_or_else(|| open_log(&self.dir)))
            .process_group(0);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// The program; a copy where another user must be able to reach it. cp(1)
    /// makes it: a descriptor open for writing here could leak into another
    /// thread's child and make exec fail with ETXTBSY.
    fn binary(&self) -> Vec<String> {
        if !self.program.is_empty() {
            return self.program.clone();
        }
        let built = PathBuf::from(env!("CARGO_BIN_EXE_echod"));
        if self.uid.is_none() {
            return vec![built.display().to_string()];
        }
        let copy = self.dir.path().join("echod");
        let words = [built.display().to_string(), copy.display().to_string()];
        must("cp", &[&words[0], &words[1]]);
        must("chmod", &["0755", &words[1]]);
        let [_, copy] = words;
        vec![copy]
    }
}

/// The descriptor that `--ready-fd` names.
const READY: u8 = 3;
/// The same where 3 is a socket that is handed over.
const READY_BESIDE: u8 = 9;

fn open_log(dir: &TempDir) -> Stdio {
    let path = dir.path().join("stderr");
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log file");
    file.into()
}

//! What a command line means: checked once, immutable, owned by everyone.
//!
//! [`crate::cli`] holds what was typed; `Config` holds what it means. After
//! it exists nothing is validated again. What is one of several words here is so on
//! the command line, too: the first line of each is its help. This module knows no
//! system call.

use std::ffi::{CString, OsStr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::access;
use crate::addr::{ListenSpec, split_attrs};
use crate::error::{Error, Result};
use crate::values::{Keepalive, Ports, Rate, nearest};

/// Everything echod was asked to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to serve, in the order given.
    pub listen: Vec<ListenSpec>,
    /// So many of those, the first ones, are open already: they were handed over.
    pub handed: usize,
    /// What is served where a listener does not say.
    pub service: ServiceKind,
    /// What clients of the command service may ask for.
    pub commands: Vec<Allowed>,
    /// Which process design serves.
    pub model: Model,
    /// Connections, and so serving processes, at once.
    pub max_clients: usize,
    /// listen(2)'s backlog; `None` is the kernel's somaxconn.
    pub backlog: Option<u32>,
    /// What happens to a client that comes when `max_clients` are served.
    pub overflow: Overflow,
    /// How long one connection may be silent, stuck, or last.
    pub timeouts: Timeouts,
    /// Who is served, and how many of them.
    pub access: access::Policy,
    /// What keeps UDP from being a weapon.
    pub udp: UdpLimits,
    /// What is given up once the sockets are open.
    pub identity: Identity,
    /// How far a serving child is locked in.
    pub sandbox: SandboxPolicy,
    /// Detach from the terminal, as daemon(7) says.
    pub daemon: bool,
    /// Where the supervisor's pid is written and locked.
    pub pidfile: Option<PathBuf>,
    /// Serve the connection on descriptor 0 and exit.
    pub inetd: bool,
    /// How a stop proceeds.
    pub stop: StopTimes,
    /// What children do when the supervisor dies.
    pub orphans: Orphans,
    /// Children copy what they receive to standard output.
    pub print: bool,
    /// Where and how to log.
    pub log: LogConfig,
    /// The descriptor told when we serve; open when the program started.
    pub ready_fd: Option<i32>,
    /// Validate what can be without serving, and exit.
    pub check: bool,
}

/// What is served.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// what comes is sent back (RFC 862)
    Echo,
    /// a line names one of --allow-command
    Command,
}

impl Config {
    /// Processes the supervisor may have at once. A threaded worker that was
    /// told to go stays only for its clients, each of which is one of
    /// `max_clients`: so many old ones at most, and the present one.
    pub fn child_slots(&self) -> usize {
        self.max_clients + usize::from(self.model.is_threaded())
    }

    /// What a listener serves whose `service` attribute is this.
    pub fn served(&self, attribute: Option<&str>) -> ServiceKind {
        match attribute {
            Some("command") => ServiceKind::Command,
            Some(_) => ServiceKind::Echo,
            None => self.service,
        }
    }

    /// Are commands run at this address?
    pub fn runs_commands_at(&self, spec: &ListenSpec) -> bool {
        self.served(spec.attrs.service.as_deref()) == ServiceKind::Command
    }

    /// Can any client ask for a command?
    pub fn runs_commands(&self) -> bool {
        match self.inetd {
            true => self.service == ServiceKind::Command,
            false => self.listen.iter().any(|spec| self.runs_commands_at(spec)),
        }
    }
}

/// What happens to a client beyond `max_clients`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// wait in the accept queue
    Queue,
    /// accept and close
    Close,
    /// accept and reset
    Reset,
}

/// Limits on one connection; `None` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A client that sends nothing.
    pub idle: Option<Duration>,
    /// A client that reads nothing.
    pub write: Option<Duration>,
    /// A connection in all.
    pub lifetime: Option<Duration>,
    /// A TCP client whose machine may be gone.
    pub keepalive: Option<Keepalive>,
}

/// Which datagrams are answered; `None` is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpLimits {
    /// From one source prefix.
    pub rate: Option<Rate>,
    /// From all of them.
    pub global_rate: Option<Rate>,
    /// Source ports that are not.
    pub refuse_ports: Option<Ports>,
}

/// Who we are once the sockets are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `--user USER[:GROUP]`, as typed; resolved at start.
    pub user: Option<String>,
    /// `--chroot DIR`.
    pub chroot: Option<PathBuf>,
    /// Keep uid 0 if that is what we were started with.
    pub allow_root: bool,
}

/// How far a serving child is locked in.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxPolicy {
    /// refuse to serve without one
    Strict,
    /// use what the kernel offers
    BestEffort,
    /// none, for strace and gdb
    Off,
}

/// How a stop proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    /// How long clients may take to finish after TERM.
    pub graceful: Duration,
    /// How long to go on accepting after TERM.
    pub delay: Duration,
    /// How long handshakes in flight may take to complete.
    pub settle: Duration,
}

/// What children do when the supervisor dies.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// serve their client to its end
    Finish,
    /// die too
    Terminate,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The sink.
    pub target: LogTarget,
    /// It was not asked for: `--daemon` alone means syslog.
    pub assumed: bool,
    /// The shape of a line.
    pub format: LogFormat,
    /// The filter when `RUST_LOG` does not say otherwise.
    pub level: log::LevelFilter,
    /// It was asked for, by `-v` or `-q`, and `RUST_LOG` says nothing.
    pub chosen: bool,
}

/// The shape of a line.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// for people
    Text,
    /// one object a line
    Json,
}

// The process designs of UNP vol. 1, chapter 30, side by side, and what each
// can be told.

/// A design by its name alone, as it is typed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// workers forked in advance each accept
    Prefork,
    /// the supervisor accepts and forks
    Fork,
    /// one worker, one client at a time
    Iterative,
    /// one worker, a thread for each connection
    Thread,
    /// one worker, a pool of threads
    Prethread,
}

/// The process designs of UNP vol. 1, chapter 30, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// One worker serves in its accept loop: the baseline.
    Iterative,
    /// The supervisor accepts and forks a child for each connection.
    Fork(Reap),
    /// Workers forked in advance each call accept.
    Prefork {
        /// Spare-server limits.
        pool: PoolLimits,
        /// Connections a worker serves before it is replaced; `None` is no limit.
        per_child: Option<u64>,
        /// How they come by a connection.
        accept: Accept,
    },
    /// One worker process accepts and starts a thread for each connection.
    Thread,
    /// One worker process with a pool of threads.
    Prethread {
        /// Spare-thread limits.
        pool: PoolLimits,
        /// Which of its threads calls accept.
        accept: ThreadAccept,
    },
}

/// Who calls accept in a pool of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAccept {
    /// Every idle thread (serv09 of the tutorials): the kernel wakes one.
    Shared,
    /// The idle thread that holds the mutex (UNP row 7).
    Mutex,
    /// The main thread, which hands the connection over (UNP row 8).
    Pass,
}

impl From<ThreadAccept> for Accept {
    fn from(how: ThreadAccept) -> Self {
        match how {
            ThreadAccept::Shared => Accept::Shared,
            ThreadAccept::Mutex => Accept::Mutex,
            ThreadAccept::Pass => Accept::Pass,
        }
    }
}

/// How the workers of a pool come by a connection.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// all wait on one queue, the kernel wakes one
    Shared,
    /// one at a time waits, under a record lock
    Fcntl,
    /// one at a time waits, under a mutex (between processes, a robust one)
    Mutex,
    /// the supervisor (or main thread) accepts and passes the descriptor
    Pass,
    /// as many TCP sockets as --start-servers
    Reuseport,
}

/// How the `fork` design gets rid of its dead.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// SIGCHLD and waitpid
    Wait,
    /// SIGCHLD ignored, the kernel reaps
    Ignore,
    /// the child forks again, init reaps
    DoubleFork,
}

/// Spare-server limits, in Apache's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Workers forked at start.
    pub start: usize,
    /// Fewer idle workers than this, and more are forked.
    pub min_spare: usize,
    /// More idle workers than this, and some retire.
    pub max_spare: usize,
}

impl Model {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Model::Iterative => "iterative",
            Model::Fork(Reap::Wait) => "fork, reap wait",
            Model::Fork(Reap::Ignore) => "fork, reap ignore",
            Model::Fork(Reap::DoubleFork) => "fork, reap double-fork",
            Model::Prefork {
                per_child: Some(1),
                accept,
                ..
            } => match accept {
                Accept::Shared => "prefork, a process per connection",
                Accept::Fcntl => "prefork, accept fcntl, a process per connection",
                Accept::Mutex => "prefork, accept mutex, a process per connection",
                Accept::Pass => "prefork, accept pass, a process per connection",
                Accept::Reuseport => "prefork, accept reuseport, a process per connection",
            },
            Model::Prefork { accept, .. } => match accept {
                Accept::Shared => "prefork, workers reused",
                Accept::Fcntl => "prefork, accept fcntl, workers reused",
                Accept::Mutex => "prefork, accept mutex, workers reused",
                Accept::Pass => "prefork, accept pass, workers reused",
                Accept::Reuseport => "prefork, accept reuseport, workers reused",
            },
            Model::Thread => "thread, a thread per connection",
            Model::Prethread { accept, .. } => match accept {
                ThreadAccept::Shared => "prethread, threads that each accept",
                ThreadAccept::Mutex => "prethread, accept mutex",
                ThreadAccept::Pass => "prethread, accept pass",
            },
        }
    }

    /// How processes come by a connection; the other designs have one way each.
    pub fn accept(self) -> Accept {
        match self {
            Model::Prefork { accept, .. } => accept,
            Model::Iterative | Model::Fork(_) | Model::Thread | Model::Prethread { .. } => {
                Accept::Shared
            }
        }
    }

    /// Sockets that each TCP address gets.
    pub fn sockets_each(self) -> usize {
        match self {
            Model::Prefork {
                accept: Accept::Reuseport,
                pool,
                ..
            } => pool.start,
            _ => 1,
        }
    }

    /// Does a worker go on to another connection?
    pub fn reuses(self) -> bool {
        match self {
            Model::Prefork { per_child, .. } => per_child != Some(1),
            Model::Fork(_) => false,
            Model::Iterative | Model::Thread | Model::Prethread { .. } => true,
        }
    }

    /// Does one process serve many connections at once, by threads?
    pub fn is_threaded(self) -> bool {
        matches!(self, Model::Thread | Model::Prethread { .. })
    }
}

// Where the log goes, as it is typed: a word, or a path, which has a slash.
//
// A word that is neither is refused with the nearest one, so that what was
// mistyped does not become a file of that name.

/// The sink of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// /dev/log, as syslog(3) would, but never waiting for it.
    Syslog(Facility),
    /// A file, appended to and reopened on USR1 and HUP.
    File(PathBuf),
}

/// Who says it, for syslogd to sort by: syslog(3)'s LOG_DAEMON and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// By number. There is no `kern`: syslogd takes that from the kernel alone.
const FACILITIES: [(&str, u8); 19] = [
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

impl Facility {
    /// LOG_DAEMON.
    pub const DAEMON: Facility = Facility(3);

    /// Its bits of a priority.
    pub fn bits(self) -> u8 {
        self.0 << 3
    }
}

/// The names by which a standard descriptor can be opened, as containers give them
/// for a log. They are not opened: a socket cannot be, and a file would get a second
/// offset.
const STANDARD: [(LogTarget, [&str; 3]); 2] = [
    (
        LogTarget::Stdout,
        ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"],
    ),
    (
        LogTarget::Stderr,
        ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"],
    ),
];

impl FromStr for LogTarget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "stderr" => return Ok(LogTarget::Stderr),
            "stdout" | "-" => return Ok(LogTarget::Stdout),
            "syslog" => return Ok(LogTarget::Syslog(Facility::DAEMON)),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("syslog:") {
            return facility(name).map(LogTarget::Syslog);
        }
        if !text.contains('/') {
            return Err(refused(text, &["stderr", "stdout", "syslog"]));
        }
        if text.ends_with('/') {
            return Err(Error::usage("", "this is a directory: name a file in it"));
        }
        let path = Path::new(text);
        let is = |name: &str| path == Path::new(OsStr::new(name));
        let named = STANDARD
            .into_iter()
            .find(|(_, names)| names.iter().any(|name| is(name)));
        Ok(named.map_or_else(|| LogTarget::File(path.to_owned()), |(target, _)| target))
    }
}

fn facility(name: &str) -> Result<Facility, Error> {
    match FACILITIES.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => Ok(Facility(*number)),
        None => {
            let names = FACILITIES.map(|(name, _)| name);
            let guess = nearest(name, &names).map(|name| format!("; syslog:{name}?"));
            Err(Error::usage(
                "",
                format!(
                    "no such facility{}; there are {}",
                    guess.unwrap_or_default(),
                    names.join(" ")
                ),
            ))
        }
    }
}

fn refused(text: &str, words: &[&str]) -> Error {
    let guess = nearest(text, words).map(|word| format!("; {word}?"));
    let file = match text {
        "" => "a path".to_owned(),
        text => format!("a path with a slash, as ./{text}"),
    };
    Error::usage(
        "",
        format!(
            "no such target{}: it is stderr, stdout, syslog[:FACILITY] or {file}",
            guess.unwrap_or_default()
        ),
    )
}

// A command that clients may ask for, as the operator typed it:
// `NAME=/abs/path[,fixed,args...]`.
//
// Parsing touches no file: whether the program is there is found out at start,
// under the identity and the root directory it will be run with. Everything a
// command will ever see is fixed here; a client adds nothing to it.

/// The longest line a client can send, and so the longest name, in bytes.
pub const LONGEST_NAME: usize = 255;
/// A command's number travels in one byte.
pub const MOST: usize = 256;

/// One allowed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What a client sends to get it.
    pub name: String,
    /// The program, an absolute path.
    pub program: CString,
    /// Its arguments, argv\[0\] (the program's path) first.
    pub argv: Vec<CString>,
}

impl FromStr for Allowed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::usage(text.escape_debug(), why);
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| bad("expected NAME=/PATH[,ARG...]"))?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(bad("a name has 1 to 255 bytes"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !name.bytes().all(plain) {
            return Err(bad("a name is of letters, digits, '-', '_' and '.'"));
        }
        let (path, args) = split_attrs(rest);
        if !path.starts_with('/') {
            return Err(bad("the program is named by its absolute path"));
        }
        let string = |text: &str| CString::new(text).map_err(|_| bad("no NUL can be passed on"));
        let program = string(&path)?;
        let argv = std::iter::once(Ok(program.clone()))
            .chain(args.iter().map(|arg| string(arg)))
            .collect::<Result<_>>()?;
        Ok(Allowed {
            name: name.to_owned(),
            program,
            argv,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LogTarget, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }

    #[test]
    fn a_target_is_a_word_or_has_a_slash() {
        let file = |path: &str| LogTarget::File(path.into());
        for (text, target) in [
            ("stderr", LogTarget::Stderr),
            ("stdout", LogTarget::Stdout),
            ("-", LogTarget::Stdout),
            ("/dev/stdout", LogTarget::Stdout),
            ("//dev/./stdout", LogTarget::Stdout),
            ("/proc/self/fd/1", LogTarget::Stdout),
            ("/dev/fd/1", LogTarget::Stdout),
            ("/dev/stderr", LogTarget::Stderr),
            ("/proc/self/fd/2", LogTarget::Stderr),
            ("syslog", LogTarget::Syslog(Facility::DAEMON)),
            ("syslog:daemon", LogTarget::Syslog(Facility::DAEMON)),
            ("syslog:local7", LogTarget::Syslog(Facility(23))),
            ("./stderr", file("./stderr")),
            ("logs/access", file("logs/access")),
            ("/dev/stdout.log", file("/dev/stdout.log")),
        ] {
            assert_eq!(parse(text), Ok(target), "{text}");
        }
        assert_eq!(Facility::DAEMON.bits(), 24);
    }

    #[test]
    fn any_other_word_is_refused_with_the_nearest() {
        for (text, guess) in [
            ("sylog", "syslog?"),
            ("stdrr", "stderr?"),
            ("stdot", "stdout?"),
            ("STDERR", "stderr?"),
            ("Syslog", "syslog?"),
            ("access.log", "./access.log"),
            ("", "a path"),
            ("--", "./--"),
            ("syslog:locl0", "syslog:local0?"),
            ("syslog:kern", "no such facility"),
            ("syslog:", "no such facility"),
            ("/var/log/", "a directory"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(guess), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_a_program_and_what_it_is_given() {
        for (text, name, argv) in [
            ("date=/bin/date", "date", &["/bin/date"][..]),
            ("date=/bin/date,-u", "date", &["/bin/date", "-u"]),
            ("a.b-C_9=/x,", "a.b-C_9", &["/x", ""]),
            ("e=/bin/echo,a\\,b,c=d", "e", &["/bin/echo", "a,b", "c=d"]),
            ("e=/with\\,comma,\\n", "e", &["/with,comma", "\\n"]),
            ("e=/bin/echo,a b", "e", &["/bin/echo", "a b"]),
        ] {
            let allowed: Allowed = text.parse().expect(text);
            assert_eq!(allowed.name, name, "{text}");
            let given: Vec<_> = allowed.argv.iter().map(|a| a.to_str().unwrap()).collect();
            assert_eq!(given, argv, "{text}");
            assert_eq!(allowed.program, allowed.argv[0], "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_one_line() {
        let long = format!("{}=/x", "n".repeat(256));
        for text in [
            "",
            "date",
            "=/bin/date",
            "date=",
            "date=bin/date",
            "date=,/bin/date",
            "a b=/x",
            "a;b=/x",
            "a\nb=/x",
            "ä=/x",
            "d=/bin/da\0te",
            "d=/x,\0",
            &long,
        ] {
            let error = text.parse::<Allowed>().expect_err(text);
            assert_eq!(error.status(), crate::error::Exit::Usage, "{text:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(format!("{}=/x", "n".repeat(255)).parse::<Allowed>().is_ok());
    }
}

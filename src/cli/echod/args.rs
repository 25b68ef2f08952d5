//! What can be typed, by clap, straight on the words of the configuration.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, FromArgMatches, Parser};
use ipnet::IpNet;

use crate::access::{self, PerSource, Who};
use crate::addr::ListenSpec;
use crate::config::{
    Accept, Allowed, LogFormat, LogTarget, ModelName, Orphans, Overflow, Reap, SandboxPolicy,
    ServiceKind,
};
use crate::error::Error;
use crate::values::{self, Keepalive, Ports, Rate};

/// The kernel's own limit of processes, PID_MAX_LIMIT.
const MAX_SLOTS: u64 = 1 << 22;

/// The classic Unix echo daemon (RFC 862), one process per connection.
#[derive(Parser, Debug)]
#[command(name = "echod", version, max_term_width = 100)]
#[command(
    after_help = "Signals: TERM stop gracefully, INT stop now, HUP new workers and logs, USR1 reopen logs.\nSee echod(8) and echod-models(7)."
)]
pub struct Args {
    /// Where to serve, such as `tcp:[::1]:7`, `unix:PATH` or `udp:*:7`; repeatable
    #[arg(short, long, value_name = "ADDR", default_value = "tcp:127.0.0.1:7777")]
    pub listen: Vec<ListenSpec>,

    /// What is served where a listener's service= says nothing
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub service: ServiceKind,

    /// A command that clients may ask for by NAME, with fixed arguments; repeatable
    #[arg(long, value_name = "NAME=PATH[,ARG...]")]
    pub allow_command: Vec<Allowed>,

    /// Process design
    #[arg(short, long, value_name = "MODEL", default_value = "prefork")]
    pub model: ModelName,

    /// How fork gets rid of its dead
    #[arg(long, value_name = "HOW", default_value = "wait")]
    pub reap: Reap,

    /// How a pool's workers or threads come by a connection
    #[arg(long, value_name = "HOW", default_value = "shared")]
    pub accept: Accept,

    /// Workers forked, or threads started, at start
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::count::<usize>(1..=MAX_SLOTS))]
    pub start_servers: usize,

    /// Fork, or start, more when fewer than this wait
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::count::<usize>(1..=MAX_SLOTS))]
    pub min_spare_servers: usize,

    /// Retire some when more than this wait
    #[arg(long, value_name = "N", default_value = "32", value_parser = values::count::<usize>(1..=MAX_SLOTS))]
    pub max_spare_servers: usize,

    /// Connections, and so serving processes or threads, at once
    #[arg(short = 'c', long, value_name = "N", default_value = "512", value_parser = values::count::<usize>(1..=MAX_SLOTS))]
    pub max_clients: usize,

    /// Connections a worker serves before it is replaced; 0 is no limit
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::count::<u64>(0..=u64::MAX))]
    pub max_connections_per_child: u64,

    /// Length of the accept queue; somaxconn is the kernel's limit
    #[arg(long, value_name = "N", default_value = "somaxconn", value_parser = backlog)]
    pub backlog: std::option::Option<u32>,

    /// What happens to clients beyond --max-clients
    #[arg(long, value_name = "HOW", default_value = "queue")]
    pub overflow: Overflow,

    /// End a connection that sends nothing for this long; off is no limit
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = values::limit)]
    pub idle_timeout: std::option::Option<Duration>,

    /// End a connection that reads nothing for this long; off is no limit
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = values::limit)]
    pub write_timeout: std::option::Option<Duration>,

    /// End a connection after this long; off is no limit
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = values::limit)]
    pub max_lifetime: std::option::Option<Duration>,

    /// When a silent TCP client is asked whether it is there, how often, how many times
    #[arg(long, value_name = "IDLE/INTERVAL/COUNT", default_value = "1m/15s/4", value_parser = values::keepalive)]
    pub keepalive: std::option::Option<Keepalive>,

    /// Serve clients from this address or network, or uid:N or gid:N; repeatable
    #[arg(long, value_name = "SOURCE", value_parser = access::who)]
    pub allow: Vec<Who>,

    /// Refuse clients from there; the longest prefix decides; repeatable
    #[arg(long, value_name = "SOURCE", value_parser = access::who)]
    pub deny: Vec<Who>,

    /// Connections at once per source /32 or /64, or such networks; off is no limit
    #[arg(long, value_name = "N[/V4:V6]", default_value = "off", value_parser = access::per_source)]
    pub max_per_source: std::option::Option<PerSource>,

    /// New connections; the excess waits in the queue; off is no limit
    #[arg(long, value_name = "N/DURATION", default_value = "off", value_parser = values::rate)]
    pub connection_rate: std::option::Option<Rate>,

    /// Clients that count for neither of the last two; repeatable
    #[arg(long, value_name = "NETWORK", value_parser = access::network)]
    pub exempt: Vec<IpNet>,

    /// Datagrams answered per source /24 or /56; twice as many in a burst; off is no limit
    #[arg(long, value_name = "N/DURATION", default_value = "50/1s", value_parser = values::rate)]
    pub udp_rate: std::option::Option<Rate>,

    /// Datagrams answered in all; twice as many in a burst; off is no limit
    #[arg(long, value_name = "N/DURATION", default_value = "10000/1s", value_parser = values::rate)]
    pub udp_global_rate: std::option::Option<Rate>,

    /// Source ports never answered over UDP, beside our own; off is none
    #[arg(long, value_name = "LIST", default_value = "0-1023,2049,7777,11211", value_parser = values::ports)]
    pub udp_refuse_port: std::option::Option<Ports>,

    /// Become this user, once sockets, pidfile and log are open
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Make this directory the root, once sockets, pidfile and log are open
    #[arg(long, value_name = "DIR")]
    pub chroot: Option<PathBuf>,

    /// Keep uid 0 when started with it
    #[arg(long)]
    pub allow_root: bool,

    /// How far a serving process is locked in
    #[arg(long, value_name = "LEVEL", default_value = "best-effort")]
    pub sandbox: SandboxPolicy,

    /// Detach; return once it serves
    #[arg(long)]
    pub daemon: bool,

    /// Write and lock the supervisor's pid here
    #[arg(long, value_name = "PATH")]
    pub pidfile: Option<PathBuf>,

    /// Serve the connection on descriptor 0 and exit
    #[arg(long)]
    pub inetd: bool,

    /// After TERM, how long clients may take to finish
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = values::duration)]
    pub graceful_timeout: Duration,

    /// After TERM, how long to go on accepting
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = values::duration)]
    pub shutdown_delay: Duration,

    /// At a stop, how long handshakes in flight may take to complete
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = values::duration)]
    pub stop_settle: Duration,

    /// What serving processes do when the supervisor dies
    #[arg(long, value_name = "WHAT", default_value = "finish")]
    pub orphans: Orphans,

    /// Copy what clients send to standard output
    #[arg(long)]
    pub print: bool,

    /// stderr, stdout, `syslog[:FACILITY]` or a path with a slash; syslog under --daemon
    #[arg(long, value_name = "TARGET", default_value = "stderr")]
    pub log_target: LogTarget,

    /// Shape of a log line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Log less; twice for errors only
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,

    /// Write a line per listener to this descriptor once it serves
    #[arg(long, value_name = "FD", value_parser = values::count::<i32>(0..=i32::MAX as u64))]
    pub ready_fd: Option<i32>,

    /// Read options from this file, too; those of the command line come first
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the configuration in force, as a file that -f takes, and exit
    #[arg(short = 'T', long)]
    pub dump_config: bool,

    /// Check the configuration and exit
    #[arg(short = 't', long)]
    pub check: bool,
}

fn backlog(text: &str) -> Result<std::option::Option<u32>, Error> {
    match text {
        "somaxconn" => Ok(None),
        number => values::count(1..=i32::MAX as u64)(number).map(Some),
    }
}

/// One of [`Args`], by the field that holds it: `opt!` makes it, and does not
/// compile for a name that is no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt(pub &'static str);

/// The option that this field of [`Args`] holds.
macro_rules! opt {
    ($field:ident) => {{
        let _ = |args: &$crate::cli::echod::args::Args| {
            let _ = &args.$field;
        };
        $crate::cli::echod::args::Opt(stringify!($field))
    }};
}
pub(in crate::cli) use opt;

impl fmt::Display for Opt {
    /// As it is typed: `--max-clients`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.0.replace('_', "-"))
    }
}

/// What was typed, and which of it was typed rather than a default.
pub struct Typed {
    /// The values; where sockets were handed over, `listen` begins with them.
    pub args: Args,
    /// How many those are.
    pub handed: usize,
    matches: ArgMatches,
}

impl Typed {
    /// Parses a command line, by clap.
    ///
    /// # Errors
    /// clap's, which may be a text of help.
    pub fn parse<T>(argv: impl IntoIterator<Item = T>) -> Result<Self, clap::Error>
    where
        T: Into<OsString> + Clone,
    {
        let matches = crate::cli::command::<Args>().try_get_matches_from(argv)?;
        Ok(Typed {
            args: Args::from_arg_matches(&matches)?,
            handed: 0,
            matches,
        })
    }

    /// Sockets that were handed over stand before what was typed, and in the place
    /// of the default.
    pub fn hand_over(&mut self, handed: Vec<ListenSpec>) {
        self.handed = handed.len();
        if self.handed > 0 {
            let also = match self.given(opt!(listen)) {
                true => std::mem::take(&mut self.args.listen),
                false => Vec::new(),
            };
            self.args.listen = handed.into_iter().chain(also).collect();
        }
    }

    /// The long names of all options that were given.
    pub fn all_given(&self) -> Vec<String> {
        let ids = self.matches.ids().map(clap::Id::as_str);
        ids.filter(|id| self.matches.value_source(id) == Some(ValueSource::CommandLine))
            .map(|id| id.replace('_', "-"))
            .collect()
    }

    /// The values of an option as they were typed, or its default as the page has it.
    pub fn texts(&self, id: &str) -> Vec<String> {
        let values = self.matches.get_raw(id).into_iter().flatten();
        values
            .map(|value| value.to_string_lossy().into_owned())
            .collect()
    }

    /// Was this option given?
    pub fn given(&self, option: Opt) -> bool {
        self.matches.value_source(option.0) == Some(ValueSource::CommandLine)
    }
}

//! The sockets to serve at: opened or taken over, all of them or none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::unistd::Pid;

use crate::addr::{Addr, ListenSpec, UnixPath};
use crate::config::{Config, LogTarget};
use crate::daemon::start::holder;
use crate::daemon::supervisor::overflows::Overflows;
use crate::error::{Error, Exit, Result};
use crate::net::{self, DatagramSocket, Handed, ListenOptions, Listener, Opened};

/// What was opened to serve at. Dropped, it leaves no socket file behind, unless it was
/// to be kept.
#[derive(Default)]
pub(crate) struct Sockets {
    /// Of streams.
    pub(crate) listeners: Vec<Listener>,
    /// Of datagrams.
    datagrams: Vec<DatagramSocket>,
    /// Their names, in the order asked for.
    pub(crate) names: Vec<String>,
    /// What the first of them, which were handed over, are called by who did so.
    pub(crate) labels: Vec<String>,
    /// Whether their queues overflow; by files that chroot(2) may put out of reach.
    overflows: Overflows,
}

/// What was kept of [`Sockets`].
pub(crate) struct KeptSockets {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) datagrams: Vec<DatagramSocket>,
    pub(crate) names: Vec<String>,
    pub(crate) overflows: Overflows,
}

/// How long processes that are about to leave an address may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look.
const SOON: u8 = 10;

/// Takes over what was handed over, and opens the rest. `running` is the echod whose
/// addresses `--check` finds taken without complaint, the one of the same pidfile.
///
/// # Errors
/// What could not be opened or taken over; no socket file stays behind then.
pub(crate) fn open(config: &Config, handed: Vec<Handed>, running: Option<Pid>) -> Result<Sockets> {
    let options = ListenOptions {
        backlog: config.backlog,
        timeouts: config.timeouts,
        sockets: config.model.sockets_each(),
        dry: config.check,
    };
    let mut sockets = Sockets::default();
    for handed in handed {
        sockets.take_over(handed, &options)?;
    }
    for spec in config.listen.iter().skip(config.handed) {
        // Files that the check has not made are in nobody's way.
        let opened = match config.check && makes_a_file_at(config, spec) {
            true => Err(net::is_there("a regular file", &spec.addr.to_string())),
            false => sockets.open_in_time(spec, &options),
        };
        match (opened, running) {
            (Err(error), Some(pid))
                if error.errno() == Some(Errno::EADDRINUSE)
                    && holder::has(pid.as_raw(), &spec.addr) =>
            {
                warn!(
                    "{}: not tried, since the running echod {pid} has it",
                    spec.addr
                );
                sockets.names.push(spec.addr.to_string());
            }
            (Err(error), _) => return Err(error),
            (Ok(()), _) => {}
        }
    }
    sockets.overflows = Overflows::new(&sockets.listeners);
    Ok(sockets)
}

impl Sockets {
    /// Waits for what a killed supervisor left: its workers are gone as soon as they
    /// have been told, and have its address until then.
    fn open_in_time(&mut self, spec: &ListenSpec, options: &ListenOptions) -> Result<()> {
        let start = Instant::now();
        let mut left = true;
        loop {
            match self.open_at(spec, options) {
                Err(error) if error.errno() == Some(Errno::EADDRINUSE) => {
                    if let Some((_, by)) = self.taken(spec) {
                        return Err(ours_already(error, by));
                    }
                    let waited = start.elapsed();
                    let first = waited < Duration::from_millis(50);
                    let leaves = holder::leaves(&spec.addr, first);
                    // They may have gone since, under the eyes that looked for them.
                    if waited > PATIENCE || !(leaves || left) {
                        return Err(error);
                    }
                    left = leaves;
                    let _ = poll(&mut [], PollTimeout::from(SOON));
                }
                result => return result,
            }
        }
    }

    fn open_at(&mut self, spec: &ListenSpec, options: &ListenOptions) -> Result<()> {
        // Sockets that do not listen are not in each other's way.
        if options.dry
            && let Some((at, by)) = self.taken(spec)
        {
            let error = Error::os("bind", at, Errno::EADDRINUSE).exit(Exit::Unavailable);
            return Err(ours_already(error, by));
        }
        if spec.addr.is_datagram() {
            let opened = net::open_datagram(spec, options.dry)?;
            self.names
                .extend(opened.iter().map(|s| s.name().to_owned()));
            self.datagrams.extend(opened);
        } else {
            let opened = net::open(spec, options)?;
            let mut names: Vec<_> = opened.iter().map(|l| l.name().to_owned()).collect();
            names.dedup(); // sockets that share an address have one name
            self.names.extend(names);
            self.listeners.extend(opened);
        }
        Ok(())
    }

    /// The address that this would have, and the name of the one of ours that is in
    /// its way.
    fn taken(&self, spec: &ListenSpec) -> Option<(String, &str)> {
        let names = || self.names.iter().map(String::as_str);
        let wanted = spec.addr.to_string();
        match &spec.addr {
            Addr::Unix(UnixPath::Abstract(_)) | Addr::UnixGram(UnixPath::Abstract(_)) => {
                let by = names().find(|name| *name == wanted)?;
                return Some((wanted, by));
            }
            Addr::Unix(UnixPath::Path(path)) | Addr::UnixGram(UnixPath::Path(path)) => {
                let by = names().find(|name| {
                    let other = match name.split_once(':') {
                        Some(("unix" | "unixgram", other)) => other.replace("\\,", ","),
                        _ => return false,
                    };
                    is_same_place(path, other.as_ref())
                })?;
                return Some((wanted, by));
            }
            _ => {}
        }
        let scheme = if spec.addr.is_datagram() {
            "udp:"
        } else {
            "tcp:"
        };
        spec.addr.resolve().ok()?.into_iter().find_map(|at| {
            let by = names().find(|name| {
                let ours = name.strip_prefix(scheme).and_then(|at| at.parse().ok());
                ours.is_some_and(|ours| net::share_an_address(at, ours))
            })?;
            Some((format!("{scheme}{at}"), by))
        })
    }

    fn take_over(&mut self, handed: Handed, options: &ListenOptions) -> Result<()> {
        self.labels.push(handed.label().to_owned());
        if options.dry {
            // What is set on it is set for its owner too.
            self.names.push(handed.name());
            return Ok(());
        }
        match handed.open(options)? {
            Opened::Stream(listener) => {
                self.names.push(listener.name().to_owned());
                self.listeners.push(listener);
            }
            Opened::Datagram(socket) => {
                self.names.push(socket.name().to_owned());
                self.datagrams.push(socket);
            }
        }
        Ok(())
    }

    /// They are somebody's, who unlinks their files from now on.
    pub(crate) fn keep(mut self) -> KeptSockets {
        KeptSockets {
            listeners: std::mem::take(&mut self.listeners),
            datagrams: std::mem::take(&mut self.datagrams),
            names: std::mem::take(&mut self.names),
            overflows: std::mem::take(&mut self.overflows),
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for listener in &self.listeners {
            let _ = listener.unlink();
        }
        for socket in &self.datagrams {
            let _ = socket.unlink();
        }
    }
}

/// Do these name the same file, if one is there?
fn is_same_place(a: &Path, b: &Path) -> bool {
    let directory = |path: &Path| {
        let found = fs::metadata(path.parent()?).ok()?;
        Some((found.dev(), found.ino()))
    };
    a == b
        || a.file_name() == b.file_name() && directory(a).is_some_and(|a| directory(b) == Some(a))
}

/// Will the pidfile or the log be there, when this is opened?
fn makes_a_file_at(config: &Config, spec: &ListenSpec) -> bool {
    let (Addr::Unix(UnixPath::Path(path)) | Addr::UnixGram(UnixPath::Path(path))) = &spec.addr
    else {
        return false;
    };
    let log = match &config.log.target {
        LogTarget::File(log) => Some(log),
        _ => None,
    };
    let mut files = config.pidfile.iter().chain(log);
    files.any(|file| is_same_place(path, file))
}

fn ours_already(error: Error, by: &str) -> Error {
    error.hint(format_args!("echod itself serves there already, at {by}"))
}

//! echod's command line. The page is man/echod.8; a test holds the two to each
//! other. `args` is what can be typed, `layers` what a configuration file and the
//! environment add to it, and `conflicts` what does not go together. Of the rest a
//! [`Config`] is made here. What is in force, `Dump` says.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, CommandFactory};
use log::LevelFilter;
use toml::Value;

use crate::access::{Policy, Rules};
use crate::addr::{Addr, ListenSpec};
use crate::cli::echod::args::{Args, Typed, opt};
use crate::cli::echod::conflicts::word;
use crate::cli::echod::layers::{Layers, NOT_IN_A_FILE, Source};
use crate::config::{
    Accept, Config, Facility, Identity, LogConfig, LogFormat, LogTarget, Model, ModelName,
    PoolLimits, StopTimes, ThreadAccept, Timeouts, UdpLimits,
};
use crate::error::{Error, Result};

pub mod args;
mod conflicts;
pub mod layers;

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    crate::cli::command::<Args>()
}

/// What comes of a command line that is not to be served by.
#[derive(Debug)]
pub enum Refused {
    /// A text to print, which was asked for: help, the version, the configuration.
    Text(String),
    /// What is wrong; with a configuration file it may be several things.
    Wrong(Vec<Error>),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Wrong(vec![error])
    }
}

/// Command line to configuration, with nothing in the environment.
///
/// # Errors
/// A text that was asked for, or what is wrong.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Config, Refused> {
    parse_beside(argv, |_| None, Vec::new())
}

/// The same with an environment, and where sockets were handed over, to be served at
/// as well; what `--listen` defaults to is then not.
///
/// # Errors
/// As [`parse`]'s.
pub fn parse_beside(
    argv: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    handed: Vec<ListenSpec>,
) -> Result<Config, Refused> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let refused = |error: &clap::Error| match crate::cli::explain(error) {
        Ok(text) => Refused::Text(text),
        Err(error) => error.into(),
    };
    let flags = Typed::parse(argv.clone()).map_err(|e| refused(&e))?;
    let file = flags
        .args
        .config
        .clone()
        .or_else(|| env("ECHOD_CONFIG").map(Into::into));
    let layers = layers::lay(&command(), argv, &flags.all_given(), env, file.as_deref())
        .map_err(Refused::Wrong)?;
    let mut typed = Typed::parse(&layers.words).map_err(|e| match refused(&e) {
        Refused::Wrong(errors) => {
            Refused::Wrong(errors.into_iter().map(|e| layers.locate(e)).collect())
        }
        text => text,
    })?;
    typed.hand_over(handed);
    let dump = typed.args.dump_config.then(|| Dump::new(&typed, &layers));
    let config = config(typed).map_err(|e| layers.locate(e))?;
    match dump {
        Some(dump) => Err(Refused::Text(dump.text(&config))),
        None => Ok(config),
    }
}

/// The format that `--log-format` asks for, here or by its variable, as far as one can
/// tell without reading the rest: what is wrong with the rest is to be said in it.
pub fn log_format(argv: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> LogFormat {
    let words = argv.iter().map(|word| word.to_string_lossy());
    let words: Vec<_> = words.take_while(|word| word != "--").collect();
    let next = words.windows(2).filter(|pair| pair[0] == "--log-format");
    let next = next.map(|pair| pair[1].as_ref());
    let own = words.iter().filter_map(|w| w.strip_prefix("--log-format="));
    let json = match next.chain(own).last() {
        Some(format) => format == "json",
        None => env("ECHOD_LOG_FORMAT").is_some_and(|format| format == "json"),
    };
    if json {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}

// From what was typed to what it means.

/// Checks the options against one another.
///
/// # Errors
/// A usage error that names the options that do not go together.
fn config(typed: Typed) -> Result<Config> {
    conflicts::check(&typed)?;
    let model = model(&typed)?;
    conflicts::check_commands(&typed, model)?;
    let access = Policy {
        rules: Rules::new(&typed.args.allow, &typed.args.deny),
        per_source: typed.args.max_per_source,
        rate: typed.args.connection_rate,
        exempt: typed.args.exempt.clone(),
    };
    let (args, handed) = (typed.args, typed.handed);
    let iterative = model == Model::Iterative;
    Ok(Config {
        listen: args.listen,
        handed,
        service: args.service,
        commands: args.allow_command,
        model,
        max_clients: if iterative { 1 } else { args.max_clients },
        backlog: args.backlog,
        overflow: args.overflow,
        timeouts: Timeouts {
            idle: args.idle_timeout,
            write: args.write_timeout,
            lifetime: args.max_lifetime,
            keepalive: args.keepalive,
        },
        access,
        udp: UdpLimits {
            rate: args.udp_rate,
            global_rate: args.udp_global_rate,
            refuse_ports: args.udp_refuse_port,
        },
        identity: Identity {
            user: args.user,
            chroot: args.chroot,
            allow_root: args.allow_root,
        },
        sandbox: args.sandbox,
        pidfile: args.pidfile,
        inetd: args.inetd,
        stop: StopTimes {
            graceful: args.graceful_timeout,
            delay: args.shutdown_delay,
            settle: args.stop_settle,
        },
        orphans: args.orphans,
        print: args.print,
        log: LogConfig {
            assumed: args.daemon && args.log_target == LogTarget::Stderr,
            target: match args.log_target {
                LogTarget::Stderr if args.daemon => LogTarget::Syslog(Facility::DAEMON),
                target => target,
            },
            format: args.log_format,
            level: level(args.verbose, args.quiet),
            chosen: args.verbose > 0 || args.quiet > 0,
        },
        ready_fd: args.ready_fd,
        check: args.check,
        daemon: args.daemon,
    })
}

fn level(verbose: u8, quiet: u8) -> LevelFilter {
    match (verbose, quiet) {
        (_, 2..) => LevelFilter::Error,
        (_, 1) => LevelFilter::Warn,
        (0, _) => LevelFilter::Info,
        (1, _) => LevelFilter::Debug,
        (2.., _) => LevelFilter::Trace,
    }
}

/// The design that was asked for, with what it was told.
///
/// # Errors
/// A usage error that names what it cannot do.
fn model(typed: &Typed) -> Result<Model> {
    let args = &typed.args;
    Ok(match args.model {
        ModelName::Iterative => Model::Iterative,
        ModelName::Fork => Model::Fork(args.reap),
        ModelName::Prefork => Model::Prefork {
            pool: pool(typed)?,
            per_child: Some(args.max_connections_per_child).filter(|&n| n > 0),
            accept: accept(typed)?,
        },
        ModelName::Thread => Model::Thread,
        ModelName::Prethread => Model::Prethread {
            pool: pool(typed)?,
            accept: thread_accept(conflicts::accept(typed))?,
        },
    })
}

fn thread_accept(how: Accept) -> Result<ThreadAccept> {
    match how {
        Accept::Shared => Ok(ThreadAccept::Shared),
        Accept::Mutex => Ok(ThreadAccept::Mutex),
        Accept::Pass => Ok(ThreadAccept::Pass),
        Accept::Fcntl | Accept::Reuseport => Err(Error::usage(
            format!("--accept {}", word(how)),
            "not used by --model prethread",
        )),
    }
}

fn accept(typed: &Typed) -> Result<Accept> {
    let how = conflicts::accept(typed);
    if how == Accept::Reuseport {
        if typed.handed > 0 {
            return Err(Error::usage(
                "--accept reuseport with LISTEN_FDS",
                "a socket that was handed over is one, and cannot become several",
            ));
        }
        let other = |spec: &&ListenSpec| matches!(spec.addr, Addr::Unix(_));
        if let Some(spec) = typed.args.listen.iter().find(other) {
            return Err(Error::usage(
                format!("--accept reuseport with --listen {spec}"),
                "only TCP sockets can share a port",
            ));
        }
    }
    Ok(how)
}

/// Defaults fit themselves to what was given; what was given must fit together.
fn pool(typed: &Typed) -> Result<PoolLimits> {
    let args = &typed.args;
    let [start, min, max] = [
        opt!(start_servers),
        opt!(min_spare_servers),
        opt!(max_spare_servers),
    ];
    for (option, n) in [
        (start, args.start_servers),
        (min, args.min_spare_servers),
        (max, args.max_spare_servers),
    ] {
        if typed.given(option) && n > args.max_clients {
            return Err(Error::usage(
                format!("{option} {n}"),
                format!("more than --max-clients {}", args.max_clients),
            ));
        }
    }
    let (given_min, given_max) = (typed.given(min), typed.given(max));
    if given_min && given_max && args.min_spare_servers > args.max_spare_servers {
        return Err(Error::usage(
            format!("--min-spare-servers {}", args.min_spare_servers),
            format!("more than --max-spare-servers {}", args.max_spare_servers),
        ));
    }
    let max = args.max_clients;
    let mut min_spare = args.min_spare_servers.min(max);
    let mut max_spare = args.max_spare_servers.min(max);
    if given_max {
        min_spare = min_spare.min(max_spare);
    } else {
        max_spare = max_spare.max(min_spare);
    }
    Ok(PoolLimits {
        start: args.start_servers.min(max),
        min_spare,
        max_spare,
    })
}

// The configuration in force, as a file that means the same.

/// One key of it.
struct Key {
    name: String,
    /// What was given, or the default as the page has it.
    values: Vec<String>,
    action: ArgAction,
    source: Option<Source>,
}

/// All of it, as far as it was typed; see [`Dump::text`].
struct Dump(Vec<Key>);

impl Dump {
    /// Takes it down before it is made a [`Config`] of.
    pub fn new(typed: &Typed, layers: &Layers) -> Self {
        let command = Args::command();
        let keys = command.get_arguments().filter_map(|arg| {
            let name = arg.get_long()?.to_owned();
            let values = match arg.get_action() {
                ArgAction::Count if name == "verbose" => vec![typed.args.verbose.to_string()],
                ArgAction::Count => vec![typed.args.quiet.to_string()],
                _ => typed.texts(arg.get_id().as_str()),
            };
            Some(Key {
                values,
                action: arg.get_action().clone(),
                source: layers.sources.get(&name).cloned(),
                name,
            })
        });
        let in_a_file = |key: &Key| !NOT_IN_A_FILE.contains(&key.name.as_str());
        Dump(keys.filter(in_a_file).collect())
    }

    /// A line for each key, and where its value came from; a default stands in a
    /// comment, with the value that it has in this configuration, so that options
    /// which the design cannot use are not given when the file is read again.
    pub fn text(&self, config: &Config) -> String {
        let fitted = fitted(config);
        let line = |key: &Key| match &key.source {
            Some(source) => format!("{} = {}  # {source}\n", key.name, key.value(&key.values)),
            None => {
                let values = fitted
                    .get(key.name.as_str())
                    .map(|value| vec![value.clone()]);
                let values = values.unwrap_or_else(|| key.values.clone());
                match values.is_empty() && !matches!(key.action, ArgAction::Append) {
                    true => format!("# {} =  # not given\n", key.name),
                    false => format!("# {} = {}  # default\n", key.name, key.value(&values)),
                }
            }
        };
        self.0.iter().map(line).collect()
    }
}

impl Key {
    fn value(&self, values: &[String]) -> Value {
        let scalar = |text: &String| match (text.parse::<i64>(), text.parse::<bool>()) {
            (Ok(number), _) if number.to_string() == *text => Value::Integer(number),
            (_, Ok(yes)) => Value::Boolean(yes),
            _ => Value::String(text.clone()),
        };
        match (&self.action, values) {
            (ArgAction::Append, values) => Value::Array(values.iter().map(scalar).collect()),
            (_, [value]) => scalar(value),
            (_, _) => Value::Boolean(false),
        }
    }
}

/// Defaults that fit themselves to what was given, as they are in force.
fn fitted(config: &Config) -> BTreeMap<&'static str, String> {
    let mut fitted = BTreeMap::from([("max-clients", config.max_clients.to_string())]);
    if let Model::Prefork { pool, .. } | Model::Prethread { pool, .. } = config.model {
        fitted.insert("start-servers", pool.start.to_string());
        fitted.insert("min-spare-servers", pool.min_spare.to_string());
        fitted.insert("max-spare-servers", pool.max_spare.to_string());
    }
    match config.model {
        Model::Prefork { accept, .. } => fitted.insert("accept", word(accept)),
        Model::Prethread { accept, .. } => fitted.insert("accept", word(Accept::from(accept))),
        _ => None,
    };
    if config.log.assumed {
        fitted.insert("log-target", "syslog".to_owned());
    }
    fitted
}

#[cfg(test)]
mod tests;

//! From what was typed to what it means.

use log::LevelFilter;

use super::args::{Typed, opt};
use super::conflicts::{self, word};
use crate::access::{Policy, Rules};
use crate::addr::{Addr, ListenSpec};
use crate::config::{
    Accept, Config, Facility, Identity, LogConfig, LogTarget, Model, ModelName, PoolLimits,
    StopTimes, ThreadAccept, Timeouts, UdpLimits,
};
use crate::error::{Error, Result};

/// Checks the options against one another.
///
/// # Errors
/// A usage error that names the options that do not go together.
pub fn config(typed: Typed) -> Result<Config> {
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

//! The process design: which it is, and how large its pool.

use super::echod::Typed;
use super::names::{AcceptName, ModelName, ReapName};
use crate::addr::{Addr, ListenSpec};
use crate::config::{Accept, Model, PoolLimits, Reap, ThreadAccept};
use crate::error::{Error, Result};

/// The kernel's own limit of processes, PID_MAX_LIMIT.
const MAX_SLOTS: usize = 1 << 22;

/// The design that was asked for, with what it was told.
///
/// # Errors
/// A usage error that names what it cannot do.
pub(super) fn model(typed: &Typed) -> Result<Model> {
    let args = &typed.args;
    at_least_one("max-clients", args.max_clients)?;
    if args.max_clients > MAX_SLOTS {
        return Err(Error::usage(
            format!("--max-clients {}", args.max_clients),
            format!("at most {MAX_SLOTS}"),
        ));
    }
    Ok(match args.model {
        ModelName::Iterative => Model::Iterative,
        ModelName::Fork => Model::Fork(match args.reap {
            ReapName::Wait => Reap::Wait,
            ReapName::Ignore => Reap::Ignore,
            ReapName::DoubleFork => Reap::DoubleFork,
        }),
        ModelName::Prefork => Model::Prefork {
            pool: pool(typed)?,
            per_child: Some(args.max_connections_per_child).filter(|&n| n > 0),
            accept: accept(typed)?,
        },
        ModelName::Thread => Model::Thread,
        ModelName::Prethread => Model::Prethread {
            pool: pool(typed)?,
            accept: thread_accept(super::access::accept(typed))?,
        },
    })
}

fn thread_accept(how: AcceptName) -> Result<ThreadAccept> {
    let refuse = |name: &str| {
        Err(Error::usage(
            format!("--accept {name}"),
            "not used by --model prethread",
        ))
    };
    match how {
        AcceptName::Shared => Ok(ThreadAccept::Shared),
        AcceptName::Mutex => Ok(ThreadAccept::Mutex),
        AcceptName::Pass => Ok(ThreadAccept::Pass),
        AcceptName::Fcntl => refuse("fcntl"),
        AcceptName::Reuseport => refuse("reuseport"),
    }
}

fn accept(typed: &Typed) -> Result<Accept> {
    let args = &typed.args;
    Ok(match super::access::accept(typed) {
        AcceptName::Shared => Accept::Shared,
        AcceptName::Fcntl => Accept::Fcntl,
        AcceptName::Mutex => Accept::Mutex,
        AcceptName::Pass => Accept::Pass,
        AcceptName::Reuseport if typed.handed > 0 => {
            return Err(Error::usage(
                "--accept reuseport with LISTEN_FDS",
                "a socket that was handed over is one, and cannot become several",
            ));
        }
        AcceptName::Reuseport => {
            let other = |spec: &&ListenSpec| matches!(spec.addr, Addr::Unix(_));
            if let Some(spec) = args.listen.iter().find(other) {
                return Err(Error::usage(
                    format!("--accept reuseport with --listen {spec}"),
                    "only TCP sockets can share a port",
                ));
            }
            Accept::Reuseport(args.start_servers.min(args.max_clients))
        }
    })
}

/// Defaults fit themselves to what was given; what was given must fit together.
fn pool(typed: &Typed) -> Result<PoolLimits> {
    let args = &typed.args;
    for (name, n) in [
        ("start-servers", args.start_servers),
        ("min-spare-servers", args.min_spare_servers),
        ("max-spare-servers", args.max_spare_servers),
    ] {
        if typed.given(name) {
            at_least_one(name, n)?;
            if n > args.max_clients {
                return Err(Error::usage(
                    format!("--{name} {n}"),
                    format!("more than --max-clients {}", args.max_clients),
                ));
            }
        }
    }
    let (given_min, given_max) = (
        typed.given("min-spare-servers"),
        typed.given("max-spare-servers"),
    );
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

fn at_least_one(name: &str, n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::usage(format!("--{name} 0"), "must be at least 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::meaning::tests::parsed;

    fn pool(line: &str) -> PoolLimits {
        match parsed(line).unwrap().model {
            Model::Prefork { pool, .. } | Model::Prethread { pool, .. } => pool,
            model => panic!("{model:?}"),
        }
    }

    #[test]
    fn defaults_fit_what_was_given() {
        let limits = |start, min_spare, max_spare| PoolLimits {
            start,
            min_spare,
            max_spare,
        };
        assert_eq!(pool(""), limits(8, 8, 32));
        assert_eq!(pool("-c 4"), limits(4, 4, 4));
        assert_eq!(pool("--max-spare-servers 3"), limits(8, 3, 3));
        assert_eq!(pool("--min-spare-servers 64"), limits(8, 64, 64));
        assert_eq!(pool("--start-servers 100"), limits(100, 8, 32));
        assert_eq!(pool("-m prethread --accept pass -c 4"), limits(4, 4, 4));
    }
}

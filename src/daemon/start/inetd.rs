//! `--inetd`: the connection is descriptor 0, accepted by somebody else. Serve
//! it and leave; there is no supervisor, no pool and no log, for standard error
//! is the client too.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{SockType, SockaddrStorage, getpeername, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::dup2_stderr;

use crate::access::Refusal;
use crate::addr::Peer;
use crate::config::Config;
use crate::daemon::shared::access_control;
use crate::daemon::shared::connection_log::{Entry, Words};
use crate::daemon::start::privileges;
use crate::daemon::start::services;
use crate::daemon::worker::serve::{Serving, lock_in_for_one};
use crate::error::{Error, Exit, Result};
use crate::net;
use crate::net::connection::BUFFER;
use crate::net::connection::End;
use crate::service::Echo;
use crate::sys::memory::Buffer;
use crate::sys::sandbox::Sandbox;
use crate::sys::{fd, process, signal};

/// Keeps what is said to a person from the client: inetd(8) makes the connection
/// 0, 1 and 2. To be called before anything is said.
pub fn spare_the_client() {
    let (Ok(conn), Ok(stderr)) = (fstat(io::stdin()), fstat(io::stderr())) else {
        return;
    };
    let socket = SFlag::from_bits_truncate(conn.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
    if socket
        && (conn.st_dev, conn.st_ino) == (stderr.st_dev, stderr.st_ino)
        && let Ok(null) = fd::dev_null()
    {
        let _ = dup2_stderr(null);
    }
}

/// Serves the connection and leaves; returns only if it cannot.
///
/// # Errors
/// Descriptor 0 is not a connection, or the privileges cannot be given up.
pub fn serve(config: &Config, echo: Echo) -> Result<Exit> {
    signal::become_worker();
    let conn = fd::adopt(0)?;
    let stream = getsockopt(&conn, sockopt::SockType) == Ok(SockType::Stream);
    let listens = getsockopt(&conn, sockopt::AcceptConn) == Ok(true);
    if !stream || listens {
        return Err(Error::usage("--inetd", "descriptor 0 is not a connection"));
    }
    let conn = let_in(config, conn)?;
    if !config.check {
        // Whoever accepted it may have wanted it otherwise; in the sandbox nobody can
        // be waited for by poll(2).
        fd::set_nonblocking(conn.as_fd(), false)
            .map_err(|e| Error::os("fcntl", "descriptor 0", e))?;
        net::set_accepted(conn.as_fd(), &config.timeouts)
            .map_err(|e| Error::os("setsockopt", "descriptor 0", e))?;
    }
    let plan = privileges::plan(
        &config.identity,
        privileges::Current::now(),
        &privileges::System::new(),
    )?;
    services::refuse_root(config, &plan)?;
    privileges::apply(&plan, privileges::Open::new(config))?;
    let sandbox = crate::daemon::worker::sandbox::sandbox(config)?;
    let buffer = Buffer::new(BUFFER).map_err(|e| Error::os("mmap", "", e))?;
    locked_in(config, echo, &sandbox, conn, buffer)
}

/// `--allow` and `--deny`: there is no log here, so the reason is the error.
fn let_in(config: &Config, conn: OwnedFd) -> Result<OwnedFd> {
    let policy = &config.access;
    if policy.rules.is_empty() {
        return Ok(conn);
    }
    let address = getpeername::<SockaddrStorage>(conn.as_raw_fd())
        .map_err(|e| Error::os("getpeername", "descriptor 0", e))?;
    let v4 = address.as_sockaddr_in().map(|&a| SocketAddr::V4(a.into()));
    let v6 = address.as_sockaddr_in6().map(|&a| SocketAddr::V6(a.into()));
    let peer = v4.or(v6).map_or(Peer::Unix, Peer::Inet);
    let refused = match access_control::client(conn.as_fd(), peer, policy) {
        Some(client) => policy.rules.check(client).err(),
        None => None,
    };
    let Some(refusal) = refused else {
        return Ok(conn);
    };
    if !config.check {
        net::overflow_reset(conn);
    }
    let why = match refusal {
        Refusal::Rule(rule) => policy.rules.get(rule).map(ToString::to_string),
        Refusal::Unlisted => Some("no --allow".to_owned()),
    };
    let why = why.unwrap_or_default();
    Err(Error::usage(format!("refusing {peer}"), why).exit(Exit::NoPermission))
}

fn locked_in(
    config: &Config,
    echo: Echo,
    sandbox: &Sandbox,
    conn: OwnedFd,
    mut buffer: Buffer,
) -> Result<Exit> {
    // Never dropped: that would be a close(2), which strict mode forbids.
    let conn = std::mem::ManuallyDrop::new(conn);
    process::guard_children_against_panic();
    process::become_child();
    process::set_name(process::SERVING);
    let services = services::services(config, &[], echo)?;
    // The one listener, which is somebody else's.
    let service = services.at(0);
    let null = fd::dev_null()?;
    let words = Words::default();
    let serving = Serving {
        conn: conn.as_fd(),
        prepared: Ok(()),
        service,
        null: null.as_fd(),
        print: None,
        entry: Entry::new(&words),
    };
    let end = serving.serve(buffer.bytes(), |beside| {
        let beside = beside.map_err(|e| Error::os("fork", "", e))?;
        if config.timeouts.lifetime.is_some() {
            // Not before: the helper would inherit the handler.
            signal::leave_at_alarm::<{ Exit::Ok as i32 }>()
                .map_err(|e| Error::os("sigaction", "", e))?;
        }
        if !lock_in_for_one(config, sandbox, [Some(conn.as_fd()), beside]) {
            process::exit(Exit::Config as i32);
        }
        if config.check {
            process::exit(Exit::Ok as i32);
        }
        Ok(())
    })?;
    process::exit(match end {
        End::Error(_) => Exit::Io as i32,
        _ => Exit::Ok as i32,
    })
}

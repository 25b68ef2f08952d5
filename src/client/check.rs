//! Check: one echo, for whoever watches the server.
//!
//! All of it, connecting, trying again and waiting, happens before one
//! deadline. Prints nothing.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::addr::Target;
use crate::client::dial::{Attempts, Dialer, Retry};
use crate::client::session_number;
use crate::client::wait::{Waiter, Woken};
use crate::client::wire::{Gone, Payload, Wire};
use crate::error::{Error, Exit, Result};

/// Bytes of the echo, as ping(8) has them.
const SIZE: usize = 56;

/// The part of the time that a server has to end its side, after the echo.
const PATIENCE: u32 = 4;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub server: Target,
    /// How often, within `timeout`.
    pub retry: Retry,
    /// For everything.
    pub timeout: Duration,
}

/// Sends one echo and verifies it. Returns how long that took, without
/// connecting.
///
/// # Errors
/// There was no echo, or another than was sent.
pub fn run(plan: &Plan) -> Result<Duration> {
    let waiter = Waiter::steady();
    let until = Instant::now() + plan.timeout;
    let mut dialer = Dialer::new(&plan.server, &waiter);
    let mut attempts = Attempts::new(plan.retry);
    loop {
        let error = match once(plan, &mut dialer, &waiter, until) {
            Ok(rtt) => return Ok(rtt),
            Err(error) => error,
        };
        let left = until.saturating_duration_since(Instant::now());
        // A datagram server's other addresses are not retries.
        if error.errno() == Some(Errno::ECONNREFUSED)
            && plan.server.is_datagram()
            && !left.is_zero()
            && dialer.refused()
        {
            continue;
        }
        match attempts.failed().filter(|again| again.pause < left) {
            Some(again) => waiter.pause(again.pause)?,
            None => return Err(error),
        };
    }
}

fn once(plan: &Plan, dialer: &mut Dialer<'_>, waiter: &Waiter, until: Instant) -> Result<Duration> {
    let link = dialer.dial(plan.timeout, Some(until))?;
    let mut wire = Wire::new(link, plan.server.is_datagram(), SIZE);
    let payload = Payload::new(session_number(), SIZE);
    let begun = Instant::now();
    let gone = |gone: Gone| match gone {
        Gone::Closed => failed(plan, "the server closed the connection before the echo"),
        Gone::Broken(errno) => Error::os("read", &plan.server, errno).exit(Exit::Io),
    };
    wire.send(&payload.bytes(1)).map_err(gone)?;
    loop {
        let events = wire.events();
        if waiter.one(wire.as_fd(), events, Some(until))? == Woken::Late {
            let why = format_args!("no echo within {:?}", plan.timeout);
            return Err(failed(plan, why));
        }
        let message = wire.flush().and_then(|()| wire.receive());
        if let Some(message) = message.map_err(gone)? {
            let took = begun.elapsed();
            if payload.number(&message, 1).is_none() {
                return Err(failed(plan, "the echo differs").exit(Exit::Mismatch));
            }
            if !plan.server.is_datagram() {
                let patience = Instant::now() + plan.timeout / PATIENCE;
                nothing_more(plan, &mut wire, waiter, until.min(patience))?;
            }
            return Ok(took);
        }
    }
}

/// Whoever has all of the echo ends its side, and hears no more than the other
/// end: a byte that follows is no echo. A server that leaves the connection open
/// or breaks it has said nothing wrong.
fn nothing_more(plan: &Plan, wire: &mut Wire, waiter: &Waiter, until: Instant) -> Result<()> {
    let _ = wire.link().half_close();
    loop {
        let received = wire.receive();
        if wire.rest() > 0 || matches!(received, Ok(Some(_))) {
            let error = failed(plan, "more came back than was sent");
            return Err(error.exit(Exit::Mismatch));
        }
        let over = received.is_err();
        if over || waiter.one(wire.as_fd(), PollFlags::POLLIN, Some(until))? == Woken::Late {
            return Ok(());
        }
    }
}

fn failed(plan: &Plan, why: impl std::fmt::Display) -> Error {
    Error::usage(&plan.server, why).exit(Exit::Io)
}

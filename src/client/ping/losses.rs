//! What is lost: echoes without an answer in time, and those whose connection
//! ended or could not be made.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

use super::Ping;
use crate::client::wire::Gone;
use crate::error::{Error, Exit, Result};

/// After a refusal, however short the interval: a server that is down is not
/// called in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

impl Ping<'_> {
    /// The echo that needed a connection is lost.
    pub(super) fn no_connection(&mut self, error: Error) -> Result<()> {
        let never = self.tally.received == 0 && self.tally.lost == 0;
        match error.errno() {
            // A signal: the echo is due again if the run goes on.
            Some(Errno::EINTR) => return Ok(()),
            None if never => return Err(error),
            _ if error.status() != Exit::Unavailable => return Err(error),
            _ => {}
        }
        self.probes.send(self.now());
        self.tally.sent += 1;
        self.next = self.next.max(self.now() + PAUSE);
        let lost = self.probes.lose_all();
        self.lose(lost, format_args!(": {error}"))
    }

    pub(super) fn gone(&mut self, gone: Gone) -> Result<()> {
        if self.streams() {
            return self.hang_up(gone);
        }
        self.wire = None;
        if self.dialer.refused() && self.dial().is_ok() {
            return self.send_again();
        }
        self.next = self.next.max(self.now() + PAUSE);
        // The refusal is of one datagram, most likely the first.
        let lost = self.probes.lose_oldest();
        self.lose(lost, format_args!(": {gone}"))
    }

    /// What one address of a datagram server refused, another may answer.
    fn send_again(&mut self) -> Result<()> {
        for seq in self.probes.numbers_out() {
            let message = self.payload.bytes(seq);
            if let Some(wire) = &mut self.wire {
                // A refusal shows again when we receive.
                let _ = wire.send(&message);
            }
        }
        Ok(())
    }

    /// The connection is over, and what is out with it.
    pub(super) fn hang_up(&mut self, why: impl fmt::Display) -> Result<()> {
        self.wire = None;
        self.next = self.next.max(self.now() + PAUSE);
        let lost = self.probes.lose_all();
        self.lose(lost, format_args!(": {why}"))
    }

    pub(super) fn lose(&mut self, lost: Vec<u64>, why: impl fmt::Display) -> Result<()> {
        self.tally.lost += lost.len() as u64;
        let why = why.to_string();
        let space = if why.starts_with(':') { "" } else { " " };
        for seq in lost {
            self.print(format_args!("no echo: seq={seq}{space}{why}"), false)?;
        }
        Ok(())
    }
}

//! A conversation: connects, converses, connects again, and says what was lost.
//!
//! What goes over one connection is [`super::pipe`]'s; datagrams, which have
//! none, are [`super::datagram`]'s.

use crate::client::dial::{Attempts, Dialer, Link};
use crate::client::pipe::{End, Manner, Pipe};
use crate::client::wait::Waiter;
use crate::client::{Talk, count, datagram, notice};
use crate::error::{Error, Exit, Result, errno_text};

/// Holds the conversation to its end, and returns how it ended.
///
/// # Errors
/// The server cannot be reached (69); input, output or the system fail.
pub fn run(talk: &Talk) -> Result<Exit> {
    if talk.server.is_datagram() {
        return datagram::run(talk);
    }
    let waiter = Waiter::steady();
    let mut session = Session {
        talk,
        waiter: &waiter,
        dialer: Dialer::new(&talk.server, &waiter),
        attempts: Attempts::new(talk.retry),
        pipe: Pipe::new(Manner {
            verify: talk.verify,
            prompt: talk.prompt,
            patience: talk.timeout,
            silence: talk.silence,
        }),
        differs: false,
        times: 0,
    };
    loop {
        let link = session.connect()?;
        let end = session.converse(&link)?;
        drop(link);
        if let Some(status) = session.over(end)? {
            return Ok(status);
        }
    }
}

struct Session<'a> {
    talk: &'a Talk,
    waiter: &'a Waiter,
    dialer: Dialer<'a>,
    attempts: Attempts,
    pipe: Pipe,
    differs: bool,
    times: u64,
}

impl Session<'_> {
    fn connect(&mut self) -> Result<Link> {
        let talk = self.talk;
        let link = talk.connect(&mut self.dialer, &mut self.attempts, self.waiter)?;
        match self.times {
            0 if talk.terminal => talk.say(format_args!("connected to {}; ^D ends", talk.server)),
            0 => {}
            _ => talk.say(format_args!("connected again to {}", talk.server)),
        }
        self.times += 1;
        self.pipe.prompt_again();
        Ok(link)
    }

    /// Until the connection is over; a wrong byte alone does not end it in a
    /// terminal.
    fn converse(&mut self, link: &Link) -> Result<End> {
        loop {
            let end = self.pipe.run(link, self.waiter)?;
            if self.pipe.heard() {
                self.attempts.succeeded();
            }
            let End::Differs(difference) = end else {
                return Ok(end);
            };
            notice(format_args!(
                "the echo of {} {difference}",
                self.talk.server
            ));
            self.differs = true;
            if !self.talk.terminal {
                return Ok(end);
            }
            notice("what follows is not compared");
            self.pipe.stop_verifying();
            self.pipe.prompt_again();
        }
    }

    /// The status to leave with, unless there is to be another connection.
    fn over(&mut self, end: End) -> Result<Option<Exit>> {
        let server = &self.talk.server;
        let what = match end {
            End::Done => return Ok(Some(self.status())),
            End::Differs(_) => return Ok(Some(Exit::Mismatch)),
            End::Closed => format!("{server} closed the connection"),
            End::Silent => format!(
                "no answer from {server} within {:?}",
                self.talk.silence.unwrap_or_default()
            ),
            End::Broken(errno) => format!("connection to {server}: {}", errno_text(errno)),
        };
        let (lost, from) = self.pipe.ledger().give_up();
        let of = self.pipe.ledger().total();
        let lost_bytes = count(lost, "byte");
        let lost_text = match lost {
            _ if !self.talk.verify => String::new(),
            0 => ": nothing was lost".to_owned(),
            _ => format!(": {lost_bytes} of {of} from offset {from} had not come back"),
        };
        let mut line = format!("{what}{lost_text}");
        if !self.pipe.input_ended() && self.attempts.any() {
            notice(&line);
            return self.again(what).map(|()| None);
        }
        if !self.pipe.input_ended() && lost == 0 {
            line += ", but the input had not ended";
        }
        notice(line);
        Ok(Some(match end {
            End::Closed if lost > 0 => Exit::Mismatch,
            _ => Exit::Io,
        }))
    }

    /// A connection that served is made again at once; one over which nothing
    /// came back is a failed attempt.
    fn again(&mut self, what: String) -> Result<()> {
        if self.pipe.heard() {
            return Ok(());
        }
        let Some(again) = self.attempts.failed() else {
            let error = Error::usage(what, "nothing came back on any connection");
            return Err(error.exit(Exit::Unavailable));
        };
        self.talk.say(again);
        self.waiter.pause(again.pause).map(drop)
    }

    fn status(&mut self) -> Exit {
        match self.differs || !self.pipe.ledger().whole() {
            true => Exit::Mismatch,
            false => Exit::Ok,
        }
    }
}

//! What comes back: an answer, late or twice, or bytes that are no echo of ours.

use super::Ping;
use super::report::Millis;
use crate::client::count;
use crate::client::probes::Verdict;
use crate::error::Result;

impl Ping<'_> {
    pub(super) fn receive(&mut self) -> Result<()> {
        loop {
            let Some(wire) = &mut self.wire else {
                return Ok(());
            };
            let received = wire.flush().and_then(|()| wire.receive());
            match received {
                Ok(None) => return self.excess(),
                Ok(Some(message)) => self.message(&message)?,
                Err(gone) => self.gone(gone)?,
            }
        }
    }

    fn message(&mut self, message: &[u8]) -> Result<()> {
        let now = self.now();
        let Some(seq) = self.payload.number(message, self.probes.sent()) else {
            return self.corrupted(message.len());
        };
        let (rtt, note) = match self.probes.back(seq, now) {
            Verdict::Answer { rtt, overtook } => {
                self.tally.received += 1;
                self.tally.reordered += u64::from(overtook);
                self.tally.rtt.record(rtt);
                (Some(rtt), if overtook { " (out of order)" } else { "" })
            }
            Verdict::Late { rtt } => {
                self.tally.late += 1;
                (Some(rtt), " (late, counted as lost)")
            }
            Verdict::Duplicate => {
                self.tally.duplicates += 1;
                (None, " (DUP!)")
            }
        };
        self.dialer.answered();
        let set_up = self.set_up.map(Millis);
        let set_up = set_up.map_or(String::new(), |took| format!(" connect={took}"));
        let time = rtt.map_or(String::new(), |rtt| format!(" time={}", Millis(rtt)));
        let peer = self.wire.as_ref().map_or("", |wire| wire.link().peer());
        let line = format!(
            "{} bytes from {peer}: seq={seq}{set_up}{time}{note}",
            message.len()
        );
        self.print(line, false)?;
        if self.plan.connect {
            self.excess()?;
            self.wire = None;
        }
        Ok(())
    }

    /// Bytes that came though all echoes are back.
    fn excess(&mut self) -> Result<()> {
        let rest = self.wire.as_ref().map_or(0, |wire| wire.rest());
        match rest > 0 && self.streams() && self.probes.out() == 0 {
            true => self.corrupted(rest),
            false => Ok(()),
        }
    }

    /// Something came that no echo of ours is. On a stream it stood in the
    /// place of one.
    fn corrupted(&mut self, len: usize) -> Result<()> {
        self.tally.corrupted += 1;
        let (bytes, are) = (
            count(len as u64, "byte"),
            if len == 1 { "is" } else { "are" },
        );
        self.print(format_args!("{bytes} that {are} no echo of ours"), false)?;
        if self.streams() {
            let lost = self.probes.lose_oldest();
            self.lose(lost, ": the content differs")?;
            self.hang_up("the connection is given up")?;
        }
        Ok(())
    }
}

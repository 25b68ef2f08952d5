//! The ledger of outages: when it was down, for how long, at what cost. Pure.
//!
//! An outage lasts from the sending of the first echo that is lost to the
//! sending of the next that is answered.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::count;
use super::probes::Settled;

/// Outages listed one by one, the last ones; all are in the totals.
const LISTED: usize = 100;

/// One time that it was down. Times are counted from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first echo that was lost had been sent.
    pub from: Duration,
    /// When the next that was answered had been sent.
    pub to: Duration,
    /// Echoes lost.
    pub lost: u64,
}

impl Outage {
    fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// All outages of a run.
#[derive(Debug, Default)]
pub struct Outages {
    now: Option<Outage>,
    past: VecDeque<Outage>,
    number: u64,
    total: Duration,
    longest: Duration,
}

impl Outages {
    /// The fate of the next echo in the order of sending. Returns the outage
    /// that it ends.
    pub fn settled(&mut self, echo: Settled) -> Option<Outage> {
        if !echo.answered {
            let from = echo.at;
            let fresh = Outage {
                from,
                to: from,
                lost: 0,
            };
            self.now.get_or_insert(fresh).lost += 1;
            return None;
        }
        let mut over = self.now.take()?;
        over.to = echo.at;
        self.number += 1;
        self.total += over.length();
        self.longest = self.longest.max(over.length());
        self.past.push_back(over);
        if self.past.len() > LISTED {
            self.past.pop_front();
        }
        Some(over)
    }

    /// Lines of the summary: none if it never was down. The run began at
    /// `start` and has lasted until `end`.
    pub fn lines(&self, start: SystemTime, end: Duration) -> String {
        let at = |time| humantime::format_rfc3339_millis(start + time);
        let mut text = String::new();
        for outage in &self.past {
            text += &format!(
                "down {} for {:.3}s, {} lost\n",
                at(outage.from),
                outage.length().as_secs_f64(),
                echoes(outage.lost)
            );
        }
        let open = self.now.map(|now| Outage { to: end, ..now });
        if let Some(open) = open {
            text += &format!(
                "down {} for {:.3}s so far, {} lost\n",
                at(open.from),
                open.length().as_secs_f64(),
                echoes(open.lost)
            );
        }
        let length = open.map_or(Duration::ZERO, |open| open.length());
        match self.number + u64::from(open.is_some()) {
            0 => text,
            number => format!(
                "{}, {:.3}s in all, longest {:.3}s\n{text}",
                count(number, "outage"),
                (self.total + length).as_secs_f64(),
                self.longest.max(length).as_secs_f64()
            ),
        }
    }
}

/// What is said when an outage is over.
impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.length().as_secs_f64();
        write!(
            f,
            "up again after {seconds:.3}s, {} lost",
            echoes(self.lost)
        )
    }
}

fn echoes(number: u64) -> String {
    match number {
        1 => "1 echo".to_owned(),
        _ => format!("{number} echoes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(fates: &[(u64, bool)]) -> (Outages, Vec<Outage>) {
        let mut outages = Outages::default();
        let settled = |(at, answered): &(u64, bool)| Settled {
            at: Duration::from_secs(*at),
            answered: *answered,
        };
        let over = fates
            .iter()
            .filter_map(|fate| outages.settled(settled(fate)))
            .collect();
        (outages, over)
    }

    #[test]
    fn an_outage_lasts_from_the_first_loss_to_the_next_answer() {
        let (outages, over) = fed(&[
            (0, true),
            (1, false),
            (2, false),
            (3, true),
            (4, true),
            (5, false),
            (6, true),
        ]);
        let secs = Duration::from_secs;
        assert_eq!(
            over,
            [
                Outage {
                    from: secs(1),
                    to: secs(3),
                    lost: 2
                },
                Outage {
                    from: secs(5),
                    to: secs(6),
                    lost: 1
                }
            ]
        );
        assert_eq!(over[0].to_string(), "up again after 2.000s, 2 echoes lost");
        assert_eq!(
            outages.lines(SystemTime::UNIX_EPOCH, secs(7)),
            "2 outages, 3.000s in all, longest 2.000s\n\
             down 1970-01-01T00:00:01.000Z for 2.000s, 2 echoes lost\n\
             down 1970-01-01T00:00:05.000Z for 1.000s, 1 echo lost\n"
        );
    }

    #[test]
    fn one_that_is_not_over_is_counted_to_the_end() {
        let (outages, over) = fed(&[(2, false), (3, false)]);
        assert_eq!(over, []);
        assert_eq!(
            outages.lines(SystemTime::UNIX_EPOCH, Duration::from_millis(3500)),
            "1 outage, 1.500s in all, longest 1.500s\n\
             down 1970-01-01T00:00:02.000Z for 1.500s so far, 2 echoes lost\n"
        );
        let (none, _) = fed(&[(1, true)]);
        assert_eq!(none.lines(SystemTime::UNIX_EPOCH, Duration::ZERO), "");
    }

    #[test]
    fn many_outages_are_all_counted_and_the_last_listed() {
        let fates: Vec<_> = (0..1000).map(|at| (at, at % 2 == 1)).collect();
        let (outages, over) = fed(&fates);
        assert_eq!(over.len(), 500);
        let lines = outages.lines(SystemTime::UNIX_EPOCH, Duration::from_secs(1000));
        assert_eq!(lines.lines().count(), 1 + LISTED);
        assert!(lines.starts_with("500 outages, 500.000s in all"), "{lines}");
    }
}

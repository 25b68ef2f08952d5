//! The echoes of a ping: which are out, which came back, which are lost; the outages
//! that makes, and the figures of it all. Pure.
//!
//! Times are counted from the start of the run. An echo's fate is settled once:
//! an answer after the timeout is late, not an answer.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::client::count;

/// Settled echoes remembered, to know a duplicate.
const REMEMBERED: usize = 4096;

/// What became of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Out,
    Answered,
    Lost,
    /// Lost, and then it came.
    Late,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Duration,
    fate: Fate,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer to an echo that was out.
    #[allow(missing_docs)]
    Answer { rtt: Duration, overtook: bool },
    /// The echo was counted as lost already.
    #[allow(missing_docs)]
    Late { rtt: Duration },
    /// It had been answered already, or is so old that nobody knows.
    Duplicate,
}

/// An echo whose fate is settled, in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// When it was sent.
    pub at: Duration,
    /// Whether it was answered in time.
    pub answered: bool,
}

/// All echoes, by number from 1.
pub struct Probes {
    timeout: Duration,
    list: VecDeque<Probe>,
    /// The number of the first in `list`.
    first: u64,
    /// All before this number are settled and told.
    told: u64,
    out: usize,
    /// The newest that was answered.
    newest: u64,
}

impl Probes {
    /// None yet; each is lost after `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Probes {
            timeout,
            list: VecDeque::new(),
            first: 1,
            told: 1,
            out: 0,
            newest: 0,
        }
    }

    /// How many were sent.
    pub fn sent(&self) -> u64 {
        self.first + self.list.len() as u64 - 1
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.out
    }

    /// One is sent: its number.
    pub fn send(&mut self, at: Duration) -> u64 {
        let fate = Fate::Out;
        self.list.push_back(Probe { at, fate });
        self.out += 1;
        while self.list.len() > REMEMBERED && self.first < self.told {
            self.list.pop_front();
            self.first += 1;
        }
        self.sent()
    }

    /// Number `seq`, which was sent, came back.
    pub fn back(&mut self, seq: u64, now: Duration) -> Verdict {
        let index = seq.checked_sub(self.first).map(|index| index as usize);
        let Some(probe) = index.and_then(|index| self.list.get_mut(index)) else {
            return Verdict::Duplicate;
        };
        let rtt = now.saturating_sub(probe.at);
        match probe.fate {
            Fate::Out => {
                probe.fate = Fate::Answered;
                self.out -= 1;
                let overtook = seq < self.newest;
                self.newest = self.newest.max(seq);
                Verdict::Answer { rtt, overtook }
            }
            Fate::Lost => {
                probe.fate = Fate::Late;
                Verdict::Late { rtt }
            }
            Fate::Answered | Fate::Late => Verdict::Duplicate,
        }
    }

    /// Loses those that are out for too long; their numbers.
    pub fn expire(&mut self, now: Duration) -> Vec<u64> {
        let timeout = self.timeout;
        self.lose(|probe| now >= probe.at + timeout)
    }

    /// Loses all that are out, as when their connection breaks.
    pub fn lose_all(&mut self) -> Vec<u64> {
        self.lose(|_| true)
    }

    /// Loses the one that is out for longest.
    pub fn lose_oldest(&mut self) -> Vec<u64> {
        let mut first = true;
        self.lose(|_| std::mem::take(&mut first))
    }

    fn lose(&mut self, mut is_lost: impl FnMut(&Probe) -> bool) -> Vec<u64> {
        let skip = (self.told - self.first) as usize;
        let mut lost = Vec::new();
        for (seq, probe) in (self.told..).zip(self.list.iter_mut().skip(skip)) {
            if probe.fate == Fate::Out && is_lost(probe) {
                probe.fate = Fate::Lost;
                self.out -= 1;
                lost.push(seq);
            }
        }
        lost
    }

    /// The numbers of those that are out.
    pub fn numbers_out(&self) -> Vec<u64> {
        let skip = (self.told - self.first) as usize;
        let left = (self.told..).zip(self.list.iter().skip(skip));
        left.filter(|(_, probe)| probe.fate == Fate::Out)
            .map(|(seq, _)| seq)
            .collect()
    }

    /// When the next is lost, unless it comes.
    pub fn next_expiry(&self) -> Option<Duration> {
        let skip = (self.told - self.first) as usize;
        let mut left = self.list.iter().skip(skip);
        left.find(|probe| probe.fate == Fate::Out)
            .map(|probe| probe.at + self.timeout)
    }

    /// The next that is settled and has not been told; in the order of sending,
    /// so one that is out holds back those after it.
    pub fn settled(&mut self) -> Option<Settled> {
        let probe = self.list.get((self.told - self.first) as usize)?;
        if probe.fate == Fate::Out {
            return None;
        }
        self.told += 1;
        Some(Settled {
            at: probe.at,
            answered: probe.fate == Fate::Answered,
        })
    }
}

// The ledger of outages: when it was down, for how long, at what cost. Pure.
//
// An outage lasts from the sending of the first echo that is lost to the
// sending of the next that is answered.

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

// The figures of a ping: counts, and round trip times. Pure.

/// Significant decimal digits of a percentile.
const DIGITS: u8 = 3;
/// Nanoseconds above which a time is not told from another: 13 days.
const LONGEST: u64 = 1 << 50;

/// Durations of one kind, in a memory that does not grow with their number.
#[derive(Clone, Debug)]
pub struct Times {
    histogram: Histogram<u64>,
    least: u64,
    most: u64,
    sum: f64,
    squares: f64,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            histogram: Histogram::new(DIGITS).expect("3 digits are in its range"),
            least: u64::MAX,
            most: 0,
            sum: 0.0,
            squares: 0.0,
        }
    }
}

impl Times {
    /// One more.
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos())
            .unwrap_or(LONGEST)
            .min(LONGEST);
        self.histogram
            .record(nanos)
            .expect("it grows, and LONGEST is in its range");
        self.least = self.least.min(nanos);
        self.most = self.most.max(nanos);
        self.sum += nanos as f64;
        self.squares += (nanos as f64).powi(2);
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// None yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `0.042/0.051/0.060/0.005`: minimum, average, maximum and standard
    /// deviation in milliseconds; of at least one.
    pub fn range(&self) -> String {
        let number = self.len() as f64;
        let average = self.sum / number;
        // Rounding may leave a little less than nothing.
        let variance = (self.squares / number - average.powi(2)).max(0.0);
        format!(
            "{:.3}/{:.3}/{:.3}/{:.3}",
            millis(self.least as f64),
            millis(average),
            millis(self.most as f64),
            millis(variance.sqrt())
        )
    }

    /// The same, and percentiles, as lines of the summary.
    pub fn lines(&self, name: &str) -> String {
        let at = |quantile| {
            let value = self.histogram.value_at_quantile(quantile);
            // A bucket's upper end may lie beyond the largest.
            millis(value.clamp(self.least, self.most) as f64)
        };
        format!(
            "{name} min/avg/max/mdev = {} ms\n\
             {name} p50/p90/p99/p99.9 = {:.3}/{:.3}/{:.3}/{:.3} ms\n",
            self.range(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999)
        )
    }
}

fn millis(nanos: f64) -> f64 {
    nanos / 1e6
}

/// What a ping came to so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Echoes sent.
    pub sent: u64,
    /// Answered in time, once, as they were sent.
    pub received: u64,
    /// Not answered in time.
    pub lost: u64,
    /// Answered again.
    pub duplicates: u64,
    /// Answered after one that was sent later.
    pub reordered: u64,
    /// Answered after they were counted as lost.
    pub late: u64,
    /// Answers that were no echo of ours.
    pub corrupted: u64,
    /// Round trip times of those received.
    pub rtt: Times,
    /// Connection set-ups, where each is measured.
    pub connect: Times,
}

impl Tally {
    /// Lost ones in a hundred of those whose fate is known.
    fn loss(&self) -> f64 {
        match self.lost + self.received {
            0 => 0.0,
            settled => 100.0 * self.lost as f64 / settled as f64,
        }
    }
}

/// The first line of the summary, without the time.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} echoes sent, {} received", self.sent, self.received)?;
        for (number, what) in [
            (self.duplicates, "duplicate"),
            (self.reordered, "out of order"),
            (self.late, "late"),
            (self.corrupted, "corrupted"),
        ] {
            if number > 0 {
                write!(f, ", +{number} {what}")?;
            }
        }
        // As ping(8), which cuts the decimals: 1 lost of 1000 is not 0 here.
        let loss = self.loss();
        match loss.fract() {
            0.0 => write!(f, ", {loss:.0}% loss"),
            _ => write!(f, ", {loss:.3}% loss"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn told(probes: &mut Probes) -> Vec<bool> {
        std::iter::from_fn(|| probes.settled())
            .map(|settled| settled.answered)
            .collect()
    }

    #[test]
    fn each_echo_has_one_fate_and_is_told_in_order() {
        let mut probes = Probes::new(ms(100));
        for at in [0, 10, 20, 30] {
            probes.send(ms(at));
        }
        assert_eq!(probes.next_expiry(), Some(ms(100)));
        let answer = |rtt, overtook| Verdict::Answer { rtt, overtook };
        assert_eq!(probes.back(3, ms(25)), answer(ms(5), false));
        assert_eq!(probes.back(2, ms(26)), answer(ms(16), true));
        assert_eq!(probes.back(3, ms(27)), Verdict::Duplicate);
        assert!(told(&mut probes).is_empty(), "the first is still out");
        assert!(probes.expire(ms(99)).is_empty());
        assert_eq!(probes.expire(ms(100)), [1]);
        assert_eq!(told(&mut probes), [false, true, true]);
        assert_eq!(probes.back(1, ms(150)), Verdict::Late { rtt: ms(150) });
        assert_eq!(probes.back(1, ms(151)), Verdict::Duplicate);
        assert_eq!((probes.out(), probes.sent()), (1, 4));
        assert_eq!(probes.lose_oldest(), [4]);
        assert_eq!(told(&mut probes), [false]);
        assert_eq!(probes.next_expiry(), None);
    }

    #[test]
    fn a_broken_connection_takes_all_that_are_out() {
        let mut probes = Probes::new(ms(100));
        for at in 0..4 {
            probes.send(ms(at));
        }
        probes.back(2, ms(5));
        assert_eq!(probes.numbers_out(), [1, 3, 4]);
        assert_eq!(probes.lose_oldest(), [1]);
        assert_eq!(probes.lose_all(), [3, 4]);
        assert_eq!(probes.out(), 0);
    }

    #[test]
    fn a_long_run_keeps_a_bounded_memory() {
        let mut probes = Probes::new(ms(100));
        for n in 1..=20_000 {
            assert_eq!(probes.send(ms(n)), n);
            probes.back(n, ms(n));
            probes.settled();
        }
        assert!(probes.list.len() <= REMEMBERED + 1);
        assert_eq!(probes.back(3, ms(30_000)), Verdict::Duplicate);
        assert_eq!(probes.sent(), 20_000);
    }

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

    #[test]
    fn times_are_summed_up_as_ping_does() {
        let mut times = Times::default();
        for millis in [10, 20, 30, 40] {
            times.record(Duration::from_millis(millis));
        }
        assert_eq!(times.range(), "10.000/25.000/40.000/11.180");
        let mut one = Times::default();
        one.record(Duration::from_nanos(123_456));
        assert_eq!(
            one.lines("rtt"),
            "rtt min/avg/max/mdev = 0.123/0.123/0.123/0.000 ms\n\
             rtt p50/p90/p99/p99.9 = 0.123/0.123/0.123/0.123 ms\n"
        );
        one.record(Duration::MAX);
        assert_eq!(one.len(), 2);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut times = Times::default();
        for micros in (1..=1000).rev() {
            times.record(Duration::from_micros(micros));
        }
        let lines = times.lines("rtt");
        assert!(lines.contains("= 0.500/0.900/0.990/0.999 ms"), "{lines}");
    }

    #[test]
    fn only_what_happened_is_named_and_a_small_loss_is_not_none() {
        let mut tally = Tally {
            sent: 1000,
            received: 999,
            lost: 1,
            ..Tally::default()
        };
        let line = "1000 echoes sent, 999 received, 0.100% loss";
        assert_eq!(tally.to_string(), line);
        tally = Tally {
            sent: 5,
            received: 2,
            lost: 2,
            duplicates: 1,
            reordered: 2,
            ..Tally::default()
        };
        assert_eq!(
            tally.to_string(),
            "5 echoes sent, 2 received, +1 duplicate, +2 out of order, 50% loss",
            "one is still on its way"
        );
        assert!(Tally::default().to_string().ends_with(" 0% loss"));
    }
}

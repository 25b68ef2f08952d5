//! The echoes of a ping: which are out, which came back, which are lost. Pure.
//!
//! Times are counted from the start of the run. An echo's fate is settled once:
//! an answer after the timeout is late, not an answer.

use std::collections::VecDeque;
use std::time::Duration;

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
}

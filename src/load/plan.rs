//! What a run is meant to be: checked once, then only read; when the requests of an
//! open loop are due; and what a message says. Pure.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::addr::Target;

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Request and response, again and again, on connections that are kept.
    Rr,
    /// A connection for each request: connect, echo, half-close, EOF, close.
    Crr,
    /// As much as the window allows, both ways, on each connection.
    Stream,
    /// Open all, keep all, echo on all again, close.
    Hold,
}

/// When a run ends. [`Mode::Hold`] ends by itself; its time is how long all are
/// kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// After this long; each connection tries at least once.
    Time(Duration),
    /// After this many requests (rr), connections (crr) or messages (stream),
    /// by all connections together.
    Count(u64),
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// What each connection does.
    pub mode: Mode,
    /// For how long.
    pub bound: Bound,
    /// Connections at once, at least 1.
    pub connections: u64,
    /// Bytes in a message, at least 1; in a stream, bytes in one write.
    pub size: RangeInclusive<u64>,
    /// Messages end in a newline, for servers that echo lines.
    pub lines: bool,
    /// Threads that share the connections.
    pub threads: u64,
    /// Units a second, at their own times: an open loop. `None` is a closed one.
    pub rate: Option<f64>,
    /// Before the figures begin.
    pub warmup: Duration,
    /// Connections, or the rate of an open loop, grow to all for so long, before
    /// the warm-up.
    pub ramp_up: Duration,
    /// From an answer to the next request of a closed loop.
    pub think: Duration,
    /// The longest any connect, read or write may take; at least 1 ms.
    pub timeout: Duration,
    /// Source addresses to call a loopback server from; 1 is the system's own.
    pub sources: u64,
    /// Bytes of a stream on their way at once.
    pub window: u64,
    /// The percentiles to report, each 0 to 100.
    pub percentiles: Vec<f64>,
}

/// What a comparison needs beside a [`Plan`] of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds {
    /// The server to compare with.
    pub other: Target,
    /// Rounds of each of the two.
    pub pairs: u64,
    /// The run fails when the first is surely slower than this by the second.
    pub fail_below: Option<f64>,
}

impl Mode {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Rr => "rr",
            Mode::Crr => "crr",
            Mode::Stream => "stream",
            Mode::Hold => "hold",
        }
    }

    /// What is counted, in the plural.
    pub fn units(self) -> &'static str {
        match self {
            Mode::Rr => "requests",
            Mode::Crr | Mode::Stream | Mode::Hold => "connections",
        }
    }
}

impl Plan {
    /// How long a [`Mode::Hold`] keeps its connections before it echoes again.
    pub fn keep(&self) -> Duration {
        match self.bound {
            Bound::Time(time) => time,
            Bound::Count(_) => Duration::ZERO,
        }
    }

    /// How long the load goes on before the figures begin.
    pub fn lead(&self) -> Duration {
        self.ramp_up + self.warmup
    }

    /// Connections to open: none for which there is no work.
    pub fn slots(&self) -> u64 {
        match (self.mode, self.bound) {
            (Mode::Rr | Mode::Crr | Mode::Stream, Bound::Count(count)) => {
                self.connections.min(count)
            }
            _ => self.connections,
        }
    }

    /// Are all connections opened before the load begins? An open loop's that
    /// are kept: what is due must not wait for one.
    pub fn opens_first(&self) -> bool {
        self.rate.is_some() && self.mode == Mode::Rr && !self.target.is_datagram()
    }

    /// Threads to run: none without a connection.
    pub fn workers(&self) -> u64 {
        self.threads.min(self.slots())
    }

    /// The connections of thread number `worker`.
    pub fn share(&self, worker: u64) -> std::ops::Range<u64> {
        share(self.slots(), self.workers(), worker)
    }

    /// Messages that connection number `slot` of a counted stream sends.
    pub fn messages(&self, slot: u64) -> Option<u64> {
        match self.bound {
            Bound::Time(_) => None,
            Bound::Count(count) => {
                let share = share(count, self.slots(), slot);
                Some(share.end - share.start)
            }
        }
    }

    /// How much, in words: `16 connections, 64 bytes, 1 thread`.
    pub fn what(&self) -> String {
        let count = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let size = match (self.size.start(), self.size.end()) {
            (min, max) if min == max => count(*min, "byte"),
            (min, max) => format!("{min} to {max} bytes"),
        };
        let connections = count(self.connections, "connection");
        format!("{connections}, {size}, {}", count(self.workers(), "thread"))
    }

    /// What the latencies are called: the loop that they are of.
    pub fn loop_kind(&self) -> &'static str {
        match self.rate {
            Some(_) => "open",
            None => "closed",
        }
    }
}

/// Part number `part` of `all` things in `parts` parts.
fn share(all: u64, parts: u64, part: u64) -> std::ops::Range<u64> {
    let cut = |part: u64| (u128::from(all) * u128::from(part) / u128::from(parts)) as u64;
    cut(part)..cut(part + 1)
}

// When the requests of an open loop are due.
//
// Each connection has a timetable of its own, as in wrk2: one that is held up
// falls behind, sends what is overdue as soon as it can, and each of those
// latencies counts from the time it was due. So what a stalled server was not
// asked in time is in the figures (no coordinated omission).

/// The times of one thread's connections, which take turns.
#[derive(Clone, Copy, Debug)]
pub struct Timetable {
    origin: Instant,
    /// Seconds between two departures of this thread.
    interval: f64,
    /// Seconds in which the rate grows from nothing.
    ramp_up: f64,
    slots: u64,
}

impl Timetable {
    /// `rate` departures a second over all of `workers` threads, from `origin`
    /// on; this is thread number `worker`, with `slots` connections.
    pub fn new(origin: Instant, rate: f64, worker: u64, workers: u64, slots: u64) -> Self {
        let offset = Duration::from_secs_f64(worker as f64 / rate);
        Timetable {
            origin: origin + offset,
            interval: workers as f64 / rate,
            ramp_up: 0.0,
            slots,
        }
    }

    /// The same with a rate that grows steadily for so long.
    #[must_use]
    pub fn growing(mut self, ramp_up: Duration) -> Self {
        self.ramp_up = ramp_up.as_secs_f64();
        self
    }

    /// All of them later by `held`, in which this thread could do nothing.
    pub fn shift(&mut self, held: Duration) {
        self.origin += held;
    }

    /// Between two departures of one connection.
    pub fn step(&self) -> Duration {
        Duration::from_secs_f64(self.interval * self.slots as f64)
    }

    /// When this thread's departure number `nth` is due.
    pub fn due(&self, nth: u64) -> Instant {
        // Half as many as at the full rate are due while it grows.
        let growing = self.ramp_up / self.interval / 2.0;
        let nth = nth as f64;
        let seconds = match nth < growing {
            true => (2.0 * nth * self.ramp_up * self.interval).sqrt(),
            false => self.ramp_up + (nth - growing) * self.interval,
        };
        self.origin + Duration::from_secs_f64(seconds)
    }

    /// Whose departure that is.
    pub fn slot(&self, nth: u64) -> usize {
        (nth % self.slots) as usize
    }

    /// When departure number `nth` of connection `slot` is due.
    pub fn due_of(&self, slot: usize, nth: u64) -> Instant {
        self.due(nth * self.slots + slot as u64)
    }
}

// What a message says: bytes that differ from message to message.
//
// A byte depends on its connection, its message and its place in it, so an
// answer meant for somebody else, shifted, or left over from the message
// before is seen. Any part can be made without the parts before it, so a
// message needs no memory of its own size.

/// The content of one message.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
    /// Where a newline stands instead; [`NOWHERE`] in most messages.
    newline: u64,
}

const NOWHERE: u64 = u64::MAX;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const WORD: u64 = 8;
const BLOCK: u64 = 1024;

impl Pattern {
    /// The content of message number `message` on connection `connection`.
    pub fn new(connection: u64, message: u64) -> Self {
        Pattern {
            seed: mix(mix(connection.wrapping_add(STEP)).wrapping_add(message)),
            newline: NOWHERE,
        }
    }

    /// The same as a line of `size` bytes: the last is a newline.
    pub fn line(self, size: u64) -> Self {
        Pattern {
            newline: size - 1,
            ..self
        }
    }

    /// Writes the bytes that stand at `offset`, which is a multiple of 8.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        self.fill_words(offset, out);
        if let Some(at) = self.newline.checked_sub(offset)
            && let Some(last) = out.get_mut(at as usize)
        {
            *last = b'\n';
        }
    }

    fn fill_words(&self, offset: u64, out: &mut [u8]) {
        debug_assert!(offset.is_multiple_of(WORD));
        let (mut index, mut rest) = (offset / WORD, out);
        while !rest.is_empty() {
            let (block, from) = (index / BLOCK, (index % BLOCK) as usize);
            let key = self.key(block);
            let words = &TABLE[from..];
            let len = rest.len().min(words.len() * WORD as usize);
            let (part, after) = rest.split_at_mut(len);
            let (whole, tail) = part.as_chunks_mut::<{ WORD as usize }>();
            for (bytes, word) in whole.iter_mut().zip(words) {
                *bytes = (word ^ key).to_le_bytes();
            }
            if !tail.is_empty() {
                let last = (words[whole.len()] ^ key).to_le_bytes();
                tail.copy_from_slice(&last[..tail.len()]);
            }
            index += words.len() as u64;
            rest = after;
        }
    }

    /// Where `got`, which came back from `offset` on, first differs.
    /// `scratch` is memory to work in, at least 8 bytes longer than `got`.
    pub fn mismatch(&self, offset: u64, got: &[u8], scratch: &mut [u8]) -> Option<u64> {
        let lead = (offset % WORD) as usize;
        let want = &mut scratch[..lead + got.len()];
        self.fill(offset - lead as u64, want);
        let want = &want[lead..];
        if want == got {
            return None;
        }
        let at = want.iter().zip(got).position(|(want, got)| want != got)?;
        Some(offset + at as u64)
    }

    /// What the words of one block are mixed with.
    fn key(&self, block: u64) -> u64 {
        mix(self.seed.wrapping_add(block.wrapping_mul(STEP)))
    }

    /// A number for this message, any of `range` as likely as another.
    pub fn pick(&self, range: &RangeInclusive<u64>) -> u64 {
        range.start() + mix(!self.seed) % (range.end() - range.start() + 1)
    }
}

/// Words of a block. They differ by this table, and one block from another by
/// its key: a word is then an exclusive or, which compilers do many at a time.
static TABLE: [u64; BLOCK as usize] = {
    let mut table = [0; BLOCK as usize];
    let mut n = 0;
    while n < table.len() {
        table[n] = mix(n as u64 + 1);
        n += 1;
    }
    table
};

/// The finalizer of splitmix64: every bit of the input moves every bit out.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::run::PERCENTILES;

    /// The plan of the defaults.
    pub(in crate::load) fn plan(mode: Mode) -> Plan {
        Plan {
            target: "127.0.0.1:7".parse().expect("an address"),
            mode,
            bound: Bound::Time(Duration::from_secs(10)),
            connections: 16,
            size: 64..=64,
            lines: false,
            threads: 1,
            rate: None,
            warmup: Duration::ZERO,
            ramp_up: Duration::ZERO,
            think: Duration::ZERO,
            timeout: Duration::from_secs(5),
            sources: 8,
            window: 256 << 10,
            percentiles: PERCENTILES.to_vec(),
        }
    }

    #[test]
    fn nothing_is_opened_that_has_no_work() {
        let count = Bound::Count(5);
        let time = Bound::Time(Duration::from_secs(1));
        for (mode, bound, connections, slots, workers) in [
            (Mode::Rr, time, 100, 100, 8),
            (Mode::Rr, count, 100, 5, 5),
            (Mode::Stream, count, 100, 5, 5),
            (Mode::Crr, count, 3, 3, 3),
            (Mode::Hold, time, 3, 3, 3),
            (Mode::Hold, time, 5000, 5000, 8),
        ] {
            let plan = Plan {
                bound,
                connections,
                threads: 8,
                ..plan(mode)
            };
            assert_eq!((plan.slots(), plan.workers()), (slots, workers), "{plan:?}");
            let all = (0..workers).flat_map(|worker| plan.share(worker));
            assert!(all.eq(0..slots), "{plan:?}");
        }
    }

    #[test]
    fn the_messages_of_a_stream_are_all_sent() {
        let plan = Plan {
            bound: Bound::Count(10),
            connections: 4,
            ..plan(Mode::Stream)
        };
        let sum: u64 = (0..4).map(|slot| plan.messages(slot).unwrap()).sum();
        assert_eq!(sum, 10);
    }

    #[test]
    fn connections_take_turns_and_threads_interleave() {
        let origin = Instant::now();
        let ms = |time: Instant| time.duration_since(origin).as_millis();
        // 100 a second over two threads: one each 20 ms, 10 ms apart.
        let first = Timetable::new(origin, 100.0, 0, 2, 3);
        let second = Timetable::new(origin, 100.0, 1, 2, 3);
        for (nth, at, slot) in [(0, 0, 0), (1, 20, 1), (2, 40, 2), (3, 60, 0)] {
            assert_eq!(ms(first.due(nth)), at);
            assert_eq!(ms(second.due(nth)), at + 10);
            assert_eq!(first.slot(nth), slot);
            assert_eq!(first.due_of(slot, nth / 3), first.due(nth));
        }
    }

    #[test]
    fn a_rate_grows_from_nothing() {
        let origin = Instant::now();
        let table = Timetable::new(origin, 100.0, 0, 1, 1).growing(Duration::from_secs(2));
        let at = |nth| table.due(nth).duration_since(origin).as_secs_f64();
        // A quarter of 100 by half the time, and all of them by 2 s.
        for (nth, seconds) in [(0, 0.0), (25, 1.0), (100, 2.0), (200, 3.0)] {
            assert!((at(nth) - seconds).abs() < 1e-6, "{nth}: {}", at(nth));
        }
    }

    #[test]
    fn a_day_of_departures_does_not_drift() {
        let origin = Instant::now();
        let table = Timetable::new(origin, 1e6, 0, 1, 16);
        let day = table.due(86_400_000_000).duration_since(origin);
        assert!(day.abs_diff(Duration::from_secs(86_400)) < Duration::from_micros(1));
    }

    #[test]
    fn a_line_ends_in_a_newline_and_differs_nowhere_else() {
        for size in [1, 7, 8, 9, 64, 20_000] {
            let plain = bytes(Pattern::new(1, 2), size);
            let line = bytes(Pattern::new(1, 2).line(size as u64), size);
            assert_eq!(line.last(), Some(&b'\n'), "{size}");
            assert_eq!(line[..size - 1], plain[..size - 1], "{size}");
        }
        let line = Pattern::new(1, 2).line(20);
        let (whole, mut scratch) = (bytes(line, 20), [0; 64]);
        assert_eq!(line.mismatch(13, &whole[13..], &mut scratch), None);
        assert_eq!(line.mismatch(13, b"", &mut scratch), None);
        let mut bad = whole;
        bad[19] = b'x';
        assert_eq!(line.mismatch(13, &bad[13..], &mut scratch), Some(19));
    }

    fn bytes(pattern: Pattern, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        pattern.fill(0, &mut out);
        out
    }

    #[test]
    fn every_part_verifies_at_its_own_place_only() {
        let pattern = Pattern::new(3, 7);
        let whole = bytes(pattern, 100);
        let mut scratch = [0; 128];
        for from in 0..100 {
            for to in from..=100 {
                let part = &whole[from..to];
                assert_eq!(pattern.mismatch(from as u64, part, &mut scratch), None);
            }
        }
        assert_eq!(pattern.mismatch(1, &whole[..50], &mut scratch), Some(1));
    }

    #[test]
    fn blocks_join_and_differ() {
        let pattern = Pattern::new(5, 5);
        let whole = bytes(pattern, 30_001);
        let mut scratch = vec![0; whole.len() + 8];
        for at in [8, 8184, 8191, 8192, 8193, 16_380, 30_000] {
            let part = &whole[at..];
            assert_eq!(
                pattern.mismatch(at as u64, part, &mut scratch),
                None,
                "{at}"
            );
        }
        assert_ne!(whole[..8192], whole[8192..16_384]);
    }

    #[test]
    fn sizes_are_all_of_the_range() {
        let mut seen = [false; 5];
        for message in 0..200 {
            let size = Pattern::new(1, message).pick(&(10..=14));
            seen[(size - 10) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(Pattern::new(1, 1).pick(&(64..=64)), 64);
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let pattern = Pattern::new(0, 0);
        let mut whole = bytes(pattern, 40);
        whole[21] ^= 1;
        whole[30] ^= 1;
        let mut scratch = [0; 64];
        assert_eq!(
            pattern.mismatch(5, &whole[5..], &mut scratch),
            Some(21),
            "counted from the start of the message"
        );
    }

    #[test]
    fn messages_differ_from_each_other_and_within() {
        let one = bytes(Pattern::new(1, 1), 64);
        assert_ne!(one, bytes(Pattern::new(1, 2), 64));
        assert_ne!(one, bytes(Pattern::new(2, 1), 64));
        assert!(one.iter().any(|byte| *byte != one[0]));
        assert_ne!(one[..8], one[8..16]);
    }
}

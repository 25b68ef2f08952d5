//! When the requests of an open loop are due. Pure.
//!
//! Each connection has a timetable of its own, as in wrk2: one that is held up
//! falls behind, sends what is overdue as soon as it can, and each of those
//! latencies counts from the time it was due. So what a stalled server was not
//! asked in time is in the figures (no coordinated omission).

use std::time::{Duration, Instant};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! The figures of a ping: counts, and round trip times. Pure.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

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

//! Axes: where a figure lies, and where a label does. Pure.

use crate::table::short;

/// From figures to places.
#[derive(Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    /// Where the least figure lies.
    pub from: f64,
    /// Where the greatest lies.
    pub to: f64,
    log: bool,
    /// Figures worth a line.
    pub ticks: Vec<f64>,
}

impl Scale {
    /// With round ticks, the first and the last around all figures.
    pub fn linear(low: f64, high: f64, from: f64, to: f64) -> Scale {
        let step = step((high - low).max(f64::MIN_POSITIVE) / 5.0);
        let first = (low / step).floor() as i64;
        let last = (high / step).ceil() as i64;
        let ticks: Vec<f64> = (first..=last.max(first + 1))
            .map(|i| i as f64 * step)
            .collect();
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        Scale {
            low,
            high,
            from,
            to,
            log: false,
            ticks,
        }
    }

    /// From the one end to the other, where the points are the ticks.
    pub fn exact(low: f64, high: f64, from: f64, to: f64) -> Scale {
        Scale {
            low,
            high,
            from,
            to,
            log: false,
            ticks: Vec::new(),
        }
    }

    /// The same for a logarithmic axis: powers of ten.
    pub fn log(low: f64, high: f64, from: f64, to: f64) -> Scale {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let ticks: Vec<f64> = (first..=last.max(first + 1))
            .map(|e| 10_f64.powi(e))
            .collect();
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        Scale {
            low,
            high,
            from,
            to,
            log: true,
            ticks,
        }
    }

    /// The place of a figure.
    pub fn at(&self, value: f64) -> f64 {
        let part = if self.log {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part * (self.to - self.from)
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let fits = |times: &f64| times * power >= least * 0.999;
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

/// Places for labels that would lie on each other: moved down, 15 apart.
pub fn apart(wanted: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = wanted.enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut placed = vec![0.0; order.len()];
    let mut free = f64::NEG_INFINITY;
    for (i, at) in order {
        placed[i] = at.max(free);
        free = placed[i] + 15.0;
    }
    placed
}

/// The least and the greatest.
pub fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    })
}

/// A tick: 20k rather than 20000, and so 5k rather than 5000.
pub fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        n if n >= 1e6 => (value / 1e6, "M"),
        n if n >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Ticks are multiples of a round step: the rest is floating point's.
    let text = format!("{value:.6}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A figure beside a mark.
pub fn rounded(value: f64) -> String {
    if value.abs() >= 1e4 {
        format!("{:.1}k", value / 1e3)
    } else {
        short(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ticks_around_the_figures() {
        for (low, high, ticks) in [
            (0.0, 9.0, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0][..]),
            (-1.0, 4.0, &[-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]),
            (0.0, 0.0, &[0.0]),
        ] {
            let scale = Scale::linear(low, high, 0.0, 100.0);
            assert!(scale.ticks.starts_with(ticks), "{:?}", scale.ticks);
        }
        let scale = Scale::log(30.0, 2000.0, 0.0, 300.0);
        assert_eq!(scale.ticks, [10.0, 100.0, 1000.0, 10000.0]);
        assert!((scale.at(100.0) - 100.0).abs() < 1e-9);
        for (least, expect) in [
            (1.0, 1.0),
            (1.2, 2.0),
            (3.0, 5.0),
            (7.0, 10.0),
            (0.03, 0.05),
        ] {
            assert!((step(least) - expect).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn labels_keep_their_distance() {
        assert_eq!(apart([50.0, 10.0, 52.0].into_iter()), [50.0, 10.0, 65.0]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.30000000000000004, "0.3"),
            (20_000.0, "20k"),
            (15.0, "15"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}

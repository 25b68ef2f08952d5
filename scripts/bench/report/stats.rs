//! Medians, spread and paired ratios. Pure.

/// The middle of `values`, the mean of the two middle ones where there are two.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let n = sorted.len();
    match (n, n % 2) {
        (0, _) => None,
        (_, 1) => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// How far apart the values lie: (max - min) / median. Of one value, nothing.
pub fn spread(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let (low, high) = ends(values)?;
    let middle = median(values)?;
    (middle > 0.0).then(|| (high - low) / middle)
}

/// The least and the greatest.
pub fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

/// What many pairs say of `a / b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the pairs' ratios.
    pub median: f64,
    /// The 95 % interval of that median, where there are pairs enough for one.
    pub interval: Option<(f64, f64)>,
    /// How many pairs there were.
    pub pairs: usize,
}

/// The ratio of paired figures. A pair with a zero in it is left out.
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let ratios: Vec<f64> = pairs
        .iter()
        .filter(|(a, b)| *a > 0.0 && *b > 0.0)
        .map(|(a, b)| a / b)
        .collect();
    Some(Ratio {
        median: median(&ratios)?,
        interval: interval(&ratios),
        pairs: ratios.len(),
    })
}

/// The 95 % interval of a median, by order statistics: it asks nothing of the
/// distribution. The k-th smallest and the k-th greatest enclose the median
/// unless fewer than k of n values lie on one side, and how likely that is
/// the binomial distribution says. Below six values there is no such k.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    let n = sorted.len();
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let (mut below, mut k) = (term, 0);
    while below <= 0.025 && k < n / 2 {
        k += 1;
        term *= (n - k + 1) as f64 / k as f64;
        below += term;
    }
    (k > 0).then(|| (sorted[k - 1], sorted[n - k]))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        for (values, middle, wide) in [
            (&[][..], None, None),
            (&[4.0], Some(4.0), None),
            (&[3.0, 1.0, 2.0], Some(2.0), Some(1.0)),
            (&[4.0, 1.0, 3.0, 2.0], Some(2.5), Some(1.2)),
            (&[f64::NAN, 5.0], Some(5.0), None),
        ] {
            assert_eq!(median(values), middle, "{values:?}");
            if let Some(wide) = wide {
                assert_eq!(spread(values), Some(wide), "{values:?}");
            }
        }
        assert_eq!(spread(&[1.0]), None);
    }

    /// The ranks are those of the printed tables of the sign test.
    #[test]
    fn the_interval_takes_the_ranks_of_the_tables() {
        for (n, rank) in [
            (6, 1),
            (8, 1),
            (9, 2),
            (11, 2),
            (12, 3),
            (20, 6),
            (25, 8),
            (40, 14),
        ] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let expect = (f64::from(rank), f64::from(n + 1 - rank));
            assert_eq!(interval(&values), Some(expect), "n = {n}");
        }
        assert_eq!(interval(&[1.0, 2.0, 3.0, 4.0, 5.0]), None);
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_pairs_not_of_medians() {
        let pairs = [(10.0, 10.0), (40.0, 20.0), (90.0, 30.0)];
        let found = ratio(&pairs).unwrap();
        assert_eq!((found.median, found.pairs, found.interval), (2.0, 3, None));
        assert_eq!(ratio(&[(1.0, 0.0), (0.0, 1.0)]), None);
        let same = [(3.0, 2.0); 20];
        assert_eq!(ratio(&same).unwrap().interval, Some((1.5, 1.5)));
    }
}

//! Values that people type and read: durations, sizes, rates, ports.

use std::time::Duration;

use crate::error::{Error, Result};

/// So many in such a time, at least one in more than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

/// Ranges of ports, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<(u16, u16)>);

/// `30s`, `5m`, `200ms`, `1h 30m`; a bare number is seconds, decimals allowed.
///
/// # Errors
/// A usage error with an example.
pub fn duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::usage(
            format!("'{text}'"),
            "not a duration such as 30s, 5m, 200ms or 1.5",
        )
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    humantime::parse_duration(text).map_err(|_| bad())
}

/// A duration that `0` or `off` turns off.
///
/// # Errors
/// As [`duration`].
pub fn limit(text: &str) -> Result<Option<Duration>> {
    if text == "off" {
        return Ok(None);
    }
    duration(text).map(|d| (!d.is_zero()).then_some(d))
}

/// `64`, `16K`, `3M`, `1G`: bytes, by units of 1024. `None` if it is no such.
pub fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `50/1s`: so many in such a time; `off` is no limit.
///
/// # Errors
/// A usage error with an example.
pub fn rate(text: &str) -> Result<Option<Rate>> {
    if text == "off" {
        return Ok(None);
    }
    let bad = || Error::usage(format!("'{text}'"), "not a rate such as 50/1s, or off");
    let (count, per) = text.split_once('/').ok_or_else(bad)?;
    let digits = count.bytes().all(|b| b.is_ascii_digit());
    match (count.parse(), duration(per)) {
        (Ok(count @ 1..), Ok(per)) if digits && !per.is_zero() => Ok(Some(Rate { count, per })),
        _ => Err(bad()),
    }
}

/// `0-1023,2049`: ports and ranges of them; `off` is none.
///
/// # Errors
/// A usage error with an example.
pub fn ports(text: &str) -> Result<Option<Ports>> {
    if text == "off" {
        return Ok(None);
    }
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        (first <= last).then_some((first, last))
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    let bad = || Error::usage(format!("'{text}'"), "not ports such as 0-1023,2049, or off");
    Ok(Some(Ports(ranges.ok_or_else(bad)?)))
}

/// How the log writes a duration: `0.8ms` below a second, `61.204s` above.
pub fn show(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1}ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.3}s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("30s", ms(30_000)),
            ("5m", ms(300_000)),
            ("200ms", ms(200)),
            ("2", ms(2000)),
            ("0.25", ms(250)),
            ("0", ms(0)),
            ("1h 30m", ms(5_400_000)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "fast",
            "-1",
            "1e400",
            "inf",
            "nan",
            "5 parsecs",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(limit("off"), Ok(None));
        assert_eq!(limit("0"), Ok(None));
        assert_eq!(limit("10m"), Ok(Some(ms(600_000))));
        assert_eq!(show(Duration::from_micros(830)), "0.8ms");
        assert_eq!(show(ms(61_204)), "61.204s");
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("64", Some(64)),
            ("16k", Some(16 << 10)),
            ("3M", Some(3 << 20)),
            ("1G", Some(1 << 30)),
            ("17179869183G", Some(u64::MAX - (1 << 30) + 1)),
            ("17179869184G", None),
            ("", None),
            ("K", None),
            ("1T", None),
            ("-1", None),
            ("1.5K", None),
            ("1\u{212a}", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn rates_and_ports() {
        let per = Duration::from_millis;
        for (text, count, ms) in [("50/1s", 50, 1000), ("1/200ms", 1, 200), ("9/2", 9, 2000)] {
            let expected = Rate {
                count,
                per: per(ms),
            };
            assert_eq!(rate(text), Ok(Some(expected)), "{text}");
        }
        for text in [
            "",
            "50",
            "0/1s",
            "+5/1s",
            "5/0",
            "5/off",
            "/1s",
            "99999999999/1s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(rate("off"), Ok(None));
        assert_eq!(
            ports("0-1023,2049"),
            Ok(Some(Ports(vec![(0, 1023), (2049, 2049)])))
        );
        for text in ["", "1-", "9-3", "65536", "+7", "7,,8", "7 8"] {
            assert!(ports(text).is_err(), "{text}");
        }
        assert_eq!(ports("off"), Ok(None));
    }
}

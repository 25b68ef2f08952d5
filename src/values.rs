//! Values that people type and read: durations, sizes, rates, ports.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
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

/// When a peer that is silent is asked whether it is there, as tcp(7) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Seconds of silence until the first question.
    pub idle: u32,
    /// Seconds from one question to the next.
    pub interval: u32,
    /// Questions without an answer, until it counts as gone.
    pub count: u32,
}

/// As it is typed.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, humantime::format_duration(self.per))
    }
}

/// Ranges of ports, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<(u16, u16)>);

/// The longest duration that is taken, `100y`: what clocks, timers and socket
/// options count in holds it, also when it is added to the time of day.
pub const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// `30s`, `5m`, `200ms`, `1h 30m`; a bare number is seconds, decimals allowed.
///
/// # Errors
/// A usage error with an example, or with the longest there is.
pub fn duration(text: &str) -> Result<Duration> {
    within(
        text,
        read(text)?,
        &(Duration::ZERO..=LONGEST),
        "too long: at most 100y",
    )
}

/// A duration of this range; `says` is what to say of another.
pub fn span(
    range: RangeInclusive<Duration>,
    says: &'static str,
) -> impl Fn(&str) -> Result<Duration> + Clone {
    move |text| within(text, read(text)?, &range, says)
}

/// A duration of any length; whatever is longer than the type holds is its longest.
fn read(text: &str) -> Result<Duration> {
    let bad = || quoted(text, "not a duration such as 30s, 5m, 200ms or 1.5");
    if let Ok(seconds) = text.parse::<f64>() {
        if seconds.is_finite() && seconds > LONGEST.as_secs_f64() {
            return Ok(Duration::MAX);
        }
        let duration = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
        // More than none must not become none, which may mean no limit.
        return Ok(duration.max(Duration::from_nanos((seconds > 0.0).into())));
    }
    humantime::parse_duration(text).or_else(|error| match error {
        // Its other cause is a part of a nanosecond.
        humantime::DurationError::NumberOverflow if !text.contains('.') => Ok(Duration::MAX),
        humantime::DurationError::NumberOverflow => {
            Err(quoted(text, "not a duration from 1ns to 100y"))
        }
        _ => Err(bad()),
    })
}

/// A whole number of this range, without a unit.
pub fn count<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T> + Clone {
    let range = i128::from(*range.start())..=i128::from(*range.end());
    move |text| {
        let number = whole(text).ok_or_else(|| match unit(text) {
            (digits, 1..) if whole(digits).is_some() => quoted(
                text,
                "not a whole number: K, M and G are for sizes in bytes",
            ),
            _ => quoted(text, "not a whole number such as 64"),
        })?;
        narrow(text, bounded(text, number, &range)?)
    }
}

/// So many bytes of this range: `64`, `16K`, `3M`, `1G`, by units of 1024.
pub fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T> + Clone {
    let range = i128::from(*range.start())..=i128::from(*range.end());
    move |text| {
        let (digits, shift) = unit(text);
        let number =
            whole(digits).ok_or_else(|| quoted(text, "not a size such as 64, 16K or 1M"))?;
        let bytes = number.saturating_mul(1 << shift);
        narrow(text, bounded(text, bytes, &range)?)
    }
}

fn quoted(text: &str, why: impl Display) -> Error {
    Error::usage(format_args!("'{text}'"), why)
}

/// Digits, perhaps after a minus sign. More of them than the type holds are a
/// number that is beyond every range.
fn whole(text: &str) -> Option<i128> {
    let (beyond, digits) = match text.strip_prefix('-') {
        Some(digits) => (i128::MIN, digits),
        None => (i128::MAX, text),
    };
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    whole.then(|| text.parse().unwrap_or(beyond))
}

/// What stands before a unit, and by how many bits that shifts it.
fn unit(text: &str) -> (&str, u32) {
    let shift = match text.as_bytes().last() {
        Some(b'K' | b'k') => 10,
        Some(b'M' | b'm') => 20,
        Some(b'G' | b'g') => 30,
        _ => return (text, 0),
    };
    (&text[..text.len() - 1], shift)
}

fn within<V: PartialOrd>(
    text: &str,
    value: V,
    range: &RangeInclusive<V>,
    says: impl Display,
) -> Result<V> {
    match range.contains(&value) {
        true => Ok(value),
        false => Err(quoted(text, says)),
    }
}

/// As [`within`], for a number.
fn bounded(text: &str, number: i128, range: &RangeInclusive<i128>) -> Result<i128> {
    match number < *range.start() {
        true => within(
            text,
            number,
            range,
            format_args!("at least {}", range.start()),
        ),
        false => within(text, number, range, format_args!("at most {}", range.end())),
    }
}

/// Of a range that is the type's, none fails.
fn narrow<T: TryFrom<u64>>(text: &str, number: i128) -> Result<T> {
    let number = u64::try_from(number).ok().and_then(|n| T::try_from(n).ok());
    number.ok_or_else(|| quoted(text, "out of range"))
}

/// A decimal number, without a sign or a space.
pub fn decimal(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// An error that quotes a variable of the environment on one line, and not
/// without end.
pub fn refused_value(name: &str, value: &OsStr, why: &str) -> Error {
    let text: String = value.to_string_lossy().chars().take(100).collect();
    Error::usage(
        format!("{name}={}", text.replace(char::is_control, "?")),
        why,
    )
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

/// The word that was perhaps meant.
pub fn nearest<'a>(typed: &str, words: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let likeness = |word: &str| strsim::jaro(&typed, word);
    let best = words
        .iter()
        .copied()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    // What clap asks of its own guesses.
    (likeness(best) > 0.7).then_some(best)
}

/// `64`, `16K`, `3M`, `1G`: bytes, by units of 1024. `None` if it is no such.
pub fn bytes(text: &str) -> Option<u64> {
    size(0..=u64::MAX)(text).ok()
}

/// `50/1s`: so many in such a time; `off` is no limit.
///
/// # Errors
/// A usage error with an example.
pub fn rate(text: &str) -> Result<Option<Rate>> {
    if text == "off" {
        return Ok(None);
    }
    let (number, per) = text
        .split_once('/')
        .ok_or_else(|| quoted(text, "not a rate such as 50/1s, or off"))?;
    let count = count(1..=u32::MAX.into())(number)?;
    let per = duration(per)?;
    match per.is_zero() {
        true => Err(quoted(text, "so many in no time; off is no limit")),
        false => Ok(Some(Rate { count, per })),
    }
}

/// `1m/15s/4`: the first question, those after it, how many; `off` asks none. What
/// tcp(7) takes: whole seconds up to 32767, and up to 127 questions.
///
/// # Errors
/// A usage error with an example.
pub fn keepalive(text: &str) -> Result<Option<Keepalive>> {
    if text == "off" {
        return Ok(None);
    }
    let bad = || quoted(text, "not a keepalive such as 1m/15s/4, or off");
    let [idle, interval, count] =
        <[&str; 3]>::try_from(text.split('/').collect::<Vec<_>>()).map_err(|_| bad())?;
    let seconds = |text: &str| match read(text)? {
        time if time.subsec_nanos() == 0 && (1..=32_767).contains(&time.as_secs()) => {
            Ok(time.as_secs() as u32)
        }
        _ => Err(quoted(text, "not whole seconds from 1s to 32767s")),
    };
    Ok(Some(Keepalive {
        idle: seconds(idle)?,
        interval: seconds(interval)?,
        count: self::count(1..=127)(count)?,
    }))
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
    let bad = || {
        Error::usage(
            format!("'{text}'"),
            "not ports of 0 to 65535 such as 0-1023,2049, or off",
        )
    };
    Ok(Some(Ports(ranges.ok_or_else(bad)?)))
}

/// `1 client`, `2 clients`.
pub fn plural(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
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
        for text in ["", "fast", "-1", "1e400", "inf", "nan", "5 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(limit("off"), Ok(None));
        assert_eq!(limit("0"), Ok(None));
        assert_eq!(limit("10m"), Ok(Some(ms(600_000))));
        assert_eq!(show(Duration::from_micros(830)), "0.8ms");
        assert_eq!(show(ms(61_204)), "61.204s");
    }

    #[test]
    fn row_106_the_largest_that_works_is_named() {
        let largest = u64::MAX.to_string();
        let long = [
            &largest,
            "9223372036854775807",
            "3155760000.1",
            "1e300",
            "101y",
            "3000000000m",
        ];
        for text in long {
            let error = duration(text).expect_err(text);
            assert!(error.to_string().ends_with("at most 100y"), "{error}");
        }
        for text in [
            format!("{largest}s"),
            format!("{largest}y"),
            "9".repeat(50) + "s",
        ] {
            let error = duration(&text).expect_err(&text);
            assert!(error.to_string().ends_with(" 100y"), "{error}");
        }
        for text in ["100y", "3155760000", "3155760000s"] {
            assert_eq!(duration(text), Ok(LONGEST), "{text}");
        }
        // Rounded to none, these would be no limit.
        for text in ["1e-300", "0.0000000001"] {
            assert_eq!(limit(text), Ok(Some(Duration::from_nanos(1))), "{text}");
        }
        let second = span(
            Duration::from_millis(1)..=Duration::from_secs(1),
            "1ms to 1s",
        );
        assert_eq!(second("1"), Ok(Duration::from_secs(1)));
        for text in ["1.1", "0", "101y", &largest, "99999999999999999999s"] {
            let error = second(text).expect_err(text);
            assert!(error.to_string().ends_with(": 1ms to 1s"), "{error}");
        }
        let few = count::<u8>(1..=200);
        let page = size::<u32>(1..=4096);
        assert_eq!((few("200"), page("4K")), (Ok(200), Ok(4096)));
        let (huge, low) = ("9".repeat(60), "-".to_owned() + &"9".repeat(60));
        for (text, why) in [
            ("201", "at most 200"),
            (&largest, "at most 200"),
            (&huge, "at most 200"),
            ("0", "at least 1"),
            ("-1", "at least 1"),
            (&low, "at least 1"),
            ("1k", "K, M and G are for sizes"),
            ("+1", "not a whole number"),
            ("1.5", "not a whole number"),
            ("", "not a whole number"),
            ("k", "not a whole number"),
        ] {
            let error = few(text).expect_err(text);
            assert!(error.to_string().contains(why), "{error}");
        }
        for (text, why) in [
            ("5K", "at most 4096"),
            ("9999999999999G", "at most 4096"),
            ("x", "not a size"),
        ] {
            let error = page(text).expect_err(text);
            assert!(error.to_string().contains(why), "{error}");
        }
        let error = rate("4294967296/1s").expect_err("too many");
        assert!(error.to_string().ends_with("at most 4294967295"), "{error}");
        let error = rate(&format!("1/{largest}")).expect_err("too long");
        assert!(error.to_string().ends_with("at most 100y"), "{error}");
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

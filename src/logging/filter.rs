//! What is logged: by the options, or by RUST_LOG, which is read here before
//! env_logger reads it. That takes any word for the name of a target, and so
//! `RUST_LOG=debgu` for one that says nothing: silence for a slip of the finger.

use std::ffi::OsString;

use log::LevelFilter;

use crate::config::LogConfig;
use crate::error::{Error, Result};
use crate::values::nearest;

/// Where our records come from.
const TARGETS: [&str; 2] = ["conn", "echod"];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Could it be logged by this? For who has not opened the log yet.
///
/// # Errors
/// A usage error that quotes a RUST_LOG that cannot be read.
pub fn check(cfg: &LogConfig) -> Result<()> {
    asked(cfg).map(drop)
}

/// RUST_LOG, if it is there and nothing was chosen by an option.
pub(super) fn asked(cfg: &LogConfig) -> Result<Option<String>> {
    match std::env::var_os("RUST_LOG") {
        Some(typed) if !cfg.chosen && !typed.is_empty() => readable(typed).map(Some),
        _ => Ok(None),
    }
}

fn readable(typed: OsString) -> Result<String> {
    let wrong = |why: String| {
        let shown: String = typed.to_string_lossy().chars().take(100).collect();
        Error::usage(format!("RUST_LOG={shown}"), why)
    };
    let Some(text) = typed.to_str() else {
        return Err(wrong("not text".to_owned()));
    };
    // TARGET=LEVEL,... and, after a slash, what a message must contain.
    let mut parts = text.split('/');
    let directives = parts.next().unwrap_or_default();
    if parts.nth(1).is_some() {
        return Err(wrong("more than one '/'".to_owned()));
    }
    let directives = directives.split(',').map(str::trim);
    for directive in directives.filter(|directive| !directive.is_empty()) {
        fault(directive).map_or(Ok(()), |why| Err(wrong(why)))?;
    }
    Ok(text.to_owned())
}

/// What is wrong with `info`, `conn=debug`.
fn fault(directive: &str) -> Option<String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let no_level = |word: &str| {
        let guess = nearest(word, &LEVELS).map(|level| format!("; {level}?"));
        let guess = guess.unwrap_or_default();
        format!("'{word}' is no level{guess}: {}", LEVELS.join(" "))
    };
    let is_name = |name: &str| {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
        !name.is_empty() && name.bytes().all(is_part)
    };
    match directive.split_once('=') {
        Some((name, _)) if !is_name(name) => {
            Some(format!("'{name}' is no target: {}", TARGETS.join(" ")))
        }
        Some((_, level)) if level.trim().is_empty() || is_level(level.trim()) => None,
        Some((_, level)) => Some(no_level(level)),
        None if is_level(directive) => None,
        // By its beginning, as env_logger compares.
        None if TARGETS.iter().any(|target| target.starts_with(directive)) => None,
        None if directive.starts_with("echod::") => None,
        None => {
            let word = nearest(directive, &LEVELS).or(nearest(directive, &TARGETS));
            let guess = word.map(|word| format!("; {word}?"));
            Some(format!(
                "'{directive}' is no level and no target{}: conn=debug, or info",
                guess.unwrap_or_default()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn what_env_logger_reads_is_read() {
        for text in [
            "info",
            "OFF",
            "conn=debug",
            "info,conn=debug",
            "conn",
            "echod",
            "echod::daemon",
            "echod::daemon::supervisor::orders=trace",
            "conn=",
            "hyper=debug,info",
            "info/refusing",
            ",",
            "info,",
        ] {
            assert_eq!(readable(text.into()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_would_be_silence_is_an_error() {
        for (text, guess) in [
            ("debgu", "debug?"),
            ("conn=debgu", "debug?"),
            ("conn=debug=x", "no level"),
            ("con=5", "no level"),
            ("info,con n=debug", "no target"),
            ("=debug", "no target"),
            ("conn = debug", "no target"),
            ("loud", "no level and no target"),
            ("info;conn=debug", "no target"),
            ("a/b/c", "more than one '/'"),
            ("3", "no level and no target"),
        ] {
            let error = readable(text.into()).expect_err(text).to_string();
            assert!(error.starts_with(&format!("RUST_LOG={text}: ")), "{error}");
            assert!(error.contains(guess), "{error}");
        }
        let bytes = OsString::from_vec(vec![b'i', 0xff]);
        assert!(readable(bytes).is_err());
    }
}

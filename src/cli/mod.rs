//! What was typed: the command lines, by clap; and what it means.
//!
//! For echod, [`echod`] has what can be typed, what does not go together, and what
//! the rest means: a [`crate::config`]. [`echoc`] and [`echoload`] each have a
//! `typed` and a `meaning`, and are the programs too.

pub mod echoc;
pub mod echod;
pub mod echoload;

use std::ops::RangeInclusive;

use crate::error::{Error, Exit};

/// A clap error as one line, or its help text; and the status to leave with.
pub fn explain(error: &clap::Error) -> Result<String, Error> {
    if !error.use_stderr() {
        return Ok(error.to_string());
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = first.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line).to_owned();
    Err(Error::usage(line, "see --help").exit(Exit::Usage))
}

/// A command line that is not to be run: help to print, or a usage error.
pub type Unparsed = Result<String, Error>;

/// A whole number of this range, and what to say of another.
fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number, {} to {}", range.start(), range.end()))
    }
}

//! What was typed: the command lines, by clap; and what it means.
//!
//! For echod, [`echod`] and [`names`] hold what can be typed, and `meaning` makes
//! a [`crate::config`] of it; the rules between options are in `unusable`,
//! `model`, `access` and `commands`. [`echoc`] and [`echoload`] each have a
//! `typed` and a `meaning`, and are the programs too.

mod access;
mod commands;
pub mod echoc;
pub mod echod;
pub mod echoload;
mod meaning;
mod model;
pub mod names;
mod unusable;

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

//! echod's command line. The page is man/echod.8; a test holds the two to each
//! other. `args` is what can be typed, `conflicts` what does not go together, and
//! `validate` makes a [`Config`] of the rest.

use std::ffi::OsString;

use self::args::Typed;
use crate::addr::ListenSpec;
use crate::config::Config;
use crate::error::Error;

pub mod args;
mod conflicts;
mod validate;

/// Command line to configuration; `Err(Ok(text))` is help to print.
///
/// # Errors
/// The text of --help or --version, or one usage error.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Config, Result<String, Error>> {
    parse_beside(argv, Vec::new())
}

/// The same where sockets were handed over, to be served at as well; what
/// `--listen` defaults to is then not.
///
/// # Errors
/// As [`parse`]'s.
pub fn parse_beside(
    argv: impl IntoIterator<Item = OsString>,
    handed: Vec<ListenSpec>,
) -> Result<Config, Result<String, Error>> {
    let mut typed = Typed::parse(argv).map_err(|e| super::explain(&e))?;
    typed.hand_over(handed);
    validate::config(typed).map_err(Err)
}

#[cfg(test)]
mod tests;

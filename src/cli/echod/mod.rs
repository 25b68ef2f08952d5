//! echod's command line. The page is man/echod.8; a test holds the two to each
//! other. `args` is what can be typed, `layers` what a configuration file and the
//! environment add to it, `conflicts` what does not go together, and `validate` makes
//! a [`Config`] of the rest. `dump` says what is in force.

use std::ffi::OsString;

use self::args::{Args, Typed};
use crate::addr::ListenSpec;
use crate::config::{Config, LogFormat};
use crate::error::Error;

pub mod args;
mod conflicts;
mod dump;
pub mod layers;
mod validate;

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    super::command::<Args>()
}

/// What comes of a command line that is not to be served by.
#[derive(Debug)]
pub enum Refused {
    /// A text to print, which was asked for: help, the version, the configuration.
    Text(String),
    /// What is wrong; with a configuration file it may be several things.
    Wrong(Vec<Error>),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Wrong(vec![error])
    }
}

/// Command line to configuration, with nothing in the environment.
///
/// # Errors
/// A text that was asked for, or what is wrong.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Config, Refused> {
    parse_beside(argv, |_| None, Vec::new())
}

/// The same with an environment, and where sockets were handed over, to be served at
/// as well; what `--listen` defaults to is then not.
///
/// # Errors
/// As [`parse`]'s.
pub fn parse_beside(
    argv: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    handed: Vec<ListenSpec>,
) -> Result<Config, Refused> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let refused = |error: &clap::Error| match super::explain(error) {
        Ok(text) => Refused::Text(text),
        Err(error) => error.into(),
    };
    let flags = Typed::parse(argv.clone()).map_err(|e| refused(&e))?;
    let file = flags
        .args
        .config
        .clone()
        .or_else(|| env("ECHOD_CONFIG").map(Into::into));
    let layers = layers::lay(&command(), argv, &flags.all_given(), env, file.as_deref())
        .map_err(Refused::Wrong)?;
    let mut typed = Typed::parse(&layers.words).map_err(|e| match refused(&e) {
        Refused::Wrong(errors) => {
            Refused::Wrong(errors.into_iter().map(|e| layers.locate(e)).collect())
        }
        text => text,
    })?;
    typed.hand_over(handed);
    let dump = typed
        .args
        .dump_config
        .then(|| dump::Dump::new(&typed, &layers));
    let config = validate::config(typed).map_err(|e| layers.locate(e))?;
    match dump {
        Some(dump) => Err(Refused::Text(dump.text(&config))),
        None => Ok(config),
    }
}

/// The format that `--log-format` asks for, here or by its variable, as far as one can
/// tell without reading the rest: what is wrong with the rest is to be said in it.
pub fn log_format(argv: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> LogFormat {
    let words = argv.iter().map(|word| word.to_string_lossy());
    let words: Vec<_> = words.take_while(|word| word != "--").collect();
    let next = words.windows(2).filter(|pair| pair[0] == "--log-format");
    let next = next.map(|pair| pair[1].as_ref());
    let own = words.iter().filter_map(|w| w.strip_prefix("--log-format="));
    let json = match next.chain(own).last() {
        Some(format) => format == "json",
        None => env("ECHOD_LOG_FORMAT").is_some_and(|format| format == "json"),
    };
    if json {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}

#[cfg(test)]
mod tests;

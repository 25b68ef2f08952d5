//! What was typed: the command lines, by clap; and what it means.
//!
//! For [`echod`] that is a [`crate::config`]. [`echoc`] and [`echoload`] are the programs
//! too.

pub mod echoc;
pub mod echod;
pub mod echoload;

use std::error::Error as _;
use std::ops::RangeInclusive;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use crate::error::Error;

/// A program's options, for which `--idle-timeout -1` is a wrong duration and no
/// unknown option -1.
pub fn command<Args: CommandFactory>() -> Command {
    Args::command().mut_args(|arg| match is_number(&arg) {
        true => arg.allow_hyphen_values(true),
        false => arg,
    })
}

/// Does the option take something that begins with a digit, whatever is typed?
fn is_number(arg: &Arg) -> bool {
    let name = arg.get_value_names().and_then(|names| names.first());
    let numbers = [
        "N",
        "N/DURATION",
        "N[/V4:V6]",
        "N|forever",
        "DURATION",
        "BYTES",
        "COUNT",
        "RATE",
        "FD",
        "PID",
        "MS",
    ];
    name.is_some_and(|name| !arg.is_positional() && numbers.contains(&name.as_str()))
}

/// A clap error as one line, or its help text; and the status to leave with.
pub fn explain(error: &clap::Error) -> Unparsed {
    if !error.use_stderr() {
        return Ok(error.to_string());
    }
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        Some(ContextValue::Strings(words)) => words.first().cloned(),
        _ => None,
    };
    let (option, value) = (
        word(ContextKind::InvalidArg),
        word(ContextKind::InvalidValue),
    );
    if let (Some(option), Some(value)) = (option, value)
        && error.kind() == ErrorKind::ValueValidation
    {
        let option = option.split(' ').next().unwrap_or_default();
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        // It may begin with what could not be read, which stands here already.
        let named = [format!("'{value}': "), format!("{value}: ")];
        let rest = named.iter().find_map(|named| why.strip_prefix(named));
        let why = rest.unwrap_or(&why);
        return Err(Error::usage(format_args!("{option} {value}"), why));
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = first.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let near = word(ContextKind::SuggestedArg).or_else(|| word(ContextKind::SuggestedValue));
    let hint = near.map_or("see --help".to_owned(), |near| {
        format!("did you mean {near}?")
    });
    Err(Error::usage(line, hint))
}

/// A host and a port as two words, as one address.
fn host_and_port(host: &str, port: &str) -> String {
    let bare = host.split('%').next().unwrap_or(host);
    match bare.parse::<std::net::Ipv6Addr>() {
        Ok(_) => format!("[{host}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// A command line that is not to be run: help to print, or a usage error.
pub type Unparsed = Result<String, Error>;

/// A whole number of this range, `10k` and `2M` too, and what to say of another.
fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 1000),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 1_000_000),
            _ => (text, 1),
        };
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|_| plain);
        number
            .and_then(|number| number.checked_mul(unit))
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number, {} to {}", range.start(), range.end()))
    }
}

//! echod's command line. The page is man/echod.8; a test holds the two to each
//! other. `args` is what can be typed, `layers` what a configuration file and the
//! environment add to it, `conflicts` what does not go together, and `validate` makes
//! a [`Config`] of the rest. What is in force, `Dump` says.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, CommandFactory};
use toml::Value;

use crate::addr::ListenSpec;
use crate::cli::echod::args::{Args, Typed};
use crate::cli::echod::conflicts::word;
use crate::cli::echod::layers::{Layers, NOT_IN_A_FILE, Source};
use crate::config::{Accept, Config, LogFormat, Model};
use crate::error::Error;

pub mod args;
mod conflicts;
pub mod layers;
mod validate;

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    crate::cli::command::<Args>()
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
    let refused = |error: &clap::Error| match crate::cli::explain(error) {
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
    let dump = typed.args.dump_config.then(|| Dump::new(&typed, &layers));
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

// The configuration in force, as a file that means the same.

/// One key of it.
struct Key {
    name: String,
    /// What was given, or the default as the page has it.
    values: Vec<String>,
    action: ArgAction,
    source: Option<Source>,
}

/// All of it, as far as it was typed; see [`Dump::text`].
struct Dump(Vec<Key>);

impl Dump {
    /// Takes it down before it is made a [`Config`] of.
    pub fn new(typed: &Typed, layers: &Layers) -> Self {
        let command = Args::command();
        let keys = command.get_arguments().filter_map(|arg| {
            let name = arg.get_long()?.to_owned();
            let values = match arg.get_action() {
                ArgAction::Count if name == "verbose" => vec![typed.args.verbose.to_string()],
                ArgAction::Count => vec![typed.args.quiet.to_string()],
                _ => typed.texts(arg.get_id().as_str()),
            };
            Some(Key {
                values,
                action: arg.get_action().clone(),
                source: layers.sources.get(&name).cloned(),
                name,
            })
        });
        let in_a_file = |key: &Key| !NOT_IN_A_FILE.contains(&key.name.as_str());
        Dump(keys.filter(in_a_file).collect())
    }

    /// A line for each key, and where its value came from; a default stands in a
    /// comment, with the value that it has in this configuration, so that options
    /// which the design cannot use are not given when the file is read again.
    pub fn text(&self, config: &Config) -> String {
        let fitted = fitted(config);
        let line = |key: &Key| match &key.source {
            Some(source) => format!("{} = {}  # {source}\n", key.name, key.value(&key.values)),
            None => {
                let values = fitted
                    .get(key.name.as_str())
                    .map(|value| vec![value.clone()]);
                let values = values.unwrap_or_else(|| key.values.clone());
                match values.is_empty() && !matches!(key.action, ArgAction::Append) {
                    true => format!("# {} =  # not given\n", key.name),
                    false => format!("# {} = {}  # default\n", key.name, key.value(&values)),
                }
            }
        };
        self.0.iter().map(line).collect()
    }
}

impl Key {
    fn value(&self, values: &[String]) -> Value {
        let scalar = |text: &String| match (text.parse::<i64>(), text.parse::<bool>()) {
            (Ok(number), _) if number.to_string() == *text => Value::Integer(number),
            (_, Ok(yes)) => Value::Boolean(yes),
            _ => Value::String(text.clone()),
        };
        match (&self.action, values) {
            (ArgAction::Append, values) => Value::Array(values.iter().map(scalar).collect()),
            (_, [value]) => scalar(value),
            (_, _) => Value::Boolean(false),
        }
    }
}

/// Defaults that fit themselves to what was given, as they are in force.
fn fitted(config: &Config) -> BTreeMap<&'static str, String> {
    let mut fitted = BTreeMap::from([("max-clients", config.max_clients.to_string())]);
    if let Model::Prefork { pool, .. } | Model::Prethread { pool, .. } = config.model {
        fitted.insert("start-servers", pool.start.to_string());
        fitted.insert("min-spare-servers", pool.min_spare.to_string());
        fitted.insert("max-spare-servers", pool.max_spare.to_string());
    }
    match config.model {
        Model::Prefork { accept, .. } => fitted.insert("accept", word(accept)),
        Model::Prethread { accept, .. } => fitted.insert("accept", word(Accept::from(accept))),
        _ => None,
    };
    if config.log.assumed {
        fitted.insert("log-target", "syslog".to_owned());
    }
    fitted
}

#[cfg(test)]
mod tests;

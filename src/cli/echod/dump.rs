//! The configuration in force, as a file that means the same.

use std::collections::BTreeMap;

use clap::{ArgAction, CommandFactory};
use toml::Value;

use super::args::{Args, Typed};
use super::conflicts::word;
use super::layers::{Layers, NOT_IN_A_FILE, Source};
use crate::config::{Accept, Config, Model};

/// One key of it.
struct Key {
    name: String,
    /// What was given, or the default as the page has it.
    values: Vec<String>,
    action: ArgAction,
    source: Option<Source>,
}

/// All of it, as far as it was typed; see [`Dump::text`].
pub struct Dump(Vec<Key>);

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

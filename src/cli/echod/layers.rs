//! Where values come from: the command line, `ECHOD_*` in the environment, the
//! configuration file, and the defaults, in this order.
//!
//! A file and the environment become words before the command line, and clap
//! reads all of them: so there is one parser, and one meaning, for all three.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Exit, Result};

/// What a file cannot say: which file it is, and that nothing is to be served.
pub(super) const NOT_IN_A_FILE: [&str; 5] = ["config", "check", "dump-config", "help", "version"];

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This variable.
    Variable(String),
    /// This line of the file.
    File(PathBuf, usize),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Variable(name) => f.write_str(name),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One key of a file, or one variable, as words that clap understands.
#[derive(Clone, Debug)]
struct Said {
    key: String,
    words: Vec<OsString>,
    source: Source,
}

/// A command line with what file and environment say before it.
#[derive(Debug, Default)]
pub struct Layers {
    /// For clap; the program's name is first.
    pub words: Vec<OsString>,
    /// By long name, for what a layer gives.
    pub sources: BTreeMap<String, Source>,
    /// What the file says and a higher layer says otherwise.
    pub hidden: Vec<Hidden>,
}

/// A key of the file that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Its name.
    pub key: String,
    /// What hides it.
    pub by: Source,
}

/// Lays the file at `path` and the variables before `argv`, of which `given` are
/// the long names of the options in it.
///
/// # Errors
/// Every mistake of the file and of the environment.
pub fn lay(
    command: &Command,
    argv: Vec<OsString>,
    given: &[String],
    env: impl Fn(&str) -> Option<OsString>,
    path: Option<&Path>,
) -> std::result::Result<Layers, Vec<Error>> {
    let mut layers = Layers::default();
    let mut errors = Vec::new();
    let mut take = |said: std::result::Result<Vec<Said>, Vec<Error>>| match said {
        Ok(said) => said,
        Err(mut more) => {
            errors.append(&mut more);
            Vec::new()
        }
    };
    let variables = take(variables(command, env));
    let file = take(path.map_or(Ok(Vec::new()), |path| read(command, path)));
    if !errors.is_empty() {
        return Err(errors);
    }
    for key in given {
        layers.sources.insert(key.clone(), Source::Flag);
    }
    let mut words: Vec<OsString> = argv.first().cloned().into_iter().collect();
    for (said, is_file) in variables
        .into_iter()
        .map(|said| (said, false))
        .chain(file.into_iter().map(|said| (said, true)))
    {
        // Of these two, one says what the other does.
        let twin = match said.key.as_str() {
            "verbose" => "quiet",
            "quiet" => "verbose",
            key => key,
        };
        let above = [said.key.as_str(), twin]
            .into_iter()
            .filter_map(|key| layers.sources.get(key))
            .find(|above| std::mem::discriminant(*above) != std::mem::discriminant(&said.source));
        match above {
            Some(by) => {
                let (key, by) = (said.key, by.clone());
                layers.hidden.extend(is_file.then_some(Hidden { key, by }));
            }
            None => {
                layers.sources.insert(said.key, said.source);
                words.extend(said.words);
            }
        }
    }
    words.extend(argv.into_iter().skip(1));
    layers.words = words;
    Ok(layers)
}

impl Layers {
    /// Says where the first option that `error` names came from, if that is not the
    /// command line.
    pub fn locate(&self, error: Error) -> Error {
        let said = error.to_string();
        let named = said
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .filter_map(|word| word.strip_prefix("--"));
        for key in named {
            match self.sources.get(key) {
                None | Some(Source::Flag) => {}
                Some(source @ Source::File(..)) => {
                    return Error::usage(format!("{source}: {said}"), "").exit(Exit::Config);
                }
                Some(source) => {
                    return Error::usage(format!("{source}: {said}"), "").exit(error.status());
                }
            }
        }
        error
    }
}

/// The variable that stands for an option: `ECHOD_MAX_CLIENTS`.
pub fn variable(key: &str) -> String {
    format!("ECHOD_{}", key.replace('-', "_").to_ascii_uppercase())
}

/// The options that `command` has beside those for help, by their long names.
fn options(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg)))
}

fn variables(
    command: &Command,
    env: impl Fn(&str) -> Option<OsString>,
) -> std::result::Result<Vec<Said>, Vec<Error>> {
    let mut all = Vec::new();
    let mut errors = Vec::new();
    for (key, arg) in options(command).filter(|(key, _)| !NOT_IN_A_FILE.contains(key)) {
        let name = variable(key);
        let Some(value) = env(&name) else { continue };
        let source = Source::Variable(name);
        let values: Vec<OsString> = match arg.get_action() {
            // What may be repeated is a list, with blanks between.
            ArgAction::Append => value
                .as_bytes()
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .map(|word| OsString::from_vec(word.to_vec()))
                .collect(),
            _ => vec![value],
        };
        match words(command, arg, key, values) {
            Ok(words) => all.push(Said {
                key: key.to_owned(),
                words,
                source,
            }),
            Err(why) => {
                errors.push(Error::usage(format!("{source}: {why}"), "").exit(Exit::Usage));
            }
        }
    }
    if errors.is_empty() {
        Ok(all)
    } else {
        Err(errors)
    }
}

fn read(command: &Command, path: &Path) -> std::result::Result<Vec<Said>, Vec<Error>> {
    parse(command, path, &read_file(path).map_err(|e| vec![e])?)
}

/// The text of a configuration file.
///
/// # Errors
/// open(2)'s and read(2)'s, a file that is too large, one that is not text.
fn read_file(path: &Path) -> Result<String> {
    let subject = path.display();
    let os = |op: &str, error: &std::io::Error| {
        let errno = error
            .raw_os_error()
            .map_or(nix::errno::Errno::EIO, nix::errno::Errno::from_raw);
        Error::os(op, subject.to_string(), errno).exit(Exit::Config)
    };
    let file = std::fs::File::open(path).map_err(|e| os("open", &e))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| os("read", &e))?;
    let bad = |why: &str| Error::usage(subject.to_string(), why).exit(Exit::Config);
    if bytes.len() as u64 > LARGEST {
        return Err(bad("larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| bad("not text in UTF-8"))
}

/// What the text of a file says, key by key.
///
/// # Errors
/// Each of its mistakes, with its line.
fn parse(command: &Command, path: &Path, text: &str) -> std::result::Result<Vec<Said>, Vec<Error>> {
    let line = |at: usize| {
        1 + text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
    };
    let mistake = |line: usize, what: &str| {
        Error::usage(format!("{}:{line}: {what}", path.display()), "").exit(Exit::Config)
    };
    let (table, bad) = DeTable::parse_recoverable(text);
    let mut errors: Vec<(usize, Error)> = bad
        .iter()
        .map(|e| (e.span().map_or(1, |span| line(span.start)), e.message()))
        .map(|(at, what)| (at, mistake(at, what)))
        .collect();
    let mut all = Vec::new();
    if errors.is_empty() {
        for (key, value) in table.get_ref() {
            let at = line(key.span().start);
            let key: &str = key.get_ref();
            match entry(command, key, value) {
                Ok(words) => all.push((
                    at,
                    Said {
                        key: key.to_owned(),
                        words,
                        source: Source::File(path.to_owned(), at),
                    },
                )),
                Err(why) => errors.push((at, mistake(at, &why))),
            }
        }
    }
    errors.sort_by_key(|(at, _)| *at);
    all.sort_by_key(|(at, _)| *at);
    if errors.is_empty() {
        Ok(all.into_iter().map(|(_, said)| said).collect())
    } else {
        Err(errors.into_iter().map(|(_, error)| error).collect())
    }
}

fn entry(
    command: &Command,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> std::result::Result<Vec<OsString>, String> {
    let known = options(command)
        .filter(|(long, _)| !NOT_IN_A_FILE.contains(long))
        .find(|(long, _)| *long == key);
    let Some((_, arg)) = known else {
        return Err(match nearest(command, key) {
            Some(near) => format!("{key}: unknown key; {near}?"),
            None => format!("{key}: unknown key"),
        });
    };
    let repeatable = matches!(arg.get_action(), ArgAction::Append);
    let values = match value.get_ref() {
        DeValue::Array(values) if repeatable => {
            let values = values.iter().map(|value| scalar(value.get_ref()));
            values.collect::<Option<Vec<_>>>()
        }
        DeValue::Array(_) => return Err(format!("{key}: takes one value, not a list")),
        value => scalar(value).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| format!("{key}: a string, a number or a boolean"))?;
    words(command, arg, key, values)
}

/// A value as it would be typed.
fn scalar(value: &DeValue<'_>) -> Option<OsString> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
            number.to_string().into()
        }
        DeValue::Float(number) => number.as_str().replace('_', "").into(),
        DeValue::Boolean(yes) => yes.to_string().into(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// An option with these values, for clap, which is asked what it thinks of them.
fn words(
    command: &Command,
    arg: &Arg,
    key: &str,
    values: Vec<OsString>,
) -> std::result::Result<Vec<OsString>, String> {
    let words: Vec<OsString> = match arg.get_action() {
        ArgAction::SetTrue => match one(&values) {
            Some("true" | "1") => vec![format!("--{key}").into()],
            Some("false" | "0") => Vec::new(),
            _ => return Err(format!("{key}: true or false")),
        },
        ArgAction::Count => {
            let times = match one(&values) {
                Some("true") => Some(1),
                Some("false") => Some(0),
                Some(number) => number.parse::<u8>().ok(),
                None => None,
            };
            let times = times.ok_or_else(|| format!("{key}: how many times, as a number"))?;
            vec![format!("--{key}").into(); times.into()]
        }
        _ => values
            .iter()
            .map(|value| {
                let mut word = OsString::from(format!("--{key}="));
                word.push(value);
                word
            })
            .collect(),
    };
    let alone = std::iter::once(OsString::from("echod")).chain(words.iter().cloned());
    match command.clone().try_get_matches_from(alone) {
        Ok(_) => Ok(words),
        Err(error) => match crate::cli::explain(&error) {
            Ok(_) => Err(format!("{key}: unknown key")),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn one(values: &[OsString]) -> Option<&str> {
    match values {
        [value] => value.to_str(),
        _ => None,
    }
}

/// The option with the most similar name.
fn nearest(command: &Command, key: &str) -> Option<String> {
    let typed = [OsStr::new("echod").to_owned(), format!("--{key}").into()];
    let error = command.clone().try_get_matches_from(typed).err()?;
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let ContextValue::String(near) = error.get(ContextKind::SuggestedArg)? else {
        return None;
    };
    let near = near.trim_start_matches('-');
    (!NOT_IN_A_FILE.contains(&near)).then(|| near.to_owned())
}

/// Takes any text for a configuration file. For fuzzers.
///
/// # Errors
/// Each of its mistakes.
pub fn check_text(text: &str) -> std::result::Result<(), Vec<Error>> {
    use clap::CommandFactory;
    let command = super::args::Args::command();
    parse(&command, Path::new("echod.toml"), text).map(|_| ())
}

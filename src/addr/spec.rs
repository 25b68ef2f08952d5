//! A listener as typed: an address and, after commas, how to open it.
//!
//! Reads and prints `unix:/run/echod.sock,mode=0660,group=www-data`, and
//! refuses what cannot be meant (a mode on a TCP port) naming the key. Knows
//! no socket, and neither users nor services: whether those exist is found
//! out when the listener is opened.

use std::fmt;
use std::str::FromStr;

use super::{Addr, UnixPath, Whose, parse, usage};
use crate::error::Error;

/// A listener asked for: `--listen ADDR[,KEY=VALUE...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// Where.
    pub addr: Addr,
    /// How.
    pub attrs: Attrs,
}

/// What follows the commas; `None` is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// What is served there.
    pub service: Option<String>,
    /// Permission bits of the socket file.
    pub mode: Option<u32>,
    /// Owner of the socket file, by name or number.
    pub user: Option<String>,
    /// Group of the socket file, by name or number.
    pub group: Option<String>,
    /// listen(2)'s backlog, in connections.
    pub backlog: Option<u32>,
    /// Bind an address this machine does not have yet.
    pub freebind: bool,
}

impl From<Addr> for ListenSpec {
    fn from(addr: Addr) -> Self {
        let attrs = Attrs::default();
        ListenSpec { addr, attrs }
    }
}

impl FromStr for ListenSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (addr, given) = split_attrs(text);
        let addr = parse(text, &addr, Whose::Server)?;
        let mut attrs = Attrs::default();
        for (n, attr) in given.iter().enumerate() {
            let key = key_of(attr);
            if given[..n].iter().any(|earlier| key_of(earlier) == key) {
                return Err(usage(text, format_args!("{key} is given twice")));
            }
            if let Some(why) = misplaced(&addr, key) {
                return Err(usage(text, format_args!("{key}: {why}")));
            }
            let value = attr.split_once('=').map(|(_, value)| value);
            attrs
                .set(key, value)
                .map_err(|why| usage(text, format_args!("{key}: {why}")))?;
        }
        Ok(ListenSpec { addr, attrs })
    }
}

fn key_of(attr: &str) -> &str {
    attr.split_once('=').map_or(attr, |(key, _)| key)
}

/// Why this key means nothing at this address.
fn misplaced(addr: &Addr, key: &str) -> Option<&'static str> {
    let (inet, stream, abstract_name) = match addr {
        Addr::Tcp { .. } => (true, true, false),
        Addr::Udp { .. } => (true, false, false),
        Addr::Unix(path) => (false, true, matches!(path, UnixPath::Abstract(_))),
        Addr::UnixGram(path) => (false, false, matches!(path, UnixPath::Abstract(_))),
    };
    match key {
        "mode" | "user" | "group" if inet => Some("only a Unix socket has a file"),
        "mode" | "user" | "group" if abstract_name => Some("an abstract socket has no file"),
        "freebind" if !inet => Some("only for tcp and udp"),
        "backlog" if !stream => Some("only for tcp and unix"),
        _ => None,
    }
}

impl Attrs {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        if key == "freebind" {
            self.freebind = true;
            return match value {
                None => Ok(()),
                Some(_) => Err("takes no value".to_owned()),
            };
        }
        let text = || match value {
            None | Some("") => Err(format!("needs a value, as in {key}=VALUE")),
            Some(value) => Ok(value),
        };
        match key {
            "service" => self.service = Some(text()?.to_owned()),
            "user" => self.user = Some(text()?.to_owned()),
            "group" => self.group = Some(text()?.to_owned()),
            "mode" => self.mode = Some(parse_mode(text()?)?),
            "backlog" => self.backlog = Some(parse_backlog(text()?)?),
            _ => {
                let known = "service mode user group backlog freebind";
                return Err(format!("unknown attribute; there are {known}"));
            }
        }
        Ok(())
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err("expected permission bits in octal, as in 0660".to_owned()),
    }
}

fn parse_backlog(text: &str) -> Result<u32, String> {
    // listen(2) takes an int.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(n) if digits && (1..=i32::MAX as u32).contains(&n) => Ok(n),
        _ => Err("expected a number from 1 to 2147483647".to_owned()),
    }
}

/// The address and its attributes, each with `\,` turned into a comma. Any
/// other backslash stands for itself.
pub(crate) fn split_attrs(text: &str) -> (String, Vec<String>) {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => chars.next_if_eq(&',').unwrap_or('\\'),
            ',' => {
                parts.push(String::new());
                continue;
            }
            other => other,
        };
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    let addr = parts.remove(0);
    (addr, parts)
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attrs {
            service,
            mode,
            user,
            group,
            backlog,
            freebind,
        } = &self.attrs;
        write!(f, "{}", self.addr)?;
        let named = |f: &mut fmt::Formatter<'_>, key: &str, value: &Option<String>| match value {
            Some(value) => write!(f, ",{key}={}", value.replace(',', "\\,")),
            None => Ok(()),
        };
        named(f, "service", service)?;
        if let Some(mode) = mode {
            write!(f, ",mode={mode:04o}")?;
        }
        named(f, "user", user)?;
        named(f, "group", group)?;
        if let Some(backlog) = backlog {
            write!(f, ",backlog={backlog}")?;
        }
        if *freebind {
            f.write_str(",freebind")?;
        }
        Ok(())
    }
}

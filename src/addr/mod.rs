//! Addresses: what `tcp:[::1]:7777` or `unix:@name` means, and how it is
//! written back; a listener as it is typed, an address with attributes; and a
//! [`Target`], an address that a client calls.
//!
//! One syntax for every program, the configuration and the logs: what
//! [`Addr`] prints, [`Addr::from_str`] reads. Parsing touches nothing; only
//! [`Addr::resolve`] asks the resolver, and so does [`Target::resolve`]. Knows no socket.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::socket::UnixAddr;

use crate::error::{Error, Exit};

pub use crate::sys::sockopt::Peer;

/// The longest Unix socket path in bytes: `sun_path` less its final NUL, see
/// `unix(7)`. An abstract name may be as long.
const UNIX_PATH_MAX: usize = 107;

/// Where a server listens or a client connects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    /// `tcp:HOST:PORT`, or a bare `HOST:PORT`; port 0 lets the kernel pick.
    #[allow(missing_docs)]
    Tcp { host: Host, port: u16 },
    /// `udp:HOST:PORT`.
    #[allow(missing_docs)]
    Udp { host: Host, port: u16 },
    /// `unix:PATH`, a stream socket.
    Unix(UnixPath),
    /// `unixgram:PATH`, a datagram socket.
    UnixGram(UnixPath),
}

/// The host part of an Internet address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// `*`: every address of both families.
    Any,
    /// A numeric IPv4 address.
    V4(Ipv4Addr),
    /// A numeric IPv6 address, written in brackets.
    V6(Ipv6Addr),
    /// A name for the resolver, or an IPv6 address with a zone (`fe80::1%eth0`).
    Name(String),
}

/// The name of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixPath {
    /// A file.
    Path(PathBuf),
    /// A name in the abstract namespace, without its leading `@` or NUL.
    Abstract(Vec<u8>),
}

impl Addr {
    /// Reads the address of a server that a client calls: of one host, with a
    /// port. What is said of another is nothing that only a server may be given.
    ///
    /// # Errors
    /// There is no such address, or it stands for no one server (64).
    pub fn of_server(text: &str) -> Result<Addr, Error> {
        match read(text, Whose::Client)? {
            Addr::Tcp {
                host: Host::Any, ..
            }
            | Addr::Udp {
                host: Host::Any, ..
            } => Err(usage(text, "* is for servers: name one host")),
            Addr::Tcp { port: 0, .. } | Addr::Udp { port: 0, .. } => {
                Err(usage(text, "port 0 is for servers"))
            }
            addr => Ok(addr),
        }
    }

    /// Asks the resolver, each time anew, which socket addresses a `tcp` or
    /// `udp` address stands for; `*` is 0.0.0.0 and `[::]`. Never empty, and no
    /// address twice.
    ///
    /// # Errors
    /// The host is not known (69, with the resolver's words), or this is a
    /// Unix address (64).
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let (host, port) = match self {
            Addr::Tcp { host, port } | Addr::Udp { host, port } => (host, *port),
            Addr::Unix(_) | Addr::UnixGram(_) => {
                return Err(usage(self, "a Unix socket has no Internet address"));
            }
        };
        match host {
            Host::Any => Ok(vec![
                (Ipv4Addr::UNSPECIFIED, port).into(),
                (Ipv6Addr::UNSPECIFIED, port).into(),
            ]),
            Host::V4(ip) => Ok(vec![(*ip, port).into()]),
            Host::V6(ip) => Ok(vec![(*ip, port).into()]),
            Host::Name(name) => self.look_up(name, port),
        }
    }

    /// Is it served by datagrams?
    pub fn is_datagram(&self) -> bool {
        matches!(self, Addr::Udp { .. } | Addr::UnixGram(_))
    }

    fn look_up(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let unknown =
            |why: &str| Error::usage(format_args!("resolve {self}"), why).exit(Exit::Unavailable);
        crate::sys::startup::built_in_only();
        let found = (name, port).to_socket_addrs().map_err(|error| {
            // The standard library's preamble says what "resolve" says.
            unknown(
                error
                    .to_string()
                    .trim_start_matches("failed to lookup address information: "),
            )
        })?;
        let mut addrs = Vec::new();
        for addr in found {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        if addrs.is_empty() {
            return Err(unknown("the name has no address"));
        }
        Ok(addrs)
    }
}

impl FromStr for Addr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        read(text, Whose::Server)
    }
}

/// `tcp://h:1` as `tcp:h:1`: what people know from other programs.
fn without_slashes(text: &str) -> String {
    let url = ["tcp:", "udp:", "unix:", "unixgram:"]
        .into_iter()
        .find_map(|scheme| {
            let rest = text.strip_prefix(scheme)?.strip_prefix("//")?;
            Some(match scheme.starts_with("unix") {
                true => format!("{scheme}{rest}"),
                false => format!("{scheme}{}", rest.strip_suffix('/').unwrap_or(rest)),
            })
        });
    url.unwrap_or_else(|| text.to_owned())
}

/// Whose command line an address stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Server,
    Client,
}

fn read(text: &str, whose: Whose) -> Result<Addr, Error> {
    let (addr, attrs) = split_attrs(text);
    match attrs.first() {
        None => parse(text, &addr, whose),
        Some(_) => Err(usage(
            text,
            "attributes belong to a listener; a comma in a path is written \\,",
        )),
    }
}

/// Reads an address whose `\,` are already commas. `typed` is what the
/// message quotes.
fn parse(typed: &str, addr: &str, whose: Whose) -> Result<Addr, Error> {
    if addr.chars().any(char::is_control) {
        return Err(usage(typed, "an address holds no control characters"));
    }
    let addr = &*without_slashes(addr);
    if let Some(path) = addr.strip_prefix("unix:") {
        return Ok(Addr::Unix(parse_path(typed, path)?));
    }
    if let Some(path) = addr.strip_prefix("unixgram:") {
        return Ok(Addr::UnixGram(parse_path(typed, path)?));
    }
    if let Some(rest) = addr.strip_prefix("udp:") {
        let (host, port) = parse_inet(typed, "udp", rest, whose)?;
        return Ok(Addr::Udp { host, port });
    }
    let rest = addr.strip_prefix("tcp:").unwrap_or(addr);
    let (host, port) = parse_inet(typed, "tcp", rest, whose)?;
    Ok(Addr::Tcp { host, port })
}

fn parse_path(typed: &str, path: &str) -> Result<UnixPath, Error> {
    let (name, parsed) = match path.strip_prefix('@') {
        Some(name) => (name, UnixPath::Abstract(name.as_bytes().to_vec())),
        None => (path, UnixPath::Path(PathBuf::from(path))),
    };
    if name.is_empty() {
        return Err(usage(typed, "the path is empty"));
    }
    check_length(typed, name.len())?;
    if let UnixPath::Path(path) = &parsed
        && (name.ends_with('/') || name.ends_with("/.") || path.file_name().is_none())
    {
        return Err(usage(typed, "the path names a directory"));
    }
    Ok(parsed)
}

/// Refuses a Unix path of more than [`UNIX_PATH_MAX`] bytes.
pub(crate) fn check_length(typed: impl fmt::Display, bytes: usize) -> Result<(), Error> {
    if bytes > UNIX_PATH_MAX {
        let why = format!("path too long: {bytes} bytes, at most {UNIX_PATH_MAX}");
        return Err(usage(typed, why));
    }
    Ok(())
}

/// An IPv6 address without its brackets, and perhaps with its interface.
fn is_bare_v6(host: &str) -> bool {
    let ip = host.split_once('%').map_or(host, |(ip, _)| ip);
    ip.parse::<Ipv6Addr>().is_ok() || host.starts_with(':')
}

fn parse_inet(typed: &str, scheme: &str, text: &str, whose: Whose) -> Result<(Host, u16), Error> {
    let shape = match whose {
        Whose::Server => "expected HOST:PORT, [V6]:PORT or *:PORT, or unix:PATH for a Unix socket",
        Whose::Client => "expected HOST:PORT, [V6]:PORT, or unix:PATH for a Unix socket",
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(|| usage(typed, shape))?;
    let host = parse_host(typed, host, whose)?;
    Ok((host, parse_port(typed, scheme, port)?))
}

fn parse_host(typed: &str, host: &str, whose: Whose) -> Result<Host, Error> {
    if let Some(inner) = host.strip_prefix('[') {
        let v6 = inner.strip_suffix(']').and_then(parse_v6);
        if let Some(Host::V6(ip)) = v6
            && ip.is_unicast_link_local()
        {
            let why = format_args!(
                "every interface has link-local addresses: say which, as in [{ip}%eth0]"
            );
            return Err(usage(typed, why));
        }
        return v6.ok_or_else(|| {
            usage(
                typed,
                "expected an IPv6 address and a port, as in [::1]:7777",
            )
        });
    }
    match host {
        "*" => Ok(Host::Any),
        "" if whose == Whose::Client => Err(usage(typed, "the host is missing")),
        "" => Err(usage(typed, "the host is missing; *:PORT is every address")),
        _ if is_bare_v6(host) => Err(usage(
            typed,
            "an IPv6 address stands in brackets, as in [::1]:7777",
        )),
        _ if host.contains(':') => Err(usage(
            typed,
            "unknown scheme; there are tcp: udp: unix: and unixgram:",
        )),
        _ if host
            .chars()
            .any(|c| c.is_whitespace() || "/[]@\\*,".contains(c)) =>
        {
            Err(usage(
                typed,
                "not a host name; a Unix socket is written unix:PATH",
            ))
        }
        _ => Ok(match host.parse() {
            Ok(ip) => Host::V4(ip),
            Err(_) => Host::Name(host.to_owned()),
        }),
    }
}

/// An IPv6 address, or one with a zone, which only the resolver can number.
fn parse_v6(text: &str) -> Option<Host> {
    match text.split_once('%') {
        None => text.parse().ok().map(Host::V6),
        Some((ip, zone)) => {
            let plain = zone
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"],".contains(&b));
            (ip.parse::<Ipv6Addr>().is_ok() && plain && !zone.is_empty())
                .then(|| Host::Name(text.to_owned()))
        }
    }
}

/// A number, or a name of services(5).
fn parse_port(typed: &str, scheme: &str, port: &str) -> Result<u16, Error> {
    // u16::from_str would take "+7777".
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => return Ok(port),
        _ if port.contains(|c: char| c.is_ascii_alphabetic()) => {}
        _ => return Err(usage(typed, "a port is a number from 0 to 65535")),
    }
    let services = std::fs::read_to_string(SERVICES).unwrap_or_default();
    service(&services, port, scheme).ok_or_else(|| {
        let why = format_args!(
            "no {scheme} service {port} in {SERVICES}; a port is a number from 0 to 65535, \
             or a name from there"
        );
        usage(typed, why)
    })
}

/// Names of ports, see services(5).
const SERVICES: &str = "/etc/services";

/// The port of a service in the text of [`SERVICES`]: `echo 7/tcp alias # comment`.
fn service(services: &str, name: &str, protocol: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let (port, its) = words.next()?.split_once('/')?;
        let named = first == name || words.any(|alias| alias == name);
        (its == protocol && named).then(|| port.parse().ok())?
    })
}

/// A usage error that stays on one line whatever was typed.
fn usage(typed: impl fmt::Display, why: impl fmt::Display) -> Error {
    let typed = typed.to_string();
    let safe = typed.chars().map(|c| if c.is_control() { '?' } else { c });
    Error::usage(safe.collect::<String>(), why)
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Addr::Udp { host, port } => write!(f, "udp:{host}:{port}"),
            Addr::Unix(path) => write!(f, "unix:{path}"),
            Addr::UnixGram(path) => write!(f, "unixgram:{path}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Any => f.write_str("*"),
            Host::V4(ip) => ip.fmt(f),
            Host::V6(ip) => write!(f, "[{ip}]"),
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, bytes) = match self {
            UnixPath::Path(path) => ("", path.as_os_str().as_bytes()),
            UnixPath::Abstract(name) => ("@", name.as_slice()),
        };
        let text = String::from_utf8_lossy(bytes).replace(',', "\\,");
        write!(f, "{at}{text}")
    }
}

// A listener as typed: an address and, after commas, how to open it.
//
// Reads and prints `unix:/run/echod.sock,mode=0660,group=www-data`, and
// refuses what cannot be meant (a mode on a TCP port) naming the key. Knows
// no socket, and neither users nor services: whether those exist is found
// out when the listener is opened.

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
    /// The interface that clients come by.
    pub device: Option<String>,
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
        "freebind" | "device" if !inet => Some("only for tcp and udp"),
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
            "device" => self.device = Some(parse_device(text()?)?),
            _ => {
                let known = "service mode user group backlog freebind device";
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

fn parse_device(text: &str) -> Result<String, String> {
    // As the kernel's dev_valid_name(), whose longest is 15 bytes.
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    match text {
        "." | ".." => {}
        name if name.len() <= 15 && !name.contains(bad) => return Ok(name.to_owned()),
        _ => {}
    }
    Err("expected an interface, as in eth0".to_owned())
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
            device,
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
        named(f, "device", device)?;
        Ok(())
    }
}

/// Whom a client calls: an address that names one server, as it was asked for. A name
/// is resolved at each attempt, and never kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Addr);

/// One address that connect(2) takes.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A path or an abstract name.
    Unix(UnixAddr),
}

impl Target {
    /// Every address it has now, in the order to try them.
    ///
    /// # Errors
    /// The name is not known (69).
    pub fn resolve(&self) -> Result<Vec<Endpoint>, Error> {
        let (Addr::Unix(path) | Addr::UnixGram(path)) = &self.0 else {
            let all = self.0.resolve()?;
            return Ok(all.into_iter().map(Endpoint::Inet).collect());
        };
        match path {
            UnixPath::Path(path) => UnixAddr::new(path),
            UnixPath::Abstract(name) => UnixAddr::new_abstract(name),
        }
        .map(|addr| vec![Endpoint::Unix(addr)])
        .map_err(|errno| Error::os("connect", self, errno).exit(Exit::Usage))
    }

    /// Is it served by datagrams?
    pub fn is_datagram(&self) -> bool {
        self.0.is_datagram()
    }

    /// The longest message it takes in one piece, in bytes; see udp(7).
    pub fn longest(&self) -> Option<u64> {
        match self.0 {
            Addr::Udp { .. } => Some(65_507),
            // What echod takes; the system's own limit depends on wmem.
            Addr::UnixGram(_) => Some(65_536),
            Addr::Tcp { .. } | Addr::Unix(_) => None,
        }
    }

    /// The address itself.
    pub fn addr(&self) -> &Addr {
        &self.0
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Addr::of_server(text).map(Target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;

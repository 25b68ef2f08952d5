//! Who may be served: networks and identities, which of them decides, what counts as
//! one source, and how many may come in a time. Decisions and no system call; the
//! page is echod(8), ACCESS.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::addr::Peer;
use crate::error::{Error, Result};
use crate::values::{self, Rate};

/// All that `--allow`, `--deny`, `--max-per-source`, `--connection-rate` and
/// `--exempt` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who is served at all.
    pub rules: Rules,
    /// Connections at once from one source; `None` is off.
    pub per_source: Option<PerSource>,
    /// New connections; `None` is off.
    pub rate: Option<Rate>,
    /// Who counts for neither.
    pub exempt: Vec<IpNet>,
}

impl Policy {
    /// Does it say nothing?
    pub fn is_off(&self) -> bool {
        self.rules.is_empty() && !self.counts()
    }

    /// Does anything depend on other connections, so that one process must see
    /// them all?
    pub fn counts(&self) -> bool {
        self.per_source.is_some() || self.rate.is_some()
    }

    /// Does this client count for the limits?
    pub fn is_counted(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => true,
            Peer::Inet(addr) => {
                let ip = addr.ip().to_canonical();
                !self.exempt.iter().any(|net| net.contains(&ip))
            }
        }
    }

    /// The source that a client counts for; `None` if it counts for none.
    pub fn source(&self, peer: Peer) -> Option<Source> {
        let Peer::Inet(addr) = peer else { return None };
        let source = self.per_source?.source(addr.ip());
        self.is_counted(peer).then_some(source)
    }

    /// One line for the log, if it says anything.
    pub fn describe(&self) -> Option<String> {
        let listed = [
            (self.rules.count(true), "allow"),
            (self.rules.count(false), "deny"),
            (self.exempt.len(), "exempt"),
        ];
        let mut parts: Vec<String> = Vec::new();
        if let Some(limit) = self.per_source {
            let PerSource { most, v4, v6 } = limit;
            let clients = values::plural(most.into(), "client");
            parts.push(format!("at most {clients} per source (/{v4}, /{v6})"));
        }
        if let Some(Rate { count, per }) = self.rate {
            let per = values::show(per);
            let connections = values::plural(count.into(), "new connection");
            parts.push(format!("at most {connections} in {per}"));
        }
        let listed = listed.iter().filter(|(n, _)| *n > 0);
        parts.extend(listed.map(|(n, option)| format!("{n} --{option}")));
        (!parts.is_empty()).then(|| format!("access: {}", parts.join(", ")))
    }
}

// Who is served at all: the rules of `--allow` and `--deny`, and which of them
// decides.

/// Whom an `--allow` or a `--deny` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Clients with an address.
    Net(IpNet),
    /// Clients of a Unix socket whose process has this user.
    Uid(u32),
    /// The same with this group.
    Gid(u32),
}

impl Who {
    /// How narrow it is: only the same kind is ever compared.
    fn length(self) -> u8 {
        match self {
            Who::Net(net) => net.prefix_len(),
            Who::Uid(_) => 2,
            Who::Gid(_) => 1,
        }
    }

    fn holds(self, client: Client) -> bool {
        match (self, client) {
            (Who::Net(net), Client::Inet(ip)) => net.contains(&ip),
            (Who::Uid(id), Client::Unix { uid, .. }) => id == uid,
            (Who::Gid(id), Client::Unix { gid, .. }) => id == gid,
            _ => false,
        }
    }

    /// Is it about clients with an address?
    pub fn is_net(self) -> bool {
        matches!(self, Who::Net(_))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Net(net) => net.fmt(f),
            Who::Uid(id) => write!(f, "uid:{id}"),
            Who::Gid(id) => write!(f, "gid:{id}"),
        }
    }
}

/// Who asks to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// From this address, an IPv4 one never written as IPv6: see
    /// [`Client::inet`].
    Inet(IpAddr),
    /// By a Unix socket, with the identity of when it connected.
    #[allow(missing_docs)]
    Unix { uid: u32, gid: u32 },
}

impl Client {
    /// From `ip`; `::ffff:192.0.2.7` is 192.0.2.7.
    pub fn inet(ip: IpAddr) -> Client {
        Client::Inet(ip.to_canonical())
    }
}

/// One `--allow` or `--deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    who: Who,
    allow: bool,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = if self.allow { "allow" } else { "deny" };
        write!(f, "--{option} {}", self.who)
    }
}

/// Why a client is refused by [`Rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By the rule with this index.
    Rule(usize),
    /// There is an `--allow` for its kind, and none holds it.
    Unlisted,
}

/// All of them, the one that decides first: the longest prefix, and of two that
/// are as long the one that denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Those of both options.
    pub fn new(allow: &[Who], deny: &[Who]) -> Rules {
        let rule = |allow| move |&who: &Who| Rule { who, allow };
        let denied = deny.iter().map(rule(false));
        let mut rules: Vec<_> = denied.chain(allow.iter().map(rule(true))).collect();
        // Stable: those that deny stay before the others.
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.who.length()));
        Rules(rules)
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many allow, or how many deny.
    fn count(&self, allow: bool) -> usize {
        self.0.iter().filter(|rule| rule.allow == allow).count()
    }

    /// The rule with this index.
    pub fn get(&self, index: usize) -> Option<&Rule> {
        self.0.get(index)
    }

    /// Is any about the identity of a Unix socket's client?
    pub fn ask_identity(&self) -> bool {
        self.0.iter().any(|rule| !rule.who.is_net())
    }

    /// Is this client served?
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, client: Client) -> std::result::Result<(), Refusal> {
        if let Some(index) = self.0.iter().position(|rule| rule.who.holds(client)) {
            return match self.0[index].allow {
                true => Ok(()),
                false => Err(Refusal::Rule(index)),
            };
        }
        let has_address = matches!(client, Client::Inet(_));
        let listed = |rule: &Rule| rule.allow && rule.who.is_net() == has_address;
        match self.0.iter().any(listed) {
            true => Err(Refusal::Unlisted),
            false => Ok(()),
        }
    }
}

// What counts as one source for `--max-per-source`: a network of so many bits.

/// `--max-per-source`: so many at once from each network of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Connections at once.
    pub most: u32,
    /// Bits of an IPv4 address that make a source.
    pub v4: u8,
    /// Bits of an IPv6 address that do.
    pub v6: u8,
}

/// A source, as the bits of its network: an IPv4 one written as IPv6, which
/// no other has since [`Client::inet`](Client::inet) writes those as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(pub u128);

impl PerSource {
    /// The one that this address belongs to.
    fn source(self, ip: IpAddr) -> Source {
        let (ip, length) = match ip.to_canonical() {
            IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 96 + self.v4),
            IpAddr::V6(ip) => (ip, self.v6),
        };
        let rest = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        Source(ip.to_bits() & !rest)
    }

    /// The network of a source.
    pub fn network(self, source: Source) -> impl fmt::Display {
        match Ipv6Addr::from_bits(source.0).to_canonical() {
            IpAddr::V4(ip) => format!("{ip}/{}", self.v4),
            IpAddr::V6(ip) => format!("{ip}/{}", self.v6),
        }
    }
}

/// `64` or `64/24:56`: so many per source of so many bits; `off` is no limit.
///
/// # Errors
/// A usage error with an example.
pub fn per_source(text: &str) -> Result<Option<PerSource>> {
    if text == "off" {
        return Ok(None);
    }
    let (most, lengths) = text.split_once('/').unwrap_or((text, "32:64"));
    let (v4, v6) = lengths.split_once(':').ok_or_else(|| {
        let why = "not a number such as 64, with prefix lengths such as 64/24:56, or off";
        Error::usage(format!("'{text}'"), why)
    })?;
    Ok(Some(PerSource {
        most: values::count(1..=u32::MAX.into())(most)?,
        v4: values::count(1..=32)(v4)?,
        v6: values::count(1..=128)(v6)?,
    }))
}

// Networks and identities as they are typed.

/// `192.0.2.0/24`, `2001:db8::7`: a network, or one address.
///
/// # Errors
/// A usage error with an example, or with the network that may be meant.
pub fn network(text: &str) -> Result<IpNet> {
    let bad = |why: String| Error::usage(format!("'{text}'"), why);
    let net = match text.contains('/') {
        true => text.parse::<IpNet>().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    let net = net.ok_or_else(|| {
        bad("not a network such as 192.0.2.0/24 or 2001:db8::/32, nor an address".to_owned())
    })?;
    if net != net.trunc() {
        let meant = net.trunc();
        return Err(bad(format!("has bits beyond its prefix: {meant} is meant")));
    }
    Ok(canonical(net))
}

/// A network of IPv4 addresses that are written as IPv6 is one of IPv4.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped: Option<Ipv4Addr> = v6.addr().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(96);
    match mapped.zip(length) {
        Some((ip, length)) => Ipv4Net::new(ip, length).map_or(net, IpNet::V4),
        None => net,
    }
}

/// A network or address, `uid:N` or `gid:N`.
///
/// # Errors
/// A usage error with an example.
pub fn who(text: &str) -> Result<Who> {
    let id = |number: &str| {
        values::count(0..=u32::MAX.into())(number)
            .map_err(|error| Error::usage(format!("'{text}'"), format!("an id by number: {error}")))
    };
    match (text.strip_prefix("uid:"), text.strip_prefix("gid:")) {
        (Some(number), _) => id(number).map(Who::Uid),
        (_, Some(number)) => id(number).map(Who::Gid),
        _ => network(text).map(Who::Net),
    }
}

// A rate as a leaky bucket with one number to keep: when the next one would be
// due had all come evenly. Knows no clock: the caller says what time it is, in
// nanoseconds since any moment that stays the same, and keeps the number.

/// How far apart they are, and how much may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: u64,
    span: u64,
}

impl Pace {
    /// So many in such a time, and after a silence `burst` times as many at once.
    pub fn new(rate: Rate, burst: u64) -> Pace {
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX >> 8);
        let interval = (per / u64::from(rate.count)).max(1);
        let span = interval.saturating_mul(burst * u64::from(rate.count));
        Pace { interval, span }
    }

    /// When the one after this would be due, if this one may pass. A time that
    /// no sequence of these can have led to counts as none.
    pub fn admit(self, due: u64, now: u64) -> Option<u64> {
        let next = self.start(due, now).saturating_add(self.interval);
        (next <= now.saturating_add(self.span)).then_some(next)
    }

    /// How long until one may pass; `None` if one may now.
    pub fn wait(self, due: u64, now: u64) -> Option<Duration> {
        let next = self.start(due, now).saturating_add(self.interval);
        let early = next.saturating_sub(now.saturating_add(self.span));
        (early > 0).then(|| Duration::from_nanos(early))
    }

    fn start(self, due: u64, now: u64) -> u64 {
        let full = now.saturating_add(self.span);
        if due > full { now } else { due.max(now) }
    }
}

#[cfg(test)]
mod tests;

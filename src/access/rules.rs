//! Who is served at all: the rules of `--allow` and `--deny`, and which of them
//! decides.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

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
    pub(super) fn count(&self, allow: bool) -> usize {
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

    /// Is any about addresses?
    pub fn ask_address(&self) -> bool {
        self.0.iter().any(|rule| rule.who.is_net())
    }

    /// Is this client served?
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, client: Client) -> std::result::Result<(), Refusal> {
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

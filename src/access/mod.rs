//! Who may be served: networks and identities (`typed`), which of them decides
//! (`rules`), and what counts as one source (`source`). Decisions and no system call; the page is echod(8),
//! ACCESS.

use ipnet::IpNet;

use crate::addr::Peer;
use crate::values::{self, Rate};

mod rules;
mod source;
mod typed;

pub use rules::{Client, Refusal, Rule, Rules, Who};
pub use source::{PerSource, Source, per_source};
pub use typed::{network, who};

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

#[cfg(test)]
mod tests;

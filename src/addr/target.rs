//! Whom a client calls: an [`Addr`] that names one server.
//!
//! Names are resolved at each attempt, never kept.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use nix::sys::socket::UnixAddr;

use super::{Addr, UnixPath};
use crate::error::{Error, Exit, Result};

/// An address that names one server, as it was asked for.
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
    pub fn resolve(&self) -> Result<Vec<Endpoint>> {
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

    fn from_str(text: &str) -> Result<Self> {
        Addr::of_server(text).map(Target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_and_printed_in_full() {
        for (typed, printed) in [
            ("127.0.0.1:7", "tcp:127.0.0.1:7"),
            ("tcp:localhost:7777", "tcp:localhost:7777"),
            ("[::1]:7", "tcp:[::1]:7"),
            ("unix:/run/e.sock", "unix:/run/e.sock"),
            ("unix:@echo", "unix:@echo"),
            ("udp:127.0.0.1:7", "udp:127.0.0.1:7"),
            ("unixgram:@echo", "unixgram:@echo"),
        ] {
            assert_eq!(typed.parse::<Target>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_no_client_can_call_is_refused() {
        let long = format!("unix:/{}", "x".repeat(200));
        for typed in ["udp:*:7", "udp:h:0", "*:7", "h:0", "unix:", "h", "", &long] {
            assert!(typed.parse::<Target>().is_err(), "{typed}");
        }
    }
}

//! Whom to call: an address that names one server.
//!
//! Names are resolved at each attempt, never kept.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use nix::sys::socket::UnixAddr;

use crate::addr::{Addr, UnixPath};
use crate::error::{Error, Exit, Result};

/// An address that names one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(Addr);

impl Server {
    /// Whether it takes datagrams.
    pub fn datagrams(&self) -> bool {
        matches!(self.0, Addr::Udp { .. } | Addr::UnixGram(_))
    }

    /// Every address it has now, in the order to try them.
    ///
    /// # Errors
    /// The name is not known (69).
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>> {
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
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Addr::of_server(text).map(Server)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One address that connect(2) takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Endpoint {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A path or an abstract name.
    Unix(UnixAddr),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_server_is_taken_but_not_every_place() {
        for typed in ["h:1", "udp:h:1", "unix:@x", "unixgram:/x", "[::1]:7"] {
            assert!(typed.parse::<Server>().is_ok(), "{typed}");
        }
        for typed in ["*:7", "udp:*:7", "h:0", "udp:h:0", "h", "", "unix:"] {
            assert!(typed.parse::<Server>().is_err(), "{typed}");
        }
    }
}

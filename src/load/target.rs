//! Where to: an [`Addr`] that is a stream and names one place.
//!
//! Names are resolved at each attempt, never kept.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use nix::sys::socket::UnixAddr;

use crate::addr::{Addr, Host, UnixPath};
use crate::error::{Error, Exit, Result};

/// A stream address as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Addr);

/// One address that connect(2) takes.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A path or an abstract name.
    Unix(UnixAddr),
}

impl Target {
    /// Every address the target has now, in the order to try them.
    ///
    /// # Errors
    /// A name that does not resolve (69).
    pub fn resolve(&self) -> Result<Vec<Endpoint>> {
        let Addr::Unix(path) = &self.0 else {
            let all = self.0.resolve()?;
            return Ok(all.into_iter().map(Endpoint::Tcp).collect());
        };
        match path {
            UnixPath::Path(path) => UnixAddr::new(path),
            UnixPath::Abstract(name) => UnixAddr::new_abstract(name.as_ref()),
        }
        .map(|addr| vec![Endpoint::Unix(addr)])
        .map_err(|errno| Error::os("connect", self, errno).exit(Exit::Usage))
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse()? {
            Addr::Tcp {
                host: Host::Any, ..
            } => Err(Error::usage(text, "* is for servers: name one host")),
            Addr::Tcp { port: 0, .. } => Err(Error::usage(text, "port 0 is for servers")),
            addr @ (Addr::Tcp { .. } | Addr::Unix(_)) => Ok(Target(addr)),
            Addr::Udp { .. } | Addr::UnixGram(_) => {
                Err(Error::usage(text, "not a stream: tcp: or unix:"))
            }
        }
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
    fn stream_addresses_are_taken_and_printed_in_full() {
        for (typed, printed) in [
            ("127.0.0.1:7", "tcp:127.0.0.1:7"),
            ("tcp:localhost:7777", "tcp:localhost:7777"),
            ("[::1]:7", "tcp:[::1]:7"),
            ("unix:/run/e.sock", "unix:/run/e.sock"),
            ("unix:@echo", "unix:@echo"),
        ] {
            assert_eq!(typed.parse::<Target>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_echoload_cannot_call_is_refused() {
        let long = format!("unix:/{}", "x".repeat(200));
        for typed in [
            "udp:127.0.0.1:7",
            "unixgram:/x",
            "*:7",
            "h:0",
            "unix:",
            "h",
            &long,
        ] {
            assert!(typed.parse::<Target>().is_err(), "{typed}");
        }
    }
}

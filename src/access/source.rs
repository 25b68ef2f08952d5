//! What counts as one source for `--max-per-source`: a network of so many bits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::error::{Error, Result};
use crate::values;

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
/// no other has since [`Client::inet`](super::Client::inet) writes those as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(pub u128);

impl PerSource {
    /// The one that this address belongs to.
    pub(super) fn source(self, ip: IpAddr) -> Source {
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

//! Networks and identities as they are typed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::Who;
use crate::error::{Error, Result};
use crate::values;

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

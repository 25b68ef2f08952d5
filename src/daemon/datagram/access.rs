//! Which datagrams are answered, by all that is known of one: what it is, who sent
//! it, and where to.

use std::net::{IpAddr, Ipv4Addr};

use crate::access::{Client, Policy};
use crate::daemon::datagram::worker::LOOPBACK;
use crate::net::datagram::Guard;
use crate::net::drops::Reason;
use crate::net::udp_guard::Local;
use crate::sys::mmsg::{Arrived, Asked, Sender};

/// Is this one answered? If not, why.
pub(crate) fn judge(
    datagram: &Arrived<'_>,
    policy: &Policy,
    guard: &Guard,
    own: Option<IpAddr>,
    now: u64,
) -> Result<(), Reason> {
    if datagram.cut {
        return Err(Reason::TooLarge);
    }
    let local = datagram.to.map(|to| local(to, own));
    match (datagram.from, guard) {
        (Sender::Unnamed, _) => Err(Reason::Unnamed),
        // Before the guard: who is refused uses none of the rates.
        (Sender::Inet(from), _) if policy.rules.judge(Client::inet(from.ip())).is_err() => {
            Err(Reason::Refused)
        }
        (Sender::Inet(from), Guard::Udp(guard)) => guard.judge(from, local, datagram.bytes, now),
        (Sender::Unix(_), Guard::Unix(guard)) => guard.judge(datagram.name),
        _ => Err(Reason::Source),
    }
}

/// Where it was sent to. Of an IPv4 datagram that was queued before the socket was
/// handed to us, Linux has noted the address and no more (IP_PKTINFO was off:
/// ip(7)). If the socket is bound to that, there is nothing else it can be.
fn local(to: Asked, own: Option<IpAddr>) -> Local {
    let unnoted = to.interface == 0 && own == Some(to.address);
    Local {
        unicast: to.unicast || unnoted && !is_for_many(to.address),
        loopback: to.interface == LOOPBACK || unnoted && to.address.is_loopback(),
    }
}

/// As far as an address alone tells it: a network's broadcast it does not.
fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || address == Ipv4Addr::BROADCAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_was_sent_to_is_noted_or_the_only_address() {
        let to = |address: &str, unicast, interface| Asked {
            address: address.parse().unwrap(),
            unicast,
            interface,
        };
        for (to, own, unicast, loopback) in [
            // noted by the kernel
            (to("127.0.0.1", true, 1), None, true, true),
            (to("192.0.2.7", true, 2), Some("192.0.2.7"), true, false),
            (to("192.0.2.255", false, 2), None, false, false),
            (
                to("192.0.2.255", false, 2),
                Some("192.0.2.255"),
                false,
                false,
            ),
            // queued before: by what the socket is bound to
            (to("127.0.0.1", false, 0), Some("127.0.0.1"), true, true),
            (to("192.0.2.7", false, 0), Some("192.0.2.7"), true, false),
            (to("192.0.2.7", false, 0), None, false, false),
            (to("192.0.2.255", false, 0), Some("192.0.2.7"), false, false),
            (
                to("255.255.255.255", false, 0),
                Some("255.255.255.255"),
                false,
                false,
            ),
            (to("224.0.0.1", false, 0), Some("224.0.0.1"), false, false),
        ] {
            let own = own.map(|own| own.parse().unwrap());
            let expected = Local { unicast, loopback };
            assert_eq!(local(to, own), expected, "{to:?} {own:?}");
        }
    }
}

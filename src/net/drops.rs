//! Why a datagram is not answered: the reasons, what each is called in the
//! log, and which of them an errno of sendmsg(2) is. Tables, and nothing else.

use nix::errno::Errno;

/// Why a datagram, or the reply to it, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// Its source prefix sends too much.
    Rate,
    /// All of them together do.
    GlobalRate,
    /// It repeats so often what was answered that it may be in a loop.
    Repeat,
    /// It comes from a port that another service would answer from.
    SourcePort,
    /// It comes from an address that no client can have.
    Source,
    /// It was sent to more than one machine.
    Destination,
    /// `--allow` and `--deny` refuse its source.
    Refused,
    /// It does not fit our buffer.
    TooLarge,
    /// Its sender has no name to answer to.
    Unnamed,
    /// It comes from one of our own Unix sockets: an answer of ours.
    Own,
    /// Where the answer would go, as far as can be seen from here, is no socket of
    /// its sender's.
    NotTheirs,
    /// The reply found a queue full or memory short.
    Full,
    /// A filter or permissions forbid the reply.
    Denied,
    /// There is nobody, or no way, where the reply should go.
    Unreachable,
    /// The reply does not fit the way.
    ReplyTooLarge,
    /// The reply failed in an unforeseen way.
    Failed,
}

/// Every reason, in the order of its number.
pub const REASONS: [Reason; 16] = [
    Reason::Rate,
    Reason::GlobalRate,
    Reason::Repeat,
    Reason::SourcePort,
    Reason::Source,
    Reason::Destination,
    Reason::Refused,
    Reason::TooLarge,
    Reason::Unnamed,
    Reason::Own,
    Reason::NotTheirs,
    Reason::Full,
    Reason::Denied,
    Reason::Unreachable,
    Reason::ReplyTooLarge,
    Reason::Failed,
];

impl Reason {
    /// What the failure to send a reply means.
    pub fn not_sent(errno: Errno) -> Reason {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Reason::Full,
            Errno::EPERM | Errno::EACCES => Reason::Denied,
            Errno::ECONNREFUSED
            | Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::EPIPE
            | Errno::ENOTCONN
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::EADDRNOTAVAIL => Reason::Unreachable,
            Errno::EMSGSIZE => Reason::ReplyTooLarge,
            _ => Reason::Failed,
        }
    }

    /// The option that drops it, or what it is, for the log.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rate => "--udp-rate",
            Reason::GlobalRate => "--udp-global-rate",
            Reason::Repeat => "repeats, --udp-rate",
            Reason::SourcePort => "--udp-refuse-port",
            Reason::Source => "impossible source",
            Reason::Destination => "broadcast or multicast",
            Reason::Refused => "--allow and --deny",
            Reason::TooLarge => "too large",
            Reason::Unnamed => "unnamed sender",
            Reason::Own => "our own answers",
            Reason::NotTheirs => "not the sender's socket",
            Reason::Full => "no room for the reply",
            Reason::Denied => "reply denied",
            Reason::Unreachable => "sender unreachable",
            Reason::ReplyTooLarge => "reply too large for the way",
            Reason::Failed => "reply failed",
        }
    }

    /// What is said when it begins.
    pub fn explain(self) -> &'static str {
        match self {
            Reason::Rate => "a network sends more than --udp-rate: the excess is dropped",
            Reason::GlobalRate => "more comes than --udp-global-rate: the excess is dropped",
            Reason::Repeat => {
                "the same comes from the same port again and again, as in a loop: \
                 with --udp-rate one in 256 is dropped"
            }
            Reason::SourcePort => {
                "datagrams from a port that --udp-refuse-port names, or one of our own: dropped"
            }
            Reason::Source => "datagrams from an address that no client can have: dropped",
            Reason::Destination => "datagrams to a broadcast or multicast address: dropped",
            Reason::Refused => "datagrams from a source that --allow and --deny refuse: dropped",
            Reason::TooLarge => "datagrams of more than 65536 bytes: dropped whole",
            Reason::Unnamed => "datagrams from sockets without a name to answer to: dropped",
            Reason::Own => "answers of our own were sent back to us: dropped",
            Reason::NotTheirs => {
                "datagrams from a relative path, or from one that is no socket of the \
                 sender's here: dropped"
            }
            Reason::Full => "queues are full or memory is short: replies are dropped",
            Reason::Denied => "a filter or permissions forbid replies: dropped",
            Reason::Unreachable => "replies find nobody, or no way: dropped",
            Reason::ReplyTooLarge => "replies do not fit the way (EMSGSIZE): dropped",
            Reason::Failed => "replies cannot be sent: dropped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_their_order() {
        for (number, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }

    #[test]
    fn every_errno_of_a_reply_has_its_reason() {
        for (errno, reason) in [
            (Errno::EAGAIN, Reason::Full),
            (Errno::ENOBUFS, Reason::Full),
            (Errno::EPERM, Reason::Denied),
            (Errno::EACCES, Reason::Denied),
            (Errno::ECONNREFUSED, Reason::Unreachable),
            (Errno::ENOENT, Reason::Unreachable),
            (Errno::EMSGSIZE, Reason::ReplyTooLarge),
            (Errno::EINVAL, Reason::Failed),
        ] {
            assert_eq!(Reason::not_sent(errno), reason, "{errno:?}");
        }
    }
}

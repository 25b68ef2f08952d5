//! Why a datagram is not answered: the reasons, what each is called in the
//! log, which of them an errno of sendmsg(2) is, and how many there were of each.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::sys::memory::Shared;

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

const ANSWERED: usize = 0;
const BYTES: usize = 1;
const SAID: usize = 2;
const FAULT: usize = 3;
const RETIRED: usize = 4;
/// The reasons have the lines after the first.
const FIRST_REASON: usize = 1;

/// The counts of one socket, in memory that its workers share with the supervisor: how
/// many datagrams they answered, and how many they dropped and why.
///
/// As in the scoreboard, to the supervisor it is gossip: numbers for the log. The
/// counts of a socket go on from one worker to the next, and for a moment at a
/// reload two of them count, so each count is one indivisible addition.
pub struct Tally(Shared);

impl Tally {
    /// All zero.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new() -> Result<Self, Errno> {
        let lines = REASONS.len().div_ceil(8);
        Ok(Tally(Shared::apart(FIRST_REASON + lines)?))
    }

    /// See [`Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.0.inherited(whether)
    }

    /// Worker: so many were answered, with so many bytes.
    pub fn answered(&self, datagrams: u64, bytes: u64) {
        self.word(ANSWERED).fetch_add(datagrams, Ordering::Relaxed);
        self.word(BYTES).fetch_add(bytes, Ordering::Relaxed);
    }

    /// Worker: one was dropped. True for the first since [`Tally::listen`]: the
    /// supervisor wants to know.
    pub fn drop(&self, reason: Reason) -> bool {
        // Counted, then looked; the supervisor clears, then counts: whichever
        // comes first, one of the two sees the other (hence SeqCst).
        self.count(reason).fetch_add(1, Ordering::SeqCst);
        let said = self.word(SAID);
        said.load(Ordering::SeqCst) & bit(reason) == 0
            && said.fetch_or(bit(reason), Ordering::SeqCst) & bit(reason) == 0
    }

    /// Worker: receiving fails for good.
    pub fn fault(&self, errno: Errno) {
        self.word(FAULT).store(errno as u64, Ordering::Relaxed);
    }

    /// Worker: it has answered what was queued, as it was told, and leaves.
    pub fn retire(&self) {
        self.word(RETIRED).store(1, Ordering::Relaxed);
    }

    /// Supervisor: has one said so, since this was last asked?
    pub fn take_retired(&self) -> bool {
        self.word(RETIRED).swap(0, Ordering::Relaxed) != 0
    }

    /// Supervisor: wants to be told of the next one that is dropped for this
    /// reason. Look at [`Tally::dropped`] after this.
    pub fn listen(&self, reason: Reason) {
        self.word(SAID).fetch_and(!bit(reason), Ordering::SeqCst);
    }

    /// Supervisor: how many were dropped for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.count(reason).load(Ordering::SeqCst)
    }

    /// Supervisor: how many were answered, and their bytes.
    pub fn total(&self) -> (u64, u64) {
        let word = |i| self.word(i).load(Ordering::Relaxed);
        (word(ANSWERED), word(BYTES))
    }

    /// Supervisor: why a worker gave up.
    pub fn why(&self) -> Errno {
        Errno::from_raw(self.word(FAULT).load(Ordering::Relaxed) as i32)
    }

    fn word(&self, i: usize) -> &AtomicU64 {
        &self.0[0].0[i]
    }

    fn count(&self, reason: Reason) -> &AtomicU64 {
        let i = reason as usize;
        &self.0[FIRST_REASON + i / 8].0[i % 8]
    }
}

fn bit(reason: Reason) -> u64 {
    1 << reason as usize
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

    #[test]
    fn each_reason_is_counted_by_itself_and_told_once() {
        let tally = Tally::new().expect("mmap");
        for reason in REASONS {
            assert!(tally.drop(reason), "{reason:?}: the first");
            assert!(!tally.drop(reason), "{reason:?}: the second");
            assert_eq!(tally.dropped(reason), 2);
        }
        tally.listen(Reason::Rate);
        assert!(!tally.drop(Reason::GlobalRate));
        assert!(tally.drop(Reason::Rate), "asked again");
        tally.answered(2, 30);
        tally.answered(1, 0);
        assert_eq!(tally.total(), (3, 30));
        tally.fault(Errno::EBADF);
        assert_eq!(tally.why(), Errno::EBADF);
    }
}

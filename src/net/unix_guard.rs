//! What keeps a Unix datagram echo from being turned against others.
//!
//! Nobody can forge the name of a Unix socket, but a name may mean another socket
//! here than where it was bound: a path from another directory, mount namespace or
//! through a link that has changed since, an abstract name from another network
//! namespace. So an answer could go to whom the sender may not write to, or to a
//! server that answers it, and so on for ever. A name that is one of our own, or a
//! relative path, is not answered at all; whose file a path is [`socket_of`] looks
//! up; and one answer in [`EVERY`] to the same again leaves from a socket without
//! a name, which no server can answer. To whoever connected to us, alone of all, the
//! kernel refuses that one, and its answers have our name each time.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::net::drops::Reason;
use crate::net::repeats::Repeats;
use crate::sys::fd;

/// Of answers to the same bytes from the same name, one in so many has no name.
pub const EVERY: u64 = 8;

/// The guard of one Unix socket.
pub struct Guard {
    own: Vec<Vec<u8>>,
    repeats: Repeats,
}

impl Guard {
    /// `own` are the names of all our sockets, as the kernel tells them: none may
    /// be answered.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(own: &[Vec<u8>]) -> Result<Self, Errno> {
        Ok(Guard {
            own: own.to_vec(),
            repeats: Repeats::new()?,
        })
    }

    /// See [`crate::sys::memory::Shared::inherited`].
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, whether: bool) -> Result<(), Errno> {
        self.repeats.inherited(whether)
    }

    /// Whether a sender of this name is answered, as far as the name tells.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &[u8]) -> Result<(), Reason> {
        match name {
            _ if self.own.iter().any(|own| own == name) => Err(Reason::Own),
            [b'/' | 0, ..] => Ok(()),
            _ => Err(Reason::NotTheirs),
        }
    }

    /// Is this answer one without a name? Counts it; `now` is in nanoseconds.
    pub fn is_nameless(&self, name: &[u8], bytes: &[u8], now: u64) -> bool {
        let tag = self.repeats.tag(name, bytes);
        let times = self.repeats.look(tag, now).times;
        self.repeats.count(tag, now);
        (times + 1).is_multiple_of(EVERY)
    }
}

/// The socket at this path, held, if the user `uid` may be taken to be at home
/// there: it is theirs, or they are root.
///
/// # Errors
/// Why it is not answered.
pub fn socket_of(path: &CStr, uid: Option<u32>) -> Result<OwnedFd, Reason> {
    let found = fd::locate(path).map_err(Reason::not_sent)?;
    let (is_socket, owner) = fd::kind_and_owner(&found).map_err(Reason::not_sent)?;
    match uid {
        Some(uid) if is_socket && (uid == owner || uid == 0) => Ok(found),
        _ => Err(Reason::NotTheirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn own_names_and_relative_ones_are_not_answered() {
        let own = [b"/run/echod".to_vec(), b"\0echod".to_vec(), b"odd".to_vec()];
        let guard = Guard::new(&own).expect("mmap");
        for (name, expected) in [
            (&b"/run/client"[..], Ok(())),
            (b"/run/echod2", Ok(())),
            (b"\0client", Ok(())),
            (b"\0", Ok(())),
            (b"run/client", Err(Reason::NotTheirs)),
            (b"./client", Err(Reason::NotTheirs)),
            (b"", Err(Reason::NotTheirs)),
            (b"/run/echod", Err(Reason::Own)),
            (b"\0echod", Err(Reason::Own)),
            (b"odd", Err(Reason::Own)),
        ] {
            assert_eq!(guard.check(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_same_to_the_same_has_no_name_now_and_then() {
        let guard = Guard::new(&[]).expect("mmap");
        for n in 1..=40 {
            assert!(!guard.is_nameless(b"/a", &[n], 0), "never said");
            assert_eq!(guard.is_nameless(b"/a", b"ping", 0), n % 8 == 0, "{n}");
        }
        assert!(!guard.is_nameless(b"/b", b"ping", 0), "another client");
    }

    #[test]
    fn only_a_socket_of_the_senders_is_found() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        let found = |name: &str, uid| {
            let path = std::ffi::CString::new(path(name).into_os_string().into_encoded_bytes());
            socket_of(&path.expect("no NUL"), uid).map(drop)
        };
        let me = nix::unistd::geteuid().as_raw();
        let _socket = UnixDatagram::bind(path("s")).expect("bind");
        std::fs::write(path("file"), b"").expect("a file");
        std::os::unix::fs::symlink(path("s"), path("link")).expect("a link");
        assert_eq!(found("s", Some(me)), Ok(()));
        assert_eq!(found("s", Some(0)), Ok(()));
        assert_eq!(found("s", Some(me + 1)), Err(Reason::NotTheirs));
        assert_eq!(found("s", None), Err(Reason::NotTheirs));
        assert_eq!(found("file", Some(me)), Err(Reason::NotTheirs));
        assert_eq!(found("link", Some(me)), Err(Reason::NotTheirs));
        assert_eq!(found(".", Some(me)), Err(Reason::NotTheirs));
        assert_eq!(found("gone", Some(me)), Err(Reason::Unreachable));
    }
}

//! Landlock with no rule: every right it can handle, granted nowhere.
//!
//! See landlock(7). For workers that live on; one with a single connection is in
//! strict mode, where it can make no call that Landlock could refuse. Three calls,
//! no rule and so no path: less than a crate would be.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// What this kernel's Landlock can handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landlock {
    abi: u32,
}

/// `struct landlock_ruleset_attr`, as of ABI 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ruleset {
    files: u64,
    ports: u64,
    scoped: u64,
}

/// LANDLOCK_CREATE_RULESET_VERSION.
const VERSION: u32 = 1;
/// LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP.
const PORTS: u64 = 0b11;
/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
const ABSTRACT: u64 = 0b01;
/// LANDLOCK_SCOPE_SIGNAL.
const SIGNALS: u64 = 0b10;

impl Landlock {
    /// What there is: `None` before Linux 5.13, where it is switched off, and
    /// where a container's filter refuses it.
    pub fn probe() -> Option<Self> {
        let none = std::ptr::null::<Ruleset>();
        // SAFETY: with this flag the kernel reads no attributes.
        let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
        let abi = u32::try_from(abi).ok().filter(|&abi| abi > 0)?;
        Some(Landlock { abi })
    }

    /// Version of the interface.
    pub fn abi(self) -> u32 {
        self.abi
    }

    /// From now on this thread, and what it starts, opens no file, binds and
    /// connects no TCP socket, signals no process outside and, unless it
    /// `answers_abstract_names`, reaches no abstract Unix socket: as far as this
    /// ABI goes. Takes one descriptor for a moment.
    ///
    /// # Errors
    /// The kernel's; EPERM without no_new_privs.
    pub fn enter(self, answers_abstract_names: bool) -> Result<(), Errno> {
        let rules = rules(self.abi, answers_abstract_names);
        let size = size(self.abi);
        // SAFETY: the kernel reads `size` bytes, at most those of the struct.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const rules,
                size,
                0_u32,
            )
        };
        let fd = Errno::result(fd)? as libc::c_int;
        // SAFETY: just made, for us alone.
        let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a descriptor we own, and no flags.
        let done =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
        Errno::result(done).map(drop)
    }
}

/// Every right an ABI knows, and no later one's: a kernel refuses bits that it
/// does not know.
fn rules(abi: u32, answers_abstract_names: bool) -> Ruleset {
    // 13 rights at first; then REFER, TRUNCATE and, at 5, IOCTL_DEV.
    let rights = match abi {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let abstract_names = if answers_abstract_names { 0 } else { ABSTRACT };
    Ruleset {
        files: (1 << rights) - 1,
        ports: if abi >= 4 { PORTS } else { 0 },
        scoped: if abi >= 6 {
            SIGNALS | abstract_names
        } else {
            0
        },
    }
}

/// Bytes of the struct that an ABI knows.
fn size(abi: u32) -> usize {
    match abi {
        0..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;
    use nix::sys::wait::{WaitStatus, waitpid};

    #[test]
    fn each_abi_is_asked_for_what_it_knows() {
        for (abi, files, ports, scoped, bytes) in [
            (1, 0x1fff, 0, 0, 8),
            (2, 0x3fff, 0, 0, 8),
            (3, 0x7fff, 0, 0, 8),
            (4, 0x7fff, 3, 0, 16),
            (5, 0xffff, 3, 0, 16),
            (6, 0xffff, 3, 3, 24),
            (9, 0xffff, 3, 3, 24),
        ] {
            let all = Ruleset {
                files,
                ports,
                scoped,
            };
            assert_eq!((rules(abi, false), size(abi)), (all, bytes), "ABI {abi}");
            assert_eq!(rules(abi, true).scoped, scoped & SIGNALS, "ABI {abi}");
        }
    }

    /// In a forked child: it cannot be undone.
    #[test]
    fn nothing_can_be_opened_bound_or_signalled() {
        let Some(landlock) = Landlock::probe() else {
            eprintln!("skipped: no Landlock here");
            return;
        };
        let child = process::fork(|| {
            let _ = nix::sys::prctl::set_no_new_privs();
            if landlock.enter(false).is_err() {
                return 1;
            }
            if std::fs::File::open("/etc/passwd").is_ok() || std::fs::read_dir("/").is_ok() {
                return 2;
            }
            if landlock.abi() >= 4 && std::net::TcpListener::bind("127.0.0.1:0").is_ok() {
                return 3;
            }
            let outside = nix::unistd::getppid();
            if landlock.abi() >= 6 && nix::sys::signal::kill(outside, None).is_ok() {
                return 4;
            }
            0
        });
        let status = waitpid(child.unwrap(), None).unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
}

//! Where the kernel or a container gives less than expected, and what every
//! process looks like from outside: rows 24, 25 and 95 to 97 of the catalogue.
//!
//! What a serving process may call is in `tests/it/sandbox.rs`; what becomes of one
//! that tries more, in `tests/forbidden/`.

pub mod kernels;
pub mod leftovers;
pub mod minimal;

use kernels::{Denied, become_under};

/// A container whose filter was written before these calls were, and answers
/// EPERM for what it does not know (moby#42680).
#[test]
fn role_old_container() {
    const NEWER: [Denied; 7] = [
        Denied::Call(libc::SYS_clone3),
        Denied::Call(libc::SYS_close_range),
        Denied::Call(libc::SYS_pidfd_open),
        Denied::Call(libc::SYS_pidfd_send_signal),
        Denied::Call(libc::SYS_landlock_create_ruleset),
        Denied::Call(libc::SYS_landlock_add_rule),
        Denied::Call(libc::SYS_landlock_restrict_self),
    ];
    become_under(&NEWER, false);
}

/// As far as echod can tell, a kernel with neither seccomp nor Landlock.
#[test]
fn role_no_sandbox_here() {
    const ALL: [Denied; 3] = [
        Denied::Call(libc::SYS_seccomp),
        Denied::Prctl(libc::PR_SET_SECCOMP),
        Denied::Call(libc::SYS_landlock_create_ruleset),
    ];
    become_under(&ALL, false);
}

/// A C library that makes a call at start that its sandbox does not know.
#[test]
fn role_deadly_epoll() {
    become_under(&[Denied::Call(libc::SYS_epoll_create1)], true);
}

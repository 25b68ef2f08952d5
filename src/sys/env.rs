//! The environment, as far as it may be changed.

use std::ffi::OsString;

/// Takes a variable out of the environment: what it says is for this process
/// and no other, see sd_listen_fds(3). Before the first thread only.
pub fn take(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: no other thread reads the environment, by the promise above.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

//! Names of users, groups and hosts in a static binary.
//!
//! glibc looks names up through modules that nsswitch.conf(5) lists, and loads
//! those that are not built in with dlopen(3). In a static binary that brings
//! a second libc into the process and ends in SIGSEGV (seen with `passwd:
//! files systemd`, Debian's default, and a user that does not exist). What is
//! built in is `files` and `dns`, so a static binary keeps to these: users of
//! LDAP or systemd are then given by number, hosts of mDNS by address. A
//! dynamic build asks whatever the machine is configured for.

/// Keeps every later look-up to what is built in. To be called before the
/// first one; calling it again changes nothing. Does nothing in a dynamic
/// build or with another libc, where there is no need.
pub fn built_in_only() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"initgroups", c"files"),
        (c"hosts", c"files dns"),
        (c"services", c"files"),
        (c"protocols", c"files"),
    ] {
        // SAFETY: two C strings that glibc only reads; it replaces its own
        // table under its own lock.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
unsafe extern "C" {
    /// glibc's `nss.h`: 0, or -1 for a database it does not know.
    fn __nss_configure_lookup(
        database: *const libc::c_char,
        services: *const libc::c_char,
    ) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nowhere_is_just_not_found() {
        built_in_only();
        let user = nix::unistd::User::from_name("no such user");
        assert!(matches!(user, Ok(None)), "{user:?}");
        let group = nix::unistd::Group::from_name("no such group");
        assert!(matches!(group, Ok(None)), "{group:?}");
        let groups = nix::unistd::getgrouplist(c"root", nix::unistd::Gid::from_raw(0));
        assert!(groups.is_ok(), "{groups:?}");
    }
}

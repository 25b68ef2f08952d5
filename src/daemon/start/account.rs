//! Who `--user USER[:GROUP]` means on this machine.
//!
//! Names are looked up here and nowhere else, through a [`Lookup`] that a test
//! can replace; numbers never are. Knows nothing of what the answer is for.

use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use crate::error::{Error, Exit, Result};
use crate::sys::startup;

/// The kernel's own overflow id, `nobody` nearly everywhere; never looked up, so it is the same
/// where there is no /etc/passwd.
const NOBODY: u32 = 65534;

/// Who a process is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As typed.
    pub name: String,
    /// Real, effective and saved.
    pub uid: Uid,
    /// Real, effective and saved.
    pub gid: Gid,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.uid, self.gid)
    }
}

pub(crate) fn nobody() -> Account {
    Account {
        name: "nobody".to_owned(),
        uid: Uid::from_raw(NOBODY),
        gid: Gid::from_raw(NOBODY),
    }
}

/// Where names come from.
pub trait Lookup {
    /// A user's uid and primary gid.
    ///
    /// # Errors
    /// The database cannot be read; `None` is no such user.
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, Errno>;
    /// The primary gid of a uid.
    ///
    /// # Errors
    /// As for `user`.
    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, Errno>;
    /// A group's gid.
    ///
    /// # Errors
    /// As for `user`.
    fn group(&self, name: &str) -> Result<Option<Gid>, Errno>;
}

/// The databases of this machine: getpwnam(3) and its kin, as far as this
/// binary can reach them (see [`startup`]).
#[derive(Clone, Copy, Debug)]
pub struct System(());

impl System {
    /// Ready to look up.
    pub fn new() -> System {
        startup::built_in_only();
        System(())
    }
}

impl Default for System {
    fn default() -> System {
        System::new()
    }
}

impl Lookup for System {
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, Errno> {
        Ok(User::from_name(name)?.map(|user| (user.uid, user.gid)))
    }

    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, Errno> {
        Ok(User::from_uid(uid)?.map(|user| user.gid))
    }

    fn group(&self, name: &str) -> Result<Option<Gid>, Errno> {
        Ok(Group::from_name(name)?.map(|group| group.gid))
    }
}

/// `USER[:GROUP]` as typed, taken apart.
pub(crate) fn split(typed: &str) -> Result<(&str, Option<&str>)> {
    let (user, group) = match typed.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (typed, None),
    };
    if user.is_empty() || group.is_some_and(str::is_empty) {
        return Err(Error::usage(
            format!("--user {typed}"),
            "write USER or USER:GROUP, by name or number",
        ));
    }
    Ok((user, group))
}

pub(crate) fn resolve(typed: &str, lookup: &impl Lookup) -> Result<Account> {
    let (user, group) = split(typed)?;
    let (uid, primary) = resolve_user(typed, user, lookup)?;
    let gid = match (group, primary) {
        (Some(group), _) => Some(resolve_group(typed, group, lookup)?),
        (None, Some(gid)) => Some(gid),
        (None, None) => lookup
            .primary_group(uid)
            .map_err(|errno| unreadable(typed, errno))?,
    };
    let gid = gid.ok_or_else(|| {
        unknown(
            typed,
            "has no entry in passwd(5): write USER:GROUP, e.g. 1000:1000",
        )
    })?;
    Ok(Account {
        name: user.to_owned(),
        uid,
        gid,
    })
}

/// The uid and, for a name, the primary gid. A number is never looked up.
pub(crate) fn resolve_user(
    typed: &str,
    user: &str,
    lookup: &impl Lookup,
) -> Result<(Uid, Option<Gid>)> {
    if let Some(uid) = number(typed, user)? {
        return Ok((Uid::from_raw(uid), None));
    }
    match lookup.user(user) {
        Ok(Some((uid, gid))) => Ok((uid, Some(gid))),
        Ok(None) => Err(unknown(
            typed,
            "no such user in /etc/passwd; others go by number, USER:GROUP",
        )),
        Err(errno) => Err(unreadable(typed, errno)),
    }
}

pub(crate) fn resolve_group(typed: &str, group: &str, lookup: &impl Lookup) -> Result<Gid> {
    if let Some(gid) = number(typed, group)? {
        return Ok(Gid::from_raw(gid));
    }
    match lookup.group(group) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => Err(unknown(
            typed,
            "no such group in /etc/group; others go by number",
        )),
        Err(errno) => Err(unreadable(typed, errno)),
    }
}

/// A numeric id. All ones is not one: setresuid(2) reads it as "unchanged".
fn number(typed: &str, text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::usage(
            format!("--user {typed}"),
            "a number here is at most 4294967294",
        )),
    }
}

fn unknown(typed: &str, what: &str) -> Error {
    Error::usage(format!("--user {typed}"), what).exit(Exit::Config)
}

fn unreadable(typed: &str, errno: Errno) -> Error {
    Error::os("look up", format!("--user {typed}"), errno)
        .hint("numbers need no looking up: --user 1000:1000")
}

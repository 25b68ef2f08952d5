//! Giving up root: decided by [`plan`], done by [`apply`].
//!
//! Promises that after `apply` returns the identity is the planned one, read
//! back from the kernel, and that root cannot be had again; else an error, and
//! the caller must not serve. Names are looked up before chroot(2), where
//! /etc/passwd still is the host's. Knows no socket: whatever needs root is
//! open by the time this runs.

use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::unistd::{
    Gid, Uid, chdir, chroot, getegid, geteuid, getgroups, getresgid, getresuid, setgroups,
    setresgid, setresuid,
};

use super::account::{Account, Lookup, nobody, resolve, resolve_group, resolve_user, split};
use crate::config::Identity;
use crate::error::{Error, Exit, Result};
use crate::sys::process;

/// Both ways out of a refused change.
const WAYS_OUT: &str = "--user names another user, --allow-root keeps root";

/// What [`apply`] will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    chroot: Option<PathBuf>,
    account: Option<Account>,
    notice: Option<String>,
}

impl Plan {
    /// Is uid 0 kept, by who is `current` now?
    pub fn keeps_root(&self, current: Current) -> bool {
        let uid = self.account.as_ref().map_or(current.uid, |to| to.uid);
        uid.is_root()
    }

    /// One line for the log, where there is something to say.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

/// Who we are, effectively.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    /// geteuid(2).
    pub uid: Uid,
    /// getegid(2).
    pub gid: Gid,
}

impl Current {
    /// This process.
    pub fn now() -> Current {
        Current {
            uid: geteuid(),
            gid: getegid(),
        }
    }
}

/// Decides who to be.
///
/// Root becomes `--user`, else nobody, unless `--allow-root`. Anyone else
/// stays who they are, and may say so by `--user`. A named user without a
/// GROUP gets all of that user's groups, as sshd and nginx do with
/// initgroups(3): a log directory of group `adm` is why somebody is in `adm`.
/// A GROUP that is written down is the only one.
///
/// # Errors
/// 64 for a `--user` that cannot be read, 78 for a name this machine does not
/// have, 77 for a change that is not ours to make.
pub fn plan(identity: &Identity, current: Current, lookup: &impl Lookup) -> Result<Plan> {
    let (account, notice) = match &identity.user {
        Some(typed) if current.uid.is_root() => chosen(typed, identity.allow_root, lookup)?,
        Some(typed) => {
            check_is_us(typed, current, lookup)?;
            (None, None)
        }
        None if !current.uid.is_root() => (None, None),
        None if identity.allow_root => {
            let notice = "staying root, as --allow-root asks".to_owned();
            (None, Some(notice))
        }
        None => {
            let nobody = nobody();
            let notice = format!(
                "started as root: giving it up, now {nobody}; \
                 --user names another, --allow-root keeps it"
            );
            (Some(nobody), Some(notice))
        }
    };
    Ok(Plan {
        chroot: identity.chroot.clone(),
        account,
        notice,
    })
}

/// What root is to become by `--user`.
fn chosen(
    typed: &str,
    allow_root: bool,
    lookup: &impl Lookup,
) -> Result<(Option<Account>, Option<String>)> {
    let account = resolve(typed, lookup)?;
    if account.uid.is_root() && !allow_root {
        return Err(Error::usage(
            format!("--user {typed}"),
            "that is root; name another --user, or add --allow-root",
        )
        .exit(Exit::NoPermission));
    }
    let notice = format!("now {account}, as --user asks");
    Ok((Some(account), Some(notice)))
}

/// Whoever is not root may only name themselves.
fn check_is_us(typed: &str, current: Current, lookup: &impl Lookup) -> Result<()> {
    let (user, group) = split(typed)?;
    let (uid, _) = resolve_user(typed, user, lookup)?;
    let gid = match group {
        Some(group) => resolve_group(typed, group, lookup)?,
        None => current.gid,
    };
    if (uid, gid) == (current.uid, current.gid) {
        return Ok(());
    }
    Err(Error::usage(
        format!("--user {typed}"),
        format!(
            "only root can become another user, and we are {}:{}: leave it out, or start as root",
            current.uid, current.gid
        ),
    )
    .exit(Exit::NoPermission))
}

/// Carries the plan out: chroot, groups, gid, uid, in the one order in which
/// each step is still allowed, then reads back what became of it.
///
/// `traceable` (`--sandbox off`) leaves the process dumpable, so that strace,
/// gdb and /proc/PID/fd work for the same user. PR_SET_PDEATHSIG does not
/// survive this call: set it afterwards.
///
/// # Errors
/// 77 for whatever the kernel refuses, or for root that could be had again;
/// 78 for a `--chroot` that is no directory.
pub fn apply(plan: &Plan, traceable: bool) -> Result<()> {
    if let Some(dir) = &plan.chroot {
        let refused = |op| {
            move |errno| {
                let error = Error::os(op, format!("--chroot {}", dir.display()), errno);
                match errno {
                    Errno::EPERM | Errno::EACCES => error
                        .hint("it takes root (CAP_SYS_CHROOT) and a directory we may enter")
                        .exit(Exit::NoPermission),
                    _ => error
                        .hint("it must be an existing directory")
                        .exit(Exit::Config),
                }
            }
        };
        chroot(dir).map_err(refused("chroot"))?;
        // chroot(2) leaves the working directory outside.
        chdir("/").map_err(refused("chdir"))?;
    }
    if let Some(account) = &plan.account {
        become_account(account)?;
        read_back(account)?;
        cannot_return(account)?;
    }
    if !geteuid().is_root() {
        // Also of whoever never was root: AmbientCapabilities, setcap(8).
        process::drop_capabilities().map_err(|errno| {
            Error::os("capset", "", errno)
                .hint("start without capabilities, or as root")
                .exit(Exit::NoPermission)
        })?;
    }
    // After the change of uid, which resets dumpable either way.
    set_dumpable(traceable).map_err(|errno| Error::os("prctl", "PR_SET_DUMPABLE", errno))?;
    set_no_new_privs().map_err(|errno| Error::os("prctl", "PR_SET_NO_NEW_PRIVS", errno))
}

fn become_account(account: &Account) -> Result<()> {
    let (uid, gid) = (account.uid, account.gid);
    // EINVAL here is an id that the user namespace does not map.
    setgroups(&account.groups).map_err(refused("setgroups", account))?;
    setresgid(gid, gid, gid).map_err(refused("setresgid", account))?;
    setresuid(uid, uid, uid).map_err(refused("setresuid", account))
}

fn refused(op: &'static str, account: &Account) -> impl Fn(Errno) -> Error {
    move |errno| {
        Error::os(op, account, errno)
            .hint(WAYS_OUT)
            .exit(Exit::NoPermission)
    }
}

/// Setuid Demystified: success is what the kernel says afterwards.
fn read_back(account: &Account) -> Result<()> {
    let uids = getresuid().map_err(refused("getresuid", account))?;
    let gids = getresgid().map_err(refused("getresgid", account))?;
    let mut groups = getgroups().map_err(refused("getgroups", account))?;
    let mut planned = account.groups.clone();
    for list in [&mut groups, &mut planned] {
        list.sort_unstable_by_key(|gid| gid.as_raw());
        list.dedup();
    }
    let as_planned = [uids.real, uids.effective, uids.saved] == [account.uid; 3]
        && [gids.real, gids.effective, gids.saved] == [account.gid; 3]
        && groups == planned;
    if as_planned {
        return Ok(());
    }
    Err(still_root(
        account,
        "the kernel accepted it and shows another identity",
    ))
}

/// Only a process that kept capabilities (setpriv's securebits) gets past
/// this, and that is what it finds out.
fn cannot_return(account: &Account) -> Result<()> {
    let (root, wheel) = (Uid::from_raw(0), Gid::from_raw(0));
    let back = (!account.uid.is_root() && setresuid(root, root, root).is_ok())
        || (account.gid != wheel
            && !account.uid.is_root()
            && setresgid(wheel, wheel, wheel).is_ok());
    if back {
        return Err(still_root(account, "root could be had again afterwards"));
    }
    Ok(())
}

fn still_root(account: &Account, why: &str) -> Error {
    Error::usage(format!("become {account}"), format!("{why}; {WAYS_OUT}")).exit(Exit::NoPermission)
}

#[cfg(test)]
#[path = "privileges_tests.rs"]
mod tests;

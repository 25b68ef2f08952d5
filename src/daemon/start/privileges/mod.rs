//! Giving up root: decided by [`plan`], done by [`apply`]; and who
//! `--user USER[:GROUP]` means on this machine.
//!
//! Promises that after `apply` returns the identity is the planned one, read
//! back from the kernel, that no capability and no group is left that could be
//! given up, and that root cannot be had again; else an error, and the caller must
//! not serve. Names are looked up here and nowhere else, through a [`Lookup`] that a
//! test can replace, and before chroot(2), where /etc/passwd still is the host's;
//! numbers never are. Knows no socket: whatever needs root is open by the time this
//! runs.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::unistd::{
    Gid, Group, Uid, User, chdir, chroot, getegid, geteuid, setgroups, setresgid, setresuid,
};

use crate::config::{Config, Identity, SandboxPolicy};
use crate::daemon::start::self_check::{self, Expected};
use crate::error::{Error, Exit, Result};
use crate::sys::{memory, process, startup};

/// Both ways out of a refused change.
const WAYS_OUT: &str = "--user names another user, --allow-root keeps root";

/// The kernel's own overflow id, `nobody` nearly everywhere; never looked up, so it is the same
/// where there is no /etc/passwd.
const NOBODY: u32 = 65534;

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

    /// Whom we are about to become, if that is anybody else.
    pub fn becomes(&self) -> Option<(Uid, Gid)> {
        self.account.as_ref().map(|to| (to.uid, to.gid))
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
/// stays who they are, and may say so by `--user`. GROUP is the only group there
/// will be, that of USER if none is written down: what a group is good for, such
/// as a log directory of `adm`, is asked for by name.
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

/// What is left open on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// `--sandbox off`: the process stays dumpable, so that strace, gdb and
    /// /proc/PID/fd work for the same user.
    traceable: bool,
    /// Memory may become executable: there too, and for the programs of a command
    /// service, which inherit what we refuse and may compile as they run.
    executable: bool,
}

impl Open {
    /// What this configuration needs open.
    pub fn new(config: &Config) -> Self {
        let traceable = config.sandbox == SandboxPolicy::Off;
        Open {
            traceable,
            executable: traceable || config.runs_commands(),
        }
    }
}

/// Carries the plan out: chroot, limits, bounding set, groups, gid, uid,
/// capabilities, in the one order in which each step is still allowed, then reads
/// back what became of it ([`self_check`]).
///
/// PR_SET_PDEATHSIG does not survive this call: set it afterwards.
///
/// # Errors
/// 77 for whatever the kernel refuses, or for root that could be had again;
/// 78 for a `--chroot` that is no directory; 71 for a limit.
pub fn apply(plan: &Plan, open: Open) -> Result<()> {
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
    startup::take_from_all(open.traceable).map_err(|errno| Error::os("setrlimit", "", errno))?;
    let root = plan.keeps_root(Current::now());
    // First: the changes below take the capabilities that these two need.
    let unbound = !root && startup::drop_bounding().map_err(refused_caps("prctl"))?;
    let groupless = setgroups(&[]);
    if let Some(account) = &plan.account {
        if !root {
            // While it is root's to make: others may have no more than a few.
            process::leave_session_keyring().map_err(|errno| Error::os("keyctl", "", errno))?;
        }
        groupless.map_err(refused("setgroups", account))?;
        become_account(account)?;
        cannot_return(account)?;
    }
    if !root {
        // Also of whoever never was root: AmbientCapabilities, setcap(8).
        startup::drop_all().map_err(refused_caps("capset"))?;
    }
    // After the change of uid, which resets dumpable either way.
    set_dumpable(open.traceable).map_err(|errno| Error::os("prctl", "PR_SET_DUMPABLE", errno))?;
    set_no_new_privs().map_err(|errno| Error::os("prctl", "PR_SET_NO_NEW_PRIVS", errno))?;
    if !open.executable {
        memory::refuse_exec_gain();
    }
    memory::refuse_huge_pages();
    let ids = plan.account.as_ref();
    self_check::check(&Expected {
        ids: ids.map(|account| (account.uid.as_raw(), account.gid.as_raw())),
        root,
        groupless: groupless.is_ok(),
        unbound,
        traceable: open.traceable,
    })
}

fn refused_caps(op: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| {
        Error::os(op, "capabilities", errno)
            .hint("start without capabilities, or as root")
            .exit(Exit::NoPermission)
    }
}

fn become_account(account: &Account) -> Result<()> {
    let (uid, gid) = (account.uid, account.gid);
    // EINVAL here is an id that the user namespace does not map.
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

fn nobody() -> Account {
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
fn split(typed: &str) -> Result<(&str, Option<&str>)> {
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

fn resolve(typed: &str, lookup: &impl Lookup) -> Result<Account> {
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
fn resolve_user(typed: &str, user: &str, lookup: &impl Lookup) -> Result<(Uid, Option<Gid>)> {
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

fn resolve_group(typed: &str, group: &str, lookup: &impl Lookup) -> Result<Gid> {
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

#[cfg(test)]
mod tests;

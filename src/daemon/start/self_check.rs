//! Before the first client: is this process what it is meant to be? Asked of the
//! kernel and not of ourselves ("Setuid Demystified": success is what it says
//! afterwards), and without /proc, which a small container may not have.
//!
//! `surprise` decides, over what `Found` read.

use nix::errno::Errno;
use nix::sys::prctl::{get_dumpable, get_no_new_privs};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{getgroups, getresgid, getresuid};

use crate::error::{Error, Exit, Result};
use crate::sys::startup::{self, Sets};

/// What is to be found.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Real, effective and saved alike; `None` for whoever we are, all three the
    /// same.
    pub ids: Option<(u32, u32)>,
    /// uid 0 is kept, and its capabilities with it.
    pub root: bool,
    /// Groups beside the gid could be given up, and were.
    pub groupless: bool,
    /// The bounding set could be emptied, and was.
    pub unbound: bool,
    /// Others of this user may look into it: `--sandbox off`.
    pub traceable: bool,
}

/// What the kernel says.
#[derive(Clone, Debug)]
struct Found {
    uids: [u32; 3],
    gids: [u32; 3],
    groups: Vec<u32>,
    caps: Sets,
    secure_bits: i32,
    no_new_privs: bool,
    dumpable: bool,
    core: (u64, u64),
}

/// Reads everything back.
///
/// # Errors
/// 77 for an identity, a group or a capability that should not be there, 71 for
/// anything else, and for what cannot be read.
pub fn check(expected: &Expected) -> Result<()> {
    let found = Found::now().map_err(|errno| {
        Error::os("read back", "what this process may do", errno).exit(Exit::Os)
    })?;
    match surprise(expected, &found) {
        None => Ok(()),
        Some((what, exit)) => Err(Error::usage(
            "self-check at start",
            format!("{what}; not serving like this"),
        )
        .exit(exit)),
    }
}

impl Found {
    fn now() -> Result<Self, Errno> {
        let (uids, gids) = (getresuid()?, getresgid()?);
        Ok(Found {
            uids: [uids.real, uids.effective, uids.saved].map(|uid| uid.as_raw()),
            gids: [gids.real, gids.effective, gids.saved].map(|gid| gid.as_raw()),
            groups: getgroups()?.iter().map(|gid| gid.as_raw()).collect(),
            caps: startup::held()?,
            secure_bits: startup::secure_bits()?,
            no_new_privs: get_no_new_privs()?,
            dumpable: get_dumpable()?,
            core: getrlimit(Resource::RLIMIT_CORE)?,
        })
    }
}

/// The first thing that is not as expected, and how to exit because of it.
fn surprise(expected: &Expected, found: &Found) -> Option<(String, Exit)> {
    identity(expected, found)
        .or_else(|| capabilities(expected, found))
        .map(|what| (what, Exit::NoPermission))
        .or_else(|| containment(expected, found).map(|what| (what, Exit::Os)))
}

fn identity(expected: &Expected, found: &Found) -> Option<String> {
    let (uid, gid) = expected.ids.unwrap_or((found.uids[1], found.gids[1]));
    if found.uids != [uid; 3] {
        let [real, effective, saved] = found.uids;
        return Some(format!(
            "uids are {real} (real), {effective} (effective), {saved} (saved) and not all {uid}"
        ));
    }
    if found.gids != [gid; 3] {
        let [real, effective, saved] = found.gids;
        return Some(format!(
            "gids are {real} (real), {effective} (effective), {saved} (saved) and not all {gid}"
        ));
    }
    if uid == 0 && !expected.root {
        return Some("still uid 0".to_owned());
    }
    if expected.groupless && !found.groups.is_empty() {
        return Some(format!("supplementary groups are left: {:?}", found.groups));
    }
    None
}

fn capabilities(expected: &Expected, found: &Found) -> Option<String> {
    if expected.root {
        return None;
    }
    let caps = found.caps;
    let bounding = if expected.unbound { caps.bounding } else { 0 };
    [
        ("effective", caps.effective),
        ("permitted", caps.permitted),
        ("inheritable", caps.inheritable),
        ("ambient", caps.ambient),
        ("bounding", bounding),
    ]
    .into_iter()
    .find(|(_, set)| *set != 0)
    .map(|(name, set)| format!("{name} capabilities are left: {set:#x}"))
    .or_else(|| {
        // SECBIT_KEEP_CAPS, which PR_SET_KEEPCAPS sets.
        let keeps = found.secure_bits & (1 << 4) != 0;
        keeps.then(|| "PR_SET_KEEPCAPS is set".to_owned())
    })
}

fn containment(expected: &Expected, found: &Found) -> Option<String> {
    if !found.no_new_privs {
        return Some("no_new_privs is not set".to_owned());
    }
    if found.dumpable != expected.traceable {
        let is = if found.dumpable { "" } else { "not " };
        return Some(format!("the process is {is}dumpable"));
    }
    if !expected.traceable && found.core != (0, 0) {
        return Some(format!("RLIMIT_CORE is {} and not 0", found.core.0));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Expected = Expected {
        ids: Some((65534, 65534)),
        root: false,
        groupless: true,
        unbound: true,
        traceable: false,
    };

    fn harmless() -> Found {
        Found {
            uids: [65534; 3],
            gids: [65534; 3],
            groups: Vec::new(),
            caps: Sets::default(),
            secure_bits: 0,
            no_new_privs: true,
            dumpable: false,
            core: (0, 0),
        }
    }

    #[test]
    fn row_96_nothing_may_be_left_behind() {
        assert_eq!(surprise(&NOBODY, &harmless()), None);
        type Change = fn(&mut Found);
        let table: [(&str, Exit, Change); 17] = [
            ("(real)", Exit::NoPermission, |f| f.uids[0] = 0),
            ("(effective)", Exit::NoPermission, |f| f.uids[1] = 0),
            ("(saved)", Exit::NoPermission, |f| f.uids[2] = 0),
            ("not all 65534", Exit::NoPermission, |f| f.uids = [7; 3]),
            ("gids", Exit::NoPermission, |f| f.gids[0] = 0),
            ("gids", Exit::NoPermission, |f| f.gids[1] = 4),
            ("gids", Exit::NoPermission, |f| f.gids[2] = 0),
            ("groups", Exit::NoPermission, |f| f.groups = vec![27]),
            ("effective", Exit::NoPermission, |f| f.caps.effective = 1),
            ("permitted", Exit::NoPermission, |f| f.caps.permitted = 2),
            ("inheritable", Exit::NoPermission, |f| {
                f.caps.inheritable = 4;
            }),
            ("ambient", Exit::NoPermission, |f| f.caps.ambient = 1 << 40),
            ("bounding", Exit::NoPermission, |f| f.caps.bounding = 1),
            ("KEEPCAPS", Exit::NoPermission, |f| f.secure_bits = 1 << 4),
            ("no_new_privs", Exit::Os, |f| f.no_new_privs = false),
            ("dumpable", Exit::Os, |f| f.dumpable = true),
            ("RLIMIT_CORE", Exit::Os, |f| f.core = (0, 1)),
        ];
        for (named, exit, change) in table {
            let mut found = harmless();
            change(&mut found);
            let (what, with) = surprise(&NOBODY, &found).expect(named);
            assert!(what.contains(named), "{named}: {what}");
            assert_eq!(with, exit, "{named}");
        }
    }

    #[test]
    fn what_could_not_be_given_up_or_was_asked_for_is_no_surprise() {
        let mut found = harmless();
        found.groups = vec![27];
        found.caps.bounding = 1;
        let unprivileged = Expected {
            ids: None,
            groupless: false,
            unbound: false,
            ..NOBODY
        };
        assert_eq!(surprise(&unprivileged, &found), None);
        let mut found = harmless();
        (found.uids, found.gids) = ([0; 3], [0; 3]);
        found.caps.effective = u64::MAX;
        let root = Expected {
            ids: None,
            root: true,
            ..NOBODY
        };
        assert_eq!(surprise(&root, &found), None);
        let by_accident = Expected {
            root: false,
            ..root
        };
        let (what, _) = surprise(&by_accident, &found).expect("uid 0");
        assert_eq!(what, "still uid 0");
        let traceable = Expected {
            traceable: true,
            ..NOBODY
        };
        let mut found = harmless();
        found.dumpable = true;
        found.core = (u64::MAX, u64::MAX);
        assert_eq!(surprise(&traceable, &found), None);
    }
}

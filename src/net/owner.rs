//! Whose a socket file shall be: `user=` and `group=`, by name or by number.
//!
//! Asks the user database and nothing else; who may give a file away is for
//! chown(2) to say.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use crate::addr::Attrs;
use crate::error::Error;

/// Who shall own the file; `None` leaves it as it is made.
pub(super) struct Owner {
    pub user: Option<Uid>,
    pub group: Option<Gid>,
}

impl Owner {
    /// Resolves names and numbers before anything is made.
    ///
    /// # Errors
    /// 64 no such user or group, 71 the database cannot be read.
    pub(super) fn find(attrs: &Attrs, subject: &str) -> Result<Owner, Error> {
        crate::sys::nss::built_in_only();
        let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        Ok(Owner {
            user: id("user", attrs.user.as_deref(), subject, user)?.map(Uid::from_raw),
            group: id("group", attrs.group.as_deref(), subject, group)?.map(Gid::from_raw),
        })
    }
}

/// A name's or a number's id; -1 is none, chown(2) would ignore it.
fn id(
    key: &str,
    given: Option<&str>,
    subject: &str,
    by_name: impl Fn(&str) -> Result<Option<u32>, Errno>,
) -> Result<Option<u32>, Error> {
    let Some(given) = given else { return Ok(None) };
    let found = match given.parse::<u32>() {
        Ok(id) => Some(id),
        Err(_) => by_name(given)
            .map_err(|errno| Error::os("look up", format_args!("{key} {given}"), errno))?,
    };
    match found {
        Some(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::usage(
            subject,
            format_args!("{key}: no {key} {given}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: &str, group: &str) -> Result<(Option<u32>, Option<u32>), Error> {
        let attrs = Attrs {
            user: (!user.is_empty()).then(|| user.to_owned()),
            group: (!group.is_empty()).then(|| group.to_owned()),
            ..Attrs::default()
        };
        let owner = Owner::find(&attrs, "unix:/s")?;
        Ok((owner.user.map(Uid::as_raw), owner.group.map(Gid::as_raw)))
    }

    #[test]
    fn an_owner_is_a_name_or_a_number() {
        assert_eq!(find("", ""), Ok((None, None)));
        assert_eq!(find("root", "0"), Ok((Some(0), Some(0))));
        assert_eq!(find("65534", ""), Ok((Some(65534), None)));
        for (user, group, why) in [
            ("no-such-user", "", "user: no user no-such-user"),
            ("", "no-such-group", "group: no group no-such-group"),
            ("4294967295", "", "user: no user 4294967295"),
        ] {
            let error = find(user, group).expect_err("not there");
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.status(), crate::error::Exit::Usage);
        }
    }
}

//! Sockets handed over by a service manager: LISTEN_FDS, LISTEN_PID and
//! LISTEN_FDNAMES of sd_listen_fds(3).
//!
//! What the variables say is decided by [`wanted`], a pure table. They are taken
//! out of the environment first, whatever they say: they are for this process
//! alone. A lie about descriptors is refused and never guessed at, since a wrong
//! guess takes over a descriptor that is something else.

use std::ffi::OsString;
use std::os::fd::RawFd;

use crate::addr::ListenSpec;
use crate::error::{Error, Result};
use crate::net::{Handed, refused};
use crate::sys::{fd, startup};
use crate::values::{decimal, refused_value};

/// The number of the first descriptor, SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;

/// What came by the environment.
pub struct Activation {
    /// The sockets, or why there are none that can be served at.
    pub sockets: Result<Vec<Handed>>,
    /// One line for the log, where what was said is not for us.
    pub notice: Option<String>,
}

impl Activation {
    /// What the sockets are, for the rules between options.
    pub fn specs(&self) -> Vec<ListenSpec> {
        let sockets = self.sockets.iter().flatten();
        sockets.map(Handed::spec).collect()
    }
}

/// Takes the variables, and owns the descriptors they speak of. To be called
/// before this process opens anything.
pub fn take() -> Activation {
    let [pid, fds, names, _] = [
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        // A second proof of the pid, which needs no other than the first.
        "LISTEN_PIDFDID",
    ]
    .map(startup::take_env);
    let of_none = |notice| Activation {
        sockets: Ok(Vec::new()),
        notice,
    };
    match wanted(pid, fds, names, std::process::id()) {
        Ok(Wanted::Nothing) => of_none(None),
        Ok(Wanted::Ignored(why)) => of_none(Some(why)),
        Ok(Wanted::Sockets(count, names)) => Activation {
            sockets: (0..count)
                .map(|n| adopt(FIRST + n, names.as_ref().map(|names| &names[n as usize])))
                .collect(),
            notice: None,
        },
        Err(error) => Activation {
            sockets: Err(error),
            notice: None,
        },
    }
}

fn adopt(number: RawFd, name: Option<&String>) -> Result<Handed> {
    let label = match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("descriptor {number} ({name})"),
        None => format!("descriptor {number}"),
    };
    if !fd::is_open(number) {
        return Err(refused(&label, "it is not open"));
    }
    Handed::new(fd::adopt(number)?, label)
}

/// What the variables ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nobody hands over anything.
    Nothing,
    /// Something, but not of us.
    Ignored(String),
    /// So many sockets, and a name for each if they have names.
    Sockets(RawFd, Option<Vec<String>>),
}

/// What LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES say to the process `own`.
///
/// # Errors
/// 78 for what cannot be read: it came from a unit file, not from a command line.
pub fn wanted(
    pid: Option<OsString>,
    fds: Option<OsString>,
    names: Option<OsString>,
    own: u32,
) -> Result<Wanted> {
    let Some(fds) = fds else {
        return Ok(Wanted::Nothing);
    };
    let Some(pid) = pid else {
        let why = "LISTEN_FDS without LISTEN_PID: ignored".to_owned();
        return Ok(Wanted::Ignored(why));
    };
    match number(&pid) {
        Some(pid) if pid == own => {}
        Some(pid) => {
            let why = format!(
                "LISTEN_PID={pid}: its sockets are not for this process ({own}): ignored; \
                 a shell that starts echod needs exec"
            );
            return Ok(Wanted::Ignored(why));
        }
        None => return Err(garbage("LISTEN_PID", &pid, "not a process id")),
    }
    let most = (RawFd::MAX - FIRST).unsigned_abs();
    let Some(count) = number(&fds).filter(|count| *count <= most) else {
        return Err(garbage("LISTEN_FDS", &fds, "not a number of sockets"));
    };
    let count = count.cast_signed();
    let Some(typed) = names else {
        return Ok(Wanted::Sockets(count, None));
    };
    let graphic = |text: &&str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
    let Some(text) = typed.to_str().filter(graphic) else {
        return Err(garbage("LISTEN_FDNAMES", &typed, "not names"));
    };
    let names: Vec<String> = text.split(':').map(str::to_owned).collect();
    if names.len() != count as usize {
        let why = format!("{} names for {count} sockets", names.len());
        return Err(garbage("LISTEN_FDNAMES", &typed, &why));
    }
    Ok(Wanted::Sockets(count, Some(names)))
}

/// One from 1.
fn number(text: &OsString) -> Option<u32> {
    let number = decimal(text).and_then(|number| u32::try_from(number).ok());
    number.filter(|number| *number > 0)
}

fn garbage(name: &str, value: &OsString, why: &str) -> Error {
    refused_value(name, value, why).exit(crate::error::Exit::Config)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::error::Exit;

    #[test]
    fn sockets_are_ours_only_if_every_variable_says_so() {
        let sockets = |n, names: &[&str]| {
            let names: Vec<_> = names.iter().map(|s| (*s).to_owned()).collect();
            Wanted::Sockets(n, (!names.is_empty()).then_some(names))
        };
        for (pid, fds, names, expected) in [
            (None, None, None, Wanted::Nothing),
            (Some("7"), None, Some("a"), Wanted::Nothing),
            (Some("x"), None, None, Wanted::Nothing),
            (Some("7"), Some("1"), None, sockets(1, &[])),
            (Some("7"), Some("2"), Some("a:b"), sockets(2, &["a", "b"])),
            (Some("7"), Some("2"), Some(":"), sockets(2, &["", ""])),
            (Some("7"), Some("1"), Some(""), sockets(1, &[""])),
            (
                Some("7"),
                Some("2147483644"),
                None,
                sockets(2147483644, &[]),
            ),
        ] {
            let got = wanted(
                pid.map(Into::into),
                fds.map(Into::into),
                names.map(Into::into),
                7,
            );
            assert_eq!(got, Ok(expected), "{pid:?} {fds:?} {names:?}");
        }
        for (pid, fds) in [(None, "1"), (Some("8"), "1"), (Some("8"), "garbage")] {
            let got = wanted(pid.map(Into::into), Some(fds.into()), None, 7);
            assert!(matches!(got, Ok(Wanted::Ignored(_))), "{pid:?}: {got:?}");
        }
    }

    #[test]
    fn garbage_is_one_clear_line_and_78() {
        let long = "9".repeat(5000);
        for (pid, fds, names) in [
            ("", "1", None),
            ("-7", "1", None),
            ("7 ", "1", None),
            ("0", "1", None),
            ("4294967303", "1", None),
            ("7", "", None),
            ("7", "0", None),
            ("7", "-1", None),
            ("7", "+1", None),
            ("7", " 1", None),
            ("7", "1\n", None),
            ("7", "0x1", None),
            ("7", "1.0", None),
            ("7", "2147483645", None),
            ("7", "99999999999999999999", None),
            ("7", long.as_str(), None),
            ("7", "1", Some("a:b")),
            ("7", "2", Some("a")),
            ("7", "1", Some("a\nb")),
            ("7", "1", Some("\u{fc}")),
        ] {
            let error = wanted(Some(pid.into()), Some(fds.into()), names.map(Into::into), 7)
                .expect_err("garbage");
            assert_eq!(error.status(), Exit::Config);
            let text = error.to_string();
            assert!(text.starts_with("LISTEN_"), "{text}");
            assert!(text.len() < 200 && !text.contains('\n'), "{text}");
        }
        let bytes = OsString::from_vec(vec![0xff, 0xfe]);
        for (fds, names) in [("1".into(), Some(bytes.clone())), (bytes, None)] {
            assert!(wanted(Some("7".into()), Some(fds), names, 7).is_err());
        }
    }

    /// Runs as the process of its own that the next test starts.
    #[test]
    fn take_role() {
        if crate::rerun::role().is_none() {
            return;
        }
        let taken = take();
        let words = crate::daemon::supervisor::notify::Asked::take();
        let left = std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            ["LISTEN_", "NOTIFY_", "WATCHDOG_"]
                .iter()
                .any(|p| name.starts_with(p))
        });
        crate::rerun::say(left.count());
        crate::rerun::say(taken.notice.is_some() && words.asks());
    }

    #[test]
    fn nothing_stays_in_the_environment() {
        let mut sh = std::process::Command::new("/usr/bin/env");
        for name in ["PID=1", "FDS=1", "FDNAMES=a", "PIDFDID=1"] {
            sh.arg(format!("LISTEN_{name}"));
        }
        sh.args([
            "NOTIFY_SOCKET=@x",
            "WATCHDOG_USEC=1000000",
            "WATCHDOG_PID=1",
        ]);
        let name = "daemon::start::activation::tests::take_role";
        let mut child = crate::rerun::start_under(sh, name, "go");
        assert_eq!(child.hear(), "0", "variables left");
        assert_eq!(child.hear(), "true", "they were there");
        child.end();
    }
}

//! A file as a sink: how it is opened, by whom it may be planted, and how it is
//! found again after a rotation.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, fchown, getegid, geteuid};

use super::{kind, write_if_ready};
use crate::error::{Error, Exit};
use crate::sys::fd::stat;

/// A file appended to, found again by name in a directory held open, which
/// works after chroot(2) and, permissions allowing, as another user.
pub(in crate::logging) struct LogFile {
    path: PathBuf,
    name: OsString,
    dir: OwnedFd,
    fd: OwnedFd,
    /// It was not there before.
    created: bool,
}

impl LogFile {
    pub fn open(path: &Path) -> Result<LogFile, Error> {
        let shown = path.display();
        let path = std::path::absolute(path)
            .map_err(|e| Error::usage(format!("--log-target {shown}"), e))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::usage(
                format!("--log-target {shown}"),
                "this is a directory: name a file in it",
            ));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(parent, flags, Mode::empty()).map_err(|e| refused(parent, e))?;
        let (fd, created) = open_in(&dir, name).map_err(|e| refused(&path, e))?;
        Ok(LogFile {
            name: name.to_owned(),
            dir,
            fd,
            created,
            path,
        })
    }

    /// One write that does not wait.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        write_if_ready(self.fd.as_fd(), bytes)
    }

    /// What must stay open.
    pub(super) fn keep(&self) -> Vec<RawFd> {
        vec![self.dir.as_raw_fd(), self.fd.as_raw_fd()]
    }

    /// Opens the file of that name anew.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        let (fd, created) = open_in(&self.dir, &self.name).map_err(|errno| {
            let error = Error::os("reopen", self.path.display(), errno).exit(Exit::CantCreate);
            match errno {
                Errno::EACCES | Errno::EPERM => error.hint(format_args!(
                    "still writing to the file opened before: whoever moves the log makes a new \
                     one that {}:{} may write to, as logrotate's create does",
                    geteuid(),
                    getegid()
                )),
                _ => error.hint("still writing to the file opened before"),
            }
        })?;
        (self.fd, self.created) = (fd, created);
        Ok(())
    }

    /// As nginx does for the user of its workers: one we have just created, or one
    /// that our predecessor did, as the user we are. Somebody else's stays theirs, and
    /// so does a device, and a file of whose names this is not the only one: the look
    /// at the name shows that it still is this file's, and link count that it has
    /// no other.
    pub fn give_to(&self, uid: Uid, gid: Gid) {
        let at = fstatat(
            &self.dir,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        let (Ok(file), Ok(named)) = (stat(self.fd.as_fd()), at) else {
            return;
        };
        let same = (file.st_dev, file.st_ino) == (named.st_dev, named.st_ino);
        let alone = kind(&named) == SFlag::S_IFREG && named.st_nlink == 1;
        if same && alone && named.st_uid == geteuid().as_raw() {
            // The group of an older one is who may read it.
            let gid = self.created.then_some(gid);
            // What comes of it, `can_reopen` asks.
            let _ = fchown(self.fd.as_fd(), Some(uid), gid);
        }
    }

    /// Tries it.
    pub fn can_reopen(&self) -> Result<(), Error> {
        if stat(self.fd.as_fd()).is_ok_and(|file| kind(&file) != SFlag::S_IFREG) {
            return Ok(());
        }
        openat(&self.dir, self.name.as_os_str(), FLAGS, Mode::empty())
            .map(drop)
            .map_err(|errno| {
                Error::os("reopen", self.path.display(), errno).hint(format_args!(
                    "it cannot be rotated: {}:{} must be able to open it",
                    geteuid(),
                    getegid()
                ))
            })
    }
}

/// O_NONBLOCK is for a FIFO, whose open(2) would wait.
const FLAGS: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// An existing file first: after --user the one logrotate(8) made for us may
/// be all we can open. True with one that was created here.
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    let existing = || openat(dir, name, FLAGS, Mode::empty());
    let mode = Mode::from_bits_truncate(0o640);
    let (file, created) = match existing() {
        Err(Errno::ENOENT) => {
            let new = OFlag::O_CREAT | OFlag::O_EXCL;
            match openat(dir, name, FLAGS | new, mode) {
                // Somebody was faster.
                Err(Errno::EEXIST) => (existing()?, false),
                result => (result?, true),
            }
        }
        result => (result?, false),
    };
    // A second name of a file that is not ours to write, where the kernel lets
    // people make such (fs.protected_hardlinks, proc_sys_fs(5)).
    let found = stat(file.as_fd())?;
    if kind(&found) == SFlag::S_IFREG && found.st_nlink > 1 {
        return Err(Errno::EMLINK);
    }
    Ok((file, created))
}

fn refused(path: &Path, errno: Errno) -> Error {
    let error = Error::os("open", path.display(), errno);
    match errno {
        Errno::EACCES | Errno::EPERM => error
            .hint("--log-target needs a place this user may write to")
            .exit(Exit::NoPermission),
        Errno::ELOOP => error
            .hint("a symbolic link is not followed: name the file itself in --log-target")
            .exit(Exit::CantCreate),
        Errno::EMLINK => error
            .hint("it has a second name, a hard link: name a file that has one")
            .exit(Exit::CantCreate),
        _ => error
            .hint("--log-target needs a file in an existing directory")
            .exit(Exit::CantCreate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_says_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let missing = dir.path().join("no/log");
        let error = LogFile::open(&missing).err().expect("no directory");
        assert_eq!(error.status(), Exit::CantCreate);
        assert!(error.to_string().contains("(ENOENT)"), "{error}");
        let error = LogFile::open("/".as_ref()).err().expect("a directory");
        assert_eq!(error.status(), Exit::Usage);
    }

    #[test]
    fn a_fifo_without_a_reader_does_not_hold_us_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
        let error = LogFile::open(&path).err().expect("nobody reads it");
        assert!(error.to_string().contains("(ENXIO)"), "{error}");
    }
}

//! A file as a sink: how it is opened, by whom it may be planted, and how it is
//! found again after a rotation.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag};

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
        let fd = open_in(&dir, name).map_err(|e| refused(&path, e))?;
        Ok(LogFile {
            name: name.to_owned(),
            dir,
            fd,
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
        self.fd = open_in(&self.dir, &self.name).map_err(|errno| {
            Error::os("reopen", self.path.display(), errno)
                .hint("still writing to the file opened before")
                .exit(Exit::CantCreate)
        })?;
        Ok(())
    }
}

/// An existing file first: after --user the one logrotate(8) made for us may
/// be all we can open. O_NONBLOCK is for a FIFO, whose open(2) would wait.
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o640);
    let file = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => openat(dir, name, flags | OFlag::O_CREAT, mode),
        result => result,
    }?;
    // A second name of a file that is not ours to write, where the kernel lets
    // people make such (fs.protected_hardlinks, proc_sys_fs(5)).
    let found = stat(file.as_fd())?;
    if kind(&found) == SFlag::S_IFREG && found.st_nlink > 1 {
        return Err(Errno::EMLINK);
    }
    Ok(file)
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

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
use crate::sys::fd::{could_create, lost_its_name, stat};

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
        let (path, dir, name) = place(path)?;
        let (fd, created) = open_in(&dir, &name).map_err(|e| refused(&path, e))?;
        Ok(LogFile {
            path,
            name,
            dir,
            fd,
            created,
        })
    }

    /// Tries what [`LogFile::open`] would do, and makes no file.
    pub fn rehearse(path: &Path) -> Result<(), Error> {
        let (path, dir, name) = place(path)?;
        match open_existing(&dir, &name) {
            Err(Errno::ENOENT) => could_create(&dir),
            result => result.map(drop),
        }
        .map_err(|e| refused(&path, e))
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

/// The path as it counts from `/`, its directory, and its name there.
fn place(path: &Path) -> Result<(PathBuf, OwnedFd, OsString), Error> {
    let shown = path.display();
    let path =
        std::path::absolute(path).map_err(|e| Error::usage(format!("--log-target {shown}"), e))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::usage(
            format!("--log-target {shown}"),
            "this is a directory: name a file in it",
        ));
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(parent, flags, Mode::empty()).map_err(|e| refused(parent, e))?;
    let name = name.to_owned();
    Ok((path, dir, name))
}

/// How often the file may be replaced under our hands.
const ATTEMPTS: usize = 100;

/// An existing file first: after --user the one logrotate(8) made for us may
/// be all we can open. True with one that was created here.
fn open_in(dir: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    let new = FLAGS | OFlag::O_CREAT | OFlag::O_EXCL;
    let mode = Mode::from_bits_truncate(0o640);
    for _ in 0..ATTEMPTS {
        match open_existing(dir, name) {
            Err(Errno::ENOENT) => {}
            // The name led elsewhere by the time we looked at it.
            Err(Errno::ESTALE) => continue,
            result => return Ok((result?, false)),
        }
        match openat(dir, name, new, mode) {
            // Somebody was faster.
            Err(Errno::EEXIST) => {}
            result => return Ok((result?, true)),
        }
    }
    Err(Errno::ESTALE)
}

/// The file of that name, if it is one that we may write to. A second name of a file
/// that is not ours to write can be planted, where the kernel lets people make such
/// (fs.protected_hardlinks, proc_sys_fs(5)), and removed as soon as we have opened it.
/// So one look at the name says that it leads to this file still, and that it is
/// the only one.
fn open_existing(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let file = openat(dir, name, FLAGS, Mode::empty())?;
    let found = stat(file.as_fd())?;
    if kind(&found) != SFlag::S_IFREG {
        return Ok(file);
    }
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(there) if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino) => {
            Err(Errno::ESTALE)
        }
        Ok(there) if there.st_nlink > 1 => Err(Errno::EMLINK),
        Ok(_) if lost_its_name(dir, name, &file) => Err(Errno::ESTALE),
        Ok(_) => Ok(file),
        Err(Errno::ENOENT) => Err(Errno::ESTALE),
        Err(errno) => Err(errno),
    }
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

    /// Whoever may write to the directory plants a second name of somebody's file and
    /// takes it away again, over and over.
    #[test]
    fn row_115_a_second_name_that_comes_and_goes_is_never_written_to() {
        use std::fs;
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, victim) = (dir.path().join("log"), dir.path().join("victim"));
        fs::write(&victim, "precious\n").expect("write");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    if fs::hard_link(&victim, &path).is_ok() {
                        let _ = fs::remove_file(&path);
                    }
                }
            });
            for _ in 0..3000 {
                if let Ok(log) = LogFile::open(&path) {
                    let _ = log.send(b"a line\n");
                    let _ = fs::remove_file(&path);
                }
            }
            done.store(true, Relaxed);
        });
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious\n");
    }
}

//! The pidfile: who serves, and a lock that says whether it is true.
//!
//! The lock is the truth, the number only a name: a file left by a dead echod
//! is taken over, whatever process has that number now. fcntl(2) locks belong
//! to a process and are not inherited, so children never keep a dead
//! supervisor's pidfile locked; the price is that **closing any descriptor of
//! this file in the supervisor drops the lock**, so nothing else may open it.
//! A directory descriptor held from the start lets the file be unlinked after
//! chroot(2). Knows nothing of sockets or of what is served.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::uio::pwrite;
use nix::unistd::{UnlinkatFlags, ftruncate, getpid, unlinkat};

use crate::error::{Error, Exit, Result};

/// How often the file may be replaced under our hands before we call it an
/// error: each time means that another echod came or went.
const ATTEMPTS: usize = 100;

/// A pidfile that is ours until this process ends.
///
/// Dropping it only closes: forked children do that too. [`PidFile::remove`]
/// is for the supervisor's orderly end.
#[derive(Debug)]
pub struct PidFile {
    file: OwnedFd,
    dir: OwnedFd,
    name: OsString,
}

impl PidFile {
    /// Locks the file and writes our pid into it. To be called by the process
    /// that will serve, after its last fork. A relative path counts from the
    /// current directory.
    ///
    /// # Errors
    /// 69 naming the holder when another process has it locked; 73 when it
    /// cannot be created or written, 77 when that is for lack of permission.
    /// A file made for nothing is unlinked.
    pub fn create(path: &Path) -> Result<PidFile> {
        let path = std::path::absolute(path)
            .map_err(|e| Error::usage(format!("--pidfile {}", path.display()), e))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::usage(
                format!("--pidfile {}", path.display()),
                "this is a directory: name a file in it",
            ));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(parent, flags, Mode::empty()).map_err(|e| refused("open", parent, e))?;
        for _ in 0..ATTEMPTS {
            if let Some((file, created)) = take(&dir, name, &path)? {
                let pidfile = PidFile {
                    file,
                    dir,
                    name: name.to_owned(),
                };
                return match pidfile.write() {
                    Ok(()) => Ok(pidfile),
                    Err(errno) => {
                        if created {
                            pidfile.unlink_if_ours();
                        }
                        Err(refused("write", &path, errno))
                    }
                };
            }
        }
        Err(
            Error::usage(path.display(), "other processes keep replacing it")
                .exit(Exit::CantCreate),
        )
    }

    /// Empties the file and, where this identity may, unlinks it, unless the
    /// path leads to another file by now. Whoever waits for our lock with the
    /// old file open sees that the path has left it, and opens anew.
    pub fn remove(self) {
        // Empty first: if the name cannot go, at least the number does.
        let _ = ftruncate(&self.file, 0);
        self.unlink_if_ours();
    }

    /// The pid first, the length after: a reader at any moment finds a whole
    /// pid in the first line, and a full disk is found out by the write, while
    /// a file emptied first would show nothing and could stay that way.
    fn write(&self) -> Result<(), Errno> {
        let text = format!("{}\n", getpid());
        if pwrite(&self.file, text.as_bytes(), 0)? != text.len() {
            return Err(Errno::ENOSPC);
        }
        ftruncate(&self.file, text.len().try_into().unwrap_or(0))
    }

    /// Between the check and the unlink only someone who ignores our lock can
    /// put another file there.
    fn unlink_if_ours(&self) {
        if is_at(&self.file, &self.dir, &self.name).unwrap_or(false) {
            let _ = unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Opens and locks the file, and says whether it is new; `None` when it was
/// replaced meanwhile and the caller should try again.
fn take(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<(OwnedFd, bool)>> {
    let Some((file, created)) =
        open_or_create(dir, name).map_err(|errno| refused("open", path, errno))?
    else {
        return Ok(None);
    };
    let stat = fstat(&file).map_err(|errno| refused("fstat", path, errno))?;
    if let Some(odd) = oddity(&stat) {
        return Err(Error::usage(path.display(), odd).exit(Exit::CantCreate));
    }
    match lock(&file).map_err(|errno| refused("lock", path, errno))? {
        Lock::Ours => {}
        Lock::Gone => return Ok(None),
        Lock::Held(pid) => return Err(held(path, pid)),
    }
    // The holder before us may have unlinked it between our open and our lock:
    // then we have locked a file that nobody else will ever find.
    let ours = is_at(&file, dir, name).map_err(|errno| refused("stat", path, errno))?;
    Ok(ours.then_some((file, created)))
}

/// Never truncates: until it is locked, the file is someone else's.
fn open_or_create(dir: &OwnedFd, name: &OsStr) -> Result<Option<(OwnedFd, bool)>, Errno> {
    // O_NONBLOCK is for whatever is not a regular file; refused right after.
    let flags =
        OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => return Ok(Some((file, false))),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let mode = Mode::from_bits_truncate(0o644);
    match openat(dir, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
        Ok(file) => Ok(Some((file, true))),
        Err(Errno::EEXIST) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Why this file is not one we may write a number over: what it is may have
/// been planted by whoever can write to the directory.
fn oddity(stat: &FileStat) -> Option<&'static str> {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match (kind == SFlag::S_IFREG, stat.st_nlink) {
        (false, _) => Some("not a regular file: name another --pidfile"),
        (true, 2..) => Some("has a second name (hard link): remove it or name another --pidfile"),
        (true, _) => None,
    }
}

enum Lock {
    Ours,
    /// By this pid, where the kernel can name one.
    Held(Option<i32>),
    /// By one that left while we asked.
    Gone,
}

fn lock(file: &OwnedFd) -> Result<Lock, Errno> {
    let mut whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_SETLK(&whole)) {
        Ok(_) => return Ok(Lock::Ours),
        Err(Errno::EAGAIN | Errno::EACCES) => {}
        Err(errno) => return Err(errno),
    }
    fcntl(file, FcntlArg::F_GETLK(&mut whole))?;
    Ok(match whole.l_pid {
        _ if whole.l_type == libc::F_UNLCK as libc::c_short => Lock::Gone,
        // 0 and -1: a process outside our pid namespace, or no one process.
        pid @ 1.. => Lock::Held(Some(pid)),
        _ => Lock::Held(None),
    })
}

/// Whether the name still leads to this very file.
fn is_at(file: &OwnedFd, dir: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
    let ours = fstat(file)?;
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn held(path: &Path, pid: Option<i32>) -> Error {
    let by = match pid {
        Some(pid) => format!("held by process {pid}"),
        None => "held by a process of another pid namespace".to_owned(),
    };
    let advice = "another echod runs; stop it, or name another --pidfile";
    Error::usage(
        format!("lock {}", path.display()),
        format!("{by}: {advice}"),
    )
    .exit(Exit::Unavailable)
}

fn refused(op: &str, path: &Path, errno: Errno) -> Error {
    let (hint, exit) = match errno {
        Errno::EACCES | Errno::EPERM => (
            "--pidfile needs a place this user may write to",
            Exit::NoPermission,
        ),
        Errno::ELOOP => ("a symbolic link is not followed", Exit::CantCreate),
        Errno::ENOENT | Errno::ENOTDIR => (
            "--pidfile needs a file in an existing directory",
            Exit::CantCreate,
        ),
        Errno::ENOSPC | Errno::EDQUOT => (
            "make room there, or name another --pidfile",
            Exit::CantCreate,
        ),
        _ => ("name another --pidfile", Exit::CantCreate),
    };
    Error::os(op, path.display(), errno).hint(hint).exit(exit)
}

#[cfg(test)]
#[path = "pidfile_tests.rs"]
mod tests;

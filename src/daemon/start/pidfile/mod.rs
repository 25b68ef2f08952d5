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
use std::path::{Path, PathBuf};

use log::warn;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, umask};
use nix::sys::uio::pwrite;
use nix::unistd::{Pid, UnlinkatFlags, ftruncate, getpid, unlinkat};

use crate::daemon::start::holder;
use crate::error::{Error, Exit, Result};
use crate::sys::fd;

/// How often the file may be replaced under our hands before we call it an
/// error: each time means that another echod came or went, or is about to be gone.
const ATTEMPTS: usize = 200;
/// How many milliseconds to give one that is.
const SOON: u8 = 10;

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
        let (path, dir, name) = place(path)?;
        for _ in 0..ATTEMPTS {
            if let Some((file, created)) = take(&dir, &name, &path)? {
                let pidfile = PidFile { file, dir, name };
                return match number(&pidfile.file) {
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

    /// Tries what [`PidFile::create`] would do, and makes, locks and changes nothing:
    /// the echod that runs and has the file, if one does.
    ///
    /// # Errors
    /// As for [`PidFile::create`], but for a lock that such an echod holds.
    pub fn rehearse(path: &Path) -> Result<Option<Pid>> {
        let (path, dir, name) = place(path)?;
        let file = match openat(&dir, name.as_os_str(), FLAGS, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => {
                let file = fd::nameless(&dir).map_err(|errno| refused("open", &path, errno))?;
                let written = number(&file);
                return written
                    .map(|()| None)
                    .map_err(|errno| refused("write", &path, errno));
            }
            Err(errno) => return Err(refused("open", &path, errno)),
        };
        let stat = fstat(&file).map_err(|errno| refused("fstat", &path, errno))?;
        if let Some(odd) = oddity(&stat) {
            return Err(Error::usage(path.display(), odd).exit(Exit::CantCreate));
        }
        match holder(&file).map_err(|errno| refused("lock", &path, errno))? {
            Lock::Held(Some(pid)) if holder::is_echod(pid) => {
                warn!(
                    "lock {}: not tried, since the running echod {pid} has it",
                    path.display()
                );
                Ok(Some(Pid::from_raw(pid)))
            }
            Lock::Held(pid) if !pid.is_some_and(holder::is_dying) => Err(held(&path, pid)),
            _ => match fd::nameless(&dir).map_or(Ok(()), |other| number(&other)) {
                // What has a number in it has room for another.
                Err(Errno::ENOSPC | Errno::EDQUOT) if stat.st_size > 0 => Ok(None),
                Err(errno) => Err(refused("write", &path, errno)),
                Ok(()) => Ok(None),
            },
        }
    }

    /// Empties the file and, where this identity may, unlinks it, unless the
    /// path leads to another file by now. Whoever waits for our lock with the
    /// old file open sees that the path has left it, and opens anew.
    pub fn remove(self) {
        // Empty first: if the name cannot go, at least the number does.
        let _ = ftruncate(&self.file, 0);
        self.unlink_if_ours();
    }

    /// Between the check and the unlink only someone who ignores our lock can
    /// put another file there.
    fn unlink_if_ours(&self) {
        if at(&self.file, &self.dir, &self.name).is_ok_and(|there| there.is_some()) {
            let _ = unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Makes our pid what is in the file. The pid first, the length after: a reader at any
/// moment finds a whole pid in the first line, and a full disk is found out by the
/// write, while a file emptied first would show nothing and could stay that way.
fn number(file: &OwnedFd) -> Result<(), Errno> {
    let text = format!("{}\n", getpid());
    if pwrite(file, text.as_bytes(), 0)? != text.len() {
        return Err(Errno::ENOSPC);
    }
    ftruncate(file, text.len().try_into().unwrap_or(0))
}

/// The path as it counts from `/`, its directory, and its name there.
fn place(path: &Path) -> Result<(PathBuf, OwnedFd, OsString)> {
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
    let name = name.to_owned();
    Ok((path, dir, name))
}

/// Opens and locks the file, and says whether it is new; `None` when it was
/// replaced meanwhile and the caller should try again.
fn take(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<(OwnedFd, bool)>> {
    let Some((file, created)) =
        open_or_create(dir, name).map_err(|errno| refused("open", path, errno))?
    else {
        return Ok(None);
    };
    let odd = |stat: &FileStat| match oddity(stat) {
        Some(odd) => Err(Error::usage(path.display(), odd).exit(Exit::CantCreate)),
        None => Ok(()),
    };
    odd(&fstat(&file).map_err(|errno| refused("fstat", path, errno))?)?;
    match lock(&file).map_err(|errno| refused("lock", path, errno))? {
        Lock::Ours => {}
        Lock::Gone => return Ok(None),
        Lock::Held(Some(pid)) if holder::is_dying(pid) => {
            // Killed, and not yet gone: its lock goes with its descriptors.
            let _ = poll(&mut [], PollTimeout::from(SOON));
            return Ok(None);
        }
        Lock::Held(pid) => return Err(held(path, pid)),
        Lock::Read(pid) => return replace(&file, dir, name, path, pid).map(|()| None),
    }
    // The holder before us may have unlinked it between our open and our lock:
    // then we have locked a file that nobody else will ever find. And who planted a
    // second name of somebody's file may have removed either: one look at the name
    // says that it leads to this file, and that it is the only one.
    let there = at(&file, dir, name).map_err(|errno| refused("stat", path, errno))?;
    let Some(there) = there else { return Ok(None) };
    odd(&there)?;
    if fd::lost_its_name(dir, name, &file) {
        return Ok(None);
    }
    if created {
        let usual = umask(Mode::empty());
        umask(usual);
        let mode = Mode::from_bits_truncate(0o644) & !usual;
        fchmod(&file, mode).map_err(|errno| refused("chmod", path, errno))?;
    }
    Ok(Some((file, created)))
}

/// Removes a file that somebody has locked for reading, so that the next one to be
/// made is ours. An echod locks it for writing: this is none, and whoever can read
/// the file could keep us from starting.
fn replace(
    file: &OwnedFd,
    dir: &OwnedFd,
    name: &OsStr,
    path: &Path,
    pid: Option<i32>,
) -> Result<()> {
    let by = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
    if at(file, dir, name).is_ok_and(|there| there.is_some()) {
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| refused("unlink", path, errno))?;
        warn!(
            "{}: {by}, which is no echod, had it locked for reading: made anew",
            path.display()
        );
    }
    Ok(())
}

/// How a file is opened; O_NONBLOCK is for whatever is not a regular one, and refused
/// right after.
const FLAGS: OFlag = OFlag::O_RDWR
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Never truncates: until it is locked, the file is someone else's. A new one is
/// nobody else's to open, and so to lock, before we have.
fn open_or_create(dir: &OwnedFd, name: &OsStr) -> Result<Option<(OwnedFd, bool)>, Errno> {
    match openat(dir, name, FLAGS, Mode::empty()) {
        Ok(file) => return Ok(Some((file, false))),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let new = FLAGS | OFlag::O_CREAT | OFlag::O_EXCL;
    match openat(dir, name, new, Mode::S_IRUSR | Mode::S_IWUSR) {
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
    /// For reading alone, by this pid.
    Read(Option<i32>),
    /// By one that left while we asked.
    Gone,
}

fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn lock(file: &OwnedFd) -> Result<Lock, Errno> {
    match fcntl(file, FcntlArg::F_SETLK(&whole())) {
        Ok(_) => Ok(Lock::Ours),
        Err(Errno::EAGAIN | Errno::EACCES) => holder(file),
        Err(errno) => Err(errno),
    }
}

/// Who keeps us from locking it; changes nothing.
fn holder(file: &OwnedFd) -> Result<Lock, Errno> {
    let mut asked = whole();
    fcntl(file, FcntlArg::F_GETLK(&mut asked))?;
    // 0 and -1: a process outside our pid namespace, or no one process.
    let pid = Some(asked.l_pid).filter(|pid| *pid > 0);
    Ok(match asked.l_type.into() {
        libc::F_UNLCK => Lock::Gone,
        libc::F_RDLCK => Lock::Read(pid),
        _ => Lock::Held(pid),
    })
}

/// What the name leads to, if that is still this very file.
fn at(file: &OwnedFd, dir: &OwnedFd, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    let ours = fstat(file)?;
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(there) => {
            Ok(Some(there).filter(|it| (it.st_dev, it.st_ino) == (ours.st_dev, ours.st_ino)))
        }
        Err(Errno::ENOENT) => Ok(None),
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
mod tests;

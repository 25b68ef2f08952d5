//! The life of a Unix socket's file: replaced if stale, made with exactly the
//! permissions asked for, removed only while it is ours.
//!
//! bind(2) refuses any name that exists, also the one a killed server left.
//! Looking, unlinking and binding happen under a lock on the directory itself,
//! so servers that start together cannot unlink each other's socket, and no
//! lock file stays. The directory's descriptor is kept: after a chroot or from
//! another working directory the file is still found. Knows no connection.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::warn;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, umask,
};
use nix::unistd::{
    AccessFlags, Gid, Group, Uid, UnlinkatFlags, User, faccessat, fchdir, fchownat, geteuid,
    getpid, unlinkat,
};

use crate::addr::{Attrs, check_length};
use crate::error::{Error, Exit};
use crate::sys::sockopt::listen;

/// Everyone may connect, whatever the umask.
const DEFAULT_MODE: u32 = 0o666;

/// How long to wait for servers that start at the same time. In a directory that
/// others may read, anyone can hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The file of a bound Unix socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    dir: OwnedFd,
    name: OsString,
    dev: u64,
    ino: u64,
}

/// The path as seen from `/`, where a daemon soon is.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let subject = || format!("unix:{}", path.display());
    let whole = std::path::absolute(path)
        .map_err(|error| Error::usage(subject(), format_args!("working directory: {error}")))?;
    check_length(subject(), whole.as_os_str().len())?;
    Ok(whole)
}

impl SocketFile {
    /// Binds `socket` to `path`, which is absolute, and listens; `subject`
    /// names it in messages. Nothing is left behind on failure.
    ///
    /// # Errors
    /// 69 a live server has the path, 73 something else is there or nothing can
    /// be created, 77 no permission, 64 no such user or group.
    pub(super) fn listen(
        socket: &OwnedFd,
        path: &Path,
        subject: &str,
        attrs: &Attrs,
        backlog: Option<u32>,
    ) -> Result<SocketFile, Error> {
        // Nobody can connect before listen(2), so nobody meets half-set rights.
        let then = || listen(socket.as_fd(), backlog).map_err(|errno| ("listen", errno));
        SocketFile::make(socket, path, subject, attrs, then)
    }

    /// The same for a datagram socket, which takes what comes as soon as it is
    /// bound: until its rights are all set they are narrower than asked.
    ///
    /// # Errors
    /// As [`SocketFile::listen`]'s.
    pub(super) fn bind(
        socket: &OwnedFd,
        path: &Path,
        subject: &str,
        attrs: &Attrs,
    ) -> Result<SocketFile, Error> {
        SocketFile::make(socket, path, subject, attrs, || Ok(()))
    }

    fn make(
        socket: &OwnedFd,
        path: &Path,
        subject: &str,
        attrs: &Attrs,
        then: impl FnOnce() -> Result<(), (&'static str, Errno)>,
    ) -> Result<SocketFile, Error> {
        let place = Place::take(path, subject, attrs)?;
        if place.in_the_way()?.is_some() {
            place.clear()?;
        }
        let (dir, name) = (place.dir, place.name.to_owned());
        let mode = mode(attrs);
        bind_narrow(socket, path, mode).map_err(|errno| explain("bind", subject, errno))?;
        let file = SocketFile::made(dir, name, subject)?;
        let ready = file.set_access(mode, &place.owner).and_then(|()| then());
        let done = match ready {
            Ok(()) => Ok(file),
            Err((op, errno)) => {
                let _ = file.remove_if_ours();
                Err(explain(op, subject, errno))
            }
        };
        drop(place.lock);
        done
    }

    /// Tries all that making the file at `path` would do, by a file of another name
    /// beside it that is gone again when this returns: nobody who looks at `path`
    /// takes it for a server's. A stale socket stays where it is.
    ///
    /// Works in that directory from then on, since the other name may be longer than
    /// a socket's path can be.
    ///
    /// # Errors
    /// As [`SocketFile::listen`]'s.
    pub(super) fn rehearse(
        socket: &OwnedFd,
        path: &Path,
        subject: &str,
        attrs: &Attrs,
    ) -> Result<(), Error> {
        let place = Place::take(path, subject, attrs)?;
        let fail = |op: &str, errno| explain(op, subject, errno);
        if let Some(stale) = place.in_the_way()? {
            place.may_clear(&stale)?;
        }
        fchdir(&place.dir).map_err(|errno| fail("chdir", errno))?;
        let name = OsString::from(format!(".echod-check-{}", getpid()));
        let mode = mode(attrs);
        bind_narrow(socket, Path::new(&name), mode).map_err(|errno| fail("bind", errno))?;
        let file = SocketFile::made(place.dir, name, subject)?;
        let set = file.set_access(mode, &place.owner);
        let _ = file.remove_if_ours();
        set.map_err(|(op, errno)| fail(op, errno))
    }

    /// What was just bound there.
    fn made(dir: OwnedFd, name: OsString, subject: &str) -> Result<SocketFile, Error> {
        let made = fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| explain("stat", subject, errno))?;
        Ok(SocketFile {
            dir,
            name,
            dev: made.st_dev,
            ino: made.st_ino,
        })
    }

    /// Gives back the permission bits the umask took, and the owner asked for,
    /// on the very file that was made: whoever may write the directory could
    /// put another in its place meanwhile.
    fn set_access(&self, mode: Mode, owner: &Owner) -> Result<(), (&'static str, Errno)> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let pinned = openat(&self.dir, self.name.as_os_str(), flags, Mode::empty())
            .map_err(|errno| ("open", errno))?;
        let found = fstat(&pinned).map_err(|errno| ("stat", errno))?;
        if !self.is(&found) {
            return Err(("stat", Errno::ESTALE));
        }
        if Mode::from_bits_truncate(found.st_mode) != mode {
            // fchmod(2) refuses an O_PATH descriptor; this names the same file.
            let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
            fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)
                .map_err(|errno| ("chmod", errno))?;
        }
        if owner.user.is_some() || owner.group.is_some() {
            fchownat(&pinned, "", owner.user, owner.group, AtFlags::AT_EMPTY_PATH)
                .map_err(|errno| ("chown", errno))?;
        }
        Ok(())
    }

    /// Removes the file if it is still the one we bound; says whether it did.
    ///
    /// While the socket is open its inode number cannot be used again, so
    /// device and inode tell. A lock that cannot be had does not stop us: who
    /// holds it for so long is not a server putting its socket there.
    pub(super) fn unlink(&self) -> Result<bool, Errno> {
        let _lock = lock(&self.dir, Duration::from_millis(200)).ok();
        self.remove_if_ours()
    }

    fn remove_if_ours(&self) -> Result<bool, Errno> {
        match fstatat(
            &self.dir,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(found) if self.is(&found) => {
                unlinkat(&self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
                Ok(true)
            }
            Ok(_) | Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn is(&self, found: &FileStat) -> bool {
        (found.st_dev, found.st_ino) == (self.dev, self.ino)
    }
}

fn mode(attrs: &Attrs) -> Mode {
    Mode::from_bits_truncate(attrs.mode.unwrap_or(DEFAULT_MODE))
}

/// Makes the file with no bit more than asked, not even for a moment, nor one less:
/// on Linux its mode is the socket's own, less the umask.
fn bind_narrow(socket: &OwnedFd, path: &Path, mode: Mode) -> Result<(), Errno> {
    fchmod(socket, mode)?;
    let address = UnixAddr::new(path)?;
    let usual = umask(Mode::empty());
    let bound = bind(socket.as_raw_fd(), &address);
    umask(usual);
    bound
}

/// Where a socket file is to be made, and nobody else makes one meanwhile.
struct Place<'a> {
    dir: OwnedFd,
    name: &'a OsStr,
    path: &'a Path,
    subject: &'a str,
    owner: Owner,
    lock: Option<Flock<OwnedFd>>,
}

impl<'a> Place<'a> {
    fn take(path: &'a Path, subject: &'a str, attrs: &Attrs) -> Result<Place<'a>, Error> {
        let owner = Owner::find(attrs, subject)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::usage(subject, "the path names a directory"));
        };
        let dir = open_dir(parent, subject)?;
        let lock = match lock(&dir, LOCK_PATIENCE) {
            Ok(lock) => Some(lock),
            Err(Errno::EWOULDBLOCK) => {
                // Whoever has it for so long is no server that makes its socket.
                warn!(
                    "{}: another program keeps this directory locked: going on without",
                    parent.display()
                );
                None
            }
            Err(errno) => {
                return Err(Error::os("lock", parent.display(), errno).exit(Exit::CantCreate));
            }
        };
        Ok(Place {
            dir,
            name,
            path,
            subject,
            owner,
            lock,
        })
    }

    /// The stale socket that is there, if one is.
    ///
    /// # Errors
    /// Something else is there.
    fn in_the_way(&self) -> Result<Option<FileStat>, Error> {
        let (path, subject) = (self.path, self.subject);
        let stat = match fstatat(&self.dir, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(explain("stat", subject, errno)),
        };
        let found = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if found != SFlag::S_IFSOCK {
            let what = match found {
                SFlag::S_IFREG => "a regular file",
                SFlag::S_IFDIR => "a directory",
                SFlag::S_IFLNK if !path.exists() => "a dangling symbolic link",
                SFlag::S_IFLNK => "a symbolic link",
                _ => "something that is no socket",
            };
            return Err(is_there(what, subject));
        }
        match probe(path) {
            Err(Errno::ECONNREFUSED) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => Err(explain("connect", subject, errno)
                .hint("cannot tell whether the socket there is stale")),
            // Connected, EPROTOTYPE, or anything odd: not proved dead.
            _ => Err(explain("bind", subject, Errno::EADDRINUSE)),
        }
    }

    fn clear(&self) -> Result<(), Error> {
        match unlinkat(&self.dir, self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.not_ours(errno)),
        }
    }

    /// Whether [`Place::clear`] would succeed: in a directory with the sticky bit a
    /// file is for its owner to remove, the directory's, and root; see unlink(2).
    fn may_clear(&self, stale: &FileStat) -> Result<(), Error> {
        let writable = faccessat(
            &self.dir,
            ".",
            AccessFlags::W_OK | AccessFlags::X_OK,
            AtFlags::AT_EACCESS,
        );
        writable.map_err(|errno| self.not_ours(errno))?;
        let dir = fstat(&self.dir).map_err(|errno| explain("stat", self.subject, errno))?;
        let us = geteuid().as_raw();
        let sticky = Mode::from_bits_truncate(dir.st_mode).contains(Mode::S_ISVTX);
        match sticky && us != 0 && us != stale.st_uid && us != dir.st_uid {
            true => Err(self.not_ours(Errno::EPERM)),
            false => Ok(()),
        }
    }

    fn not_ours(&self, errno: Errno) -> Error {
        explain("unlink", self.subject, errno).hint("a stale socket that is not ours")
    }
}

/// A file that is no socket has the path.
pub fn is_there(what: &str, subject: &str) -> Error {
    Error::os("create", subject, Errno::EEXIST)
        .hint(format_args!(
            "{what} is there; remove it or choose another path"
        ))
        .exit(Exit::CantCreate)
}

fn open_dir(parent: &Path, subject: &str) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(parent, flags, Mode::empty()).map_err(|errno| {
        let error = explain("create", subject, errno);
        match errno {
            Errno::ENOENT => error.hint(format_args!("there is no {}", parent.display())),
            Errno::ENOTDIR => error.hint(format_args!("{} is no directory", parent.display())),
            _ => error,
        }
    })
}

/// flock(2) belongs to the open directory, so it ends with its last descriptor
/// and a killed server leaves no lock.
fn lock(dir: &OwnedFd, patience: Duration) -> Result<Flock<OwnedFd>, Errno> {
    let copied = dir.try_clone().map_err(|error| {
        let errno = error.raw_os_error();
        errno.map_or(Errno::EBADF, Errno::from_raw)
    });
    let mut dir = copied?;
    let start = Instant::now();
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if start.elapsed() < patience => {
                let _ = poll(&mut [], PollTimeout::from(5u8));
                dir = same;
            }
            Err((same, Errno::EINTR)) => dir = same,
            Err((_, errno)) => return Err(errno),
        }
    }
}

/// Asks whether a socket is bound there. A datagram socket asks: a live stream
/// server answers EPROTOTYPE and never sees a connection of ours, and a socket
/// that is bound but does not listen yet counts as live; see connect(2).
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    connect(asking.as_raw_fd(), &UnixAddr::new(path)?)
}

/// What a failure to make the file means.
fn explain(op: &str, subject: &str, errno: Errno) -> Error {
    let error = Error::os(op, subject, errno);
    match errno {
        Errno::EADDRINUSE => error
            .hint("a live server has this path")
            .exit(Exit::Unavailable),
        Errno::EACCES | Errno::EPERM => error.exit(Exit::NoPermission),
        Errno::ENOENT
        | Errno::ENOTDIR
        | Errno::EROFS
        | Errno::ENOSPC
        | Errno::EDQUOT
        | Errno::ELOOP
        | Errno::ENAMETOOLONG
        | Errno::ESTALE => error.exit(Exit::CantCreate),
        _ => error,
    }
}

// Whose a socket file shall be: `user=` and `group=`, by name or by number.
//
// Asks the user database and nothing else; who may give a file away is for
// chown(2) to say.

/// Who shall own the file; `None` leaves it as it is made.
struct Owner {
    pub user: Option<Uid>,
    pub group: Option<Gid>,
}

impl Owner {
    /// Resolves names and numbers before anything is made.
    ///
    /// # Errors
    /// 64 no such user or group, 71 the database cannot be read.
    fn find(attrs: &Attrs, subject: &str) -> Result<Owner, Error> {
        crate::sys::startup::built_in_only();
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
mod tests;

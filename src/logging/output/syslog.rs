//! syslogd as a sink.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use crate::error::{Error, Exit};

/// Where syslogd listens.
pub(in crate::logging) const DEV_LOG: &str = "/dev/log";

/// syslogd's datagram socket. syslog(3) waits when its reader stops; this
/// does not. After a chroot(2) without a /dev/log a restarted syslogd cannot
/// be found again: lines are counted until we are restarted too. In a worker,
/// whose sandbox has no connect(2), until the worker is replaced.
pub(in crate::logging) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    reconnects: bool,
}

impl Syslog {
    pub fn connect(path: impl AsRef<Path>) -> Result<Syslog, Error> {
        let path = path.as_ref();
        let connected = UnixDatagram::unbound().and_then(|s| s.connect(path).map(|()| s));
        let socket = connected.map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
            Error::os("connect", path.display(), errno)
                .hint("no syslog here: name a file by --log-target PATH")
                .exit(Exit::Unavailable)
        })?;
        Ok(Syslog {
            socket,
            path: path.to_owned(),
            reconnects: true,
        })
    }

    /// What must stay open.
    pub(super) fn keep(&self) -> Vec<RawFd> {
        vec![self.socket.as_raw_fd()]
    }

    /// We are a forked child now, which may not connect.
    pub(super) fn forked(&mut self) {
        self.reconnects = false;
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        // A datagram needs no newline; it goes whole or not at all.
        let datagram = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let datagram = datagram.strip_prefix(b"\n").unwrap_or(datagram);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = self.socket.as_raw_fd();
        match send(fd, datagram, flags) {
            // The first error after syslogd left, then every one after it.
            Err(gone @ (Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::EDESTADDRREQ))
                if self.reconnects =>
            {
                self.socket.connect(&self.path).map_err(|_| gone)?;
                send(fd, datagram, flags)
            }
            result => result,
        }
        .map(|_| bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_syslogd_is_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = Syslog::connect(dir.path().join("log")).err().expect("none");
        assert_eq!(error.status(), Exit::Unavailable);
        assert!(error.to_string().contains("--log-target"), "{error}");
    }
}

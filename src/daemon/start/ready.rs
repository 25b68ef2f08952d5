//! Saying that we serve: to `--ready-fd`, and to a person at a terminal.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::sys::fd;

/// See pipe(7).
const PIPE_BUF: usize = 4096;

/// Milliseconds that a full pipe may take to be read from, before clients are served.
const PATIENCE: u16 = 1000;

/// The descriptor that waits for the listeners' names.
pub struct ReadyFd(OwnedFd);

impl ReadyFd {
    /// Takes over descriptor `number`, which the command line named.
    ///
    /// # Errors
    /// It cannot be duplicated.
    pub fn adopt(number: RawFd) -> Result<Self> {
        fd::adopt(number).map(ReadyFd)
    }

    /// One line per listener, then end of file. A reader that has gone away, or does
    /// not read, is no reason not to serve.
    ///
    /// # Errors
    /// What was not said, for the log.
    pub fn announce(self, names: &[String]) -> Result<()> {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        // A pipe that poll(2) calls writable takes PIPE_BUF bytes at once.
        let outcome = lines.as_bytes().chunks(PIPE_BUF).try_for_each(|mut rest| {
            while !rest.is_empty() {
                self.wait_for_room()?;
                match nix::unistd::write(&self.0, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        });
        outcome.map_err(|errno| {
            Error::os("write", "to --ready-fd", errno)
                .hint("who waits there has not been told that it serves")
        })
    }

    fn wait_for_room(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::from(PATIENCE)) {
            Ok(0) => Err(Errno::EAGAIN),
            // The write says what is wrong.
            _ => Ok(()),
        }
    }
}

/// On a terminal, a line to try that works with every nc.
pub fn hint(names: &[String]) -> Option<String> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    try_line(names.first()?)
}

fn try_line(name: &str) -> Option<String> {
    if let Some(path) = name.strip_prefix("unix:") {
        return (!path.starts_with('@')).then(|| format!("try: nc -U {path}"));
    }
    let (nc, address) = match name.strip_prefix("udp:") {
        Some(address) => ("nc -u", address),
        None => ("nc", name.strip_prefix("tcp:")?),
    };
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    Some(format!("try: {nc} {host} {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_to_try_names_an_address_one_can_connect_to() {
        for (name, expected) in [
            ("tcp:127.0.0.1:7777", Some("try: nc 127.0.0.1 7777")),
            ("tcp:[::]:7", Some("try: nc ::1 7")),
            ("tcp:0.0.0.0:7", Some("try: nc 127.0.0.1 7")),
            ("unix:/run/echod.sock", Some("try: nc -U /run/echod.sock")),
            ("unix:@name", None),
            ("udp:[::1]:7", Some("try: nc -u ::1 7")),
            ("unixgram:/run/s", None),
        ] {
            assert_eq!(try_line(name).as_deref(), expected, "{name}");
        }
    }
}

//! Passing an open descriptor to another process: SCM_RIGHTS, `unix(7)`.
//!
//! One message carries a short note and one descriptor; over SOCK_SEQPACKET
//! both arrive whole or not at all. Neither call waits or allocates, so a
//! sandboxed worker may receive. Knows nothing of what is passed.

use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// Room for the control message with one descriptor, aligned as cmsg(3) wants:
/// CMSG_SPACE(4) is 24 bytes on 64-bit machines and fewer on others.
#[repr(C, align(8))]
struct Control([u8; 32]);

/// A pair that messages travel over; both ends are closed on exec.
///
/// # Errors
/// socketpair(2)'s: EMFILE and the like.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Sends `note` and a copy of `what`; ours stays open.
///
/// # Errors
/// EPIPE or ECONNRESET when nobody will receive it; EAGAIN when messages pile
/// up; ETOOMANYREFS when too many descriptors are on their way, ENOBUFS.
pub fn send(channel: BorrowedFd<'_>, note: &[u8], what: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut part = libc::iovec {
        iov_base: note.as_ptr().cast_mut().cast(),
        iov_len: note.len(),
    };
    let mut control = Control([0; 32]);
    let message = message(&mut part, &mut control);
    // SAFETY: the control buffer holds one header with one descriptor (see
    // `Control`), so CMSG_FIRSTHDR is in it and CMSG_DATA has room for an int,
    // which may be unaligned. `part`, only read by the kernel, and `control`
    // outlive the call.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(what.as_raw_fd());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(channel.as_raw_fd(), &raw const message, flags)
    };
    Errno::result(sent).map(drop)
}

/// Receives a note and a descriptor, closed on exec; `None` once the other end
/// is closed and all it sent has been received.
///
/// # Errors
/// EAGAIN when there is no message; EMFILE when there was one and its
/// descriptor found no room: it is gone.
pub fn receive(channel: BorrowedFd<'_>, note: &mut [u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut part = libc::iovec {
        iov_base: note.as_mut_ptr().cast(),
        iov_len: note.len(),
    };
    let mut control = Control([0; 32]);
    let mut message = message(&mut part, &mut control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `note` and `control`, both writable, of the
    // lengths it names, and outliving the call.
    let got =
        Errno::result(unsafe { libc::recvmsg(channel.as_raw_fd(), &raw mut message, flags) })?;
    // SAFETY: the kernel has filled in the control buffer and its length, which
    // CMSG_FIRSTHDR checks; SCM_RIGHTS carries ints, at least one.
    let fd = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let found = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS;
        found.then(|| libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
    };
    match (fd, got) {
        // SAFETY: the kernel has just made this descriptor, for us alone.
        (Some(fd), _) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        (None, 0) => Ok(None),
        (None, _) => Err(Errno::EMFILE), // MSG_CTRUNC: it was there, and was dropped
    }
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeroes is a msghdr without name, parts or control data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
    message
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_note_and_messages_stay_apart() {
        let (ours, theirs) = pair().unwrap();
        let mut note = [0; 3];
        assert_eq!(
            receive(theirs.as_fd(), &mut note).unwrap_err(),
            Errno::EAGAIN
        );
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"one", writer.as_fd()).unwrap();
        send(ours.as_fd(), b"two", reader.as_fd()).unwrap();
        drop(writer);
        let got = receive(theirs.as_fd(), &mut note).unwrap().unwrap();
        assert_eq!(&note, b"one");
        let flags = FdFlag::from_bits_retain(fcntl(&got, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        std::fs::File::from(got).write_all(b"through").unwrap();
        let mut text = [0; 7];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"through");

        drop(ours);
        assert!(receive(theirs.as_fd(), &mut note).unwrap().is_some());
        assert_eq!(&note, b"two");
        assert!(receive(theirs.as_fd(), &mut note).unwrap().is_none());
        assert_eq!(send(theirs.as_fd(), b"", reader.as_fd()), Err(Errno::EPIPE));
    }

    #[test]
    fn a_receiver_without_room_is_told() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"one", ours.as_fd()).unwrap();
        let child = crate::sys::process::fork(|| {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, 0, 0);
            i32::from(receive(theirs.as_fd(), &mut [0; 3]).err() == Some(Errno::EMFILE))
        })
        .unwrap();
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 1)));
    }
}

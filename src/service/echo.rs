//! The echo service of RFC 862, over a stream: what comes is sent back, until
//! the client has finished sending.

use std::os::fd::BorrowedFd;

use super::Service;
use crate::net::connection::{Connection, End};

/// RFC 862.
pub struct Echo;

impl Service for Echo {
    fn serve(
        &self,
        conn: &mut Connection<'_>,
        _helper: Option<BorrowedFd<'_>>,
        buffer: &mut [u8],
    ) -> End {
        // All that has come goes back in one write, from the first byte on: some
        // clients read once for each time they write.
        loop {
            let sent = conn.read(buffer).and_then(|came| conn.write_all(came));
            if let Err(end) = sent {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connection::Meter;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn what_came_before_the_end_of_file_goes_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || {
            let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
            let meter = Meter {
                received: &received,
                sent: &sent,
            };
            Echo.serve(&mut Connection::new(&ours, meter, None), None, &mut [0; 7])
        });
        let all: Vec<u8> = (0..=255).collect();
        theirs.write_all(&all).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        theirs.read_to_end(&mut back).unwrap();
        assert_eq!(back, all);
        assert_eq!(served.join().unwrap(), End::Eof);
    }
}

//! What was sent and has not come back: verifies a stream of any length.
//!
//! An echo server keeps little, so what is outstanding is kept byte for byte.
//! One that answers only at the end may hold gigabytes: beyond a bound, only a
//! checksum of each block is kept, and a difference is known to a block.
//! Pure; knows no socket.

use std::collections::VecDeque;
use std::fmt;

/// Outstanding bytes that are kept as they are.
const EXACT: usize = 64 << 20;
/// Bytes that share a checksum.
const BLOCK: u64 = 64 << 10;

/// The bytes that are out.
#[derive(Debug)]
pub struct Ledger {
    exact: VecDeque<u8>,
    /// What was sent after `exact`; while there is any, all that is sent
    /// follows here.
    blocks: VecDeque<Digest>,
    /// What came back of the first block.
    coming: Digest,
    sent: u64,
    back: u64,
    lost: u64,
    most: usize,
}

/// Bytes known by number and checksum (FNV-1a, 64 bits).
#[derive(Clone, Copy, Debug)]
struct Digest {
    len: u64,
    hash: u64,
}

impl Digest {
    const EMPTY: Digest = Digest {
        len: 0,
        hash: 0xcbf2_9ce4_8422_2325,
    };

    fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What came back is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The byte at this offset, counted from 0, is another.
    #[allow(missing_docs)]
    Byte { at: u64, sent: u8, got: u8 },
    /// One of so many bytes from this offset on is another.
    #[allow(missing_docs)]
    Within { at: u64, bytes: u64 },
    /// More came than was sent; the first is at this offset.
    #[allow(missing_docs)]
    Extra { at: u64 },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Byte { at, sent, got } => write!(
                f,
                "differs at offset {at}: sent 0x{sent:02x}, got 0x{got:02x}"
            ),
            Difference::Within { at, bytes } => {
                write!(f, "differs within {bytes} bytes from offset {at}")
            }
            Difference::Extra { at } => {
                write!(f, "differs at offset {at}: more came than was sent")
            }
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::keeping(EXACT)
    }
}

impl Ledger {
    fn keeping(most: usize) -> Self {
        Ledger {
            exact: VecDeque::new(),
            blocks: VecDeque::new(),
            coming: Digest::EMPTY,
            sent: 0,
            back: 0,
            lost: 0,
            most,
        }
    }

    /// These bytes are on their way.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        let mut rest = bytes;
        if self.blocks.is_empty() {
            let room = self.most - self.exact.len();
            let (exact, beyond) = rest.split_at(room.min(rest.len()));
            self.exact.extend(exact);
            rest = beyond;
        }
        while !rest.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len == BLOCK) {
                self.blocks.push_back(Digest::EMPTY);
            }
            let last = self.blocks.back_mut().expect("one was pushed");
            let room = (BLOCK - last.len) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            last.add(now);
            rest = later;
        }
    }

    /// These bytes came back.
    ///
    /// # Errors
    /// The first that differs. What comes after that cannot be compared.
    pub fn back(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        let (exact, rest) = bytes.split_at(bytes.len().min(self.exact.len()));
        self.back_exact(exact)?;
        self.back_blocks(rest)
    }

    fn back_exact(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        let (first, second) = self.exact.as_slices();
        let (now, later) = bytes.split_at(bytes.len().min(first.len()));
        if now != &first[..now.len()] || later != &second[..later.len()] {
            let pairs = self.exact.iter().zip(bytes);
            let (n, (sent, got)) = (0..)
                .zip(pairs)
                .find(|(_, (sent, got))| sent != got)
                .expect("they are not equal");
            return Err(Difference::Byte {
                at: self.offset() + n,
                sent: *sent,
                got: *got,
            });
        }
        self.exact.drain(..bytes.len());
        self.back += bytes.len() as u64;
        Ok(())
    }

    fn back_blocks(&mut self, mut bytes: &[u8]) -> Result<(), Difference> {
        while !bytes.is_empty() {
            let Some(block) = self.blocks.front() else {
                return Err(Difference::Extra { at: self.offset() });
            };
            let room = (block.len - self.coming.len) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.coming.add(now);
            bytes = later;
            if self.coming.len < block.len {
                self.back += now.len() as u64;
                continue;
            }
            if self.coming.hash != block.hash {
                let begun = self.coming.len - now.len() as u64;
                return Err(Difference::Within {
                    at: self.offset() - begun,
                    bytes: block.len,
                });
            }
            self.back += now.len() as u64;
            self.blocks.pop_front();
            self.coming = Digest::EMPTY;
        }
        Ok(())
    }

    /// Bytes that are out.
    pub fn missing(&self) -> u64 {
        self.sent - self.lost - self.back
    }

    /// All bytes ever sent.
    pub fn total(&self) -> u64 {
        self.sent
    }

    /// The offset of the next byte to come back, in all that was ever sent.
    pub fn offset(&self) -> u64 {
        self.lost + self.back
    }

    /// The connection is gone: what was out never comes. Returns how many
    /// bytes, and the offset of the first.
    pub fn give_up(&mut self) -> (u64, u64) {
        let lost = (self.missing(), self.offset());
        self.lost += lost.0;
        self.exact.clear();
        self.blocks.clear();
        self.coming = Digest::EMPTY;
        lost
    }

    /// Whether all that was ever sent came back.
    pub fn whole(&self) -> bool {
        self.lost == 0 && self.missing() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without short repeats.
    fn bytes(from: u64, len: u64) -> Vec<u8> {
        let byte = |i: u64| (i ^ (i >> 8) ^ ((i >> 16) * 31)) as u8;
        (from..from + len).map(byte).collect()
    }

    /// Sends and takes back `total` bytes, `ahead` at most out at once.
    fn run(most: usize, total: u64, ahead: u64, wrong: Option<u64>) -> Result<(), Difference> {
        let mut ledger = Ledger::keeping(most);
        while ledger.offset() < total {
            let more = (ahead - ledger.missing()).min(total - ledger.total());
            ledger.sent(&bytes(ledger.total(), more));
            let part = (ledger.missing() / 2).max(1);
            let mut got = bytes(ledger.offset(), part);
            if let Some(at) = wrong
                && (ledger.offset()..ledger.offset() + part).contains(&at)
            {
                got[(at - ledger.offset()) as usize] ^= 1;
            }
            ledger.back(&got)?;
        }
        assert!(ledger.whole());
        assert_eq!(ledger.missing(), 0);
        Ok(())
    }

    #[test]
    fn what_comes_back_as_sent_is_fine_however_much_is_out() {
        for (most, total, ahead) in [
            (1 << 20, 300_000, 1000),
            (100, 300_000, 1000),
            (0, 300_000, 200_000),
            (1000, 500_000, 500_000),
        ] {
            assert_eq!(run(most, total, ahead, None), Ok(()), "{most} {ahead}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let (sent, got) = (bytes(777, 1)[0], bytes(777, 1)[0] ^ 1);
        let expected = Difference::Byte { at: 777, sent, got };
        assert_eq!(run(1 << 20, 9999, 500, Some(777)), Err(expected));
    }

    #[test]
    fn beyond_the_bound_a_wrong_byte_is_known_to_its_block() {
        for at in [1000, 65_535, 200_000, 499_999] {
            let Err(Difference::Within { at: from, bytes }) = run(500, 500_000, 500_000, Some(at))
            else {
                panic!("{at}");
            };
            assert!((from..from + bytes).contains(&at), "{at}: {from} {bytes}");
        }
    }

    #[test]
    fn more_than_was_sent_is_a_difference() {
        let mut ledger = Ledger::default();
        ledger.sent(b"abc");
        assert_eq!(ledger.back(b"ab"), Ok(()));
        assert_eq!(ledger.back(b"cd"), Err(Difference::Extra { at: 3 }));
        assert_eq!(
            Ledger::default().back(b"x"),
            Err(Difference::Extra { at: 0 })
        );
    }

    #[test]
    fn what_a_lost_connection_took_never_comes_and_offsets_go_on() {
        for most in [0, 2, 100] {
            let mut ledger = Ledger::keeping(most);
            ledger.sent(b"hello");
            ledger.back(b"he").unwrap();
            assert_eq!(ledger.give_up(), (3, 2));
            assert_eq!((ledger.missing(), ledger.offset()), (0, 5));
            ledger.sent(b"world");
            assert_eq!(ledger.back(b"world"), Ok(()));
            assert!(!ledger.whole());
            assert_eq!(ledger.back(b"!"), Err(Difference::Extra { at: 10 }));
        }
    }
}

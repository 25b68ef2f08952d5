//! What a message says: bytes that differ from message to message.
//!
//! A byte depends on its connection, its message and its place in it, so an
//! answer meant for somebody else, shifted, or left over from the message
//! before is seen. Any part can be made without the parts before it, so a
//! message needs no memory of its own size. Pure.

use std::ops::RangeInclusive;

/// The content of one message.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
    /// Where a newline stands instead; [`NOWHERE`] in most messages.
    newline: u64,
}

const NOWHERE: u64 = u64::MAX;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const WORD: u64 = 8;
const BLOCK: u64 = 1024;

impl Pattern {
    /// The content of message number `message` on connection `connection`.
    pub fn new(connection: u64, message: u64) -> Self {
        Pattern {
            seed: mix(mix(connection.wrapping_add(STEP)).wrapping_add(message)),
            newline: NOWHERE,
        }
    }

    /// The same as a line of `size` bytes: the last is a newline.
    pub fn line(self, size: u64) -> Self {
        Pattern {
            newline: size - 1,
            ..self
        }
    }

    /// Writes the bytes that stand at `offset`, which is a multiple of 8.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        self.fill_words(offset, out);
        if let Some(at) = self.newline.checked_sub(offset)
            && let Some(last) = out.get_mut(at as usize)
        {
            *last = b'\n';
        }
    }

    fn fill_words(&self, offset: u64, out: &mut [u8]) {
        debug_assert!(offset.is_multiple_of(WORD));
        let (mut index, mut rest) = (offset / WORD, out);
        while !rest.is_empty() {
            let (block, from) = (index / BLOCK, (index % BLOCK) as usize);
            let key = self.key(block);
            let words = &TABLE[from..];
            let len = rest.len().min(words.len() * WORD as usize);
            let (part, after) = rest.split_at_mut(len);
            let (whole, tail) = part.as_chunks_mut::<{ WORD as usize }>();
            for (bytes, word) in whole.iter_mut().zip(words) {
                *bytes = (word ^ key).to_le_bytes();
            }
            if !tail.is_empty() {
                let last = (words[whole.len()] ^ key).to_le_bytes();
                tail.copy_from_slice(&last[..tail.len()]);
            }
            index += words.len() as u64;
            rest = after;
        }
    }

    /// Where `got`, which came back from `offset` on, first differs.
    /// `scratch` is memory to work in, at least 8 bytes longer than `got`.
    pub fn mismatch(&self, offset: u64, got: &[u8], scratch: &mut [u8]) -> Option<u64> {
        let lead = (offset % WORD) as usize;
        let want = &mut scratch[..lead + got.len()];
        self.fill(offset - lead as u64, want);
        let want = &want[lead..];
        if want == got {
            return None;
        }
        let at = want.iter().zip(got).position(|(want, got)| want != got)?;
        Some(offset + at as u64)
    }

    /// What the words of one block are mixed with.
    fn key(&self, block: u64) -> u64 {
        mix(self.seed.wrapping_add(block.wrapping_mul(STEP)))
    }

    /// A number for this message, any of `range` as likely as another.
    pub fn pick(&self, range: &RangeInclusive<u64>) -> u64 {
        range.start() + mix(!self.seed) % (range.end() - range.start() + 1)
    }
}

/// Words of a block. They differ by this table, and one block from another by
/// its key: a word is then an exclusive or, which compilers do many at a time.
static TABLE: [u64; BLOCK as usize] = {
    let mut table = [0; BLOCK as usize];
    let mut n = 0;
    while n < table.len() {
        table[n] = mix(n as u64 + 1);
        n += 1;
    }
    table
};

/// The finalizer of splitmix64: every bit of the input moves every bit out.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_in_a_newline_and_differs_nowhere_else() {
        for size in [1, 7, 8, 9, 64, 20_000] {
            let plain = bytes(Pattern::new(1, 2), size);
            let line = bytes(Pattern::new(1, 2).line(size as u64), size);
            assert_eq!(line.last(), Some(&b'\n'), "{size}");
            assert_eq!(line[..size - 1], plain[..size - 1], "{size}");
        }
        let line = Pattern::new(1, 2).line(20);
        let (whole, mut scratch) = (bytes(line, 20), [0; 64]);
        assert_eq!(line.mismatch(13, &whole[13..], &mut scratch), None);
        assert_eq!(line.mismatch(13, b"", &mut scratch), None);
        let mut bad = whole;
        bad[19] = b'x';
        assert_eq!(line.mismatch(13, &bad[13..], &mut scratch), Some(19));
    }

    fn bytes(pattern: Pattern, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        pattern.fill(0, &mut out);
        out
    }

    #[test]
    fn every_part_verifies_at_its_own_place_only() {
        let pattern = Pattern::new(3, 7);
        let whole = bytes(pattern, 100);
        let mut scratch = [0; 128];
        for from in 0..100 {
            for to in from..=100 {
                let part = &whole[from..to];
                assert_eq!(pattern.mismatch(from as u64, part, &mut scratch), None);
            }
        }
        assert_eq!(pattern.mismatch(1, &whole[..50], &mut scratch), Some(1));
    }

    #[test]
    fn blocks_join_and_differ() {
        let pattern = Pattern::new(5, 5);
        let whole = bytes(pattern, 30_001);
        let mut scratch = vec![0; whole.len() + 8];
        for at in [8, 8184, 8191, 8192, 8193, 16_380, 30_000] {
            let part = &whole[at..];
            assert_eq!(
                pattern.mismatch(at as u64, part, &mut scratch),
                None,
                "{at}"
            );
        }
        assert_ne!(whole[..8192], whole[8192..16_384]);
    }

    #[test]
    fn sizes_are_all_of_the_range() {
        let mut seen = [false; 5];
        for message in 0..200 {
            let size = Pattern::new(1, message).pick(&(10..=14));
            seen[(size - 10) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(Pattern::new(1, 1).pick(&(64..=64)), 64);
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let pattern = Pattern::new(0, 0);
        let mut whole = bytes(pattern, 40);
        whole[21] ^= 1;
        whole[30] ^= 1;
        let mut scratch = [0; 64];
        assert_eq!(
            pattern.mismatch(5, &whole[5..], &mut scratch),
            Some(21),
            "counted from the start of the message"
        );
    }

    #[test]
    fn messages_differ_from_each_other_and_within() {
        let one = bytes(Pattern::new(1, 1), 64);
        assert_ne!(one, bytes(Pattern::new(1, 2), 64));
        assert_ne!(one, bytes(Pattern::new(2, 1), 64));
        assert!(one.iter().any(|byte| *byte != one[0]));
        assert_ne!(one[..8], one[8..16]);
    }
}

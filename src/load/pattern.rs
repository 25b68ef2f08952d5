//! What a message says: bytes that differ from message to message.
//!
//! A byte depends on its connection, its message and its place in it, so an
//! answer meant for somebody else, shifted, or left over from the message
//! before is seen. Any part can be made without the parts before it, so a
//! message needs no memory of its own size. Pure.

/// The content of one message.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const WORD: u64 = 8;

impl Pattern {
    /// The content of message number `message` on connection `connection`.
    pub fn new(connection: u64, message: u64) -> Self {
        Pattern {
            seed: mix(mix(connection.wrapping_add(STEP)).wrapping_add(message)),
        }
    }

    /// Writes the bytes that stand at `offset`, which is a multiple of 8.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        debug_assert!(offset.is_multiple_of(WORD));
        for (index, part) in (offset / WORD..).zip(out.chunks_mut(WORD as usize)) {
            part.copy_from_slice(&self.word(index)[..part.len()]);
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

    fn word(&self, index: u64) -> [u8; WORD as usize] {
        mix(self.seed.wrapping_add(index.wrapping_mul(STEP))).to_le_bytes()
    }
}

/// The finalizer of splitmix64: every bit of the input moves every bit out.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

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

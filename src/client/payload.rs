//! What an echo says: which one it is, and bytes that no other has. Pure.

/// The content of all echoes of one run.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    session: u64,
    size: usize,
}

/// Bytes that tell the number; fewer in an echo that is smaller.
const NUMBER: usize = 4;

impl Payload {
    /// Echoes of `size` bytes, at least 1, unlike those of another `session`.
    pub fn new(session: u64, size: usize) -> Self {
        debug_assert!(size > 0);
        Payload { session, size }
    }

    /// Of each echo.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The echo with this number.
    pub fn bytes(&self, seq: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size + 8);
        bytes.extend(self.numbered(seq));
        let mut state = mix(self.session ^ mix(seq));
        while bytes.len() < self.size {
            bytes.extend(state.to_le_bytes());
            state = mix(state);
        }
        bytes.truncate(self.size);
        bytes
    }

    /// The number of an echo that came back, if it is one of ours and whole.
    /// `newest` was the last sent.
    pub fn number(&self, bytes: &[u8], newest: u64) -> Option<u64> {
        let width = self.size.min(NUMBER);
        let mut low = [0; 8];
        low[..width].copy_from_slice(bytes.get(..width)?);
        let mask = (1 << (8 * width)) - 1;
        let low = (u64::from_le_bytes(low) ^ self.session) & mask;
        let age = newest.wrapping_sub(low) & mask;
        let seq = newest.checked_sub(age)?;
        (self.bytes(seq) == bytes).then_some(seq)
    }

    fn numbered(&self, seq: u64) -> [u8; NUMBER] {
        let number = (seq ^ self.session) as u32;
        number.to_le_bytes()
    }
}

/// The finalizer of splitmix64: every bit of the input moves every bit out.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_again_at_every_size() {
        for size in [1, 2, 3, 4, 5, 8, 56, 1000] {
            let payload = Payload::new(0xfeed_beef_0bad_cafe, size);
            for seq in [1, 2, 255, 256, 70_000, (1 << 32) + 5] {
                let bytes = payload.bytes(seq);
                assert_eq!(bytes.len(), size);
                assert_eq!(payload.number(&bytes, seq + 100), Some(seq), "{size}");
            }
        }
    }

    #[test]
    fn what_is_not_ours_or_not_whole_has_none() {
        let payload = Payload::new(1, 56);
        let good = payload.bytes(7);
        for at in 0..56 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(payload.number(&bad, 9), None, "{at}");
        }
        assert_eq!(payload.number(&good[..55], 9), None);
        assert_eq!(payload.number(&[good.clone(), vec![0]].concat(), 9), None);
        assert_eq!(payload.number(&[], 9), None);
        assert_eq!(payload.number(&good, 6), None, "not sent yet");
        assert_eq!(Payload::new(2, 56).number(&good, 9), None);
    }
}

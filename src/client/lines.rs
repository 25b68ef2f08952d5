//! The input, cut into datagrams: a line is one. Pure.

use std::collections::VecDeque;

/// The longest datagram sent: with its headers it fits an Ethernet frame.
const LONGEST: usize = 1400;
/// What was read and not cut yet.
#[derive(Default)]
pub(super) struct Lines {
    bytes: VecDeque<u8>,
    ended: bool,
}

impl Lines {
    /// More was read.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// There is no more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether there is no more to read.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The next line, or as much of it as goes into a datagram; `None` if more
    /// must be read to know.
    pub(super) fn cut(&mut self) -> Option<Vec<u8>> {
        let line = self.bytes.iter().take(LONGEST).position(|b| *b == b'\n');
        let len = match line {
            Some(at) => at + 1,
            None if self.bytes.len() >= LONGEST => LONGEST,
            None if self.ended && !self.bytes.is_empty() => self.bytes.len(),
            None => return None,
        };
        Some(self.bytes.drain(..len).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_and_a_long_one_is_several() {
        let mut input = Lines::default();
        input.add(b"one\n\ntw");
        assert_eq!(input.cut(), Some(b"one\n".to_vec()));
        assert_eq!(input.cut(), Some(b"\n".to_vec()));
        assert_eq!(input.cut(), None, "the line may go on");
        input.add(b"o");
        input.end();
        assert_eq!(input.cut(), Some(b"two".to_vec()));
        assert_eq!(input.cut(), None);
        input.add(&[b'x'; LONGEST]);
        input.add(b"y\n");
        assert_eq!(input.cut().map(|cut| cut.len()), Some(LONGEST));
        assert_eq!(input.cut(), Some(b"y\n".to_vec()));
    }
}

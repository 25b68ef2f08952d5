//! Bytes on their way to one place, one read at a time. Pure.

/// Bytes moved at once.
const CHUNK: usize = 128 << 10;
/// Bytes on their way to one place.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    done: usize,
}

impl Buffer {
    /// What is still to go.
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    /// Nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Makes room for what is read next; only when it is empty.
    pub(super) fn refill(&mut self) -> &mut [u8] {
        self.bytes.resize(CHUNK, 0);
        self.done = 0;
        &mut self.bytes
    }

    /// So much of the room was filled.
    pub(super) fn filled(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.done = 0;
    }

    /// So much of what is left has gone.
    pub(super) fn took(&mut self, len: usize) {
        self.done += len;
    }

    /// Puts a little text behind what is left.
    pub(super) fn add(&mut self, text: &[u8]) {
        if self.is_empty() {
            self.filled(0);
        }
        self.bytes.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_goes_out_in_pieces() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.refill()[..5].copy_from_slice(b"hello");
        buffer.filled(5);
        buffer.took(2);
        assert_eq!(buffer.left(), b"llo");
        buffer.add(b"!");
        buffer.took(4);
        assert!(buffer.is_empty());
        buffer.add(b"> ");
        assert_eq!(buffer.left(), b"> ");
    }
}

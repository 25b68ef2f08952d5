//! A note: a client and its listener as bytes, in a message to a worker that is
//! passed the connection.

use crate::addr::Peer;
use crate::daemon::shared::entry::{pack, unpack};

/// See the module.
pub type Note = [u8; 24];

/// See [`Note`].
pub fn write_note(peer: Peer, listener: usize) -> Note {
    let (high, low, port) = pack(peer);
    let mut note = [0; 24];
    for (part, word) in note
        .chunks_exact_mut(8)
        .zip([high, low, (listener as u64) << 32 | port])
    {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    note
}

/// See [`Note`].
pub fn read_note(note: Note) -> (Peer, usize) {
    let word = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&note[i * 8..i * 8 + 8]);
        u64::from_ne_bytes(bytes)
    };
    let peer = unpack(word(0), word(1), word(2) & 0xffff_ffff);
    (peer, (word(2) >> 32) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let inet = Peer::Inet("[2001:db8::1]:65535".parse().unwrap());
        for (peer, listener) in [(inet, 0), (Peer::Unix, 700)] {
            assert_eq!(read_note(write_note(peer, listener)), (peer, listener));
        }
    }
}

//! What of a command's output fits into a datagram, and the note that says so
//! where not all does. Pure, and nothing is allocated.

use std::io::Write;

/// The longest reply in a datagram: what IPv6 carries everywhere in one piece,
/// 1,280 bytes less its header and UDP's (RFC 8200, 5).
pub const LONGEST_REPLY: usize = 1232;

/// Room for the note, which has two dozen bytes.
const NOTE: usize = 32;

/// Lays into `reply` as much of `output` as makes a reply of at most `limit`
/// bytes, and returns the length of it. A cut one ends with a note that says
/// `limit`; where not even that fits, it is the beginning of the note.
pub fn fit(output: &[u8], limit: usize, reply: &mut [u8; LONGEST_REPLY]) -> usize {
    let limit = limit.min(LONGEST_REPLY);
    if output.len() <= limit {
        reply[..output.len()].copy_from_slice(output);
        return output.len();
    }
    let mut room = [0; NOTE];
    let mut rest = &mut room[..];
    let laid = write!(rest, "\n[cut at {limit} bytes]\n");
    let length = laid.map_or(0, |()| NOTE - rest.len());
    let note = &room[..length];
    match limit.checked_sub(length) {
        Some(kept) => {
            reply[..kept].copy_from_slice(&output[..kept]);
            reply[kept..limit].copy_from_slice(note);
        }
        // The note alone needs no line before it.
        None => reply[..limit].copy_from_slice(&note[1..][..limit]),
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(output: &[u8], limit: usize) -> Vec<u8> {
        let mut reply = [0xff; LONGEST_REPLY];
        let length = fit(output, limit, &mut reply);
        reply[..length].to_vec()
    }

    #[test]
    fn what_fits_is_whole() {
        for length in [0, 1, 100, LONGEST_REPLY] {
            let output = vec![b'x'; length];
            for limit in [length, length + 1, 9000] {
                assert_eq!(fitted(&output, limit), output, "{length} in {limit}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_and_that_is_said() {
        let output = vec![b'x'; LONGEST_REPLY + 1];
        let kept = |n: usize, note: &str| [&output[..n], note.as_bytes()].concat();
        for (limit, expected) in [
            (9000, kept(1211, "\n[cut at 1232 bytes]\n")),
            (1232, kept(1211, "\n[cut at 1232 bytes]\n")),
            (100, kept(80, "\n[cut at 100 bytes]\n")),
            (20, kept(1, "\n[cut at 20 bytes]\n")),
            (19, kept(0, "\n[cut at 19 bytes]\n")),
            (18, kept(0, "[cut at 18 bytes]\n")),
            (17, kept(0, "[cut at 17 bytes]")),
            (5, kept(0, "[cut ")),
            (1, kept(0, "[")),
            (0, vec![]),
        ] {
            let got = fitted(&output, limit);
            assert_eq!(got, expected, "{limit}: {}", got.escape_ascii());
        }
    }

    #[test]
    fn a_reply_never_exceeds_its_limit() {
        let output = vec![b'x'; LONGEST_REPLY + 1];
        for limit in 0..=LONGEST_REPLY {
            assert_eq!(fitted(&output, limit).len(), limit);
        }
    }
}

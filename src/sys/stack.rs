//! Where on the stack a loop that forks runs.

use std::hint::black_box;

/// Bytes of a page, or a part of one.
const PAGE: usize = 4096;
/// How far down one step goes, at least; with what the compiler adds, less than
/// twice as far.
const STEP: usize = 256;

/// Calls `f` near the upper end of a page of the stack.
///
/// After each fork(2) the parent pays a page fault and a copy for every page that
/// it writes to, and where a program's stack begins is random. A loop whose
/// state and calls fit into a page thus pays for one page and not for two or
/// three.
pub fn high_in_a_page<R>(f: impl FnOnce() -> R) -> R {
    let mut f = Some(f);
    let mut result = None;
    descend(&mut || result = f.take().map(|f| f()));
    match result {
        Some(result) => result,
        None => unreachable!("descend calls it"),
    }
}

#[inline(never)]
fn descend(f: &mut dyn FnMut()) {
    let step = [0u8; STEP];
    let here = black_box(&step).as_ptr().addr();
    if here % PAGE >= PAGE - 2 * STEP {
        // Not in place, or this frame would be a longer step.
        black_box(f)();
    } else {
        descend(f);
    }
    // Not a tail call, which would be no step.
    black_box(&step);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callee_has_a_good_part_of_a_page_below_it() {
        for spill in [0, 100, 1000, 3000] {
            let below = black_box(vec![0u8; spill]);
            let left = high_in_a_page(|| {
                // Of a variable: `&0u8` is a constant's address, not the stack's.
                let here = black_box(0u8);
                std::ptr::from_ref(black_box(&here)).addr() % PAGE
            });
            assert!(left > PAGE / 2, "{left}");
            drop(below);
        }
    }
}

//! What the connections of one thread work with: the time, the buffers, and the
//! bytes that they moved.

use std::time::Instant;

use super::{READ, WRITE};
use crate::load::plan::Plan;

/// What the connections of one thread work with.
pub struct Io<'a> {
    /// What is meant.
    pub plan: &'a Plan,
    /// When the thread woke, or later.
    pub now: Instant,
    /// Bytes sent since the thread last took them.
    pub sent: u64,
    /// Bytes received and verified since the thread last took them.
    pub received: u64,
    /// Datagrams that had been answered before.
    pub duplicates: u64,
    /// Attempts to connect, for [`dial`](crate::load::socket::dial).
    pub dialled: u64,
    pub(super) out: Vec<u8>,
    pub(super) got: Vec<u8>,
    pub(super) want: Vec<u8>,
}

impl<'a> Io<'a> {
    /// Memory for the messages of `plan`.
    pub fn new(plan: &'a Plan) -> Self {
        Io {
            plan,
            now: Instant::now(),
            sent: 0,
            received: 0,
            duplicates: 0,
            dialled: 0,
            out: vec![0; (*plan.size.end()).min(WRITE) as usize + 8],
            got: vec![0; READ],
            want: vec![0; READ + 8],
        }
    }
}

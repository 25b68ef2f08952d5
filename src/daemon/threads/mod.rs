//! One process that serves many clients at once, a thread for each.

pub(crate) mod pool;
pub mod prethread;
pub mod worker;

//! One process that serves many clients at once, a thread for each.

mod pool;
mod prethread;
pub mod worker;

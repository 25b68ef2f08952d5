//! What the supervisor and its children share: memory, pipes, and words about a
//! connection.

pub mod access_control;
pub mod backoff;
pub mod connection_log;
pub mod pipe_of_death;
pub mod pool;
pub mod refusals;
pub mod scoreboard;
pub mod seats;

//! echoload: load for any RFC 862 echo server, every byte verified.
//!
//! A [`Plan`] says what is meant, [`engine`] runs it with one blocking thread
//! per connection, [`stats`] counts outcomes and latencies, and [`report`]
//! turns them into text. What goes over one connection is in [`exchange`].
//!
//! The load is a closed loop: the next request leaves when the last answer is
//! back, so a server that stalls is asked less, and the latencies say nothing
//! of the requests that were not sent meanwhile. The report says so.
//!
//! Knows sockets, not the daemon: nothing here imports `daemon` or `service`.

pub mod budget;
pub mod compare;
pub mod engine;
pub mod exchange;
pub mod json;
pub mod pattern;
pub mod plan;
pub mod ratio;
pub mod report;
pub mod run;
pub mod stats;
pub mod target;

pub use compare::compare;
pub use engine::run;
pub use plan::{Bound, Mode, Plan, Rounds};
pub use target::Target;

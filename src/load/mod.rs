//! echoload: load for any RFC 862 echo server, every byte verified.
//!
//! A [`Plan`] says what is meant, [`engine`] runs it in threads of [`worker`],
//! each an epoll loop over its [`slot`]s, which end well or in a [`fault`].
//! [`stats`] counts them and their [`latency`], [`progress`] tells of them while
//! the run goes on, and [`report`] and [`json`] when it is over. [`mod@compare`] does all this for two servers in turn, and
//! [`ratio`] says which is faster; [`mod@sweep`] does it for one rate after another.
//!
//! A closed loop sends the next request when the last answer is back, so a
//! server that stalls is asked less, and the latencies say nothing of the
//! requests that were not sent meanwhile: the reports say so. An open loop has
//! a [`timetable`], and counts from the time a request was due.
//!
//! Knows sockets, not the daemon: nothing here imports `daemon` or `service`.

pub mod account;
pub mod board;
pub mod chart;
pub mod compare;
pub mod engine;
pub mod fault;
pub mod hgrm;
pub mod json;
pub mod latency;
pub mod outcomes;
pub mod pattern;
pub mod plan;
pub mod progress;
pub mod ratio;
pub mod report;
pub mod run;
pub mod server;
pub mod slot;
pub mod socket;
pub mod stats;
pub mod sweep;
pub mod target;
pub mod timetable;
pub mod usage;
pub mod worker;

pub use compare::compare;
pub use engine::{Around, run};
pub use plan::{Bound, Mode, Plan, Rounds};
pub use sweep::{Sweep, sweep};
pub use target::Target;

//! echoload: load for any RFC 862 echo server, every byte verified.
//!
//! A [`Plan`] says what is meant, [`engine`] runs it in threads of [`worker`],
//! each an epoll loop over its [`slot`]s, which end well or in a [fault](run::Fault).
//! [`run`](mod@run) counts them and their latencies, [`board`] tells of them while
//! the run goes on, and [`report`] and [`json`] when it is over. [`mod@compare`]
//! does all this for two servers in turn, and says which is faster; [`mod@sweep`]
//! does it for one rate after another.
//!
//! A closed loop sends the next request when the last answer is back, so a
//! server that stalls is asked less, and the latencies say nothing of the
//! requests that were not sent meanwhile: the reports say so. An open loop has
//! a [timetable](plan::Timetable), and counts from the time a request was due.
//!
//! Knows sockets, not the daemon: nothing here imports `daemon` or `service`.

pub mod board;
pub mod compare;
pub mod engine;
pub mod json;
pub mod plan;
pub mod report;
pub mod run;
pub mod server;
pub mod slot;
pub mod sweep;
pub mod worker;

pub use compare::compare;
pub use engine::{Around, run};
pub use plan::{Bound, Mode, Plan, Rounds};
pub use sweep::{Sweep, sweep};

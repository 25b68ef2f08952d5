//! Sockets: listeners, and the connections that come out of them.
//!
//! A [`Listener`] is opened from a [`crate::addr::ListenSpec`] by [`open`] and
//! knows how to accept, to turn new clients away before a stop, and to remove
//! its socket file. A [`Handed`] socket was opened by somebody else, whose it
//! stays. [`classify`] decides what a failed accept asks for. What
//! runs in a forked child (accept, [`Listener::prepare`], [`overflow_reset`])
//! neither allocates, logs nor locks. A [`DatagramSocket`] needs no accepting;
//! [`guard`] decides which of its datagrams are answered, and says why the others are
//! not. This layer knows no process, no signal and no service.

mod accept;
pub mod connection;
pub mod datagram;
pub mod guard;
mod handed;
mod inet;
mod listener;
mod options;
mod unix_path;

pub use accept::{AcceptError, Accepted, Intake, classify};
pub use datagram::{DatagramSocket, open_datagram};
pub use handed::{Handed, Opened, refused};
pub use inet::share_an_address;
pub use listener::{Listener, check, open};
pub use options::{ListenOptions, overflow_reset, set_accepted};
pub use unix_path::is_there;

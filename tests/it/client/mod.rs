//! echoc, the program: with the real echod, and with servers of a few lines
//! that misbehave.

pub mod check;
pub mod datagram;
pub mod names;
pub mod ping;
pub mod pipe;
pub mod reconnect;
pub mod run;
pub mod servers;
pub mod terminal;

//! The process designs: what a forked child is, in each. Everything else about
//! them is the supervisor's and is shared.

mod crew;
pub mod datagram;
pub mod datagram_commands;
pub mod door;
pub mod fork;
pub mod gate;
pub mod inbox;
mod judge;
pub mod prefork;
pub mod prethread;
mod print;
pub mod thread;

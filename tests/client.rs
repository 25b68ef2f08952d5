//! echoc, the program: with the real echod, and with servers of a few lines
//! that misbehave.

mod common;

#[path = "client/check.rs"]
mod check;
#[path = "client/datagram.rs"]
mod datagram;
#[path = "client/names.rs"]
mod names;
#[path = "client/ping.rs"]
mod ping;
#[path = "client/pipe.rs"]
mod pipe;
#[path = "client/reconnect.rs"]
mod reconnect;
#[path = "client/run.rs"]
mod run;
#[path = "client/servers.rs"]
mod servers;
#[path = "client/terminal.rs"]
mod terminal;

//! Life after fork(2): what a child is born with, how it comes by a client and
//! serves it.

pub mod acceptor;
pub mod child;
pub mod fd_passing;
pub mod prefork;
pub mod sandbox;
pub mod serve;

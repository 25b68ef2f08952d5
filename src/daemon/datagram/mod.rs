//! Datagram workers: one process for each socket.

pub(crate) mod access;
pub mod commands;
pub mod worker;

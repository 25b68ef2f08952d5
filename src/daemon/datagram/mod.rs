//! Datagram workers: one process for each socket.

mod answer;
pub mod commands;
pub mod worker;

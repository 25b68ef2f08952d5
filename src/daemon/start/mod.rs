//! What happens once, between a command line and the first client.

pub mod activation;
pub(super) mod check;
pub(super) mod detach;
mod holder;
pub(super) mod inetd;
pub(super) mod inherited;
mod limits;
mod pidfile;
mod privileges;
mod self_check;
mod services;
mod sockets;
pub(super) mod up;

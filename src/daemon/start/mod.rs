//! What happens once, between a command line and the first client.

mod account;
pub mod activation;
mod banner;
pub(super) mod check;
pub(super) mod detach;
mod holder;
pub(super) mod inetd;
pub(super) mod inherited;
mod limits;
mod machine;
mod pidfile;
mod privileges;
mod ready;
mod self_check;
mod services;
mod sockets;
pub(super) mod up;

//! What happens once, between a command line and the first client.

pub mod account;
pub mod activation;
pub(crate) mod banner;
pub(crate) mod check;
pub mod detach;
pub(crate) mod holder;
pub(crate) mod inetd;
pub(crate) mod inherited;
pub mod limits;
pub mod machine;
pub mod paths;
pub mod pidfile;
pub mod privileges;
pub(crate) mod ready;
pub mod self_check;
pub(crate) mod services;
pub(crate) mod sockets;
pub mod startup;
pub(crate) mod up;

//! Under a service manager: sockets handed over (LISTEN_FDS), words for it
//! (NOTIFY_SOCKET), and the units themselves. Without systemd as process 1: the
//! tests are the manager, or systemd-socket-activate(1) is.

pub mod activated;
pub mod files;
pub mod garbage;
pub mod handed;
pub mod manager;
pub mod words;

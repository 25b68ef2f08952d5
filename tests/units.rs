//! Under a service manager: sockets handed over (LISTEN_FDS), words for it
//! (NOTIFY_SOCKET), and the units themselves. Without systemd as process 1: the
//! tests are the manager, or systemd-socket-activate(1) is.

#[path = "units/activated.rs"]
mod activated;
mod common;
#[path = "units/files.rs"]
mod files;
#[path = "units/garbage.rs"]
mod garbage;
#[path = "units/handed.rs"]
mod handed;
#[path = "units/manager.rs"]
mod manager;
#[path = "units/words.rs"]
mod words;

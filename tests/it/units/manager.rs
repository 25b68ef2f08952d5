//! A service manager that listens, as far as these tests need one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Builder, DEADLINE};

pub struct Manager {
    socket: UnixDatagram,
    /// For NOTIFY_SOCKET.
    pub name: String,
}

impl Manager {
    /// At a file beside the daemon's own.
    pub fn at_path(builder: &Builder) -> Manager {
        let name = builder.path("notify");
        let socket = UnixDatagram::bind(&name).expect("bind");
        // echod started as root connects before it gives that up.
        Manager { socket, name }
    }

    /// At an abstract name.
    pub fn abstract_name() -> Manager {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echod-manager-{}-{n}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Manager {
            socket: UnixDatagram::bind_addr(&address).expect("bind"),
            name: format!("@{name}"),
        }
    }

    /// The next word; `None` if there is none for so long.
    pub fn next(&self, patience: Duration) -> Option<String> {
        let patience = patience.max(Duration::from_millis(1));
        let set = self.socket.set_read_timeout(Some(patience));
        set.expect("a timeout");
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).expect("text"))
    }

    /// The words up to one that begins like this, with it.
    #[track_caller]
    pub fn until(&self, start: &str) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut words = Vec::new();
        while let Some(word) = self.next(deadline.saturating_duration_since(Instant::now())) {
            words.push(word);
            if words.last().is_some_and(|word| word.starts_with(start)) {
                return words;
            }
        }
        panic!("no {start} among {words:?}");
    }

    /// What is there, without waiting for more.
    pub fn drain(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }
}

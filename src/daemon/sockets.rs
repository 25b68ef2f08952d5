//! The sockets to serve at: opened or taken over, all of them or none.

use super::overflows::Overflows;
use crate::addr::ListenSpec;
use crate::config::Config;
use crate::error::Result;
use crate::net::{self, DatagramSocket, Handed, ListenOptions, Listener, Opened};

/// What was opened to serve at.
#[derive(Default)]
pub(super) struct Sockets {
    /// Of streams.
    pub(super) listeners: Vec<Listener>,
    /// Of datagrams.
    pub(super) datagrams: Vec<DatagramSocket>,
    /// Their names, in the order asked for.
    pub(super) names: Vec<String>,
    /// What the first of them, which were handed over, are called by who did so.
    pub(super) labels: Vec<String>,
    /// Whether their queues overflow; by files that chroot(2) may put out of reach.
    pub(super) overflows: Overflows,
}

/// Takes over what was handed over, and opens the rest.
///
/// # Errors
/// What could not be opened or taken over; no socket file stays behind then.
pub(super) fn open(config: &Config, handed: Vec<Handed>) -> Result<Sockets> {
    let options = ListenOptions {
        backlog: config.backlog,
        timeouts: config.timeouts,
        sockets: config.model.sockets_each(),
    };
    let mut sockets = Sockets::default();
    for handed in handed {
        sockets.take_over(handed, &options)?;
    }
    for spec in config.listen.iter().skip(config.handed) {
        if let Err(error) = sockets.open_at(spec, &options) {
            sockets.unlink();
            return Err(error);
        }
    }
    sockets.overflows = Overflows::new(&sockets.listeners);
    Ok(sockets)
}

impl Sockets {
    fn open_at(&mut self, spec: &ListenSpec, options: &ListenOptions) -> Result<()> {
        if spec.addr.is_datagram() {
            let opened = net::open_datagram(spec)?;
            self.names
                .extend(opened.iter().map(|s| s.name().to_owned()));
            self.datagrams.extend(opened);
        } else {
            let opened = net::open(spec, options)?;
            let mut names: Vec<_> = opened.iter().map(|l| l.name().to_owned()).collect();
            names.dedup(); // sockets that share an address have one name
            self.names.extend(names);
            self.listeners.extend(opened);
        }
        Ok(())
    }

    fn take_over(&mut self, handed: Handed, options: &ListenOptions) -> Result<()> {
        self.labels.push(handed.label().to_owned());
        match handed.open(options)? {
            Opened::Stream(listener) => {
                self.names.push(listener.name().to_owned());
                self.listeners.push(listener);
            }
            Opened::Datagram(socket) => {
                self.names.push(socket.name().to_owned());
                self.datagrams.push(socket);
            }
        }
        Ok(())
    }

    /// Removes their files.
    pub(super) fn unlink(&self) {
        for listener in &self.listeners {
            let _ = listener.unlink();
        }
        for socket in &self.datagrams {
            let _ = socket.unlink();
        }
    }
}

//! A server to compare echod's stops with: a thread a connection, and a stop that
//! just closes the listener.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A running one.
#[derive(Debug)]
pub struct PlainServer {
    addr: String,
    stop: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl PlainServer {
    /// Serves on a port the kernel picks.
    pub fn start() -> PlainServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("bound").to_string();
        let stop = Arc::<AtomicBool>::default();
        let told = stop.clone();
        let serve = move || {
            for conn in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return; // closes the listener, and with it what is queued
                }
                if let Ok(conn) = conn {
                    thread::spawn(move || echo(conn));
                }
            }
        };
        PlainServer {
            addr,
            stop,
            server: thread::spawn(serve),
        }
    }

    /// As `tcp:HOST:PORT`.
    pub fn addr(&self) -> String {
        format!("tcp:{}", self.addr)
    }

    /// Stops it, whoever is queued.
    pub fn close(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nobody may come any more, and it sleeps in accept(2).
        let _ = TcpStream::connect(&self.addr);
        self.server.join().expect("the server ends");
    }
}

fn echo(mut conn: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = conn.read(&mut bytes) {
        let _ = conn.write_all(&bytes[..n]);
    }
}

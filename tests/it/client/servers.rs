//! Servers of a few lines, each a thread that ends with this process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;

/// A server that treats every connection like this; its number comes along,
/// from 0.
pub fn tcp(serve: impl Fn(usize, TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let stream = stream.expect("accept");
            thread::spawn(move || serve(n, stream));
        }
    });
    format!("tcp:{addr}")
}

/// An address where nobody listens: of its own, so that no other server of
/// these tests is given it.
pub fn nobody() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = NEXT.fetch_add(1, Relaxed);
    let listener = TcpListener::bind(format!("127.212.0.{host}:0")).expect("bind");
    listener.local_addr().expect("bound").to_string()
}

/// Echoes until the end of file.
pub fn echo(mut stream: impl Read + Write) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// What a datagram server sends back to the `n`th datagram, from 0.
pub trait Answers: FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static {}
impl<F: FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static> Answers for F {}

/// A UDP server.
pub fn udp(answers: impl Answers) -> String {
    udp_from("127.0.0.1:0", answers)
}

pub fn udp_from(addr: &str, mut answers: impl Answers) -> String {
    let socket = UdpSocket::bind(addr).expect("bind");
    let addr = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        for n in 0.. {
            let (len, peer): (usize, SocketAddr) = socket.recv_from(&mut buffer).expect("recv");
            for answer in answers(n, buffer[..len].to_vec()) {
                // The client may be gone.
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    format!("udp:{addr}")
}

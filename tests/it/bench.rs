//! What `scripts/bench.sh` rests on and no other test looks at.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

/// Serves `clients` clients one after the other, a line at a time, as Apache's
/// mod_echo does: nothing comes back before a newline.
fn line_server(clients: usize) -> (String, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("tcp:{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut lines = 0;
        for _ in 0..clients {
            let (mut client, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).unwrap() > 0 {
                client.write_all(&line).unwrap();
                lines += 1;
                line.clear();
            }
        }
        lines
    });
    (addr, server)
}

#[test]
fn messages_of_echoload_can_be_lines() {
    for (mode, clients) in [("rr", 1), ("crr", 20)] {
        let (addr, server) = line_server(clients);
        let output = Command::new(env!("CARGO_BIN_EXE_echoload"))
            .args([mode, "--lines", "-c", "1", "-n", "20", "-s", "9", &addr])
            .output()
            .unwrap();
        assert!(output.status.success(), "{mode}: {output:?}");
        // More where a newline stands in a message besides.
        assert!(server.join().unwrap() >= 20, "{mode}");
    }
}

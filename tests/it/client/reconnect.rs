//! Trying again: before the conversation, and in the middle of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::run::{Running, echoc};
use super::servers::{echo, nobody, tcp};

#[test]
fn every_attempt_is_said_and_the_last_is_the_error() {
    let args = ["--retry", "2", "--retry-interval", "10ms", &nobody()];
    let ran = echoc(&args, "x").status(69);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].ends_with("(ECONNREFUSED): retry 1 of 2 in 10ms"));
    assert!(lines[1].ends_with("(ECONNREFUSED): retry 2 of 2 in 10ms"));
    assert!(lines[2].ends_with("(ECONNREFUSED)"));
}

#[test]
fn a_server_that_comes_later_is_found() {
    let addr = nobody();
    let args = ["--retry", "forever", "--retry-interval", "1ms", &addr];
    let mut run = Running::start(&args);
    run.write(b"late");
    run.wait_said("retry 1 in 1ms");
    run.wait_said("retry 3 in 4ms");
    let listener = TcpListener::bind(&addr).expect("bind");
    thread::spawn(move || echo(listener.accept().expect("accept").0));
    assert_eq!(run.end().status(0).text(), "late");
}

#[test]
fn a_conversation_goes_on_over_another_connection() {
    let addr = tcp(|n, mut stream| {
        if n > 0 {
            return echo(stream);
        }
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("the first line");
        stream.write_all(&line[..2]).expect("a part");
    });
    let mut run = Running::start(&["--retry", "3", &addr]);
    run.write(b"first\n");
    run.wait_said("closed the connection: 4 bytes of 6 from offset 2 had not come back");
    run.wait_said("connected again to tcp:");
    run.write(b"second\n");
    let ran = run.end().status(76);
    assert_eq!(ran.text(), "fisecond\n", "what is lost is not sent again");
}

#[test]
fn a_server_that_only_closes_is_not_called_for_ever() {
    let addr = tcp(|_, stream| drop(stream));
    let mut run = Running::start(&["--retry", "2", "--retry-interval", "10ms", &addr]);
    run.wait_said("retry 2 of 2 in 10ms");
    run.wait_said("nothing came back on any connection");
    let stdin = run.stdin.take();
    run.end().status(69);
    drop(stdin);
}

/// No pause at all would be a hot loop; of one for ever, each is longer.
#[test]
fn a_retry_always_pauses() {
    let args = ["--retry", "forever", "--retry-interval", "0", &nobody()];
    let mut run = Running::start(&args);
    run.wait_said("retry 8 in 128ms");
    let args = ["--retry", "2", "--retry-interval", "0", &nobody()];
    echoc(&args, "x").status(69).says("retry 2 of 2 in 1ms");
}

#[test]
fn a_name_is_called_at_each_of_its_addresses() {
    // Where localhost is ::1 first, this listens on the second address only.
    let addr = tcp(|_, stream| echo(stream));
    let port = addr.rsplit(':').next().expect("a port");
    assert_eq!(echoc(&["localhost", port], "x").status(0).text(), "x");
}

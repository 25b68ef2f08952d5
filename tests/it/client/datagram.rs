//! Conversations in datagrams: nothing hangs, nobody else is believed, and
//! what is lost is said.

use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::channel;
use std::thread;

use super::run::{Running, echoc};
use super::servers::{nobody, udp, udp_from};

const FAST: [&str; 2] = ["-W", "100ms"];

fn with<'a>(addr: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[addr], more].concat()
}

#[test]
fn each_line_is_a_datagram_and_comes_back() {
    let (tell, told) = channel();
    let addr = udp(move |_, asked| {
        tell.send(asked.clone()).expect("a listener");
        vec![asked]
    });
    let long = "x".repeat(3000);
    let input = format!("one\n\n{long}\nend");
    assert_eq!(echoc(&[&addr], &*input).status(0).text(), input);
    let lengths: Vec<usize> = told.try_iter().map(|datagram| datagram.len()).collect();
    assert_eq!(lengths, [4, 1, 1400, 1400, 201, 3]);
    assert_eq!(echoc(&[&addr], "").status(0).text(), "");
}

#[test]
fn a_lost_datagram_is_said_and_the_rest_goes_on() {
    let addr = udp(|n, asked| if n == 1 { vec![] } else { vec![asked] });
    let ran = echoc(&with(&addr, &FAST), "one\ntwo\nthree\n").status(76);
    assert_eq!(ran.text(), "one\nthree\n");
    let ran = ran.says("no answer to 4 bytes from offset 4 within 100ms");
    ran.says("if this is echod, see --udp-rate");
    let drops = udp(|_, _| vec![]);
    let args = [&FAST[..], &["--no-verify"]].concat();
    echoc(&with(&drops, &args), "one\n").status(74);
}

#[test]
fn a_second_or_late_answer_is_not_the_next_ones() {
    let twice = udp(|_, asked| vec![asked.clone(), asked]);
    let ran = echoc(&[&twice], "one\ntwo\nthree\n").status(0);
    assert_eq!(ran.text(), "one\ntwo\nthree\n");
    // The answer to the first comes with that to the second, before it.
    let mut held = Vec::new();
    let late = udp(move |n, asked| match n {
        0 => {
            held = asked;
            vec![]
        }
        1 => vec![held.clone(), asked],
        _ => vec![asked],
    });
    let ran = echoc(&with(&late, &FAST), "one\ntwo\nthree\n").status(76);
    assert_eq!(ran.text(), "two\nthree\n");
    ran.says("a late or second answer, not shown");
}

#[test]
fn another_answer_is_status_76_and_its_offset() {
    let addr = udp(|n, mut asked| {
        if n == 1 {
            asked[2] = b'!';
        }
        vec![asked]
    });
    let ran = echoc(&[&addr], "one\ntwo\nthree\n").status(76);
    ran.says("differs at offset 6: 4 bytes sent, 4 bytes back");
    let short = udp(|_, asked| vec![asked[..2].to_vec()]);
    let ran = echoc(&[&short], "one\n").status(76);
    ran.says("differs at offset 2: 4 bytes sent, 2 bytes back");
}

#[test]
fn a_strangers_answer_is_not_taken() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let addr = format!("udp:{}", server.local_addr().expect("bound"));
    thread::spawn(move || {
        let mut buffer = [0; 100];
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let (len, peer) = server.recv_from(&mut buffer).expect("a line");
        stranger.send_to(b"evil\n", peer).expect("sent");
        server.send_to(&buffer[..len], peer).expect("sent");
    });
    assert_eq!(echoc(&[&addr], "good\n").status(0).text(), "good\n");
}

#[test]
fn nobody_there_is_found_out_and_tried_again() {
    let addr = format!("udp:{}", nobody());
    echoc(&[&addr], "x\n").status(69).says("ECONNREFUSED");
    let args = ["--retry", "forever", "--retry-interval", "10ms", &addr];
    let mut run = Running::start(&args);
    run.write(b"late\n");
    run.wait_said("retry 1 in 10ms");
    udp_from(&addr[4..], |_, asked| vec![asked]);
    assert_eq!(run.end().status(0).text(), "late\n");
}

#[test]
fn a_service_that_answers_something_else_is_copied() {
    let addr = udp(|_, _| vec![b"up 3 days\n".to_vec()]);
    let ran = echoc(&["--no-verify", &addr], "uptime\n").status(0);
    assert_eq!(ran.text(), "up 3 days\n");
}

#[test]
fn a_name_is_called_at_each_of_its_addresses() {
    let addr = udp(|_, asked| vec![asked]);
    let port = addr.rsplit(':').next().expect("a port");
    let addr = format!("udp:localhost:{port}");
    assert_eq!(echoc(&[&addr], "x\n").status(0).text(), "x\n");
}

#[test]
fn unix_datagrams_are_answered_to_a_name_of_the_kernels_choice() {
    let name = format!("echoc-test-{}-gram", std::process::id());
    let addr = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&addr).expect("bind");
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).expect("recv");
            let _ = socket.send_to_addr(&buffer[..len], &peer);
        }
    });
    let addr = format!("unixgram:@{name}");
    assert_eq!(echoc(&[&addr], "one\ntwo\n").status(0).text(), "one\ntwo\n");
    echoc(&["--check", &addr], "").status(0);
    echoc(&["--ping", "-c", "2", "-i", "0", &addr], "").status(0);
    let nobody = "unixgram:@echoc-test-nobody-there";
    echoc(&[nobody], "x\n").status(69);
}

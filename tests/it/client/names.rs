//! Names with several addresses, tried in turn and looked up each time: with a
//! hosts(5) file of our own, in a mount namespace.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::run::{Ran, Running};
use super::servers::{echo, udp_from};
use crate::common::{need, need_root, skipped, tool};

/// Whether a mount namespace can be had here.
fn can_mount() -> bool {
    let able = |(worked, said): (bool, String)| worked || skipped(&said);
    need_root() && need("unshare") && able(tool("unshare", &["-m", "true"]))
}

/// echoc where `/etc/hosts` is this file.
fn with_hosts(hosts: &Path, args: &[&str]) -> Command {
    let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(hosts);
    command.arg(env!("CARGO_BIN_EXE_echoc")).args(args);
    command
}

fn run(hosts: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut run = Running::of(with_hosts(hosts, args));
    run.write(input);
    run.end()
}

/// Serves at the second of two addresses; returns the port.
fn second_of_two() -> String {
    let listener = TcpListener::bind("127.214.0.2:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo(stream.expect("accept")));
        }
    });
    udp_from(&format!("127.214.0.2:{port}"), |_, asked| vec![asked]);
    port.to_string()
}

#[test]
fn every_address_is_tried() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "127.214.0.1 two.test\n127.214.0.2 two.test\n").expect("hosts");
    let port = second_of_two();
    for server in [format!("two.test:{port}"), format!("udp:two.test:{port}")] {
        let ran = run(&hosts, &[&server], b"x\n").status(0);
        assert_eq!(ran.text(), "x\n");
        run(&hosts, &["--check", &server], b"").status(0);
        let ping = ["--ping", "-c", "3", "-i", "10ms", &server];
        let ran = run(&hosts, &ping, b"").status(0);
        assert!(
            ran.text().contains(" 3 received, 0% loss"),
            "{}",
            ran.text()
        );
    }
    let nobody = run(&hosts, &["two.test:1"], b"").status(69);
    nobody.says("2 addresses tried: 127.214.0.1:1, 127.214.0.2:1");
}

#[test]
fn each_attempt_looks_the_name_up_again() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "127.214.0.1 moves.test\n").expect("hosts");
    let server = format!("moves.test:{}", second_of_two());
    let args = ["--retry", "forever", "--retry-interval", "1ms", &server];
    let mut moving = Running::of(with_hosts(&hosts, &args));
    moving.write(b"found");
    moving.wait_said("retry 2 in 2ms");
    fs::write(&hosts, "127.214.0.2 moves.test\n").expect("hosts");
    assert_eq!(moving.end().status(0).text(), "found");
}

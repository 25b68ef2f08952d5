//! `--print`: what clients send is copied to standard output, with who sent it.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use crate::common::design::side_by_side;
use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, is_root, many, need, poll_until,
};

#[test]
fn the_copy_says_whose_it_is() {
    for design in [
        &["--model", "prefork"][..],
        &["--model", "fork", "--reap", "double-fork"],
        &["--max-connections-per-child", "0", "--start-servers", "1"],
        &["--model", "thread"],
        &["--model", "prethread"],
    ] {
        let daemon = Builder::new().args(["--print"]).args(design).start();
        let mut expected = String::new();
        for text in ["hello\n", "you\n"] {
            let mut client = Client::connect(daemon.addr());
            client.ping(text.as_bytes());
            expected += &format!("[{}] {text}", client.peer_name());
        }
        assert_eq!(daemon.stdout(), expected, "{design:?}");
    }
}

#[test]
fn the_echo_is_the_data_alone_and_long_streams_stay_whole() {
    let daemon = Daemon::start(&["--print"]);
    let sent = crate::common::pattern(7, 3_000_000);
    assert!(crate::common::echo_once(daemon.addr(), &sent) == sent);
}

#[test]
fn a_unix_client_has_no_address_and_a_command_is_copied_too() {
    let builder = Builder::new();
    let addr = format!("unix:{},service=command", builder.path("s"));
    let daemon = builder
        .args([
            "--print",
            "-l",
            &addr,
            "--allow-command",
            "hello=/bin/echo,hi",
        ])
        .start();
    let mut client = Client::connect(daemon.addr());
    std::io::Write::write_all(&mut client, b"hello\n").expect("send");
    assert_eq!(client.rest(), b"hi\n");
    assert_eq!(daemon.stdout(), "[unix] hello\n");
}

#[test]
fn a_read_is_one_write_of_prefix_and_data() {
    if !need("strace") {
        return;
    }
    let builder = Builder::new();
    let (dir, trace) = (builder.dir(), builder.path("trace"));
    // Only root's strace(1) can read what an undumpable process writes.
    let sandbox = if is_root() { "strict" } else { "off" };
    let calls = "trace=read,write,writev,accept4";
    let daemon = builder
        .under(["strace", "-ff", "-s", "64", "-o", &trace, "-e", calls])
        .args(["--print", "--sandbox", sandbox])
        .start();
    let mut client = Client::connect(daemon.addr());
    for n in 0..5 {
        client.ping(format!("message {n}\n").as_bytes());
    }
    let peer = client.peer_name();
    client.shutdown_write().expect("shutdown");
    assert!(client.rest().is_empty());
    // One file a process, so that no call is shown in two halves.
    let calls = || -> Vec<String> {
        let files = fs::read_dir(&dir).expect("a directory").flatten();
        let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        let mut traces = texts.filter(|text| text.contains("\"message 0\\n\", "));
        let text = traces.next().unwrap_or_default();
        let lines = text.lines().map(str::to_owned);
        lines.skip_while(|line| !line.contains("message")).collect()
    };
    poll_until(DEADLINE, "its last read", || {
        calls().iter().any(|line| line.ends_with("= 0"))
    });
    let calls = calls();
    for n in 0..5 {
        let [read, copy, echo] = &calls[n * 3..n * 3 + 3] else {
            panic!("three calls: {calls:?}");
        };
        let data = format!("message {n}\\n\"");
        assert!(read.starts_with("read(") && read.contains(&data), "{read}");
        let whole = format!("write(1, \"[{peer}] {data}");
        assert!(copy.starts_with(&whole), "{copy}");
        assert!(
            echo.starts_with("write(") && echo.contains(&format!("\"{data}")),
            "{echo}"
        );
    }
}

#[test]
fn two_clients_do_not_mix_within_a_line() {
    let daemon = Daemon::start(&["--print"]);
    let lines = 300;
    thread::scope(|scope| {
        for letter in ["a", "b"] {
            let addr = daemon.addr();
            scope.spawn(move || {
                let mut client = Client::connect(addr);
                for n in 0..lines {
                    client.ping(format!("{letter} {n} {}\n", letter.repeat(n)).as_bytes());
                }
            });
        }
    });
    let text = daemon.stdout();
    let mut peers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let (peer, data) = line.split_once("] ").expect(line);
        peers.entry(peer).or_default().push(data);
    }
    assert_eq!(peers.len(), 2, "{:?}", peers.keys());
    for copied in peers.values() {
        let letter = &copied[0][..1];
        let sent = (0..lines).map(|n| format!("{letter} {n} {}", letter.repeat(n)));
        assert!(copied.iter().copied().eq(sent), "{copied:?}");
    }
}

/// A reader that is dead before the first byte, a disk that is full, a descriptor
/// that cannot be written to, and none.
#[test]
fn row_125_a_standard_output_that_takes_nothing_is_said_once_and_costs_nobody() {
    let dead = "mkfifo \"$0\"; (: <\"$0\") & exec >\"$0\"; wait; exec \"$@\"";
    let full = "exec \"$@\" >/dev/full";
    let reading = "exec \"$@\" 1</dev/null";
    let closed = "exec \"$@\" >&-";
    side_by_side(&DESIGNS, |design| {
        for (script, why) in [
            (dead, "(EPIPE)"),
            (full, "(ENOSPC)"),
            (reading, "(EBADF)"),
            (closed, "standard output is closed"),
        ] {
            let builder = Builder::new().args(design.args).env("RUST_LOG", "warn");
            let fifo = builder.path("fifo");
            let daemon = builder
                .under(["sh", "-c", script, &fifo])
                .args(["--print", "--stop-settle", "0"])
                .args(["-l", "tcp:127.0.0.1:0", "-l", "udp:127.0.0.1:0"])
                .start();
            many(daemon.addr(), 10, 2, 300).assert_all_complete();
            daemon.wait_log(why, DEADLINE);
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
            let to = daemon.addrs()[1].strip_prefix("udp:").expect("udp");
            socket.send_to(b"gram", to).expect("send");
            assert_eq!(socket.recv(&mut [0; 16]).expect("the echo"), 4);
            many(daemon.addr(), 10, 2, 300).assert_all_complete();
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
            let said = daemon.log_count("--print: ");
            assert_eq!(said, 1, "{}: {}", design.name, daemon.log());
        }
    });
}

/// The worker has a client in hand when its reader goes; also by datagram alone.
#[test]
fn row_125_a_reader_that_dies_in_between_is_noticed_while_clients_stay() {
    for design in DESIGNS {
        let builder = Builder::new().args(design.args);
        let fifo = builder.path("fifo");
        // Until it is told: to read is what cat does.
        let script = "mkfifo \"$0\"; cat \"$0\" >\"$0.copy\" & echo $! >\"$0.pid\"; \
                      exec \"$@\" >\"$0\"";
        let daemon = builder
            .under(["sh", "-c", script, &fifo])
            .args(["--print"])
            .start();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"heard\n");
        let copy = || fs::read_to_string(format!("{fifo}.copy")).unwrap_or_default();
        poll_until(DEADLINE, "the copy", || copy().ends_with("heard\n"));
        let pid = fs::read_to_string(format!("{fifo}.pid")).expect("a pid");
        crate::common::must("kill", &["-KILL", pid.trim()]);
        poll_until(DEADLINE, "its end", || {
            crate::common::proc::is_dead(pid.trim().parse().expect("a pid"))
        });
        for _ in 0..3 {
            client.ping(b"unheard\n");
        }
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty(), "{}", design.name);
        daemon.wait_log(
            "--print: write to standard output: Broken pipe (EPIPE)",
            DEADLINE,
        );
        assert_eq!(daemon.log_count("--print: "), 1, "{}", design.name);
    }
}

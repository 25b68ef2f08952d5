//! Pitfalls of the tutorials' servers: processes, descriptors, signals, start.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use crate::common::client::tcp_addr;
use crate::common::design::{FORK_DOUBLE, FORK_IGNORE, FORK_WAIT, ITERATIVE, PREFORK};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, DESIGNS, Daemon, Signal, comm, echo_once, fd_count,
    has_ipv6, holds_within, poll_some, poll_until, proc, zombies,
};

/// One `waitpid(-1, WNOHANG)` after each accept: who leaves after the last
/// accept stays a zombie, and so do all but one of those who leave together.
#[test]
fn no_zombie_waits_for_the_next_accept() {
    for design in [&FORK_WAIT, &FORK_IGNORE, &FORK_DOUBLE, &PREFORK] {
        let daemon = Daemon::start(design.args);
        let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(daemon.addr())).collect();
        clients.iter_mut().for_each(|client| client.ping(b"served"));
        drop(clients);
        // Nobody connects any more.
        let none = holds_within(DEADLINE, || {
            zombies(daemon.pid()).is_empty() && daemon.role("echod-conn").is_empty()
        });
        assert!(none, "{}: {:?}", design.name, zombies(daemon.pid()));
    }
}

/// A parent that does not close its copy of the connection: its table fills,
/// and when the child is gone the client waits for an end that never comes.
#[test]
fn the_parent_keeps_no_copy_of_a_connection() {
    for design in [&FORK_WAIT, &FORK_IGNORE, &FORK_DOUBLE] {
        let daemon = Daemon::start(design.args);
        // One conversation first: what is opened on demand is open then.
        drop(daemon.connect_served());
        poll_until(DEADLINE, "nobody is served", || {
            daemon.role("echod-conn").is_empty()
        });
        // A channel for each client is double-fork's price.
        let each = if design.name == FORK_DOUBLE.name {
            2
        } else {
            1
        };
        let before = fd_count(daemon.pid());
        let mut held: Vec<_> = (0..5).map(|_| daemon.connect_served()).collect();
        let most = before.map(|n| n + 5 * each - 5);
        let few = holds_within(DEADLINE, || fd_count(daemon.pid()) <= most);
        assert!(
            few,
            "{}: {before:?}, then {:?}",
            design.name,
            fd_count(daemon.pid())
        );
        let (mut client, pid) = held.pop().expect("held");
        proc::signal(pid, Signal::SIGKILL);
        client.end().expect("end of file once the child is gone");
    }
}

/// A child that keeps the listener: with the parent dead the port stays busy
/// for as long as any client stays.
#[test]
fn a_child_keeps_no_copy_of_the_listener() {
    for design in DESIGNS {
        let daemon = Builder::new()
            .args(design.args)
            .args(["--orphans", "finish"])
            .start();
        let (mut client, _) = daemon.connect_served();
        daemon.signal(Signal::SIGKILL);
        daemon.wait_exit(DEADLINE);
        poll_until(DEADLINE, "the port is free", || {
            TcpListener::bind(tcp_addr(daemon.addr())).is_ok()
        });
        client.ping(b"and the child serves on");
        drop(client);
        daemon.assert_gone(DEADLINE);
    }
}

/// bind(2) as the tutorials have it.
fn plain_bind_is_refused(addr: &str) -> bool {
    let kind = (
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
    );
    let fd = socket(kind.0, kind.1, kind.2, None).expect("socket");
    let v4: SocketAddrV4 = tcp_addr(addr).to_string().parse().expect("IPv4");
    bind(fd.as_raw_fd(), &SockaddrIn::from(v4)) == Err(nix::Error::EADDRINUSE)
}

/// No SO_REUSEADDR: after a stop, "Address already in use" for a minute.
#[test]
fn it_starts_again_while_its_connections_are_in_time_wait() {
    let daemon = Daemon::start(&["--idle-timeout", "100ms"]);
    let addr = daemon.addr().to_owned();
    let mut client = Client::connect(&addr);
    client.ping(b"hello");
    client
        .end()
        .expect("the server's end comes first, by its timeout");
    drop(client);
    drop(daemon);
    poll_until(DEADLINE, "TIME-WAIT keeps a plain bind out", || {
        plain_bind_is_refused(&addr)
    });
    let again = Daemon::start(&["-l", &addr]);
    assert_eq!(echo_once(again.addr(), b"again"), b"again");
}

/// read(2) gives 0 and the loop goes on, at full speed, for ever.
#[test]
fn end_of_file_ends_the_loop() {
    for design in DESIGNS {
        let daemon = Daemon::start(design.args);
        let mut client = Client::connect(daemon.addr());
        client.ping(b"hello");
        let peer = client.peer_name();
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty(), "{}", design.name);
        assert_eq!(daemon.conn_line(&peer).end, "eof", "{}", design.name);
        poll_until(DEADLINE, "nobody serves a client that has left", || {
            daemon.role("echod-conn").is_empty()
        });
    }
}

/// Any error of one client, and `exit(1)`: the server is gone for all.
#[test]
fn an_error_of_one_client_is_not_the_servers_end() {
    for design in DESIGNS {
        let daemon = Daemon::start(design.args);
        for n in 0..30 {
            let mut rude = Client::connect(daemon.addr());
            if n % 3 > 0 {
                // Before or after it was accepted, with or without its echo.
                let _ = rude.write_all(&[b'x'; 3000]);
            }
            rude.reset();
        }
        assert_eq!(
            echo_once(daemon.addr(), b"others"),
            b"others",
            "{}",
            design.name
        );
        assert!(daemon.try_exit().is_none(), "{}", design.name);
    }
}

/// write(2) to a client that has left: SIGPIPE, which kills who does not ask.
#[test]
fn a_client_that_leaves_before_its_echo_kills_nobody() {
    let daemon = Daemon::start(ITERATIVE.args);
    // Ready is when the sockets are open; the worker is born after that.
    let worker = poll_some(DEADLINE, "the worker", || {
        Some(daemon.role("echod-idle")).filter(|workers| !workers.is_empty())
    });
    for _ in 0..20 {
        let mut rude = Client::connect(daemon.addr());
        rude.set_timeouts(Duration::from_millis(50));
        // Its echo fills the buffers, as nobody reads it; then it is not wanted.
        let _ = rude.write_all(&vec![b'x'; 8 << 20]);
        drop(rude);
    }
    assert_eq!(echo_once(daemon.addr(), b"next"), b"next");
    poll_until(DEADLINE, "the same worker", || {
        daemon.role("echod-idle") == worker
    });
    for pid in worker.into_iter().chain([daemon.pid()]) {
        let ignored = proc::status(pid, "SigIgn").expect("status");
        let ignored = u64::from_str_radix(&ignored, 16).expect("a mask");
        assert_ne!(ignored & 1 << (libc::SIGPIPE - 1), 0, "{}", comm(pid));
    }
    assert_eq!(daemon.log_count("killed:PIPE"), 0);
}

/// The length for accept(2) not set before each call: the second client's
/// address is cut, or is still the first one's.
#[test]
fn every_client_is_called_by_its_own_address() {
    for design in [&FORK_WAIT, &ITERATIVE] {
        let mut args = vec!["-l", "tcp:127.0.0.1:0"];
        if has_ipv6() {
            args.extend(["-l", "tcp:[::1]:0"]);
        }
        let daemon = Builder::new().args(design.args).args(args).start();
        let mut peers = Vec::new();
        for n in 0..6 {
            let addr = &daemon.addrs()[n % daemon.addrs().len()];
            let mut client = Client::connect(addr);
            client.ping(b"who am I?");
            peers.push((client.peer_name(), addr.clone()));
        }
        for (peer, listener) in peers {
            assert_eq!(
                daemon.conn_line(&peer).listener,
                listener,
                "{}",
                design.name
            );
        }
        assert_eq!(ConnLine::all(&daemon.log()).len(), 6);
    }
}

/// `perror`, and then `return 0`: scripts take it for a server that runs.
#[test]
fn an_error_does_not_exit_with_0() {
    let other = TcpListener::bind("127.0.0.1:0").expect("bind");
    let busy = format!("tcp:{}", other.local_addr().expect("bound"));
    for (args, status) in [
        (&["-l", &*busy][..], 69),
        (&["-l", "tcp:192.0.2.1:0"], 69),
        (&["-l", "unix:/nonexistent/echod.sock"], 73),
        (&["--no-such-option"], 64),
        (&["--max-clients", "0"], 64),
    ] {
        let ran = Builder::new().args(args).run(DEADLINE);
        assert_eq!(ran.status.code(), Some(status), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("echod: "), "{args:?}: {}", ran.stderr);
    }
}

/// The port on the command line is read, and 8080 is served all the same.
#[test]
fn the_port_that_was_asked_for_is_served() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let asked = format!("tcp:127.0.0.1:{port}");
    let daemon = Daemon::start(&["-l", &asked]);
    assert_eq!(daemon.addrs(), [&*asked]);
    assert_eq!(echo_once(&asked, b"here"), b"here");
    let word = port.to_string();
    let ran = crate::client::run::echoc(&["127.0.0.1", &word], "there\n");
    assert_eq!(ran.status(0).text(), "there\n");
}

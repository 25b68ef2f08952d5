//! The small things that shell scripts cannot do: a free port, waiting until a
//! server answers, holding clients, and watching a server's children.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(20);
/// Clients on their way at once: fewer than any backlog.
const TOGETHER: usize = 64;
/// Clients that share an address.
const EACH: usize = 4000;

/// A TCP port of loopback that was free a moment ago, for servers that cannot
/// pick one and tell.
pub fn port() -> Result<u16, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|addr| addr.port())
        .map_err(|error| format!("bind 127.0.0.1:0: {error}"))
}

/// Waits until the server at `addr` echoes a line.
pub fn answers(addr: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(addr) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("{addr} does not echo: {error}"));
            }
            Err(_) => sleep(TICK),
        }
    }
}

fn ask(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    echo(&mut stream, b"ready\n")
}

fn echo(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    answer(stream, message)
}

/// Reads what was sent.
fn answer(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back)?;
    if back == message {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not what was sent",
        ))
    }
}

/// Connects `clients` clients, has each echo once so that it has its process,
/// says `held` on standard output and keeps them until it is killed. They come
/// from addresses of their own: the load beside them needs the ports.
pub fn hold(addr: SocketAddr, clients: usize) -> Result<(), String> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    let from = 1 + (std::process::id() % 250) as u8;
    let mut held: Vec<TcpStream> = Vec::with_capacity(clients);
    while held.len() < clients {
        // Some at once: one after the other each would wait for its turn of a
        // processor that has other work.
        let begun = held.len();
        let failed = |error| format!("client {} of {clients}: {error}", begun + 1);
        for _ in begun..clients.min(begun + TOGETHER) {
            // Finding a free port takes bind(2) ever longer.
            let each = Ipv4Addr::new(127, 1, (held.len() / EACH) as u8, from);
            let client = client(addr, each);
            held.push(client.map_err(failed)?);
        }
        for client in &mut held[begun..] {
            answer(client, b"\n").map_err(failed)?;
        }
    }
    println!("held");
    loop {
        std::thread::park();
    }
}

fn client(addr: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let mut stream = match addr {
        SocketAddr::V4(to) if to.ip().is_loopback() => connect_from(from, to)?,
        _ => TcpStream::connect(addr)?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"\n")?;
    Ok(stream)
}

fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(
        fd.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(from, 0)),
    )?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(fd.into())
}

/// Waits until `parent` has at most `most` children.
pub fn settle(parent: u32, most: usize) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let children = children(parent).len();
        if children <= most {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{parent} still has {children} children"));
        }
        sleep(TICK);
    }
}

/// Children of `parent` by name, with how often each has slept and woken.
fn children(parent: u32) -> Vec<Child> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    list.unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| {
            let status = fs::read_to_string(Path::new("/proc").join(pid).join("status")).ok()?;
            child(pid.parse().ok()?, &status)
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Child {
    pid: u32,
    name: String,
    woken: u64,
}

fn child(pid: u32, status: &str) -> Option<Child> {
    let field = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        Some(line[key.len()..].trim())
    };
    Some(Child {
        pid,
        name: field("Name:")?.to_owned(),
        woken: field("voluntary_ctxt_switches:")?.parse().ok()?,
    })
}

/// What [`wakeups`] found.
#[derive(Debug, PartialEq)]
pub struct Wakeups {
    /// Wake-ups of workers that were idle before and after: they got nothing.
    pub vain: u64,
    /// How many such workers there were, over all batches.
    pub watched: u64,
}

/// Runs `command` `batches` times against the supervisor `parent`, whose pool
/// keeps `idle` workers, and counts the wake-ups of those that stayed idle.
pub fn wakeups(
    parent: u32,
    idle: usize,
    batches: u32,
    command: &[String],
) -> Result<Wakeups, String> {
    let (program, arguments) = command.split_first().ok_or("no command to run")?;
    let mut found = Wakeups {
        vain: 0,
        watched: 0,
    };
    let mut before = resting(parent, idle)?;
    for _ in 0..batches {
        let status = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("{program}: {error}"))?;
        if !status.success() {
            return Err(format!("{program}: {status}"));
        }
        let after = resting(parent, idle)?;
        let (vain, watched) = stayed(&before, &after);
        found.vain += vain;
        found.watched += watched;
        before = after;
    }
    Ok(found)
}

/// The idle workers, once there are `idle` of them and two looks agree.
fn resting(parent: u32, idle: usize) -> Result<Vec<Child>, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        let mut now = children(parent);
        let all = now.len();
        now.retain(|child| child.name == "echod-idle");
        if now.len() >= idle && now.len() == all && now == before {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(format!("{} of {idle} workers idle, of {all}", now.len()));
        }
        before = now;
        sleep(TICK);
    }
}

fn stayed(before: &[Child], after: &[Child]) -> (u64, u64) {
    let both = before.iter().filter_map(|old| {
        let new = after.iter().find(|new| new.pid == old.pid)?;
        Some(new.woken.saturating_sub(old.woken))
    });
    both.fold((0, 0), |(vain, watched), woken| (vain + woken, watched + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_stayed_are_counted() {
        let child = |pid, woken| Child {
            pid,
            name: "echod-idle".to_owned(),
            woken,
        };
        let before = [child(1, 5), child(2, 9), child(3, 1)];
        let after = [child(1, 5), child(3, 4), child(9, 70)];
        assert_eq!(stayed(&before, &after), (3, 2));
        assert_eq!(stayed(&[], &after), (0, 0));
    }

    #[test]
    fn status_is_read_as_the_kernel_writes_it() {
        let status = "Name:\techod-idle\nPid:\t7\nvoluntary_ctxt_switches:\t12\n\
                      nonvoluntary_ctxt_switches:\t3\n";
        let expect = Child {
            pid: 7,
            name: "echod-idle".to_owned(),
            woken: 12,
        };
        assert_eq!(child(7, status), Some(expect));
        assert_eq!(child(7, "Name:\tx\n"), None);
    }

    #[test]
    fn a_port_is_free_and_an_answer_is_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 6];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(&line).unwrap();
        });
        answers(addr).unwrap();
        server.join().unwrap();
        assert_ne!(port().unwrap(), 0);
    }
}
